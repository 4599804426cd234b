//! Background work. Each job is a function that runs once and reports. Its host
//! decides when it runs: a subcommand, which Kubernetes schedules, or a timer
//! in the process that owns a `SQLite` file (D16).

mod cleanup_host;
mod cleanup_process;
mod host;
mod lease;
pub mod process;
mod report_file;
mod stored_policy;
pub mod watchdog;

pub use cleanup_host::CleanupHost;
pub use cleanup_process::cleanup;
pub use host::WatchdogHost;
pub use watchdog::{Report, Watchdog};
