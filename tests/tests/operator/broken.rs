//! Tenants that are broken in different ways: what their status says, and that they and others keep running.

use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Patch, PatchParams};
use minichat_crds::{ChatTenant, generate};
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Pod, Site, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use super::programs;

const SOON: Duration = Duration::from_secs(30);

fn of(tenant: &Tenant) -> (&'static str, &str) {
    ("ChatTenant", tenant.name.as_str())
}

/// The running configuration of two tenants before the first is broken.
struct Before {
    tenant: Value,
    other: Value,
}

impl Before {
    async fn of(site: &Site, tenant: &Tenant, other: &Tenant) -> anyhow::Result<Self> {
        Ok(Self {
            tenant: site.status(tenant).await?,
            other: site.status(other).await?,
        })
    }

    /// The broken tenant is served as before (K8S-8).
    async fn is_served(&self, site: &Site, pod: &Pod, tenant: &Tenant) -> anyhow::Result<()> {
        let status = site.status(tenant).await?;
        assert_eq!(status["revision"], self.tenant["revision"], "{status:#}");
        let shown = pod.configz(tenant).await?;
        assert_eq!(shown["revision"], self.tenant["revision"]);
        pod.chat(tenant).await
    }

    async fn is_untouched(&self, site: &Site, other: &Tenant) -> anyhow::Result<()> {
        let status = site.status(other).await?;
        assert_eq!(status, self.other, "another tenant is untouched");
        Ok(())
    }
}

/// D36; check 2 of chapter 06, without its "oldest wins"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_tenants_with_one_id_the_one_that_was_served_has_it_and_gets_it_back()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let owner = site.tenant("owner");
    site.admit([&owner]).await?;
    let before = site.status(&owner).await?["revision"].clone();
    let user = pod.caller(&owner, Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;

    let mut other = site.tenant("other");
    other.id = owner.id;
    other.spec()["tenantId"] = json!(owner.id.to_string());
    site.apply_tenant(&other).await?;
    let full = format!("{}/owner", site.tenants);
    let message = site
        .await_condition(of(&other), "Accepted", "False/Conflict")
        .await?;
    assert!(message.contains(&full), "{message}");
    site.await_condition(of(&other), "Ready", "False/Conflict")
        .await?;
    site.await_ready(&owner).await?;
    assert_eq!(site.status(&owner).await?["revision"], before);
    assert_eq!(pod.configz(&owner).await?["revision"], before);
    pod.chat(&owner).await?;

    // The waiting tenant is rendered, but no pod serves it, because the chats are another's.
    site.delete("ChatTenant", "owner").await?;
    let message = site
        .await_condition(of(&other), "Programmed", "False/Rejected")
        .await?;
    let remedy = format!(
        "minichat-dataplane tenants transfer --tenant {} --from {full} --to {}/other",
        owner.id, site.tenants
    );
    assert!(message.contains(&remedy), "{message}");
    let path = format!("/chats/{chat}");
    assert_ne!(user.get(&path).await?.status, 200, "nobody opens the chats");

    // The owner gets its id and its chats back, even if the operator has lost its state.
    operator.kill().await?;
    let _operator = site.operator().await?;
    site.admit([&owner]).await?;
    site.await_condition(of(&other), "Accepted", "False/Conflict")
        .await?;
    assert_eq!(user.get(&path).await?.status, 200);
    pod.chat(&owner).await
}

