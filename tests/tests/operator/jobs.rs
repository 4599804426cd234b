//! Counts of jobs in the operator's metrics.

use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Patch, PatchParams};
use minichat_metrics::{ErrorLabel, JobMetrics, Metrics as _};
use minichat_tests::database::DatabaseKind;
use minichat_tests::site::{Operator, Site, eventually};
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_secs(30);

/// The report of a watchdog that has ended `turns` turns.
pub(crate) fn report(turns: usize) -> String {
    let job = JobMetrics::default();
    for _ in 0..turns {
        job.orphan_detected();
        job.orphan_finalized();
        job.stream_failed("openai", "gpt-5", ErrorLabel::of_code("orphan_timeout"));
    }
    job.orphan_scan_duration_seconds(Duration::from_millis(30));
    job.report("watchdog").to_json()
}

async fn counted(operator: &Operator) -> anyhow::Result<(usize, usize, usize)> {
    let scrape = operator.scrape().await?;
    let failed = [("model", "gpt-5"), ("error_code", "orphan_timeout")];
    Ok((
        scrape.count("mini_chat_orphan_finalized_total", &[])?,
        scrape.count("mini_chat_stream_failed_total", &failed)?,
        scrape.count("mini_chat_orphan_scan_duration_seconds_count", &[])?,
    ))
}

async fn has_counted(operator: &Operator, turns: usize, scans: usize) -> anyhow::Result<()> {
    let what = format!("{turns} turns of {scans} scans");
    let has = async || Ok(counted(operator).await? == (turns, turns, scans));
    let shown = eventually(&what, SOON, has).await;
    shown.with_context(|| operator.log().unwrap_or_default())
}

/// K8S-44, PLAT-57
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_counted_is_added_once_however_often_operators_start() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    site.finished_job("before", &report(2)).await?;
    let operator = site.operator().await?;
    has_counted(&operator, 2, 1).await?;
    let reader = site.reported("before").await?;
    assert!(reader.is_some());

    // Messages that are not reports have no effect.
    site.finished_job("broken", "killed before it wrote")
        .await?;
    site.finished_job("second", &report(3)).await?;
    has_counted(&operator, 5, 2).await?;
    assert_eq!(site.reported("broken").await?, None);
    assert!(operator.log()?.contains("a Job has left no report"));
    operator.kill().await?;

    // A new process begins with the totals of the others; observations of other processes stay theirs.
    site.finished_job("third", &report(1)).await?;
    let operator = site.operator().await?;
    has_counted(&operator, 6, 1).await?;
    site.finished_job("fourth", &report(0)).await?;
    has_counted(&operator, 6, 2).await?;
    assert_eq!(site.reported("before").await?, reader);
    Ok(())
}

/// K8S-44: the totals are written and the mark is set, but both acknowledgements are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_mark_was_set_unheard_is_counted_once() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.lossy_way().await?;
    let operator = site.operator_on(&way).await?;
    site.finished_job("acknowledged", &report(1)).await?;
    has_counted(&operator, 1, 1).await?;
    way.lose_marks(2);
    site.finished_job("unacknowledged", &report(3)).await?;
    has_counted(&operator, 4, 2).await?;
    // The mark is set after the counts are shown.
    let is_tried = async || Ok(operator.log()?.contains("a Job cannot be marked"));
    eventually("tried", SOON, is_tried).await?;
    assert_eq!(way.to_lose(), 0);
    let is_reported = async || Ok(!site.events_of_job("unacknowledged").await?.is_empty());
    eventually("reported", SOON, is_reported).await?;
    // A later Job is counted, so this one was counted once.
    site.finished_job("later", &report(0)).await?;
    has_counted(&operator, 4, 3).await?;
    let events = site.events_of_job("unacknowledged").await?;
    assert_eq!(events.len(), 1, "{events:?}");
    operator.kill().await?;
    let operator = site.operator().await?;
    site.finished_job("of-another", &report(0)).await?;
    has_counted(&operator, 4, 1).await
}

/// K8S-44: if two operators see the end of a Job that has counted nothing, one adds what it observed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_else_has_marked_meanwhile_is_counted_by_that_one() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.lossy_way().await?;
    let operator = site.operator_on(&way).await?;
    way.overtake_marks(1);
    site.finished_job("overtaken", &report(0)).await?;
    let is_tried = async || Ok(operator.log()?.contains("a Job cannot be marked"));
    eventually("tried", SOON, is_tried).await?;
    // A later Job is counted, so this one was left to the other operator.
    site.finished_job("later", &report(1)).await?;
    has_counted(&operator, 1, 1).await?;
    assert_eq!(
        site.reported("overtaken").await?.as_deref(),
        Some("another")
    );
    Ok(())
}

/// K8S-44: a Job is identified by its uid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_made_again_under_its_name_is_counted_again() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    site.finished_job("by-hand", &report(2)).await?;
    has_counted(&operator, 2, 1).await?;
    site.delete_job("by-hand").await?;
    site.finished_job("by-hand", &report(3)).await?;
    has_counted(&operator, 5, 2).await
}

