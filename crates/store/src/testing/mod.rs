//! What test suites need of the store that no release has: private PostgreSQL
//! servers, a turnstile that decides when transactions happen, and the writer
//! of `SQLite` with its faults.

mod postgres;
#[cfg(feature = "testing")]
mod turnstile;
mod writer;

pub use postgres::{ServerTls, TestPostgres, TestPostgresError, URL_VARIABLE};
#[cfg(feature = "testing")]
pub use turnstile::{Access, Moment, Passage, Turnstile, Waiter};
pub use writer::{Control, Fault, Writer, WriterFaults};
