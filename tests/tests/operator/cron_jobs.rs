//! The pool's `CronJobs`, which the operator makes of the chart's manifests.

use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use minichat_cluster::Write;
use minichat_tests::database::DatabaseKind;
use minichat_tests::site::{Operator, Site, eventually};
use serde_json::{Value, json};

use super::children::took;
use super::programs;

const SOON: Duration = Duration::from_secs(30);
const REPAIRED: Duration = Duration::from_secs(2);
const WATCHDOG: &str = "minichat-pool-watchdog";
const CLEANUP: &str = "minichat-pool-cleanup";
/// Once a year: no Job starts while a test runs.
const SELDOM: [&str; 2] = [
    "watchdog.schedule=0 3 1 1 *",
    "cleanup.schedule=*/5 3 1 1 *",
];
const TENANT: (&str, &str) = ("ChatTenant", "acme");

async fn start(site: &Site, settings: &[&str]) -> anyhow::Result<Operator> {
    site.operator_of_jobs(&[&SELDOM, settings].concat()).await
}

/// The `CronJob` called `name`, or `Null`.
async fn cron_job(site: &Site, name: &str) -> anyhow::Result<Value> {
    let found = site.cron_jobs()?.get_opt(name).await?;
    Ok(found
        .map(serde_json::to_value)
        .transpose()?
        .unwrap_or_default())
}

/// Waits until the `CronJob` is as `is_right` says.
async fn await_cron_job(
    site: &Site,
    name: &str,
    what: &str,
    is_right: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let is = async || Ok(is_right(&cron_job(site, name).await?));
    eventually(&format!("{name} is {what}"), SOON, is).await?;
    cron_job(site, name).await
}

async fn await_made(site: &Site, name: &str) -> anyhow::Result<Value> {
    await_cron_job(site, name, "made", Value::is_object).await
}

async fn await_events(site: &Site, name: &str, reasons: &[&str]) -> anyhow::Result<()> {
    let are_told = async || {
        let events = site.events_of_job(name).await?;
        let found: Vec<_> = events.iter().map(|(reason, _)| reason.as_str()).collect();
        Ok(found == reasons)
    };
    eventually(&format!("{name}: {reasons:?}"), SOON, are_told).await
}

async fn patch(site: &Site, name: &str, change: &Value) -> anyhow::Result<DynamicObject> {
    let patch = Patch::Merge(change);
    Ok(site
        .cron_jobs()?
        .patch(name, &PatchParams::default(), &patch)
        .await?)
}

/// How often the operator has written the `CronJob`.
fn written(site: &Site, name: &str) -> anyhow::Result<usize> {
    let is_it = |write: &&Write| write.resource == "cronjobs" && write.name == name;
    Ok(site.operator_writes()?.iter().filter(is_it).count())
}

/// The parts that the operator writes.
fn essence(cron_job: &Value) -> Value {
    let metadata = &cron_job["metadata"];
    json!([
        metadata["labels"],
        metadata["ownerReferences"],
        cron_job["spec"]
    ])
}