/// K8S-44: a killed job reports too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_ended_by_its_deadline_is_counted_once_and_has_failed() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let operator = site.operator_with(&[("WATCHDOG", "jobs")]).await?;
    site.admit([&site.tenant("acme")]).await?;
    site.overdue_job("overdue", &report(2)).await?;
    has_counted(&operator, 2, 1).await?;
    let tenant = ("ChatTenant", "acme");
    site.await_condition(tenant, "JobsHealthy", "False/Failed")
        .await?;
    let are_reported = async || Ok(site.events_of_job("overdue").await?.len() == 2);
    eventually("failure and turns are reported", SOON, are_reported).await?;
    let events = site.events_of_job("overdue").await?;
    let (_, note) = &events[0];
    assert!(note.contains("DeadlineExceeded"), "{events:?}");
    site.finished_job("later", &report(0)).await?;
    has_counted(&operator, 2, 2).await
}

/// K8S-9, K8S-44: the watches of Jobs and pods are not synchronised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_whose_pod_is_seen_late_is_told_once_and_counted_once() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    site.failed_job_without_pod("late").await?;
    let is_reported = async || Ok(site.events_of_job("late").await?.len() == 1);
    eventually("its failure is reported", SOON, is_reported).await?;
    assert_eq!(counted(&operator).await?, (0, 0, 0));
    assert!(site.reported("late").await?.is_some());
    site.late_pod_of_job("late", 1, &report(2)).await?;
    has_counted(&operator, 2, 1).await?;
    let are_reported = async || Ok(site.events_of_job("late").await?.len() == 2);
    eventually("its turns are reported", SOON, are_reported).await?;
    let events = site.events_of_job("late").await?;
    let reasons: Vec<_> = events.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["JobFailed", "OrphansFinalized"]);
    site.finished_job("later", &report(0)).await?;
    has_counted(&operator, 2, 2).await
}

/// Takes a right to Jobs or their totals from the operator, and returns its Role as it was.
async fn without<'a>(site: &'a Site, verb: &str, resource: &str) -> anyhow::Result<&'a Value> {
    let pool = site.namespace.as_str();
    let role = site.role(pool)?;
    let mut less = role.clone();
    let rules = less["rules"].as_array_mut().context("no rules")?;
    let found = rules.iter_mut().find(|one| one["resources"][0] == resource);
    let verbs = &mut found.context("no such rule")?["verbs"];
    verbs
        .as_array_mut()
        .context("no verbs")?
        .retain(|one| one != verb);
    site.tier().kubectl().apply(&less)?;
    site.await_right(pool, verb, resource, false).await?;
    Ok(role)
}

/// K8S-44: a Job whose counts cannot be stored could be counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_counts_may_not_be_stored_is_counted_when_they_may() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let role = without(&site, "patch", "configmaps").await?;
    let operator = site.operator().await?;
    site.finished_job("finished", &report(2)).await?;
    let refused = "the counts of a Job cannot be stored";
    let is_reported = async || Ok(operator.log()?.matches(refused).count() > 1);
    eventually("reported and tried again", SOON, is_reported).await?;
    assert_eq!(counted(&operator).await?, (0, 0, 0));
    assert_eq!(site.reported("finished").await?, None);
    site.tier().kubectl().apply(role)?;
    has_counted(&operator, 2, 1).await
}

/// K8S-44, D38: the process ends between counting a Job and marking it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_counted_and_not_marked_is_not_counted_again() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let role = without(&site, "patch", "jobs").await?;
    let operator = site.operator().await?;
    site.finished_job("finished", &report(2)).await?;
    has_counted(&operator, 2, 1).await?;
    let is_reported = async || Ok(operator.log()?.contains("a Job cannot be marked"));
    eventually("it cannot be marked", SOON, is_reported).await?;
    operator.kill().await?;
    site.tier().kubectl().apply(role)?;
    let operator = site.operator().await?;
    let is_marked = async || Ok(site.reported("finished").await?.is_some());
    eventually("marked", SOON, is_marked).await?;
    let is_told = async || Ok(site.events_of_job("finished").await?.len() == 1);
    eventually("its event is published", SOON, is_told).await?;
    site.finished_job("later", &report(1)).await?;
    has_counted(&operator, 3, 1).await
}

/// K8S-40, K8S-44: until then it stays, however long the operator is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_ended_without_an_operator_are_counted_and_go_soon_afterwards()
-> anyhow::Result<()> {
    const AWAY: usize = 5;
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let jobs = site.api("Job", &site.namespace)?;
    let stays = json!({"spec": {"ttlSecondsAfterFinished": 7200}});
    let names: Vec<_> = (0..AWAY).map(|number| format!("away-{number}")).collect();
    for name in &names {
        site.begin_job(name).await?;
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&stays));
        jobs.patch(name, &parameters, &patch).await?;
        let code = u8::from(name == "away-0");
        site.end_pod_of_job(name, code, &report(1)).await?;
    }
    let operator = site.operator().await?;
    has_counted(&operator, AWAY, AWAY).await?;
    for name in &names {
        let seconds = if name == "away-0" { 3600 } else { 300 };
        let goes_soon = async || {
            let job = jobs.get(name).await?;
            Ok(job.data["spec"]["ttlSecondsAfterFinished"] == seconds)
        };
        eventually(&format!("{name} goes in {seconds} s"), SOON, goes_soon).await?;
    }
    Ok(())
}