/// K8S-8; check 4 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_breaks_a_tenant_leaves_it_and_others_running() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let (tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant, &other]).await?;
    let before = Before::of(&site, &tenant, &other).await?;

    let mut wrong_key = tenant.clone();
    wrong_key.spec()["providers"][0]["auth"]["secretKeyRef"]["key"] = json!("no-such-key");
    let mut wrong_secret = tenant.clone();
    wrong_secret.spec()["providers"][0]["auth"]["secretKeyRef"]["name"] = json!("no-such-secret");
    let mut unknown_provider = tenant.clone();
    unknown_provider.spec()["models"][0]["providerRef"] = json!("nobody");
    let refused = site
        .apply(&unknown_provider.resource)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("must be the name of an entry of providers"),
        "{refused}"
    );
    for (broken, reason, expected) in [
        (wrong_key, "KeyMissing", "no-such-key"),
        (wrong_secret, "SecretNotFound", "no-such-secret"),
    ] {
        site.apply(&broken.resource).await?;
        let wanted = format!("False/{reason}");
        let message = site
            .await_condition(of(&tenant), "ResolvedRefs", &wanted)
            .await?;
        assert!(message.contains(expected), "{message}");
        site.await_condition(of(&tenant), "Ready", &wanted).await?;
        before.is_served(&site, &pod, &tenant).await?;
        before.is_untouched(&site, &other).await?;
    }
    site.admit([&tenant]).await?;
    assert_eq!(
        site.status(&tenant).await?["revision"],
        before.tenant["revision"]
    );
    let log = operator.log()?;
    assert!(!log.contains("sk-test-"), "no credential is logged: {log}");
    let lines = log
        .lines()
        .map(serde_json::from_str::<Value>)
        .collect::<Result<Vec<_>, _>>()?;
    let object = format!("{}/acme", site.tenants);
    let about = |message: &str| {
        let is_it = |line: &&Value| line["message"] == message && line["object"] == object;
        lines.iter().find(is_it)
    };
    let written = about("the rendered Secret is written").context("no line about the write")?;
    assert_eq!(written["tenant.id"], tenant.id.to_string());
    assert_eq!(written["revision"], before.tenant["revision"]);
    assert!(
        written["object.reason"].is_null(),
        "nothing that says nothing"
    );
    let missing = "spec.providers[0].auth.secretKeyRef";
    let is_warning = |line: &Value| {
        line["level"] == "WARN"
            && line["reason"] == "KeyMissing"
            && line["message"].to_string().contains(missing)
    };
    assert!(lines.iter().any(is_warning), "{log}");
    Ok(())
}

/// K8S-7, K8S-8; check 4 of chapter 06. The API server refuses such a tenant, unless it already existed when the rule
/// was added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_provider_that_the_api_server_let_in_is_not_accepted() -> anyhow::Result<()> {
    let site = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let (tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant, &other]).await?;
    let before = Before::of(&site, &tenant, &other).await?;

    let mut definition = generate::definition::<ChatTenant>()?;
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations";
    let rules = definition.pointer_mut(spec).and_then(Value::as_array_mut);
    let rules = rules.context("the spec has no rules")?;
    let all = rules.len();
    rules.retain(|rule| !rule["rule"].to_string().contains("m.providerRef"));
    assert_eq!(rules.len() + 1, all);
    site.tier().kubectl().apply(&definition)?;

    let mut unknown = tenant.clone();
    unknown.spec()["models"][0]["providerRef"] = json!("nobody");
    let is_let_in = async || Ok(site.apply(&unknown.resource).await.is_ok());
    eventually("let in", SOON, is_let_in).await?;
    let message = site
        .await_condition(of(&tenant), "Accepted", "False/Invalid")
        .await?;
    assert!(
        message.contains("spec.models[0].providerRef") && message.contains("nobody"),
        "{message}"
    );
    site.await_condition(of(&tenant), "Ready", "False/Invalid")
        .await?;
    site.await_condition(of(&tenant), "ResolvedRefs", "True/Resolved")
        .await?;
    before.is_served(&site, &pod, &tenant).await?;
    before.is_untouched(&site, &other).await?;
    site.admit([&tenant]).await?;
    assert_eq!(
        site.status(&tenant).await?["revision"],
        before.tenant["revision"]
    );
    Ok(())
}

