//! Work that no request asks for. Each job is one function that runs once and
//! reports; hosts decide when: a subcommand, which Kubernetes schedules, or a
//! timer inside the process that owns a `SQLite` file (D16).

mod host;
mod lease;
pub mod process;
mod report_file;
mod stored_price;
pub mod watchdog;

pub use host::WatchdogHost;
pub use watchdog::{Report, Watchdog};
