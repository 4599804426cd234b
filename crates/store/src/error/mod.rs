//! Why a database operation failed, and which failures are temporary.

mod constraint;
mod reason;
mod refused;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ffi;
use sqlx::postgres::PgDatabaseError;

pub use constraint::Constraint;
pub use refused::Refused;

/// A failure of the store. Its text has the database's own code and message but
/// no values of rows, so it can be logged as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("{0}")]
    Url(String),
    /// Another process has the file open (D16).
    #[error("another process has the database file {} open: {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error(
        "the database has schema version {found}, and this release knows none above {known}: a \
         newer release has upgraded it. Start that release again, or restore a backup from before \
         the upgrade"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("schema version {found} is older than {known}; run the migration first")]
    OlderSchema { found: i64, known: i64 },
    /// A uniqueness rule was violated. Often an expected outcome, not a fault
    /// (TURN-12).
    #[error("unique constraint {0:?} is violated: {1}")]
    Unique(Constraint, Refused),
    #[error("a foreign key is violated: {0}")]
    ForeignKey(Refused),
    #[error("a check constraint is violated: {0}")]
    Check(Refused),
    /// A serialization failure, deadlock or lock timeout that remained after
    /// all retries (QUOTA-82).
    #[error("transaction collided with another one: {0}")]
    Contended(Refused),
    /// No connection became free within `acquire_timeout`, or within two thirds of
    /// what was left of `job_timeout`.
    #[error("no database connection became free in time")]
    AcquireTimeout,
    /// The database did not answer within `job_timeout`, and nothing was
    /// committed.
    #[error("no answer of the database within the job timeout")]
    Deadline,
    /// The connection was lost, or no answer came in time, after `COMMIT` was
    /// sent, or before the commit was flushed to disk. Only the database knows
    /// whether the transaction was committed.
    #[error("a commit was not acknowledged: {0}")]
    InDoubt(#[source] Arc<StoreError>),
    #[error("a job that only reads tried to change something")]
    ReadOnly,
    #[error("the store is closed")]
    Closed,
    #[error("a job awaited something other than its transaction")]
    JobSuspended,
    #[error("a job panicked")]
    JobPanicked,
    /// The shared transaction of this job was rolled back.
    #[error("the shared transaction was rolled back: {0}")]
    RolledBack(#[source] Arc<StoreError>),
    /// The room that is left in the log file is reserved for ending open turns.
    #[error("the write-ahead log cannot be emptied: {0}")]
    NoRoom(#[source] Arc<StoreError>),
    #[error("policy version {version} is already stored with another content hash")]
    PolicyHashMismatch { version: u64 },
    #[error("dedupe key is missing or does not begin with its tenant")]
    DedupeKey,
    #[error("parameter does not fit column type {0}")]
    Parameter(&'static str),
    #[error("column {index} does not hold {expected}")]
    Column {
        index: usize,
        expected: &'static str,
    },
    /// A test's turnstile dropped the answer.
    #[cfg(feature = "testing")]
    #[error("the answer is lost")]
    Unanswered,
    #[error("sqlite: {0}")]
    Sqlite(Refused),
    #[error("postgresql: {0}")]
    Postgres(Refused),
    /// The server could not be reached, or the connection was lost.
    #[error("connection to postgresql: {0}")]
    Connection(String),
    /// The server's certificate, or that of this process, was refused.
    #[error("TLS with postgresql: {0}")]
    Tls(String),
    /// The server refuses or forgets the settings of a session.
    #[error(
        "database.url leads through a pooler, such as PgBouncer ({0}): name the server itself \
         in database.listen_url, and the pooler is used as its transaction mode needs it"
    )]
    Pooler(String),
    /// The same for the connection that listens, whose session no other client
    /// may get.
    #[error(
        "database.listen_url leads through a pooler, such as PgBouncer ({0}), behind which \
         requests to stop a turn are not heard: write the address of PostgreSQL itself there, \
         and that of the pooler in database.url"
    )]
    ListenPooler(String),
    #[error("database file: {0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for StoreError {
    /// The text already contains this error. As a source it would be printed
    /// twice.
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl StoreError {
    /// Whether the database cannot serve at the moment, so that the same
    /// operation may succeed later. If false, the database refused the
    /// operation itself.
    /// This function alone decides it. If it is true, routes answer 503,
    /// readiness fails, and finalizers, watchdogs and the resolution of
    /// in-doubt commits try again.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Contended(_)
            | Self::AcquireTimeout
            | Self::Deadline
            | Self::InDoubt(_)
            | Self::Closed
            | Self::NoRoom(_)
            | Self::Connection(_)
            | Self::Tls(_)
            | Self::Io(_) => true,
            #[cfg(feature = "testing")]
            Self::Unanswered => true,
            Self::RolledBack(cause) => cause.is_unavailable(),
            Self::Postgres(refused) => is_unavailable_postgres(&refused.code),
            Self::Sqlite(refused) => refused.sqlite.is_some_and(is_unavailable_sqlite),
            Self::Url(_)
            | Self::InUse { .. }
            | Self::Pooler(_)
            | Self::ListenPooler(_)
            | Self::NewerSchema { .. }
            | Self::OlderSchema { .. }
            | Self::Unique(..)
            | Self::ForeignKey(_)
            | Self::Check(_)
            | Self::ReadOnly
            | Self::JobSuspended
            | Self::JobPanicked
            | Self::PolicyHashMismatch { .. }
            | Self::DedupeKey
            | Self::Parameter(_)
            | Self::Column { .. } => false,
        }
    }

    /// Whether the commit is in doubt.
    pub const fn is_unanswered(&self) -> bool {
        match self {
            #[cfg(feature = "testing")]
            Self::Unanswered => true,
            _ => matches!(self, Self::InDoubt(_)),
        }
    }

    /// Whether the server accepts reads but no writes, as a standby does after
    /// a failover.
    pub(crate) fn is_read_only_server(&self) -> bool {
        matches!(self, Self::Postgres(refused)
            if refused.code == READ_ONLY)
    }

    /// Whether the server has no connection left.
    pub(crate) fn is_crowded_server(&self) -> bool {
        matches!(self, Self::Postgres(refused) if refused.code == CROWDED)
    }

    /// Whether the server ended or refused a session because it stops or starts, or
    /// because somebody ended this one.
    pub(crate) fn is_restarting_server(&self) -> bool {
        matches!(self, Self::Postgres(refused)
            if RESTARTING.contains(&refused.code.as_str()))
    }

    /// Whether no further job may have the session.
    pub(crate) fn spoils_session(&self) -> bool {
        self.ends_session() || self.is_read_only_server()
    }

    /// Whether the session ended before its answer could be read. A server that
    /// panics during a commit may have stored it already.
    pub(crate) fn ends_session(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Tls(_) | Self::Deadline => true,
            Self::Postgres(refused) => {
                let mut prefixes = ENDS_SESSION.iter();
                refused.is_fatal || prefixes.any(|prefix| refused.code.starts_with(prefix))
            }
            _ => false,
        }
    }
}

