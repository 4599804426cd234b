//! No one gets another tenant's id, key or chats (D36): every way that someone with write access to another namespace
//! could try.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::ListParams;
use minichat_crds::{ChatTenant, generate};
use minichat_tests::cluster::TestNamespace;
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{LossyWay, Operator, Place, Pod, Site, eventually};
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_secs(30);
/// A key that only the first namespace has.
const KEY: &str = "sk-of-the-owner-alone";

/// A pool for two namespaces: that of the tenants, and that of an attacker.
struct Neighbours {
    site: Site,
    other: String,
    operator: Option<Operator>,
    pod: Pod,
}

impl Neighbours {
    async fn new() -> anyhow::Result<Self> {
        Self::on(DatabaseKind::Sqlite).await
    }

    async fn on(kind: DatabaseKind) -> anyhow::Result<Self> {
        let (site, other) = Site::shared_by_two(programs(), kind).await?;
        Self::at(site, other).await
    }

    /// On an API server without the rules about ids, as it was before they existed.
    async fn without_rules() -> anyhow::Result<Self> {
        let site = Site::own(programs(), DatabaseKind::Sqlite).await?;
        forget_rules_of_ids(&site)?;
        let other = TestNamespace::create(&site.client, "other").await?;
        Self::at(site, other.name().to_owned()).await
    }

    async fn at(site: Site, other: String) -> anyhow::Result<Self> {
        let operator = Some(site.operator().await?);
        Ok(Self {
            pod: site.pod().await?,
            other,
            operator,
            site,
        })
    }

    /// With an operator whose requests can be refused.
    async fn on_lossy_way() -> anyhow::Result<(Self, LossyWay)> {
        let (site, other) = Site::shared_by_two(programs(), DatabaseKind::Sqlite).await?;
        let way = site.lossy_way().await?;
        let at = Self {
            operator: Some(site.operator_on(&way).await?),
            pod: site.pod().await?,
            other,
            site,
        };
        Ok((at, way))
    }

    fn home(&self) -> Place<'_> {
        self.site.home()
    }

    fn other(&self) -> Place<'_> {
        self.site.place(&self.other)
    }

    /// A tenant in the first namespace with a key that no one else has.
    fn owner(&self, name: &str) -> Tenant {
        let mut tenant = self.home().tenant(name);
        tenant.others[0]["stringData"]["api-key"] = json!(KEY);
        tenant
    }

    async fn stop_operator(&mut self) -> anyhow::Result<()> {
        self.operator.take().context("no operator")?.kill().await
    }

    async fn start_operator(&mut self) -> anyhow::Result<()> {
        self.operator = Some(self.site.operator().await?);
        Ok(())
    }

    /// Sources of the rendered Secrets that contain the owner's key.
    async fn who_has_the_key(&self) -> anyhow::Result<Vec<String>> {
        let secrets = self.site.api("Secret", &self.site.namespace)?;
        let mut found = Vec::new();
        for secret in secrets.list(&ListParams::default()).await?.items {
            let credentials = secret.data["data"]["credentials.json"].as_str();
            let text = STANDARD.decode(credentials.unwrap_or_default())?;
            if String::from_utf8(text)?.contains(KEY) {
                let annotations = secret.metadata.annotations.unwrap_or_default();
                found.extend(annotations.get("minichat.dev/source").cloned());
            }
        }
        Ok(found)
    }

    /// Only `owner` has its key, and it is served with the same revision.
    async fn is_untouched(&self, owner: &Tenant, revision: &Value) -> anyhow::Result<()> {
        self.home().await_ready(owner).await?;
        assert_eq!(self.home().status(owner).await?["revision"], *revision);
        assert_eq!(self.pod.configz(owner).await?["revision"], *revision);
        let full = format!("{}/{}", self.site.tenants, owner.name);
        assert_eq!(self.who_has_the_key().await?, [full]);
        self.pod.chat(owner).await
    }

    /// The other tenant is told what to do about the owner's id, without a name.
    async fn is_refused(&self, thief: &Tenant, wanted: &str) -> anyhow::Result<()> {
        let object = ("ChatTenant", thief.name.as_str());
        let message = self
            .other()
            .await_condition(object, "Accepted", wanted)
            .await?;
        assert!(message.starts_with("spec.tenantId: "), "{message}");
        assert!(
            message.contains("uuidgen") && message.contains("without"),
            "{message}"
        );
        assert!(!message.contains(&self.site.tenants), "{message}");
        self.other()
            .await_condition(object, "Ready", wanted)
            .await?;
        self.nothing_is_told(thief).await
    }

    /// Neither status nor events of the other tenant name the owner's namespace.
    async fn nothing_is_told(&self, thief: &Tenant) -> anyhow::Result<()> {
        let events = async || self.site.events_in(&self.other, &thief.name).await;
        let are_there = async || Ok(!events().await?.is_empty());
        eventually("reported by an event", SOON, are_there).await?;
        let status = self.other().status(thief).await?;
        let reported = format!("{status} {:?}", events().await?);
        assert!(!reported.contains(&self.site.tenants), "{reported}");
        Ok(())
    }
}

