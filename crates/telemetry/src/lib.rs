//! What makes a process observable and lets it start and stop well: the
//! OpenTelemetry adapter of the metrics port, its Prometheus exposition, logs,
//! traces, the admin listener, the accept loop, the threads that serve what it
//! accepts, and termination signals (PLAT-50 to PLAT-55, PLAT-161 to PLAT-166).

pub mod admin;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod shutdown;
mod subscriber;
pub mod traces;
mod workers;

pub use listen::{
    HalfClose, HostError, PeerAddr, ServerTls, TlsFileError, check_host, serve, serve_on,
};
pub use logs::{LogFormat, LogSettings};
pub use metrics::{Exposition, MetricsError, MetricsSettings};
pub use shutdown::{Lifecycle, Signal, Terminations};
pub use subscriber::{StartError, start};
pub use traces::{TraceContext, TraceSettings, Tracer};
pub use workers::{Runtimes, Workers};
