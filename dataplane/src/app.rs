//! The parts that all request handlers and jobs share: one value, built once at
//! start.

use std::sync::Arc;

use minichat_config::process::ProcessConfig;
use minichat_core::{Clock, ProcessId};
use minichat_metrics::Metrics;
use minichat_provider::ProviderClient;
use minichat_store::Store;
use minichat_telemetry::Signal;

use crate::config_source::Tenants;
use crate::database::Probe;
use crate::open_turns::OpenTurns;
use crate::outbox::{Outbox, Survey};
use crate::thumbnailer::Thumbnailer;
use crate::upload_permits::UploadPermits;

/// The parts of the data plane. Requests share them through one [`Arc`].
pub struct App {
    pub config: ProcessConfig,
    /// The tenants that are served now. A change swaps them atomically.
    pub tenants: Arc<Tenants>,
    pub store: Store,
    /// Finds out whether the database serves.
    pub probe: Probe,
    pub provider: ProviderClient,
    pub metrics: Arc<dyn Metrics>,
    /// Where events are enqueued.
    pub outbox: Arc<Outbox>,
    /// What was last seen of the outbox.
    pub survey: Arc<Survey>,
    pub clock: Arc<dyn Clock>,
    /// What the turns of this process name, if it has heartbeats (TURN-68).
    pub process: Option<ProcessId>,
    /// Fires when no new turn may begin (D29).
    pub refusing: Signal,
    /// The turns that are open in this process.
    pub turns: OpenTurns,
    /// The uploads that this process works on.
    pub uploads: UploadPermits,
    /// Makes thumbnails of images that are uploaded.
    pub thumbnails: Thumbnailer,
}
