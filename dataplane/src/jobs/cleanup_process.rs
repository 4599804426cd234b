//! The clean-up as a process of its own (CONT-172, K8S-42), on PostgreSQL: a
//! scheduled job, or by hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use minichat_config::process::CleanupConfig;
use minichat_core::SystemClock;
use minichat_metrics::JobMetrics;
use minichat_provider::ProviderClient;
use minichat_store::{Store, StoreError};
use minichat_telemetry::Signal;
use serde::Serialize;
use tokio::time::Instant;

use super::process::{is_empty, print};
use super::report_file::ReportFile;
use crate::cleanup::{Cleanup, Limits, Report};
use crate::config_source::{ConfigSource, StoredPolicyVersions};
use crate::database::open;
use crate::outbox::Outbox;
use crate::settings::{NO_SOURCE, client_settings, render_settings};

/// How long the tenants may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks at whether they have.
const LOOK: Duration = Duration::from_millis(20);

/// The line that is printed for each pass.
#[derive(Serialize)]
struct Line<'a> {
    job: &'static str,
    #[serde(flatten)]
    report: &'a Report,
}

/// Runs one pass, or one every `interval` until `stop` fires, and prints a line of
/// JSON for each. A pass takes at most `budget`. `Ok(false)`: the database could not
/// serve the last one. What providers refuse is no failure of the job. The counts are
/// written to the report file (K8S-44).
pub async fn cleanup(
    config: &CleanupConfig,
    interval: Option<Duration>,
    budget: Duration,
    stop: &Signal,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    check_budget(budget, config.process.cleanup_worker.call_timeout)?;
    let metrics = Arc::new(JobMetrics::default());
    let file = ReportFile::open("cleanup", config.job.report_file.as_deref())?;
    let file = Mutex::new(file);
    let write_counts = || {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write(&metrics);
    };
    write_counts();
    if !config.process.cleanup_worker.enabled {
        tracing::info!("cleanup_worker.enabled is false: deletions are kept for later");
        return print_report(&Report::default()).map(|()| true);
    }
    let store = match open(&config.process.database, false).await {
        // No process has served this database yet, so nothing was deleted.
        Err(error) if interval.is_none() && is_empty(&error) => {
            return print_report(&Report::default()).map(|()| true);
        }
        opened => opened?,
    };
    forget_claims(&store).await?;
    let source = tenants(config, &store, stop).await?;
    let cleanup = Cleanup {
        store,
        metrics: metrics.clone(),
        tenants: source.tenants(),
        client: ProviderClient::new(&client_settings(&config.process)),
        settings: config.process.cleanup_worker,
        retention: config.process.retention,
        outbox: Arc::new(Outbox::without_dispatcher(config.process.outbox.clone())),
        clock: Arc::new(SystemClock),
    };
    let mut pass_began = began;
    loop {
        let limits = Limits {
            stop,
            deadline: pass_began + budget,
        };
        let report = cleanup.run_reporting(limits, &write_counts).await;
        print_report(&report)?;
        let is_success = report.error.is_none();
        let Some(interval) = interval.filter(|_| !stop.is_fired()) else {
            return Ok(is_success);
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.fired() => return Ok(is_success),
        }
        pass_began = Instant::now();
    }
}

/// Of an `SQLite` file, which one process has at a time, the process before cannot
/// work any more: its claims end (CONT-173).
async fn forget_claims(store: &Store) -> anyhow::Result<()> {
    if !store.is_sqlite() {
        return Ok(());
    }
    let forgotten: Result<(), StoreError> = store
        .write(|tx| {
            let forgotten = tx.cleanup_forget_claims(true);
            Box::pin(async move { forgotten })
        })
        .await;
    forgotten.context("the claims of the last process cannot be ended")
}

/// Refuses a `budget` within which no call could begin (CONT-172).
fn check_budget(budget: Duration, call_timeout: Duration) -> anyhow::Result<()> {
    let (budget, call) = (budget.as_secs(), call_timeout.as_secs());
    anyhow::ensure!(
        budget > call,
        "--time-budget: within {budget} s no call of a provider could begin, because it may take {call} s (cleanup_worker.call_timeout_secs), so nothing would be cleaned up: write more than {call}, or lower cleanup_worker.call_timeout_secs"
    );
    Ok(())
}

/// The tenants, whose credentials are needed.
async fn tenants(
    config: &CleanupConfig,
    store: &Store,
    stop: &Signal,
) -> anyhow::Result<ConfigSource> {
    let source = config.process.source.as_ref().context(NO_SOURCE)?;
    let versions = StoredPolicyVersions::new(store.clone());
    let source = ConfigSource::start(source, render_settings(&config.process), versions).await?;
    let readiness = source.readiness();
    let deadline = Instant::now() + PATIENCE;
    while let Some(why) = readiness() {
        if stop.is_fired() || Instant::now() >= deadline {
            anyhow::bail!("{why}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(source)
}

fn print_report(report: &Report) -> anyhow::Result<()> {
    print(&Line {
        job: "cleanup",
        report,
    })
}
