//! What jobs have counted, on the operator's metrics page.

use std::time::Duration;

use minichat_metrics::{ErrorLabel, JobMetrics, Metrics as _};
use minichat_tests::database::DatabaseKind;
use minichat_tests::site::{Operator, Site, eventually};

use super::programs;

const SOON: Duration = Duration::from_secs(30);

/// What a watchdog leaves that has ended so many turns.
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

/// K8S-44, PLAT-57
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_counted_is_added_once_however_often_operators_start() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    site.finished_job("before", &report(2)).await?;
    let operator = site.operator().await?;
    let shows = async |operator: &Operator, turns: usize, scans: usize| {
        let what = format!("{turns} turns of {scans} scans");
        let is_shown = async || Ok(counted(operator).await? == (turns, turns, scans));
        let shown = eventually(&what, SOON, is_shown).await;
        anyhow::Context::with_context(shown, || operator.log().unwrap_or_default())
    };
    shows(&operator, 2, 1).await?;
    let reader = site.reported("before").await?;
    assert!(reader.is_some());

    // Texts that are no report disturb nobody.
    site.finished_job("broken", "killed before it wrote")
        .await?;
    site.finished_job("second", &report(3)).await?;
    shows(&operator, 5, 2).await?;
    assert_eq!(site.reported("broken").await?, None);
    assert!(operator.log()?.contains("a Job has left no report"));
    operator.kill().await?;

    // A new process begins at nothing, and what others have added stays theirs.
    site.finished_job("third", &report(1)).await?;
    let operator = site.operator().await?;
    shows(&operator, 1, 1).await?;
    site.finished_job("fourth", &report(0)).await?;
    shows(&operator, 1, 2).await?;
    assert_eq!(site.reported("before").await?, reader);
    Ok(())
}