/// Removes the rules about `tenantId` from the definition.
fn forget_rules_of_ids(site: &Site) -> anyhow::Result<()> {
    let mut definition = generate::definition::<ChatTenant>()?;
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let spec = definition.pointer_mut(spec).context("no spec")?;
    let rules = spec["x-kubernetes-validations"].as_array_mut();
    rules
        .context("no rules")?
        .retain(|rule| rule["fieldPath"] != ".tenantId");
    let id = spec["properties"]["tenantId"].as_object_mut();
    id.context("no tenantId")?
        .remove("x-kubernetes-validations");
    site.tier().kubectl().apply(&definition)?;
    Ok(())
}

fn with_id(tenant: &mut Tenant, id: &Value) {
    tenant.spec()["tenantId"] = id.clone();
    if let Some(id) = id.as_str().and_then(|id| id.parse().ok()) {
        tenant.id = id;
    }
}

/// `tenant` without an id of its own, after its status shows the derived one.
async fn derived(place: Place<'_>, mut tenant: Tenant) -> anyhow::Result<Tenant> {
    tenant
        .spec()
        .as_object_mut()
        .context("no spec")?
        .remove("tenantId");
    place.admit(&tenant).await?;
    let id = place.status(&tenant).await?["tenantId"].clone();
    tenant.id = id.as_str().context("no id")?.parse()?;
    Ok(tenant)
}

/// D36, D49: an older tenant is edited to another's id, and names a Secret that only the other has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_to_anothers_id_gets_neither_the_id_nor_the_key() -> anyhow::Result<()> {
    let at = Neighbours::without_rules().await?;
    let older = derived(at.other(), at.other().tenant("older")).await?;
    // An API server records the age of an object in whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let owner = at.owner("owner");
    at.home().admit(&owner).await?;
    let revision = at.home().status(&owner).await?["revision"].clone();

    let mut thief = older.clone();
    with_id(&mut thief, &json!(owner.id));
    thief.spec()["providers"][0]["auth"]["secretKeyRef"]["name"] = json!("owner-provider");
    at.site.apply(&thief.resource).await?;
    at.is_refused(&thief, "False/Conflict").await?;
    at.is_untouched(&owner, &revision).await?;

    // Neither at an edit of the owner, nor after a restart of both loops.
    let mut edited = owner.clone();
    edited.spec()["displayName"] = json!("edited");
    at.home().admit(&edited).await?;
    let revision = at.home().status(&owner).await?["revision"].clone();
    let mut at = at;
    at.stop_operator().await?;
    at.start_operator().await?;
    at.is_refused(&thief, "False/Conflict").await?;
    at.is_untouched(&owner, &revision).await
}

