//! The status of minichat's objects by the rules of kstatus, for tools that
//! wait for objects (D46).

use std::time::Duration;

use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Site, eventually};
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_secs(30);

/// The rules of `sigs.k8s.io/cli-utils/pkg/kstatus` for kinds that it does not
/// know.
fn kstatus(object: &Value) -> &'static str {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    let status = &object["status"];
    let observed = &status["observedGeneration"];
    if !observed.is_null() && *observed != object["metadata"]["generation"] {
        return "InProgress";
    }
    let is = |type_: &str| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut found = conditions.filter(|one| one["type"] == type_);
        found.next().map(|one| one["status"].clone())
    };
    if is("Reconciling") == Some(json!("True")) {
        return "InProgress";
    }
    if is("Stalled") == Some(json!("True")) {
        return "Failed";
    }
    match is("Ready") {
        Some(ready) if ready != "True" => "InProgress",
        _ => "Current",
    }
}

async fn becomes(site: &Site, (kind, name): (&str, &str), wanted: &str) -> anyhow::Result<()> {
    let is = async || {
        let object = site.get(kind, name).await?.unwrap_or_default();
        Ok(kstatus(&object) == wanted)
    };
    eventually(&format!("{kind} {name}: {wanted}"), SOON, is).await
}

/// A tenant and its quota: kinds and names.
pub(super) const OBJECTS: ((&str, &str), (&str, &str)) =
    (("ChatTenant", "acme"), ("ChatQuota", "acme-default"));

/// A site with these objects and without an operator.
pub(super) async fn with_unseen_objects() -> anyhow::Result<(Site, Tenant)> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let tenant = site.tenant("acme");
    site.apply(&site.quota(&tenant, 7)).await?;
    site.apply_tenant(&tenant).await?;
    Ok((site, tenant))
}

/// Applies a quota of a tenant that is not there. Returns its kind and name.
pub(super) async fn apply_orphan(
    site: &Site,
    tenant: &Tenant,
) -> anyhow::Result<(&'static str, &'static str)> {
    let mut orphan = site.quota(tenant, 7);
    orphan["metadata"]["name"] = json!("orphan");
    orphan["spec"]["tenantRef"]["name"] = json!("nobody");
    site.apply(&orphan).await?;
    Ok(("ChatQuota", "orphan"))
}

pub(super) async fn is_now(
    site: &Site,
    (kind, name): (&str, &str),
    wanted: &str,
) -> anyhow::Result<()> {
    let object = site.get(kind, name).await?.unwrap_or_default();
    assert_eq!(kstatus(&object), wanted, "{:#}", object["status"]);
    Ok(())
}

/// D46
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_current_when_it_is_served_and_failed_when_a_person_is_needed()
-> anyhow::Result<()> {
    let (site, mut tenant) = with_unseen_objects().await?;
    let (object, quota) = OBJECTS;
    for unseen in [object, quota] {
        is_now(&site, unseen, "InProgress").await?;
        let found = site.get(unseen.0, unseen.1).await?.unwrap_or_default();
        assert_eq!(found["status"]["observedGeneration"], -1);
    }

    let operator = site.operator().await?;
    site.await_condition(object, "Ready", "False/NoPods")
        .await?;
    for waiting in [object, quota] {
        is_now(&site, waiting, "InProgress").await?;
    }
    let _pod = site.pod().await?;
    for served in [object, quota] {
        becomes(&site, served, "Current").await?;
    }

    // A fault that a person must fix.
    let reference = "/spec/providers/0/auth/secretKeyRef";
    let whole = tenant
        .resource
        .pointer(reference)
        .cloned()
        .unwrap_or_default();
    let mut wrong_key = whole.clone();
    wrong_key["key"] = json!("no-such-key");
    let mut wrong_name = whole.clone();
    wrong_name["name"] = json!("no-such-secret");
    for (wrong, reason) in [(wrong_key, "KeyMissing"), (wrong_name, "SecretNotFound")] {
        tenant.spec()["providers"][0]["auth"]["secretKeyRef"] = wrong;
        site.apply(&tenant.resource).await?;
        let stalled = format!("True/{reason}");
        site.await_condition(object, "Stalled", &stalled).await?;
        is_now(&site, object, "Failed").await?;
        tenant.spec()["providers"][0]["auth"]["secretKeyRef"] = whole.clone();
        site.apply(&tenant.resource).await?;
        becomes(&site, object, "Current").await?;
    }
    let orphan = apply_orphan(&site, &tenant).await?;
    site.await_condition(orphan, "Ready", "False/TenantNotFound")
        .await?;
    is_now(&site, orphan, "InProgress").await?;
    becomes(&site, orphan, "Failed").await?;

    // The operator has not seen this edit.
    operator.kill().await?;
    tenant.spec()["displayName"] = json!("unseen");
    site.apply(&tenant.resource).await?;
    is_now(&site, object, "InProgress").await
}