/// A write in a read-only transaction.
const READ_ONLY: &str = "25006";
const CROWDED: &str = "53300";
/// A session ended by an administrator, and a server that starts or stops.
const RESTARTING: [&str; 2] = ["57P01", "57P03"];
/// A message that the other side does not understand, such as a parameter of the
/// connection that a pooler does not pass on.
pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
const UNIQUE_VIOLATION: &str = "23505";
const FOREIGN_KEY_VIOLATION: &str = "23503";
const CHECK_VIOLATION: &str = "23514";

/// SQLSTATE classes and codes after which the session has ended: connection
/// exceptions (08), shutdown and crash of the server (57P), system errors (58).
const ENDS_SESSION: [&str; 3] = ["08", "57P", "58"];

/// SQLSTATE classes and codes of a server that cannot serve: connection
/// exceptions (08), read-only server (25006), idle sessions that were ended
/// (25P03, 25P04), authorization and unknown database (28, 3D000), insufficient
/// resources (53), lock and statement timeouts (55P03, 57014), shutdown, crash
/// and start-up (57), system errors (58).
const UNAVAILABLE: [&str; 10] = [
    "08", "25006", "25P03", "25P04", "28", "3D000", "53", "55P03", "57", "58",
];

fn is_unavailable_postgres(code: &str) -> bool {
    UNAVAILABLE.iter().any(|prefix| code.starts_with(prefix))
}

const fn is_unavailable_sqlite(code: ffi::ErrorCode) -> bool {
    use ffi::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed,
        OperationInterrupted, OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure,
    };
    matches!(
        code,
        DatabaseBusy
            | DatabaseLocked
            | DiskFull
            | SystemIoFailure
            | ReadOnly
            | CannotOpen
            | OutOfMemory
            | PermissionDenied
            | OperationInterrupted
            | FileLockingProtocolFailed
    )
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let refused = Refused::by_sqlite(&error);
        let rusqlite::Error::SqliteFailure(failure, message) = &error else {
            return Self::Sqlite(refused);
        };
        match failure.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
                // SQLite identifies the rule only by this list of columns. Its
                // form is part of SQLite's contract.
                let columns = message
                    .as_deref()
                    .and_then(|text| text.strip_prefix("UNIQUE constraint failed: "))
                    .unwrap_or_default();
                Self::Unique(Constraint::from_sqlite(columns), refused)
            }
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Self::ForeignKey(refused),
            ffi::SQLITE_CONSTRAINT_CHECK => Self::Check(refused),
            _ if failure.code == ffi::ErrorCode::DatabaseBusy => Self::Contended(refused),
            _ => Self::Sqlite(refused),
        }
    }
}

impl From<&PgDatabaseError> for StoreError {
    fn from(error: &PgDatabaseError) -> Self {
        let refused = Refused::by_postgres(error);
        if refused.is_fatal {
            return Self::Postgres(refused);
        }
        match error.code() {
            UNIQUE_VIOLATION => {
                let name = error.constraint().unwrap_or_default();
                Self::Unique(Constraint::from_postgres(name), refused)
            }
            FOREIGN_KEY_VIOLATION => Self::ForeignKey(refused),
            CHECK_VIOLATION => Self::Check(refused),
            code if is_contention(code) => Self::Contended(refused),
            _ => Self::Postgres(refused),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        match &error {
            Error::Database(refused) => {
                return match refused.try_downcast_ref::<PgDatabaseError>() {
                    Some(refused) => refused.into(),
                    None => Self::Connection(chain(&error)),
                };
            }
            Error::Io(cause) => {
                if let Some(cause) = tls::failure(cause) {
                    return Self::Tls(tls::advised(cause));
                }
            }
            Error::Tls(cause) => return Self::Tls(tls::not_offered(&chain(&**cause))),
            _ => {}
        }
        match error {
            Error::PoolTimedOut => Self::AcquireTimeout,
            Error::PoolClosed => Self::Closed,
            Error::Encode(_) => Self::Parameter("of its type"),
            error => Self::Connection(chain(&error)),
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        // Some errors quote their cause.
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Serialization failure, deadlock, and a lock that was not to be had.
fn is_contention(code: &str) -> bool {
    ["40001", "40P01", "55P03"].contains(&code)
}