/// D36: an id cannot be added, changed or removed later, and no tenant may set an id that is derived from a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_refuses_an_edit_of_an_id() -> anyhow::Result<()> {
    let at = Neighbours::new().await?;
    let given = at.home().tenant("given");
    at.home().admit(&given).await?;
    let derived = derived(at.home(), at.home().tenant("derived")).await?;
    let fresh = json!("7c9e6679-7425-40de-944b-e07fc1f90ae7");
    for (tenant, id) in [(&given, &fresh), (&given, &Value::Null), (&derived, &fresh)] {
        let change = json!({"spec": {"tenantId": id}});
        let refused = at.home().patch("ChatTenant", &tenant.name, &change).await;
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(
            refused.contains("is set when the ChatTenant is created or never"),
            "{refused}"
        );
    }
    let mut thief = at.other().tenant("thief");
    with_id(&mut thief, &json!(derived.id));
    let refused = format!("{:#}", at.site.apply(&thief.resource).await.unwrap_err());
    assert!(
        refused.contains("a UUID of another version than 5"),
        "{refused}"
    );
    Ok(())
}

/// D36: an id that is derived from a name is used before that tenant exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_derived_id_cannot_be_taken_before_its_tenant_exists() -> anyhow::Result<()> {
    let at = Neighbours::without_rules().await?;
    let acme = derived(at.home(), at.owner("acme")).await?;
    at.home().delete("ChatTenant", "acme").await?;
    let is_gone = async || Ok(at.site.rendered(&acme).await?.is_none());
    eventually("gone", SOON, is_gone).await?;

    let mut thief = at.other().tenant("thief");
    with_id(&mut thief, &json!(acme.id));
    at.site.apply_tenant(&thief).await?;
    at.is_refused(&thief, "False/Invalid").await?;
    assert!(at.site.rendered(&thief).await?.is_none());
    at.home().admit(&acme).await?;
    at.is_refused(&thief, "False/Conflict").await?;
    let revision = at.home().status(&acme).await?["revision"].clone();
    at.is_untouched(&acme, &revision).await
}

/// D36: a tenant that waits for an id inherits nothing from the tenant that had it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_id_inherits_nothing_when_its_tenant_is_deleted() -> anyhow::Result<()> {
    let at = Neighbours::new().await?;
    let owner = at.owner("owner");
    at.home().admit(&owner).await?;
    let mut thief = at.other().tenant("thief");
    with_id(&mut thief, &json!(owner.id));
    thief.spec()["providers"][0]["auth"]["secretKeyRef"]["name"] = json!("owner-provider");
    at.site.apply(&thief.resource).await?;
    at.is_refused(&thief, "False/Conflict").await?;

    at.home().delete("ChatTenant", "owner").await?;
    let object = ("ChatTenant", "thief");
    at.other()
        .await_condition(object, "Accepted", "True/Valid")
        .await?;
    at.other()
        .await_condition(object, "ResolvedRefs", "False/SecretNotFound")
        .await?;
    let status = at.other().status(&thief).await?;
    assert!(status["policyVersion"].is_null(), "{status:#}");
    assert!(
        !status["conditions"].to_string().contains("OldCredentials"),
        "{status:#}"
    );
    let none: [String; 0] = [];
    assert_eq!(at.who_has_the_key().await?, none);

    // With its own key it is rendered, but no pod serves it; the owner is not named.
    thief.spec()["providers"][0]["auth"]["secretKeyRef"]["name"] = json!("thief-provider");
    at.site.apply(&at.other().tenant("thief").others[0]).await?;
    at.site.apply(&thief.resource).await?;
    let message = at
        .other()
        .await_condition(object, "Programmed", "False/Rejected")
        .await?;
    assert!(message.contains("tenants transfer"), "{message}");
    // The pod names the owner, but only administrators can read this.
    let entry = at.pod.configz(&thief).await?.to_string();
    assert!(
        entry.contains(&format!("{}/owner", at.site.tenants)),
        "{entry}"
    );
    at.nothing_is_told(&thief).await?;
    at.home().admit(&owner).await?;
    at.is_refused(&thief, "False/Conflict").await?;
    let revision = at.home().status(&owner).await?["revision"].clone();
    at.is_untouched(&owner, &revision).await
}