/// K8S-7, K8S-8, K8S-22; check 11 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_document_that_cannot_be_repaired_is_told_and_the_old_one_runs()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let (mut tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant, &other]).await?;
    let before = Before::of(&site, &tenant, &other).await?;

    // Otherwise it is repaired before anyone sees it.
    let role = site.role(&site.namespace)?;
    let mut reader = role.clone();
    reader["rules"][0]["verbs"] = json!(["get", "list", "watch"]);
    site.tier().kubectl().apply(&reader)?;
    site.await_right(&site.namespace, "patch", "secrets", false)
        .await?;
    let secrets = site.api("Secret", &site.namespace)?;
    let name = format!("minichat-tenant-{}", tenant.id);
    let forced = json!({
        "metadata": {"annotations": {"minichat.dev/revision": "7-forced"}},
        "stringData": {"tenant.json": "{\"schema\": 7}"},
    });
    let parameters = PatchParams::default();
    secrets
        .patch(&name, &parameters, &Patch::Merge(forced))
        .await?;
    let message = site
        .await_condition(of(&tenant), "Programmed", "False/Rejected")
        .await?;
    assert!(
        message.contains("7-forced") && message.contains("tenant.json: "),
        "{message}"
    );
    site.await_condition(of(&tenant), "Ready", "False/Rejected")
        .await?;
    let shown = pod.configz(&tenant).await?;
    assert_eq!(shown["state"], "rejected");
    assert_eq!(shown["revision"], before.tenant["revision"]);
    assert_eq!(shown["rejected_revision"], "7-forced");
    pod.chat(&tenant).await?;
    pod.chat(&other).await?;
    before.is_untouched(&site, &other).await?;

    // An edit that can neither be written nor was seen by a pod.
    let mut edited = other.clone();
    edited.spec()["displayName"] = json!("edited");
    site.apply_tenant(&edited).await?;
    let message = site
        .await_condition(of(&other), "Programmed", "False/Pending")
        .await?;
    assert!(
        message.contains("the rendered Secret cannot be written")
            && message.contains("cannot patch resource"),
        "{message}"
    );

    site.tier().kubectl().apply(role)?;
    site.await_right(&site.namespace, "patch", "secrets", true)
        .await?;
    tenant.spec()["displayName"] = json!("mended");
    for tenant in [&tenant, &edited] {
        let admitted = site.admit([tenant]).await;
        admitted.with_context(|| operator.log().unwrap_or_default())?;
        assert_eq!(pod.configz(tenant).await?["state"], "active");
    }
    Ok(())
}

/// K8S-8, K8S-9; check 5 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_provider_secret_keeps_its_last_value_until_there_is_a_new_one()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let sent = || {
        let requests = site.provider.requests();
        let request = requests.last()?;
        request.headers.get("authorization").cloned()
    };

    site.delete("Secret", "acme-provider").await?;
    site.await_condition(of(&tenant), "Degraded", "True/OldCredentials")
        .await?;
    site.await_condition(of(&tenant), "ResolvedRefs", "False/SecretNotFound")
        .await?;
    pod.chat(&tenant).await?;
    let old = format!("Bearer {}", minichat_tests::manifest::PROVIDER_KEY);
    assert_eq!(sent(), Some(old));

    let mut secret = tenant.others[0].clone();
    secret["stringData"]["api-key"] = json!("sk-new");
    site.apply(&secret).await?;
    let runs_new = async || {
        pod.chat(&tenant).await?;
        Ok(sent().as_deref() == Some("Bearer sk-new"))
    };
    eventually("called with the new key", SOON, runs_new).await?;
    site.await_ready(&tenant).await?;
    let is_well = async || {
        let status = site.status(&tenant).await?;
        Ok(!status["conditions"].to_string().contains("Degraded"))
    };
    eventually("not degraded", SOON, is_well).await?;
    let status = site.status(&tenant).await?;
    assert_eq!(
        status["policyVersion"], 1,
        "a credential is no policy: {status:#}"
    );
    let events = site.events("acme").await?;
    for reason in ["SecretNotFound", "OldCredentials"] {
        let count = events.iter().filter(|event| *event == reason).count();
        assert_eq!(count, 1, "{reason}: {events:?}");
    }
    Ok(())
}

