//! The watchdog inside the process that owns a `SQLite` file (TURN-59, D16).

use std::time::Duration;

use minichat_core::Timestamp;
use minichat_telemetry::Signal;
use tokio::task::JoinHandle;

use super::Watchdog;

/// Between two attempts to end what was left running.
const RETRY: Duration = Duration::from_secs(1);

/// A watchdog on a timer. The first scan runs at start (TURN-58).
pub struct WatchdogHost {
    stop: Signal,
    task: JoinHandle<()>,
}

impl WatchdogHost {
    /// Ends what was left running before `unrecovered`, if anything was; then
    /// scans, and again an `interval` after the end of each scan, if there is
    /// one.
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

    /// Ends after the row at hand.
    pub async fn stop(self) {
        self.stop.fire();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the watchdog panicked");
        }
    }
}

/// Tries until the database serves, or `stop` fires.
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

/// Scans until `stop` fires; a scan that failed is followed by the next.
async fn scans(watchdog: Watchdog, interval: Duration, stop: Signal) {
    while !stop.is_fired() {
        let report = watchdog.run_once(&stop).await;
        tracing::debug!(?report, "looked for orphaned turns");
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.fired() => {}
        }
    }
}
