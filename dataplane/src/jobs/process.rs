//! Jobs as processes of their own (K8S-42, K8S-43): what a scheduler runs, and
//! what a person runs by hand against any database.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_config::process::{DatabaseUrl, JobConfig};
use minichat_core::SystemClock;
use minichat_metrics::JobMetrics;
use minichat_store::{DatabaseSettings, Store};
use minichat_telemetry::Signal;
use serde::Serialize;

use super::report_file::ReportFile;
use super::{Report, Watchdog};

/// One line for each run.
#[derive(Serialize)]
struct Line<'a> {
    job: &'static str,
    #[serde(flatten)]
    report: &'a Report,
}

/// Runs the watchdog once, or every `interval` until `stop` fires, and prints
/// a line of JSON for each run. `Ok(false)`: the last run left something undone
/// (TURN-62). What is counted is left in the report file (K8S-44).
pub async fn watchdog(
    config: &JobConfig,
    interval: Option<Duration>,
    stop: &Signal,
) -> anyhow::Result<bool> {
    let metrics = Arc::new(JobMetrics::default());
    let mut file = ReportFile::open("watchdog", config.job.report_file.as_deref())?;
    let watchdog = Watchdog {
        store: open(config, false).await?,
        metrics: metrics.clone(),
        timeout: config.orphan_watchdog.timeout,
    };
    loop {
        let report = watchdog.run_telling(stop, || file.write(&metrics)).await;
        print(&Line {
            job: "watchdog",
            report: &report,
        })?;
        let Some(interval) = interval.filter(|_| !stop.is_fired()) else {
            return Ok(report.is_success());
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.fired() => return Ok(report.is_success()),
        }
    }
}

/// Brings the schema of the database up to date. Safe to run at any time and
/// by several processes at once.
pub async fn migrate(config: &JobConfig) -> anyhow::Result<()> {
    open(config, true).await?;
    print(&serde_json::json!({"job": "migrate", "schema": "up to date"}))
}

/// A job looks after rows, not after the schema: it leaves an older one alone.
async fn open(config: &JobConfig, migrate: bool) -> anyhow::Result<Store> {
    let settings = DatabaseSettings {
        max_conns: config.database.max_conns,
        acquire_timeout: config.database.acquire_timeout,
        auto_migrate: migrate,
        ..DatabaseSettings::new(match &config.database.url {
            DatabaseUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
            DatabaseUrl::Postgres(url) => url.expose().to_owned(),
        })
    };
    Store::open(&settings, Arc::new(SystemClock))
        .await
        .context("the database cannot be opened")
}

fn print(line: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(line)?;
    writeln!(std::io::stdout(), "{line}").context("the report cannot be printed")
}