/// K8S-9, K8S-10, K8S-12, K8S-13, K8S-40; check 6 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cron_jobs_of_the_chart_are_made_and_an_edit_or_a_deletion_is_repaired()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = start(&site, &[]).await?;
    let watchdog = await_made(&site, WATCHDOG).await?;
    let cleanup = await_made(&site, CLEANUP).await?;
    for (cron_job, component) in [(&watchdog, "watchdog"), (&cleanup, "cleanup")] {
        let metadata = &cron_job["metadata"];
        assert_eq!(
            metadata["ownerReferences"],
            json!([site.managed_owner().await?])
        );
        let label = |name: &str| metadata["labels"][format!("app.kubernetes.io/{name}")].clone();
        assert_eq!(label("managed-by"), "minichat-operator");
        assert_eq!(label("component"), component);
        for name in ["name", "instance", "part-of", "version"] {
            assert!(label(name).is_string(), "{name} of {cron_job}");
        }
        let managers = [("minichat-operator".to_owned(), String::new())];
        assert_eq!(Site::managers(cron_job), managers);
        let spec = &cron_job["spec"];
        assert_eq!(
            (&spec["suspend"], &spec["concurrencyPolicy"]),
            (&json!(false), &json!("Forbid"))
        );
        let job = &spec["jobTemplate"]["spec"];
        assert_eq!(
            (&job["backoffLimit"], &job["podReplacementPolicy"]),
            (&json!(0), &json!("Failed"))
        );
        let pod = &job["template"]["spec"];
        assert_eq!(pod["containers"][0]["args"][0], component);
    }
    assert_eq!(watchdog["spec"]["schedule"], "0 3 1 1 *");
    let minute = cleanup["spec"]["schedule"].as_str().unwrap_or_default();
    assert!(minute.ends_with("/5 3 1 1 *"), "{minute}");
    await_events(&site, WATCHDOG, &["Created"]).await?;

    let edits = [
        json!({"spec": {"suspend": true}}),
        json!({"spec": {"schedule": "0 4 1 1 *"}}),
        json!({"spec": {"startingDeadlineSeconds": null}}),
        json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"serviceAccountName": "another"}}}}}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
        json!({"metadata": {"ownerReferences": null}}),
    ];
    let object = ("cronjobs", "", WATCHDOG);
    for edit in &edits {
        patch(&site, WATCHDOG, edit).await?;
        let is_repaired = |found: &Value| essence(found) == essence(&watchdog);
        await_cron_job(
            &site,
            WATCHDOG,
            &format!("repaired after {edit}"),
            is_repaired,
        )
        .await?;
        let took = took(&site, ("cronjobs", WATCHDOG), object).await?;
        eprintln!("repaired {} ms after {edit}", took.as_millis());
        assert!(took <= REPAIRED, "{took:?} after {edit}");
    }
    site.cron_jobs()?
        .delete(WATCHDOG, &DeleteParams::default())
        .await?;
    let uid = &watchdog["metadata"]["uid"];
    let is_another = |found: &Value| found.is_object() && found["metadata"]["uid"] != *uid;
    let again = await_cron_job(&site, WATCHDOG, "made again", is_another).await?;
    assert_eq!(essence(&again), essence(&watchdog));
    let took = took(&site, ("cronjobs", WATCHDOG), object).await?;
    assert!(took <= REPAIRED, "{took:?} after a deletion");
    // One write for each, and none without a cause.
    assert_eq!(written(&site, WATCHDOG)?, 1 + edits.len() + 1);

    // Another process writes what was edited meanwhile, and nothing else.
    operator.kill().await?;
    patch(&site, WATCHDOG, &edits[0]).await?;
    let _operator = start(&site, &[]).await?;
    let is_repaired = |found: &Value| essence(found) == essence(&watchdog);
    await_cron_job(&site, WATCHDOG, "repaired", is_repaired).await?;
    // It is kept after the other one.
    patch(&site, CLEANUP, &edits[0]).await?;
    let is_repaired = |found: &Value| essence(found) == essence(&cleanup);
    await_cron_job(&site, CLEANUP, "repaired", is_repaired).await?;
    assert_eq!(written(&site, CLEANUP)?, 2, "{:?}", site.operator_writes()?);
    Ok(())
}

