//! Builds failures with any code.

use rusqlite::ffi;

use super::{Refused, StoreError, is_contention};

/// PostgreSQL's error with SQLSTATE `state`, after which it ends the session.
pub(crate) fn fatal_of_postgres(state: &str) -> StoreError {
    StoreError::Postgres(Refused {
        code: state.to_owned(),
        is_fatal: true,
        ..Refused::found("PANIC: no")
    })
}

/// PostgreSQL's error with SQLSTATE `state`.
pub(crate) fn refused_by_postgres(state: &str) -> StoreError {
    let refused = Refused {
        code: state.to_owned(),
        message: "ERROR: no".to_owned(),
        constraint: None,
        sqlite: None,
        is_fatal: false,
    };
    if is_contention(state) {
        StoreError::Contended(refused)
    } else {
        StoreError::Postgres(refused)
    }
}

/// SQLite's error with `code`.
pub(crate) fn refused_by_sqlite(code: std::ffi::c_int) -> StoreError {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
}
