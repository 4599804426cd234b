//! Whether the turns of dead processes are ended: the status of tenants, and the events of Jobs.

use std::time::Duration;

use anyhow::Context as _;
use minichat_cluster::Write;
use minichat_tests::database::DatabaseKind;
use minichat_tests::site::{Site, eventually};

use super::jobs::report;
use super::programs;

const SOON: Duration = Duration::from_secs(30);
const TENANT: (&str, &str) = ("ChatTenant", "acme");
const CONDITION: &str = "JobsHealthy";
const JOBS: (&str, &str) = ("WATCHDOG", "jobs");

/// How often the status of the tenant was written.
fn written(site: &Site) -> anyhow::Result<usize> {
    let is_it = |write: &&Write| write.resource == "chattenants" && write.subresource == "status";
    Ok(site.operator_writes()?.iter().filter(is_it).count())
}

async fn is_taken_care_of(site: &Site, job: &str) -> anyhow::Result<()> {
    let is_marked = async || Ok(site.reported(job).await?.is_some());
    eventually(&format!("{job} is marked"), SOON, is_marked).await
}

async fn await_succeeded(site: &Site, message: &str) -> anyhow::Result<()> {
    let is_reported = async || {
        let wanted = site.await_condition(TENANT, CONDITION, "True/Succeeded");
        Ok(wanted.await? == message)
    };
    eventually(&format!("succeeded: {message:?}"), SOON, is_reported).await
}

/// K8S-7, K8S-12, TURN-64; check 62 of chapter 02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_told_when_the_watchdog_begins_to_fail_and_when_it_does_no_more()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let _operator = site.operator_with(&[JOBS]).await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    await_succeeded(&site, "no Job has ended yet").await?;
    site.finished_job("run-1", &report(0)).await?;
    await_succeeded(&site, "").await?;
    let before = written(&site)?;

    site.finished_job("run-2", &report(0)).await?;
    is_taken_care_of(&site, "run-2").await?;
    site.failed_job("run-3", 1, &report(0)).await?;
    let failed = "False/Failed";
    let message = site.await_condition(TENANT, CONDITION, failed).await?;
    assert!(message.contains("JobFailed"), "{message}");
    site.await_ready(&tenant).await?;
    // A further failure changes nothing, and neither does the first success.
    site.failed_job("run-4", 137, &report(0)).await?;
    is_taken_care_of(&site, "run-4").await?;
    site.finished_job("run-5", &report(0)).await?;
    is_taken_care_of(&site, "run-5").await?;
    site.await_condition(TENANT, CONDITION, failed).await?;
    site.finished_job("run-6", &report(0)).await?;
    await_succeeded(&site, "").await?;
    assert_eq!(written(&site)? - before, 2, "{:?}", site.operator_writes()?);
    assert_eq!(
        site.events("acme").await?.len(),
        2,
        "accepted and programmed; a Job's failure is told of the Job"
    );
    Ok(())
}

/// K8S-7, TURN-64; check 62 of chapter 02, check 16 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_told_who_looks_for_turns_and_that_nobody_does() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let tenant = site.tenant("acme");
    // The chart's setting for a pool on SQLite.
    let operator = site.operator().await?;
    site.admit([&tenant]).await?;
    site.await_condition(TENANT, CONDITION, "True/InProcess")
        .await?;
    operator.kill().await?;
    for (mode, value) in [
        ("disabled", "orphan_watchdog.enabled"),
        ("suspended", "watchdog.suspend"),
    ] {
        let operator = site.operator_with(&[("WATCHDOG", mode)]).await?;
        let is_reported = async || {
            let wanted = site.await_condition(TENANT, CONDITION, "False/Disabled");
            Ok(wanted.await?.contains(value))
        };
        eventually(mode, SOON, is_reported).await?;
        site.await_ready(&tenant).await?;
        operator.kill().await?;
    }
    let missed = ("WATCHDOG_MISSED_AFTER_SECS", "8");
    let operator = site.operator_with(&[JOBS, missed]).await?;
    await_succeeded(&site, "no Job has ended yet").await?;
    let missed = "False/Missed";
    site.await_condition(TENANT, CONDITION, missed).await?;
    site.finished_job("run-1", &report(0)).await?;
    await_succeeded(&site, "").await?;
    let message = site.await_condition(TENANT, CONDITION, missed).await?;
    assert!(message.contains("8 s"), "{message}");
    site.await_ready(&tenant).await?;
    operator.kill().await
}

/// Waits for a Job's events with these `reasons` and returns their notes.
async fn await_events(site: &Site, job: &str, reasons: &[&str]) -> anyhow::Result<Vec<String>> {
    let are_reported = async || {
        let events = site.events_of_job(job).await?;
        let found: Vec<_> = events.iter().map(|(reason, _)| reason.as_str()).collect();
        Ok(found == reasons)
    };
    let reported = eventually(&format!("{job}: {reasons:?}"), SOON, are_reported).await;
    let found = site.events_of_job(job).await?;
    reported.with_context(|| format!("{found:?}"))?;
    Ok(found.into_iter().map(|(_, note)| note).collect())
}

/// K8S-9, K8S-44
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_or_ends_turns_has_an_event_of_each_by_whoever_marks_it()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    site.finished_job("calm", &report(0)).await?;
    site.finished_job("busy", &report(3)).await?;
    site.failed_job("both", 1, &report(2)).await?;
    site.failed_job("killed", 137, "killed before it wrote")
        .await?;
    let operator = site.operator_with(&[JOBS]).await?;
    let notes = await_events(&site, "busy", &["OrphansFinalized"]).await?;
    assert!(notes[0].ends_with(": 3"), "{notes:?}");
    let notes = await_events(&site, "both", &["JobFailed", "OrphansFinalized"]).await?;
    assert!(notes[0].contains("exit code 1 (Error)"), "{notes:?}");
    assert!(notes[1].ends_with(": 2"), "{notes:?}");
    await_events(&site, "killed", &["JobFailed"]).await?;
    is_taken_care_of(&site, "killed").await?;
    is_taken_care_of(&site, "calm").await?;
    operator.kill().await?;

    // Another process repeats no event, and reports new ones.
    let _operator = site.operator_with(&[JOBS]).await?;
    site.failed_job("next", 1, &report(0)).await?;
    await_events(&site, "next", &["JobFailed"]).await?;
    for (job, count) in [("calm", 0), ("busy", 1), ("both", 2), ("killed", 1)] {
        let events = site.events_of_job(job).await?;
        assert_eq!(events.len(), count, "{job}: {events:?}");
    }
    Ok(())
}
