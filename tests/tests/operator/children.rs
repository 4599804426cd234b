//! The objects that the operator owns: it repairs changes, and writes nothing without a change.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use minichat_cluster::Write;
use minichat_core::Timestamp;
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Site, eventually};
use serde_json::{Value, json};

use super::programs;

/// Variable with the number of seconds without writes.
const QUIET: &str = "MINICHAT_TEST_QUIET_SECONDS";
/// Default of [`QUIET`]. No period in the operator is between this and the rule's five minutes.
const QUIET_SECONDS: u64 = 15;
const SETTLED: Duration = Duration::from_secs(2);
const REPAIRED: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(30);

fn quiet() -> anyhow::Result<Duration> {
    let seconds = match std::env::var(QUIET) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{QUIET}: write a number of seconds, not {text:?}"))?,
        Err(_) => QUIET_SECONDS,
    };
    Ok(Duration::from_secs(seconds))
}

/// Time from the answer to the last write of `resource` called `name` by another user until the answer to the
/// operator's next write of `repaired`. Measured by the API server's clock, so that the speed of the test does not
/// matter.
pub(crate) async fn took(
    site: &Site,
    touched: (&str, &str),
    repaired: (&str, &str, &str),
) -> anyhow::Result<Duration> {
    let user = site.operator_user()?;
    let started = Instant::now();
    loop {
        let all = site.tier().writes()?;
        let is_of_site = |write: &&Write| {
            write.is_accepted() && [&site.namespace, &site.tenants].contains(&&write.namespace)
        };
        let by_us = all.iter().filter(is_of_site).rfind(|write| {
            write.user != user && (write.resource.as_str(), write.name.as_str()) == touched
        });
        let since = by_us.context("nobody else wrote")?.answered.as_str();
        let by_it = all.iter().filter(is_of_site).rfind(|write| {
            let (resource, subresource) = (write.resource.as_str(), write.subresource.as_str());
            write.user == user && (resource, subresource, write.name.as_str()) == repaired
        });
        // A line is written a moment after its answer.
        if let Some(answered) = by_it
            .map(|write| write.answered.as_str())
            .filter(|it| *it > since)
        {
            let (since, answered): (Timestamp, Timestamp) = (since.parse()?, answered.parse()?);
            let micros = answered.as_micros() - since.as_micros();
            return Ok(Duration::from_micros(u64::try_from(micros)?));
        }
        anyhow::ensure!(started.elapsed() < SOON, "the operator wrote nothing since");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn assert_took(
    site: &Site,
    after: &str,
    touched: (&str, &str),
    repaired: (&str, &str, &str),
) -> anyhow::Result<()> {
    let took = took(site, touched, repaired).await?;
    eprintln!("repaired {} ms after {after}", took.as_millis());
    assert!(took <= REPAIRED, "{took:?} after {after}");
    Ok(())
}

/// The relevant parts of a rendered Secret.
async fn essence(site: &Site, tenant: &Tenant) -> anyhow::Result<Value> {
    let secret = site.rendered(tenant).await?.unwrap_or_default();
    let metadata = &secret["metadata"];
    Ok(json!([
        secret["type"],
        secret["data"],
        metadata["labels"],
        metadata["annotations"]
    ]))
}

/// K8S-10, K8S-12, K8S-13; check 6 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_or_deleted_child_is_repaired_and_then_nothing_is_written() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator_with(&[("WATCHDOG", "jobs")]).await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.apply(&site.quota(&tenant, 7)).await?;
    site.admit([&tenant]).await?;
    // A Job's failure is reported to the tenant and to the Job, each once.
    site.failed_job("run-1", 1, &super::jobs::report(1)).await?;
    site.await_condition(("ChatTenant", "acme"), "JobsHealthy", "False/Failed")
        .await?;
    let quota = ("ChatQuota", "acme-default");
    site.await_condition(quota, "Ready", "True/Ready").await?;

    let whole = essence(&site, &tenant).await?;
    let secrets = site.api("Secret", &site.namespace)?;
    let name = format!("minichat-tenant-{}", tenant.id);
    let secret = ("secrets", "", name.as_str());
    let edits = [
        json!({"stringData": {"tenant.json": "{}"}}),
        json!({"data": {"credentials.json": null}}),
        json!({"metadata": {"labels": {"minichat.dev/pool": "another"}}}),
        json!({"metadata": {"annotations": {"minichat.dev/revision": "9-abc"}}}),
    ];
    for edit in edits {
        let patch = Patch::Merge(&edit);
        secrets
            .patch(&name, &PatchParams::default(), &patch)
            .await?;
        // If the annotation claims a higher version, the operator continues above it.
        let is_repaired =
            async || {
                let now = essence(&site, &tenant).await?;
                let versions = edit["metadata"]["annotations"].is_object();
                Ok(now == whole
                    || versions && now[3] != whole[3] && !now.to_string().contains("9-abc"))
            };
        eventually(&format!("repaired after {edit}"), SOON, is_repaired).await?;
        assert_took(&site, &edit.to_string(), ("secrets", &name), secret).await?;
    }
    let whole = essence(&site, &tenant).await?;
    secrets.delete(&name, &DeleteParams::default()).await?;
    let is_back = async || Ok(essence(&site, &tenant).await?[0] == whole[0]);
    eventually("made anew", SOON, is_back).await?;
    assert_took(&site, "a deletion", ("secrets", &name), secret).await?;
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await?;

    let mut settled = (site.operator_writes()?.len(), Instant::now());
    let started = Instant::now();
    while settled.1.elapsed() < SETTLED {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = site.operator_writes()?.len();
        if now != settled.0 {
            settled = (now, Instant::now());
        }
        assert!(
            started.elapsed() < SOON,
            "it never comes to rest: {:?}",
            site.operator_writes()?
        );
    }
    tokio::time::sleep(quiet()?).await;
    let since = site.operator_writes()?.split_off(settled.0);
    assert!(since.is_empty(), "{since:?}");
    assert!(settled.0 > 0, "writes are logged");

    // The rendered Secret is deleted with its tenant, which waits for nothing.
    let object = site.get("ChatTenant", "acme").await?.unwrap_or_default();
    assert!(object["metadata"]["finalizers"].is_null(), "{object}");
    site.delete("ChatTenant", "acme").await?;
    let is_gone = async || {
        let tenant_is_gone = site.get("ChatTenant", "acme").await?.is_none();
        Ok(tenant_is_gone && site.rendered(&tenant).await?.is_none())
    };
    eventually("gone", SOON, is_gone).await?;
    let is_gone = async || Ok(pod.configz(&tenant).await?.is_null());
    eventually("forgotten by the pod", SOON, is_gone).await?;
    site.await_condition(quota, "Accepted", "False/TenantNotFound")
        .await?;
    Ok(())
}
