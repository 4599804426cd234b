//! How a process comes to its end (K8S-50): what may still begin, what is
//! finished, and what is cut.

use std::time::Duration;

use minichat_telemetry::Lifecycle;
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::open_turns::OpenTurns;

/// How long before the deadline the open streams are cut.
const CUT: Duration = Duration::from_secs(5);

/// How long their finalization is waited for. The grace period of a pod is
/// longer than the whole drain by 15 s, so that a database that does not answer
/// at once costs no turn.
const FINALIZATION: Duration = Duration::from_secs(14);

/// Not ready, but serving for `drain.min`; then no new connections and no new
/// turns, and open streams go on, until there are none or it is time to
/// [`cut`]. `hurry` is another request to end: it skips to the cut, even before
/// `drain.min`, because whoever asks twice wants an end.
pub async fn finish(app: &App, lifecycle: &Lifecycle, hurry: impl Future<Output = ()>) {
    let drain = app.config.drain;
    let refuses_at = Instant::now() + drain.min;
    tracing::info!("draining");
    lifecycle.draining.fire();
    let patience = async {
        sleep_until(refuses_at).await;
        refuse(app, lifecycle);
        tokio::select! {
            () = app.turns.idle() => {}
            () = sleep_until(refuses_at + drain.max.saturating_sub(CUT)) => {}
        }
    };
    tokio::select! {
        () = patience => {}
        () = hurry => {}
    }
}

/// Refuses whatever would be new, cuts the open streams and waits for their
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

/// Waits until no turn is open (TURN-51), and gives up those that still are:
/// their clients are told so.
pub(crate) async fn finalized(turns: &OpenTurns, patience: Duration) {
    if tokio::time::timeout(patience, turns.idle()).await.is_err() {
        tracing::error!("some turns could not be finalized in time; the watchdog will end them");
        turns.abandon();
    }
}
