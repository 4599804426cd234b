//! Parts of the store for tests only: private PostgreSQL servers, a turnstile
//! that controls the order of transactions, and access to the writer of
//! `SQLite` and its faults.

mod postgres;
#[cfg(feature = "testing")]
mod turnstile;
mod writer;

pub use postgres::{ServerTls, TestPostgres, TestPostgresError, URL_VARIABLE};
#[cfg(feature = "testing")]
pub use turnstile::{Access, Moment, Passage, Turnstile, Waiter};
pub use writer::{Control, Fault, Writer, WriterFaults};
