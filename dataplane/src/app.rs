//! What every request handler and job shares: one value, built once at start.

use std::sync::Arc;

use minichat_config::process::ProcessConfig;
use minichat_core::Clock;
use minichat_metrics::Metrics;
use minichat_provider::ProviderClient;
use minichat_store::Store;
use minichat_telemetry::Signal;
use tokio::sync::watch;

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

/// Counts the turns that are open in this process, so that it does not exit
/// before they are finalized (TURN-51).
#[derive(Clone, Debug)]
pub struct OpenTurns(watch::Sender<usize>);

impl Default for OpenTurns {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl OpenTurns {
    /// Counts one more until the guard is dropped.
    pub fn enter(&self) -> OpenTurnGuard {
        self.0.send_modify(|open| *open += 1);
        OpenTurnGuard(self.clone())
    }

    /// Waits until none is open.
    pub async fn idle(&self) {
        // `self` holds the sender, so the wait cannot end without a value.
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// One open turn.
#[derive(Debug)]
pub struct OpenTurnGuard(OpenTurns);

impl Drop for OpenTurnGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}