/// TURN-64, K8S-7, K8S-9, K8S-40; check 16 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_job_is_suspended_and_a_disabled_one_is_gone_and_tenants_are_told()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let operator = start(&site, &[]).await?;
    site.admit([&site.tenant("acme")]).await?;
    site.await_condition(TENANT, "JobsHealthy", "True/Succeeded")
        .await?;
    let uid = await_made(&site, WATCHDOG).await?["metadata"]["uid"].clone();
    await_made(&site, CLEANUP).await?;
    await_events(&site, WATCHDOG, &["Created"]).await?;
    operator.kill().await?;

    let operator = start(&site, &["watchdog.suspend=true"]).await?;
    let is_suspended = |found: &Value| found["spec"]["suspend"] == true;
    await_cron_job(&site, WATCHDOG, "suspended", is_suspended).await?;
    assert_eq!(cron_job(&site, CLEANUP).await?["spec"]["suspend"], false);
    let disabled = site
        .await_condition(TENANT, "JobsHealthy", "False/Disabled")
        .await?;
    assert!(disabled.contains("watchdog.suspend is true"), "{disabled}");
    await_events(&site, WATCHDOG, &["Created", "Suspended"]).await?;
    operator.kill().await?;

    // A rollback.
    let operator = start(&site, &[]).await?;
    let runs = |found: &Value| found["spec"]["suspend"] == false;
    let resumed = await_cron_job(&site, WATCHDOG, "resumed", runs).await?;
    assert_eq!(resumed["metadata"]["uid"], uid);
    site.await_condition(TENANT, "JobsHealthy", "True/Succeeded")
        .await?;
    await_events(&site, WATCHDOG, &["Created", "Suspended", "Resumed"]).await?;
    let from = format!("--from=cronjob/{WATCHDOG}");
    let job = [
        "create",
        "job",
        "running",
        &from,
        "--namespace",
        &site.namespace,
    ];
    site.tier().kubectl().run(&job)?;
    operator.kill().await?;

    let operator = start(&site, &["pool.config.orphan_watchdog.enabled=false"]).await?;
    await_cron_job(&site, WATCHDOG, "gone", Value::is_null).await?;
    let disabled = site
        .await_condition(TENANT, "JobsHealthy", "False/Disabled")
        .await?;
    assert!(
        disabled.contains("orphan_watchdog.enabled is false"),
        "{disabled}"
    );
    let reasons = ["Created", "Suspended", "Resumed", "Deleted"];
    await_events(&site, WATCHDOG, &reasons).await?;
    assert!(cron_job(&site, CLEANUP).await?.is_object());
    // Its Job goes on, so that what it counts is not lost.
    let job = site.api("Job", &site.namespace)?.get("running").await?;
    assert_eq!(job.metadata.owner_references, None);
    assert_eq!(job.metadata.deletion_timestamp, None);
    operator.kill().await?;

    // The pool moves to SQLite.
    let _operator = start(&site, &["database.existingSecret="]).await?;
    await_cron_job(&site, CLEANUP, "gone", Value::is_null).await?;
    site.await_condition(TENANT, "JobsHealthy", "True/InProcess")
        .await?;
    Ok(())
}

/// A `CronJob` that somebody else has made.
fn of_others(site: &Site, name: &str, labels: &Value, owners: &Value) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {
            "name": name, "namespace": site.namespace, "labels": labels, "ownerReferences": owners,
        },
        "spec": {"schedule": "0 3 1 1 *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "watchdog", "image": "others"}],
        }}}}},
    })
}