/// K8S-7, K8S-22, K8S-23, D34; check 11 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_pods_refuse_is_told_in_their_words_and_the_old_one_runs()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    // Operator and pool have different settings for allowed providers.
    let pod = site
        .process_of_a_pod("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP=false")
        .await?;
    pod.register().await?;
    let mut tenant = site.tenant("acme");
    let other = site.tenant("other");
    let plain = tenant.spec()["providers"][0]["baseUrl"].clone();
    tenant.spec()["providers"][0]["baseUrl"] = json!("https://models.example");
    site.apply_tenant(&tenant).await?;
    pod.become_ready().await?;
    site.await_ready(&tenant).await?;
    let first = site.status(&tenant).await?["revision"].clone();

    tenant.spec()["providers"][0]["baseUrl"] = plain;
    site.apply_tenant(&tenant).await?;
    let message = site
        .await_condition(of(&tenant), "Programmed", "False/Rejected")
        .await?;
    assert!(
        message.contains("plain http is not allowed by this process"),
        "{message}"
    );
    site.await_condition(of(&tenant), "Ready", "False/Rejected")
        .await?;
    let status = site.status(&tenant).await?;
    assert_eq!(
        status["dataPlane"],
        json!({"ready": 1, "programmed": 0, "rejected": 1, "pods": "0/1"})
    );
    let shown = pod.configz(&tenant).await?;
    assert_eq!(
        (&shown["state"], &shown["revision"]),
        (&json!("rejected"), &first)
    );
    assert_eq!(shown["rejected_revision"], status["revision"]);
    let events = site.events("acme").await?;
    assert_eq!(
        events.iter().filter(|reason| *reason == "Rejected").count(),
        1,
        "{events:?}"
    );

    let scrape = operator.scrape().await?;
    let rejected = scrape.sum("mini_chat_operator_config_rejected_total", &[]);
    assert!((rejected - 1.0).abs() < 0.5, "{rejected}");

    // A document that is forced into the Secret while no operator repairs it.
    tenant.spec()["providers"][0]["baseUrl"] = json!("https://models.example");
    site.admit([&tenant]).await?;
    let runs = site.status(&tenant).await?["revision"].clone();
    operator.kill().await?;
    let name = format!("minichat-tenant-{}", tenant.id);
    let secrets = site.api("Secret", &site.namespace)?;
    let forced = json!({"stringData": {"tenant.json": "{\"schema\": 7}"}});
    secrets
        .patch(&name, &PatchParams::default(), &Patch::Merge(forced))
        .await?;
    let is_refused = async || Ok(pod.configz(&tenant).await?["state"] == "rejected");
    eventually("refused", SOON, is_refused).await?;
    let shown = pod.configz(&tenant).await?;
    assert_eq!(shown["revision"], runs);
    assert!(
        shown["error"].to_string().contains("tenant.json: "),
        "{shown}"
    );
    assert_eq!(
        pod.caller(&tenant, Uuid::new_v4())?
            .get("/models")
            .await?
            .status,
        200
    );

    let _operator = site.operator().await?;
    let is_repaired = async || Ok(pod.configz(&tenant).await?["state"] == "active");
    eventually("repaired", SOON, is_repaired).await?;
    site.await_ready(&tenant).await?;

    // A pod whose only tenant is refused is not ready. This must not hide the reason.
    site.delete("ChatTenant", "acme").await?;
    site.apply_tenant(&other).await?;
    let is_unready = async || Ok(!pod.publish_readiness().await?);
    eventually("not ready", SOON, is_unready).await?;
    let message = site
        .await_condition(of(&other), "Programmed", "False/Rejected")
        .await?;
    assert!(
        message.contains("plain http is not allowed by this process"),
        "{message}"
    );
    Ok(())
}

/// K8S-7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_pod_the_tenant_is_rendered_and_waits_for_one() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let tenant = site.tenant("acme");
    site.apply_tenant(&tenant).await?;
    site.await_condition(of(&tenant), "Ready", "False/NoPods")
        .await?;
    let pod = site.pod().await?;
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await
}

/// QUOTA-27, QUOTA-29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_made_again_is_served_although_the_operator_forgot_its_numbers()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    for name in ["first", "second", "third"] {
        tenant.spec()["displayName"] = json!(name);
        site.admit([&tenant]).await?;
    }
    assert_eq!(site.status(&tenant).await?["policyVersion"], 3);
    site.delete("ChatTenant", "acme").await?;
    let is_gone = async || {
        let is_forgotten = pod.configz(&tenant).await?.is_null();
        Ok(is_forgotten && site.get("ChatTenant", "acme").await?.is_none())
    };
    eventually("gone", SOON, is_gone).await?;
    operator.kill().await?;

    let _operator = site.operator().await?;
    tenant.spec()["displayName"] = json!("fourth");
    site.admit([&tenant]).await?;
    assert_eq!(site.status(&tenant).await?["policyVersion"], 4);
    pod.chat(&tenant).await?;
    tenant.spec()["displayName"] = json!("fifth");
    site.admit([&tenant]).await?;
    assert_eq!(site.status(&tenant).await?["policyVersion"], 5);
    Ok(())
}
