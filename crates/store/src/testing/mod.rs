//! What test suites need of the store that no release has: private PostgreSQL
//! servers, and a turnstile that decides when transactions happen.

mod postgres;
#[cfg(feature = "testing")]
mod turnstile;

pub use postgres::{TestPostgres, TestPostgresError, URL_VARIABLE};
#[cfg(feature = "testing")]
pub use turnstile::{Access, Moment, Passage, Turnstile, Waiter};
