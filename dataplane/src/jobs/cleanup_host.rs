//! The clean-up in a process that serves (CONT-170, D16): on `SQLite`, whose file no
//! other process can open, the passes; on every database the gauge of the backlog
//! (CONT-169).

use std::time::Duration;

use minichat_telemetry::Signal;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::cleanup::{Cleanup, Limits};

/// Longest time between two readings of the backlog.
const REFRESH: Duration = Duration::from_mins(1);
/// How long a pass may work, if calls are not so slow that it needs more.
const PASS: Duration = Duration::from_mins(4);
/// How long a pass may take to end. What it does not finish is left to the next
/// process.
const GOODBYE: Duration = Duration::from_secs(3);

/// The tasks of the clean-up.
pub struct CleanupHost {
    stop: Signal,
    tasks: Vec<JoinHandle<()>>,
}

impl CleanupHost {
    /// Begins at once, and repeats after each interval. `works`: passes are made here.
    pub fn start(cleanup: Cleanup, works: bool) -> Self {
        let stop = Signal::new();
        let mut tasks = vec![tokio::spawn(refresh(cleanup.clone(), stop.clone()))];
        if works {
            tasks.push(tokio::spawn(passes(cleanup, stop.clone())));
        }
        Self { stop, tasks }
    }

    /// Stops after the current call, or without waiting for it any longer.
    pub async fn stop(self) {
        self.stop.fire();
        for mut task in self.tasks {
            match timeout(GOODBYE, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the clean-up panicked"),
                Err(_) => task.abort(),
            }
        }
    }
}

async fn passes(cleanup: Cleanup, stop: Signal) {
    let time = PASS.max(4 * cleanup.settings.call_timeout);
    while !stop.is_fired() {
        let limits = Limits {
            stop: &stop,
            deadline: Instant::now() + time,
        };
        let report = cleanup.run_once(limits).await;
        tracing::debug!(?report, "cleaned up after deletions");
        export(&cleanup).await;
        wait(cleanup.settings.poll_interval, &stop).await;
    }
}

async fn refresh(cleanup: Cleanup, stop: Signal) {
    while !stop.is_fired() {
        export(&cleanup).await;
        wait(cleanup.settings.poll_interval.min(REFRESH), &stop).await;
    }
}

async fn export(cleanup: &Cleanup) {
    if let Err(error) = cleanup.export_backlog().await {
        tracing::debug!(%error, "the backlog of the clean-up cannot be read");
    }
}

async fn wait(interval: Duration, stop: &Signal) {
    tokio::select! {
        () = tokio::time::sleep(interval) => {}
        () = stop.fired() => {}
    }
}