/// K8S-40, D38: upgrades from a chart that had `CronJobs`, and rollbacks to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_jobs_of_helm_and_of_others_are_neither_taken_nor_deleted() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let ours = json!({"app.kubernetes.io/managed-by": "minichat-operator"});
    let another = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "another", "uid": "2f1b5b6e", "controller": false,
    }]);
    let helms = json!({
        "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/component": "watchdog",
        "app.kubernetes.io/instance": "minichat", "app.kubernetes.io/name": "minichat",
    });
    let old = of_others(&site, "minichat-watchdog", &helms, &json!([]));
    let labelled = of_others(&site, "labelled", &ours, &json!([]));
    let taken = of_others(&site, CLEANUP, &json!({}), &json!([]));
    for object in [&old, &labelled, &taken] {
        site.apply(object).await?;
    }
    let versions = async || {
        let mut versions = Vec::new();
        for name in ["minichat-watchdog", "labelled", CLEANUP] {
            versions.push(cron_job(&site, name).await?["metadata"]["resourceVersion"].clone());
        }
        anyhow::Ok(versions)
    };
    let before = versions().await?;
    let operator = start(&site, &[]).await?;
    await_made(&site, WATCHDOG).await?;
    await_events(&site, CLEANUP, &["NameTaken"]).await?;
    let refused = async || Ok(operator.log()?.contains("is not the operator's; delete it"));
    eventually("the taken name is logged", SOON, refused).await?;
    assert_eq!(versions().await?, before);
    let refused = operator.scrape().await?;
    let labels = [("kind", "cron_job"), ("reason", "conflict")];
    assert!(refused.count("mini_chat_operator_reconcile_error_total", &labels)? > 0);

    let cron_jobs = site.cron_jobs()?;
    cron_jobs.delete(CLEANUP, &DeleteParams::default()).await?;
    let is_ours = |found: &Value| found["metadata"]["ownerReferences"][0]["kind"] == "ConfigMap";
    await_cron_job(&site, CLEANUP, "made", is_ours).await?;

    // Helm deletes its own after the operator has made another one, and a rollback makes it again.
    cron_jobs
        .delete("minichat-watchdog", &DeleteParams::default())
        .await?;
    site.apply(&old).await?;
    // Whose owner is another one is not deleted either.
    let stranger = of_others(&site, "stranger", &ours, &another);
    site.apply(&stranger).await?;
    patch(&site, WATCHDOG, &json!({"spec": {"suspend": true}})).await?;
    let runs = |found: &Value| found["spec"]["suspend"] == false;
    await_cron_job(&site, WATCHDOG, "repaired", runs).await?;
    for name in ["minichat-watchdog", "labelled"] {
        assert_eq!(written(&site, name)?, 0, "{name}");
        assert!(cron_job(&site, name).await?.is_object(), "{name}");
    }
    assert_eq!(written(&site, "stranger")?, 0);
    Ok(())
}

/// K8S-13, K8S-40, D52: they go with the release, and come back with it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_jobs_go_with_the_config_map_that_describes_them() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = start(&site, &[]).await?;
    await_made(&site, WATCHDOG).await?;
    let config_maps = site.api("ConfigMap", &site.namespace)?;
    config_maps
        .delete("minichat-managed", &DeleteParams::default())
        .await?;
    for name in [WATCHDOG, CLEANUP] {
        await_cron_job(&site, name, "gone", Value::is_null).await?;
    }
    site.manifests(&SELDOM).await?;
    let owner = json!([site.managed_owner().await?]);
    let is_owned = |found: &Value| found["metadata"]["ownerReferences"] == owner;
    for name in [WATCHDOG, CLEANUP] {
        await_cron_job(&site, name, "made again", is_owned).await?;
    }
    Ok(())
}

/// K8S-40
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_cannot_be_used_stops_the_operator_and_names_its_key() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    for (found, written, words) in [
        (
            "schedule:",
            "schedul:",
            "spec.schedul: is not a field of a CronJob that the operator knows; remove it",
        ),
        (
            "kind: CronJob",
            "kind: Job",
            "kind: write apiVersion: batch/v1 and kind: CronJob",
        ),
        ("containers:", "containers: [", "not valid YAML near line"),
    ] {
        let directory = site.manifests(&SELDOM).await?;
        let path = directory.join("cleanup.yaml");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, text.replacen(found, written, 1))?;
        let directory = directory.to_str().unwrap_or_default();
        let started = site.operator_with(&[("MANAGED_DIR", directory)]).await;
        let refused = started
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        let words = format!("the key cleanup.yaml in {directory}: {words}");
        assert!(refused.contains(&words), "{refused}");
    }
    assert!(cron_job(&site, WATCHDOG).await?.is_null());
    Ok(())
}
