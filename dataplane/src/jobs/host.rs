//! The watchdog inside the process that owns a `SQLite` file (TURN-59, D16).

use std::time::Duration;

use minichat_telemetry::Signal;
use tokio::task::JoinHandle;

use super::Watchdog;

/// A watchdog on a timer. The first scan runs at start (TURN-58).
pub struct WatchdogHost {
    stop: Signal,
    task: JoinHandle<()>,
}

impl WatchdogHost {
    /// Scans now, and then `interval` after the end of each scan.
    pub fn start(watchdog: Watchdog, interval: Duration) -> Self {
        let stop = Signal::new();
        let task = tokio::spawn(scans(watchdog, interval, stop.clone()));
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