/// D36: a tenant that is created again under its name gets the chats, but not the old credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_made_again_has_its_chats_and_not_its_old_credentials()
-> anyhow::Result<()> {
    let mut at = Neighbours::new().await?;
    let owner = at.owner("owner");
    at.home().admit(&owner).await?;
    let user = at.pod.caller(&owner, uuid::Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;

    // The operator sees neither the deletion nor the creation.
    at.stop_operator().await?;
    let finalizers = json!({"metadata": {"finalizers": null}});
    at.home().patch("ChatTenant", "owner", &finalizers).await?;
    for kind_and_name in [("ChatTenant", "owner"), ("Secret", "owner-provider")] {
        at.home().delete(kind_and_name.0, kind_and_name.1).await?;
    }
    at.site.apply(&owner.resource).await?;
    at.start_operator().await?;
    let object = ("ChatTenant", "owner");
    at.home()
        .await_condition(object, "ResolvedRefs", "False/SecretNotFound")
        .await?;
    let is_gone = async || Ok(at.site.rendered(&owner).await?.is_none());
    eventually("rid of the old credentials", SOON, is_gone).await?;
    let status = at.home().status(&owner).await?;
    assert!(
        !status["conditions"].to_string().contains("OldCredentials"),
        "{status:#}"
    );

    at.home().admit(&owner).await?;
    let found = user.get(&format!("/chats/{chat}")).await?;
    assert_eq!(found.status, 200, "its chats are there again");
    at.pod.chat(&owner).await
}

/// D36: an exported object, with status and annotations, is applied in another namespace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_restored_into_another_namespace_is_another_tenant() -> anyhow::Result<()> {
    let at = Neighbours::new().await?;
    let owner = at.owner("owner");
    let nameless = derived(at.home(), at.owner("nameless")).await?;
    at.home().admit(&owner).await?;
    let revision = at.home().status(&owner).await?["revision"].clone();
    for tenant in [&owner, &nameless] {
        let mut backup = at
            .home()
            .get("ChatTenant", &tenant.name)
            .await?
            .context("no tenant")?;
        let status = backup["status"].clone();
        for key in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "generation",
        ] {
            backup["metadata"]
                .as_object_mut()
                .context("no metadata")?
                .remove(key);
        }
        backup["metadata"]["namespace"] = json!(at.other);
        at.site.apply(&backup).await?;
        let api = at.other().api("ChatTenant")?;
        let patch = kube::api::Patch::Merge(json!({ "status": status }));
        api.patch_status(&tenant.name, &kube::api::PatchParams::default(), &patch)
            .await?;
        let touched = json!({"spec": {"displayName": "restored"}});
        at.other()
            .patch("ChatTenant", &tenant.name, &touched)
            .await?;
    }
    at.is_refused(&owner, "False/Conflict").await?;
    // The other one has its own id and no Secret.
    let object = ("ChatTenant", "nameless");
    at.other()
        .await_condition(object, "ResolvedRefs", "False/SecretNotFound")
        .await?;
    let status = at.other().status(&nameless).await?;
    assert_ne!(status["tenantId"], json!(nameless.id), "{status:#}");
    assert!(!status["conditions"].to_string().contains("OldCredentials"));
    at.home().delete("ChatTenant", "nameless").await?;
    let is_gone = async || Ok(at.site.rendered(&nameless).await?.is_none());
    eventually("gone", SOON, is_gone).await?;
    at.is_untouched(&owner, &revision).await
}

