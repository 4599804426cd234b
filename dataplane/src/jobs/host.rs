//! The watchdog in the process that owns a `SQLite` file (TURN-59, D16).

use std::time::Duration;

use minichat_core::Timestamp;
use minichat_telemetry::Signal;
use tokio::task::JoinHandle;

use super::Watchdog;

/// Time between two attempts to end the turns of the previous process.
const RETRY: Duration = Duration::from_secs(1);

/// A watchdog on a timer. The first scan runs at start (TURN-58).
pub struct WatchdogHost {
    stop: Signal,
    task: JoinHandle<()>,
}

impl WatchdogHost {
    /// If `unrecovered` is set, first ends the turns that were left running
    /// before it. Then scans, and again `interval` after the end of each scan,
    /// if there is an interval.
    pub fn start(
        watchdog: Watchdog,
        unrecovered: Option<Timestamp>,
        interval: Option<Duration>,
    ) -> Self {
        let stop = Signal::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                if let Some(opened_at) = unrecovered {
                    recover(&watchdog, opened_at, &stop).await;
                }
                if let Some(interval) = interval {
                    scans(watchdog, interval, stop).await;
                }
            }
        });
        Self { stop, task }
    }

    /// Stops after the current row.
    pub async fn stop(self) {
        self.stop.fire();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the watchdog panicked");
        }
    }
}

/// Retries until the database serves or `stop` fires.
async fn recover(watchdog: &Watchdog, opened_at: Timestamp, stop: &Signal) {
    while !stop.is_fired() {
        let report = watchdog.recover_before(opened_at, stop).await;
        if report.error.is_none() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.fired() => {}
        }
    }
}

/// Scans until `stop` fires. A failed scan is followed by the next one.
async fn scans(watchdog: Watchdog, interval: Duration, stop: Signal) {
    while !stop.is_fired() {
        let report = watchdog.run_once(&stop).await;
        tracing::debug!(?report, "scanned for orphaned turns");
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.fired() => {}
        }
    }
}
