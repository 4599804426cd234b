//! A victim that is served, an adversary with rights in another namespace, and the state that every attack must leave
//! unchanged.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use minichat_tests::client::Api as Http;
use minichat_tests::cluster;
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::site::{Operator, Pod, Site, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::programs;

pub(super) const SOON: Duration = Duration::from_secs(30);
/// A key that only the victim has.
pub(super) const KEY: &str = "sk-of-the-victim-alone";
/// An issuer that only the victim lists.
pub(super) const ISSUER: &str = "https://login.victim.example";
const ACCOUNT: &str = "adversary";
/// The message of the victim's user.
const TEXT: &str = "a text that only the victim's user knows";

pub(super) struct World {
    pub(super) site: Site,
    pub(super) operator: Operator,
    pub(super) pod: Pod,
    pub(super) victim: Tenant,
    /// The victim's user.
    pub(super) user: Uuid,
    caller: Http,
    chat: String,
    before: Value,
    /// The adversary's namespace.
    pub(super) namespace: String,
    adversary: Client,
    /// Receives what is sent to the adversary's provider.
    pub(super) listener: ScriptedProvider,
}

impl World {
    pub(super) async fn new() -> anyhow::Result<Self> {
        let (site, namespace) = Site::shared_by_two(programs(), DatabaseKind::Sqlite).await?;
        let adversary = adversary(&site, &namespace).await?;
        let operator = site.operator().await?;
        let pod = site.pod().await?;
        let mut victim = site.tenant("victim");
        victim.others[0]["stringData"]["api-key"] = json!(KEY);
        let quota = site.quota(&victim, 1000);
        victim.others.push(quota);
        site.admit([&victim]).await?;
        let quota = ("ChatQuota", "victim-default");
        site.await_condition(quota, "Ready", "True/Ready").await?;
        let user = Uuid::new_v4();
        let caller = pod.caller(&victim, user)?;
        let chat = caller.create_chat(None).await?;
        caller.say(&chat, TEXT).await?.only("done")?;
        let listener = ScriptedProvider::start().await?;
        let mut world = Self {
            site,
            operator,
            pod,
            victim,
            user,
            caller,
            chat,
            before: Value::Null,
            namespace,
            adversary,
            listener,
        };
        world.before = world.seen().await?;
        Ok(world)
    }

    /// `namespace/name` of the victim.
    pub(super) fn full_name(&self) -> String {
        format!("{}/victim", self.site.tenants)
    }

    /// The victim's object, as its owner sees it.
    pub(super) fn before(&self, kind: &str) -> &Value {
        &self.before[kind]
    }

    /// Everything of the victim that an attack could change, including resource versions.
    async fn seen(&self) -> anyhow::Result<Value> {
        let (site, victim) = (&self.site, &self.victim);
        Ok(json!({
            "ChatTenant": site.get("ChatTenant", "victim").await?,
            "ChatQuota": site.get("ChatQuota", "victim-default").await?,
            "Secret": site.get("Secret", "victim-provider").await?,
            "rendered": site.rendered(victim).await?,
            "configz": self.pod.configz(victim).await?,
            "messages": self.caller.messages(&self.chat).await?,
        }))
    }

    /// Creates `object` as the adversary. Returns the API server's message if it refuses.
    pub(super) async fn create(&self, object: &Value) -> anyhow::Result<Result<(), String>> {
        let api = self.api(object)?;
        let new: DynamicObject = serde_json::from_value(object.clone())?;
        match api.create(&PostParams::default(), &new).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates `object`, waits until the operator has reconciled it, lets its user chat, and deletes it. The victim
    /// must be unchanged, and nothing of it may be revealed.
    pub(super) async fn attack(&self, what: &str, object: &Value) -> anyhow::Result<()> {
        if self.create(object).await?.is_ok() {
            let named = || what.to_owned();
            let seen = self.looked_at(object).await.with_context(named)?;
            self.chat_as(&seen).await.with_context(named)?;
            self.is_unharmed(what).await?;
            self.remove(object).await.with_context(named)?;
        }
        self.is_unharmed(what).await
    }

    /// The same, with a status that the adversary writes.
    pub(super) async fn attack_with_status(
        &self,
        what: &str,
        status: &Value,
    ) -> anyhow::Result<()> {
        let object = super::fields::tenant(self);
        let created = self.create(&object).await?;
        assert_eq!(created, Ok(()), "{what}");
        let patch = Patch::Merge(json!({ "status": status }));
        let api = self.api(&object)?;
        api.patch_status("evil", &PatchParams::default(), &patch)
            .await?;
        let seen = self.looked_at(&object).await;
        seen.with_context(|| what.to_owned())?;
        self.is_unharmed(what).await?;
        self.remove(&object).await?;
        self.is_unharmed(what).await
    }

    /// The object after the operator has written a status or an event about it, which must reveal nothing of the
    /// victim.
    async fn looked_at(&self, object: &Value) -> anyhow::Result<Value> {
        let (api, name) = (self.api(object)?, name_of(object)?);
        let has_conditions = object["apiVersion"] == "minichat.dev/v1alpha1";
        let started = Instant::now();
        loop {
            // An object whose owner is not in its namespace is garbage-collected.
            let Some(found) = api.get_opt(name).await? else {
                return Ok(object.clone());
            };
            let found = serde_json::to_value(found)?;
            let accepted = minichat_tests::site::condition(&found, "Accepted");
            let is_current =
                found["status"]["observedGeneration"] == found["metadata"]["generation"];
            if !has_conditions || (accepted.is_some() && is_current) {
                let reported = format!("{} {}", found["status"], self.events_of(&found).await?);
                for secret in [
                    KEY,
                    self.site.tenants.as_str(),
                    TEXT,
                    &self.user.to_string(),
                ] {
                    // Text that the adversary wrote itself does not count.
                    if !object.to_string().contains(secret) {
                        assert!(!reported.contains(secret), "{secret} is shown: {reported}");
                    }
                }
                return Ok(found);
            }
            anyhow::ensure!(
                started.elapsed() < SOON,
                "the operator does not reconcile {found:#}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The operator's events about `object`.
    async fn events_of(&self, object: &Value) -> anyhow::Result<String> {
        let events = self.site.api("Event", &self.namespace)?;
        let events = events.list(&ListParams::default()).await?;
        let of_it = events.items.iter().map(|event| &event.data);
        let of_it = of_it.filter(|event| event["regarding"]["uid"] == object["metadata"]["uid"]);
        Ok(of_it.map(|event| event["note"].to_string()).collect())
    }

    /// A user of the adversary's tenant sends a message, if the tenant is served. The answer must contain nothing of
    /// the victim.
    async fn chat_as(&self, tenant: &Value) -> anyhow::Result<()> {
        let Some(id) = tenant["status"]["tenantId"].as_str() else {
            return Ok(());
        };
        if tenant["status"]["revision"].is_null() {
            return Ok(());
        }
        let mut evil = self.victim.clone();
        evil.id = id.parse()?;
        assert_ne!(
            evil.id, self.victim.id,
            "rendered under the victim's id: {tenant:#}"
        );
        let caller = self.pod.caller(&evil, self.user)?;
        let path = format!("/chats/{}", self.chat);
        assert_ne!(
            caller.get(&path).await?.status,
            200,
            "the victim's chat is read"
        );
        let created = caller.post("/chats", &json!({})).await?;
        let Ok(chat) = created.expect(201) else {
            return Ok(());
        };
        let chat = chat["id"].as_str().context("no id")?;
        let answer = caller.refused(chat, &json!({"content": "Hello"})).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        for secret in [KEY, TEXT, &self.victim.id.to_string(), "mini_chat_"] {
            assert!(!text.contains(secret), "{secret} is answered: {text}");
        }
        Ok(())
    }

    /// Deletes `object`. Finalizers of the adversary delay only its own object.
    async fn remove(&self, object: &Value) -> anyhow::Result<()> {
        let (api, name) = (self.api(object)?, name_of(object)?);
        if object["metadata"]["finalizers"].is_array() {
            let none = json!({"metadata": {"finalizers": []}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(none))
                .await?;
        }
        if api.get_opt(name).await?.is_some() {
            api.delete(name, &DeleteParams::default()).await?;
        }
        let is_gone = async || Ok(api.get_opt(name).await?.is_none());
        eventually("gone", SOON, is_gone).await
    }

    async fn is_unharmed(&self, what: &str) -> anyhow::Result<()> {
        let now = self.seen().await?;
        for (part, before) in self.before.as_object().context("no object")? {
            assert_eq!(now[part], *before, "{part} after {what}");
        }
        for request in self.listener.requests() {
            let sent = format!("{:?}", request.headers);
            assert!(
                !sent.contains(KEY),
                "the victim's key is sent after {what}: {sent}"
            );
        }
        Ok(())
    }

    /// After all attacks, the victim's users still chat, and the operator has not revealed the victim's key.
    pub(super) async fn victim_is_served(&self) -> anyhow::Result<()> {
        let log = self.operator.log()?;
        assert!(!log.contains(KEY), "{log}");
        self.caller
            .say(&self.chat, "And now?")
            .await?
            .only("done")?;
        self.pod.chat(&self.victim).await
    }

    /// Objects like `object` in the adversary's namespace, with its rights.
    fn api(&self, object: &Value) -> anyhow::Result<Api<DynamicObject>> {
        let text = |key: &str| object[key].as_str().context(format!("no {key}"));
        let (group, version) = text("apiVersion")?.split_once('/').unwrap_or(("", "v1"));
        let kind = GroupVersionKind::gvk(group, version, text("kind")?);
        let resource = ApiResource::from_gvk(&kind);
        Ok(Api::namespaced_with(
            self.adversary.clone(),
            &self.namespace,
            &resource,
        ))
    }
}

fn name_of(object: &Value) -> anyhow::Result<&str> {
    object["metadata"]["name"].as_str().context("no name")
}

/// A client that may do anything with tenants, quotas and Secrets of one namespace, and nothing else.
async fn adversary(site: &Site, namespace: &str) -> anyhow::Result<Client> {
    let metadata = json!({"name": ACCOUNT, "namespace": namespace});
    let rules = json!([
        {"apiGroups": ["minichat.dev"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]},
    ]);
    let subject = json!({"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT});
    let api_version = "rbac.authorization.k8s.io/v1";
    let items = json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": rules},
        {"apiVersion": api_version, "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [subject]},
    ]);
    site.tier()
        .kubectl()
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
    let own = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "own", "namespace": namespace, "labels": {"minichat.dev/credentials": "true"}},
        "stringData": {"api-key": "sk-of-the-adversary"},
    });
    site.apply(&own).await?;
    let kubeconfig = site.tier().kubeconfig();
    let client = cluster::service_account(&kubeconfig, namespace, ACCOUNT).await?;
    // The rights take effect a moment after they are written.
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(client.clone(), namespace);
    let may = async || Ok(secrets.get_opt("own").await.is_ok());
    eventually("allowed to read its own Secret", SOON, may).await?;
    Ok(client)
}
