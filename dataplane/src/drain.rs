//! The drain: how a process ends (K8S-50), what it finishes, and what it cuts.

use std::time::Duration;

use minichat_telemetry::Lifecycle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::app::App;
use crate::open_turns::OpenTurns;

/// How long before the deadline open streams are cut.
const CUT: Duration = Duration::from_secs(5);

/// How long to wait for their finalization. A pod's grace period is 15 s longer
/// than the whole drain, so that a slow database costs no turn.
const FINALIZATION: Duration = Duration::from_secs(14);

/// Drains the process. It is not ready but serves for `drain.min`. Then it
/// accepts no new connections and no new turns, and open streams continue until
/// they end or until it is time to [`cut`]. `hurry` is a second signal: it
/// skips to the cut, even before `drain.min`.
pub async fn finish(app: &App, lifecycle: &Lifecycle, hurry: impl Future<Output = ()>) {
    let drain = app.config.drain;
    let refuses_at = Instant::now() + drain.min;
    tracing::info!("draining");
    lifecycle.draining.fire();
    let patience = async {
        sleep_until(refuses_at).await;
        refuse(app, lifecycle);
        tokio::select! {
            () = idle(app) => {}
            () = sleep_until(refuses_at + drain.max.saturating_sub(CUT)) => {}
        }
    };
    tokio::select! {
        () = patience => {}
        () = hurry => {}
    }
}

async fn idle(app: &App) {
    app.turns.idle().await;
    app.uploads.idle().await;
}

/// Waits until uploads that were cut are recorded, so that the clean-up finds their
/// files.
pub(crate) async fn uploads_recorded(app: &App) {
    if timeout(FINALIZATION, app.uploads.idle()).await.is_err() {
        tracing::error!("some uploads could not be recorded in time; the clean-up will find them");
    }
}

/// Refuses new requests, cuts the open streams and waits for their
/// finalization.
pub async fn cut(app: &App, lifecycle: &Lifecycle) {
    lifecycle.draining.fire();
    refuse(app, lifecycle);
    lifecycle.stopping.fire();
    app.turns.abort();
    finalized(&app.turns, FINALIZATION).await;
}

fn refuse(app: &App, lifecycle: &Lifecycle) {
    app.refusing.fire();
    lifecycle.refusing.fire();
}

/// Waits until no turn is open (TURN-51). Turns that are still open after
/// `patience` are abandoned, and their clients get an error.
pub(crate) async fn finalized(turns: &OpenTurns, patience: Duration) {
    if timeout(patience, turns.idle()).await.is_err() {
        tracing::error!("some turns could not be finalized in time; the watchdog will end them");
        turns.abandon();
    }
}