/// D36: Kubernetes objects cannot be renamed. A new one is created, and the old one is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_under_a_new_name_has_the_id_once_it_was_transferred() -> anyhow::Result<()> {
    let at = Neighbours::on(DatabaseKind::Postgres).await?;
    let owner = at.owner("owner");
    at.home().admit(&owner).await?;
    let revision = at.home().status(&owner).await?["revision"].clone();
    let user = at.pod.caller(&owner, uuid::Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;
    let mut renamed = at.home().tenant("renamed");
    with_id(&mut renamed, &json!(owner.id));
    renamed.spec()["providers"][0]["auth"]["secretKeyRef"]["name"] = json!("owner-provider");

    at.site.apply(&renamed.resource).await?;
    let (object, home) = (("ChatTenant", "renamed"), &at.site.tenants);
    let message = at
        .home()
        .await_condition(object, "Accepted", "False/Conflict")
        .await?;
    let names_it = format!("spec.tenantId: is the id of the ChatTenant {home}/owner;");
    assert!(message.starts_with(&names_it), "{message}");
    at.is_untouched(&owner, &revision).await?;

    at.home().delete("ChatTenant", "owner").await?;
    let message = at
        .home()
        .await_condition(object, "Programmed", "False/Rejected")
        .await?;
    let transfer = [
        "--from",
        &format!("{home}/owner"),
        "--to",
        &format!("{home}/renamed"),
    ];
    assert!(message.contains(&transfer.join(" ")), "{message}");
    assert!(at.pod.configz(&renamed).await?["revision"].is_null());
    let path = format!("/chats/{chat}");
    assert_ne!(
        user.get(&path).await?.status,
        200,
        "nobody has the chats now"
    );

    let id = owner.id.to_string();
    let transfer = [&["transfer", "--tenant", &id], transfer.as_slice()].concat();
    at.site.tenants_command(&transfer).await?;
    at.home().await_ready(&renamed).await?;
    assert_eq!(
        user.get(&path).await?.status,
        200,
        "its chats are there again"
    );
    at.pod.chat(&renamed).await
}

/// D36: the rendered Secret of the deleted tenant cannot be deleted at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_an_id_over_ends_the_tenant_that_had_it() -> anyhow::Result<()> {
    let (at, way) = Neighbours::on_lossy_way().await?;
    let owner = at.owner("owner");
    at.home().admit(&owner).await?;
    let mut parked = at.other().tenant("parked");
    with_id(&mut parked, &json!(owner.id));
    at.site.apply_tenant(&parked).await?;
    at.is_refused(&parked, "False/Conflict").await?;

    way.refuse_deletions(1);
    at.home().delete("ChatTenant", "owner").await?;
    at.other()
        .await_condition(("ChatTenant", "parked"), "Programmed", "False/Rejected")
        .await?;
    let has_ended = async || Ok(at.pod.configz(&owner).await?["revision"].is_null());
    eventually("ended on the pod", SOON, has_ended).await?;
    assert_eq!(way.deletions_to_refuse(), 0);
    let user = at.pod.caller(&owner, uuid::Uuid::new_v4())?;
    assert_ne!(user.post("/chats", &json!({})).await?.status, 201);
    Ok(())
}

/// K8S-8: the waiting tenant is reconciled before the older one's status says that it is invalid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_tenant_that_becomes_invalid_gives_its_id_free_at_once() -> anyhow::Result<()> {
    let (at, way) = Neighbours::on_lossy_way().await?;
    let mut older = at.other().tenant("older");
    at.site.apply(&older.resource).await?;
    let object = ("ChatTenant", "older");
    at.other()
        .await_condition(object, "ResolvedRefs", "False/SecretNotFound")
        .await?;
    // An API server records the age of an object in whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut younger = at.home().tenant("younger");
    with_id(&mut younger, &json!(older.id));
    at.site.apply_tenant(&younger).await?;
    at.home()
        .await_condition(("ChatTenant", "younger"), "Accepted", "False/Conflict")
        .await?;

    way.refuse_statuses(1);
    older.spec()["providers"][0]["baseUrl"] = json!("http://10.0.0.1");
    at.site.apply(&older.resource).await?;
    at.other()
        .await_condition(object, "Accepted", "False/Invalid")
        .await?;
    assert_eq!(way.to_refuse(), 0);
    at.home().await_ready(&younger).await?;
    at.pod.chat(&younger).await
}
