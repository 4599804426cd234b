//! Jobs as separate processes (K8S-42, K8S-43), started by a scheduler or by
//! hand.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_config::process::JobConfig;
use minichat_metrics::JobMetrics;
use minichat_store::StoreError;
use minichat_telemetry::Signal;
use serde::Serialize;

use super::lease::JobLease;
use super::report_file::ReportFile;
use super::{Report, Watchdog};
use crate::database::open;
use crate::open_turns::OpenTurns;
use crate::outbox::Outbox;

/// The line that is printed for each run.
#[derive(Serialize)]
struct Line<'a> {
    job: &'static str,
    #[serde(flatten)]
    report: &'a Report,
}

/// Runs the watchdog once, or every `interval` until `stop` fires, and prints a
/// line of JSON for each run. `Ok(false)`: the last run left something undone
/// (TURN-62). The counts are written to the report file (K8S-44).
pub async fn watchdog(
    config: &JobConfig,
    interval: Option<Duration>,
    stop: &Signal,
) -> anyhow::Result<bool> {
    let metrics = Arc::new(JobMetrics::default());
    let mut file = ReportFile::open("watchdog", config.job.report_file.as_deref())?;
    let store = match open(&config.database, false).await {
        // No process has served this database yet, so there are no turns.
        Err(error) if interval.is_none() && is_empty(&error) => {
            file.write(&metrics);
            let report = Report::default();
            return print_report(&report).map(|()| true);
        }
        opened => opened?,
    };
    let watchdog = Watchdog {
        store,
        metrics: metrics.clone(),
        timeout: config.orphan_watchdog.timeout,
        process_timeout: config.orphan_watchdog.process_timeout,
        open_turns: OpenTurns::default(),
        outbox: Arc::new(Outbox::without_dispatcher(config.outbox.clone())),
    };
    let lease = JobLease::connect(config.job.lease.as_deref()).await?;
    loop {
        let run = async |stop: &Signal| watchdog.run_reporting(stop, || file.write(&metrics)).await;
        let report = lease.hold(stop, run).await;
        print_report(&report)?;
        let Some(interval) = interval.filter(|_| !stop.is_fired()) else {
            return Ok(report.is_success());
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.fired() => return Ok(report.is_success()),
        }
    }
}

/// Whether the database has no schema.
pub(super) fn is_empty(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    matches!(error, Some(StoreError::OlderSchema { found: 0, .. }))
}

fn print_report(report: &Report) -> anyhow::Result<()> {
    print(&Line {
        job: "watchdog",
        report,
    })
}

/// Migrates the schema of the database. Safe to run at any time, and by several
/// processes at once.
pub async fn migrate(config: &JobConfig) -> anyhow::Result<()> {
    open(&config.database, true).await?;
    print(&serde_json::json!({"job": "migrate", "schema": "up to date"}))
}

pub(super) fn print(line: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(line)?;
    writeln!(std::io::stdout(), "{line}").context("the report cannot be printed")
}
