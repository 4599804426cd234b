//! What watches miss, and how the operator recovers: dead connections, lost events, removed definitions, and statuses
//! that others write too.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams};
use minichat_tests::cluster;
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Operator, Site, eventually};
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_mins(1);
/// A silently dead watch must be replaced within this time.
const NOTICED: Duration = Duration::from_secs(30);

/// K8S-10, K8S-14: connections that die silently cost neither an edit nor the Lease. Idle connections, which the next
/// request would use, have died too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_lands_within_30_seconds_although_every_connection_has_died_in_silence()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.silent_way().await?;
    let operator = site.operator_on_silent(&way).await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let before = site.status(&tenant).await?["revision"].clone();
    // Many writes at once leave many idle connections, which are newer than the last event of the watch of tenants.
    let orphans: Vec<_> = (0..16)
        .map(|number| orphan(&site, &tenant, number))
        .collect();
    try_join_all(orphans.iter().map(|orphan| site.apply(orphan))).await?;
    for number in 0..orphans.len() {
        let name = format!("orphan-{number}");
        let quota = ("ChatQuota", name.as_str());
        site.await_condition(quota, "Ready", "False/TenantNotFound")
            .await?;
    }

    way.silence();
    let begun = Instant::now();
    tenant.spec()["displayName"] = json!("edited");
    site.apply(&tenant.resource).await?;
    let lands = async || Ok(pod.configz(&tenant).await?["revision"] != before);
    let landed = eventually("the edit on the pod", NOTICED, lands).await;
    landed.with_context(|| operator.log().unwrap_or_default())?;
    let elapsed = begun.elapsed();
    eprintln!(
        "the edit landed {} ms after the silence",
        elapsed.as_millis()
    );
    site.await_ready(&tenant).await?;
    assert!(!operator.log()?.contains("the Lease is lost"));
    Ok(())
}

/// A quota whose tenant is nowhere.
fn orphan(site: &Site, tenant: &Tenant, number: usize) -> Value {
    let mut quota = site.quota(tenant, 7);
    quota["metadata"]["name"] = json!(format!("orphan-{number}"));
    quota["spec"]["tenantRef"]["name"] = json!("nobody");
    quota
}

/// K8S-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_somebody_else_changes_meanwhile_is_written_again() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.lossy_way().await?;
    let _operator = site.operator_on(&way).await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.apply(&site.quota(&tenant, 7)).await?;
    site.admit([&tenant]).await?;
    let quota = ("ChatQuota", "acme-default");
    site.await_condition(quota, "Ready", "True/Ready").await?;

    way.refuse_statuses(4);
    tenant.spec()["displayName"] = json!("edited");
    site.apply(&site.quota(&tenant, 8)).await?;
    site.apply(&tenant.resource).await?;
    site.await_ready(&tenant).await?;
    site.await_condition(quota, "Ready", "True/Ready").await?;
    assert_eq!(way.to_refuse(), 0, "they were tried, and again");
    pod.chat(&tenant).await
}

/// K8S-10: everything is listed and reconciled from time to time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_has_missed_is_mended_by_a_look_at_everything() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.lossy_way().await?;
    let often = [("RECONCILE_EVERY_SECS", "4")];
    let _operator = site.operator_on_with(&way, &often).await?;
    let pod = site.pod().await?;
    let (mut edited, deleted) = (site.tenant("edited"), site.tenant("deleted"));
    site.admit([&edited, &deleted]).await?;
    let before = site.status(&edited).await?["revision"].clone();

    way.lose_events_of(Some("edited"));
    edited.spec()["displayName"] = json!("edited");
    site.apply(&edited.resource).await?;
    let lands = async || Ok(pod.configz(&edited).await?["revision"] != before);
    eventually("the edit on the pod", SOON, lands).await?;
    way.lose_events_of(Some("deleted"));
    site.delete("ChatTenant", "deleted").await?;
    let is_gone = async || Ok(site.rendered(&deleted).await?.is_none());
    eventually("cleaned up", SOON, is_gone).await
}

async fn is_unready(operator: &Operator, reason: &str) -> anyhow::Result<()> {
    let is = async || {
        let (status, missing) = operator.readiness().await?;
        Ok(status == 503 && missing.contains(reason))
    };
    let unready = eventually(&format!("unready: {reason}"), SOON, is).await;
    unready.with_context(|| operator.log().unwrap_or_default())
}

/// K8S-15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_goes_away_is_missed_by_name_and_served_when_it_is_back()
-> anyhow::Result<()> {
    let site = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let is_ready = async || Ok(operator.readiness().await?.0 == 200);
    eventually("ready", SOON, is_ready).await?;

    let definitions: Api<CustomResourceDefinition> = Api::all(site.client.clone());
    for kind in ["chatquotas.minichat.dev", "chattenants.minichat.dev"] {
        definitions.delete(kind, &DeleteParams::default()).await?;
        let is_gone = async || Ok(definitions.get_opt(kind).await?.is_none());
        eventually("gone, and nothing holds it", SOON, is_gone).await?;
        is_unready(
            &operator,
            &format!("the custom resource definition {kind} is not installed"),
        )
        .await?;
    }
    let is_unrendered = async || Ok(site.rendered(&tenant).await?.is_none());
    eventually("gone with its tenant", SOON, is_unrendered).await?;

    cluster::install_definitions(site.tier())?;
    eventually("ready again", SOON, is_ready).await?;
    site.admit([&tenant]).await?;
    pod.chat(&tenant).await
}
