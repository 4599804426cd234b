//! Which quota applies, and what the status of the others says (D45, QUOTA-25).

use std::time::Duration;

use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Site, condition, eventually};
use serde_json::{Value, json};

use super::programs;

const LOOSE: Duration = Duration::from_secs(10);
const ANNA: &str = "1c7e0000-0000-4000-8000-000000000001";
const BEN: &str = "1c7e0000-0000-4000-8000-000000000002";

/// A quota of `tenant` for `users`, or the default quota if there are none. All have the same limits, so that the
/// choice does not change the tenant's configuration.
fn quota(site: &Site, tenant: &Tenant, name: &str, users: &[&str]) -> Value {
    let mut quota = site.quota(tenant, 50);
    quota["metadata"]["name"] = json!(name);
    let subject = |name| json!({"kind": "User", "name": name});
    quota["spec"]["subjects"] = users.iter().map(subject).collect();
    quota
}

/// Waits until the quota's condition is `wanted`, and returns its message.
async fn ready(site: &Site, name: &str, wanted: &str) -> anyhow::Result<String> {
    site.await_condition(("ChatQuota", name), "Ready", wanted)
        .await
}

/// QUOTA-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_default_quotas_the_one_that_loses_says_so_until_it_wins() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let _pod = site.pod().await?;
    let (tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant, &other]).await?;
    let (first, mut second) = (
        quota(&site, &tenant, "first", &[]),
        quota(&site, &tenant, "second", &[]),
    );
    site.apply(&first).await?;
    ready(&site, "first", "True/Ready").await?;
    site.apply(&second).await?;
    let message = ready(&site, "second", "False/Conflict").await?;
    assert!(
        message.contains("applies to nobody") && message.contains("ChatQuota first (priority 0)"),
        "{message}"
    );
    let refused = site.await_condition(("ChatQuota", "second"), "Accepted", "False/Conflict");
    refused.await?;
    let stored = site.get("ChatQuota", "second").await?.unwrap_or_default();
    assert_eq!(condition(&stored, "Programmed"), None, "{stored:#}");
    assert_eq!(stored["status"]["appliedRevision"], Value::Null);
    // A quota of another tenant does not compete.
    site.apply(&quota(&site, &other, "others", &[])).await?;
    ready(&site, "others", "True/Ready").await?;

    second["spec"]["priority"] = json!(1);
    site.apply(&second).await?;
    ready(&site, "second", "True/Ready").await?;
    let message = ready(&site, "first", "False/Conflict").await?;
    assert!(
        message.contains("ChatQuota second (priority 1)"),
        "{message}"
    );
    site.delete("ChatQuota", "second").await?;
    ready(&site, "first", "True/Ready").await?;
    let events = site.events("first").await?;
    let refused = events.iter().filter(|event| *event == "Refused").count();
    assert_eq!(refused, 1, "{events:?}");
    Ok(())
}

/// D45
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_applies_to_some_of_its_users_is_degraded_and_names_the_winner()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let _pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    site.apply(&quota(&site, &tenant, "gold", &[ANNA])).await?;
    let silver = quota(&site, &tenant, "silver", &[BEN, ANNA]);
    site.apply(&silver).await?;
    let of = ("ChatQuota", "silver");
    let message = site
        .await_condition(of, "Degraded", "True/PartlyApplied")
        .await?;
    assert!(
        message.contains("ChatQuota gold (priority 0) applies to spec.subjects[1]"),
        "{message}"
    );
    ready(&site, "silver", "True/Ready").await?;
    ready(&site, "gold", "True/Ready").await?;
    // An event comes after the status.
    let is_event = async || {
        let events = site.events("silver").await?;
        Ok(events.contains(&"PartlyApplied".to_owned()))
    };
    eventually("reported by an event", LOOSE, is_event).await?;

    site.apply(&quota(&site, &tenant, "gold", &[ANNA, BEN]))
        .await?;
    ready(&site, "silver", "False/Conflict").await?;
    site.delete("ChatQuota", "gold").await?;
    ready(&site, "silver", "True/Ready").await?;
    let stored = site.get("ChatQuota", "silver").await?.unwrap_or_default();
    assert_eq!(condition(&stored, "Degraded"), None, "{stored:#}");
    Ok(())
}

/// D45, PLAT-132
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_no_issuer_can_have_given_is_refused_until_there_is_one() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let _pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    site.apply(&quota(&site, &tenant, "anna", &["auth0|anna"]))
        .await?;
    let message = ready(&site, "anna", "False/Invalid").await?;
    assert!(
        message.contains("spec.subjects[0] cannot be the name of a user: it is no UUID"),
        "{message}"
    );
    let name = format!("https://{}.example.com", site.tenants);
    let issuer = json!({"issuer": name, "audience": "minichat"});
    tenant.spec()["auth"] = json!({"issuers": [issuer]});
    site.admit([&tenant]).await?;
    ready(&site, "anna", "True/Ready").await?;
    let log = operator.log()?;
    assert!(!log.contains("auth0|anna"), "users are not logged: {log}");

    tenant.spec()["auth"] = json!({"issuers": []});
    site.admit([&tenant]).await?;
    ready(&site, "anna", "False/Invalid").await?;
    operator.kill().await?;
    let _operator = site.operator_with(&[("ISSUER", &name)]).await?;
    ready(&site, "anna", "True/Ready").await?;
    Ok(())
}
