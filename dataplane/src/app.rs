//! What every request handler and job shares: one value, built once at start.

use std::collections::HashMap;
use std::sync::Arc;

use minichat_config::process::ProcessConfig;
use minichat_core::{Clock, TurnId};
use minichat_metrics::Metrics;
use minichat_provider::ProviderClient;
use minichat_store::Store;
use minichat_telemetry::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config_source::Tenants;

/// The data plane's parts. Cloned per request as one [`Arc`].
pub struct App {
    pub config: ProcessConfig,
    /// The tenants that are served now, swapped atomically on a change.
    pub tenants: Arc<Tenants>,
    pub store: Store,
    pub provider: ProviderClient,
    pub metrics: Arc<dyn Metrics>,
    pub clock: Arc<dyn Clock>,
    /// Fires when no new turn is begun any more (D29).
    pub refusing: Signal,
    /// Fires when the streams that are still open must end now
    /// (K8S-50).
    pub abort: Signal,
    /// The turns that are open in this process.
    pub turns: OpenTurns,
}

/// The turns that are open in this process: it does not exit before they are
/// finalized (TURN-51), and it can stop them (D3).
#[derive(Clone, Debug, Default)]
pub struct OpenTurns(watch::Sender<HashMap<TurnId, Stop>>);

impl OpenTurns {
    /// Counts one more until the guard is dropped.
    pub fn enter(&self, turn: TurnId) -> OpenTurnGuard {
        let stop = Stop::default();
        self.0.send_modify(|open| {
            open.insert(turn, stop.clone());
        });
        OpenTurnGuard {
            open: self.clone(),
            turn,
            stop,
        }
    }

    /// Asks `turn` to end, if it is open here; whether it is.
    pub fn stop(&self, turn: TurnId) -> bool {
        let stop = self.0.borrow().get(&turn).cloned();
        if let Some(stop) = &stop {
            stop.ask();
        }
        stop.is_some()
    }

    /// Waits until none is open.
    pub async fn idle(&self) {
        // `self` holds the sender, so the wait cannot end without a value.
        let _ = self.0.subscribe().wait_for(HashMap::is_empty).await;
    }
}

/// One open turn.
#[derive(Debug)]
pub struct OpenTurnGuard {
    open: OpenTurns,
    turn: TurnId,
    stop: Stop,
}

impl OpenTurnGuard {
    /// How the turn learns that it shall end.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }
}

impl Drop for OpenTurnGuard {
    fn drop(&mut self) {
        self.open.0.send_modify(|open| {
            open.remove(&self.turn);
        });
    }
}

/// The wish that a turn ends: expressed once, however often it is repeated.
#[derive(Clone, Debug, Default)]
pub struct Stop(watch::Sender<Option<Instant>>);

impl Stop {
    fn ask(&self) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert_with(Instant::now);
            first
        });
    }

    /// When the wish was first expressed.
    pub fn asked_at(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Returns once the wish is expressed.
    pub async fn asked(&self) {
        // `self` holds the sender, so the wait cannot end without a value.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_can_be_stopped_while_it_is_open() {
        let turns = OpenTurns::default();
        let turn = TurnId::random();
        assert!(!turns.stop(turn));
        let open = turns.enter(turn);
        let stop = open.stop();
        assert!(stop.asked_at().is_none());
        assert!(turns.stop(turn));
        stop.asked().await;
        let first = stop.asked_at();
        assert!(turns.stop(turn));
        assert_eq!(stop.asked_at(), first);
        drop(open);
        assert!(!turns.stop(turn));
        turns.idle().await;
    }
}
