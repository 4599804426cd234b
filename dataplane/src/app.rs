//! What every request handler and job shares: one value, built once at start.

use std::sync::Arc;

use minichat_config::process::ProcessConfig;
use minichat_core::Clock;
use minichat_metrics::Metrics;
use minichat_provider::ProviderClient;
use minichat_store::Store;
use minichat_telemetry::Signal;

use crate::config_source::Tenants;
use crate::database::Probe;
use crate::open_turns::OpenTurns;

/// The data plane's parts. Cloned per request as one [`Arc`].
pub struct App {
    pub config: ProcessConfig,
    /// The tenants that are served now, swapped atomically on a change.
    pub tenants: Arc<Tenants>,
    pub store: Store,
    /// Whether it serves.
    pub probe: Probe,
    pub provider: ProviderClient,
    pub metrics: Arc<dyn Metrics>,
    pub clock: Arc<dyn Clock>,
    /// Fires when no new turn is begun any more (D29).
    pub refusing: Signal,
    /// The turns that are open in this process.
    pub turns: OpenTurns,
}
