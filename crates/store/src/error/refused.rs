//! The database's own description of a refusal.

use std::fmt;

use rusqlite::ffi;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Code, message and constraint, as the database reported them. PostgreSQL's
/// DETAIL is left out, because it quotes values of rows, which are users'
/// texts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// SQLSTATE on PostgreSQL, the extended result code on `SQLite`.
    pub code: String,
    pub message: String,
    pub constraint: Option<String>,
    pub(super) sqlite: Option<ffi::ErrorCode>,
    /// The server then ended the session, or itself: PostgreSQL's FATAL and
    /// PANIC.
    pub(super) is_fatal: bool,
}

impl Refused {
    /// A refusal that the store found itself.
    pub(crate) fn found(message: &str) -> Self {
        Self {
            code: String::new(),
            message: message.to_owned(),
            constraint: None,
            sqlite: None,
            is_fatal: false,
        }
    }

    /// A server that can be reached, and only be read.
    pub(crate) fn read_only() -> Self {
        Self {
            code: super::READ_ONLY.to_owned(),
            ..Self::found("the server does not allow writes")
        }
    }

    pub(super) fn by_postgres(error: &PgDatabaseError) -> Self {
        let severity = error.severity();
        Self {
            code: error.code().to_owned(),
            message: format!("{}: {}", name(severity), error.message()),
            constraint: error.constraint().map(str::to_owned),
            sqlite: None,
            is_fatal: matches!(severity, PgSeverity::Fatal | PgSeverity::Panic),
        }
    }

    pub(super) fn by_sqlite(error: &rusqlite::Error) -> Self {
        let failure = error.sqlite_error();
        Self {
            code: failure
                .map(|it| format!("SQLite {}", it.extended_code))
                .unwrap_or_default(),
            message: error.to_string(),
            constraint: None,
            sqlite: failure.map(|it| it.code),
            is_fatal: false,
        }
    }
}

const fn name(severity: PgSeverity) -> &'static str {
    match severity {
        PgSeverity::Panic => "PANIC",
        PgSeverity::Fatal => "FATAL",
        PgSeverity::Error => "ERROR",
        PgSeverity::Warning => "WARNING",
        PgSeverity::Notice => "NOTICE",
        PgSeverity::Debug => "DEBUG",
        PgSeverity::Info => "INFO",
        PgSeverity::Log => "LOG",
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let constraint = self.constraint.as_deref();
        match (self.code.is_empty(), constraint) {
            (true, _) => Ok(()),
            (false, Some(name)) => write!(f, " ({}, constraint {name})", self.code),
            (false, None) => write!(f, " ({})", self.code),
        }
    }
}
