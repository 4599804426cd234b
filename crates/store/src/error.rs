//! Why a database operation failed.

use std::path::PathBuf;

use rusqlite::ffi;
use tokio_postgres::error::SqlState;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("database url: {0}")]
    Url(&'static str),
    /// One process owns the file (D16).
    #[error("another process has the database file {} open: {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("schema version {found} is newer than {known}, the newest this release knows")]
    NewerSchema { found: i64, known: i64 },
    #[error("schema version {found} is older than {known}; run the migration first")]
    OlderSchema { found: i64, known: i64 },
    /// A uniqueness rule of the schema, by name: often an answer, not a fault
    /// (TURN-12).
    #[error("unique constraint {0:?} is violated")]
    Unique(Constraint),
    #[error("a foreign key is violated")]
    ForeignKey,
    #[error("a check constraint is violated")]
    Check,
    /// Serialization failure, deadlock or lock wait that outlived its retries
    /// (QUOTA-82).
    #[error("transaction collided with another one")]
    Contended,
    /// No connection became free within `acquire_timeout`.
    #[error("no database connection within the acquire timeout")]
    AcquireTimeout,
    #[error("a job that only reads tried to change something")]
    ReadOnly,
    #[error("the store is closed")]
    Closed,
    #[error("a job awaited something other than its transaction")]
    JobSuspended,
    #[error("a job panicked")]
    JobPanicked,
    /// The database dropped the shared transaction that this job was part of.
    #[error("the transaction was rolled back by the database")]
    RolledBack,
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
    /// A turnstile lost the answer.
    #[cfg(feature = "testing")]
    #[error("the answer is lost")]
    Unanswered,
    #[error("sqlite: {0}")]
    Sqlite(#[source] rusqlite::Error),
    #[error("postgresql: {0}")]
    Postgres(#[source] tokio_postgres::Error),
    #[error("connection pool: {0}")]
    Pool(String),
    #[error("database file: {0}")]
    Io(#[from] std::io::Error),
}

/// A uniqueness rule of the schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Constraint {
    /// `(chat_id, request_id)` of `chat_turns`, deleted rows included.
    TurnRequest,
    /// One running turn per chat.
    OneRunningTurn,
    /// `(chat_id, request_id, role)` of undeleted messages.
    MessageRole,
    QuotaCell,
    ThreadSummary,
    VectorStore,
    Reaction,
    PolicySnapshot,
    OutboxDedupe,
    /// A primary key or a rule that no caller distinguishes.
    Other,
}

/// Constraint, its name on PostgreSQL, its columns as `SQLite` lists them.
const CONSTRAINTS: [(Constraint, &str, &str); 9] = [
    (
        Constraint::TurnRequest,
        "chat_turns_request",
        "chat_turns.chat_id, chat_turns.request_id",
    ),
    (
        Constraint::OneRunningTurn,
        "chat_turns_one_running",
        "chat_turns.chat_id",
    ),
    (
        Constraint::MessageRole,
        "messages_role",
        "messages.chat_id, messages.request_id, messages.role",
    ),
    (
        Constraint::QuotaCell,
        "quota_usage_cell",
        "quota_usage.tenant_id, quota_usage.user_id, quota_usage.period_type, \
         quota_usage.period_start, quota_usage.bucket",
    ),
    (
        Constraint::ThreadSummary,
        "thread_summaries_chat",
        "thread_summaries.chat_id",
    ),
    (
        Constraint::VectorStore,
        "chat_vector_stores_chat",
        "chat_vector_stores.tenant_id, chat_vector_stores.chat_id",
    ),
    (
        Constraint::Reaction,
        "message_reactions_user",
        "message_reactions.message_id, message_reactions.user_id",
    ),
    (
        Constraint::PolicySnapshot,
        "policy_snapshots_pkey",
        "policy_snapshots.tenant_id, policy_snapshots.policy_version",
    ),
    (
        Constraint::OutboxDedupe,
        "outbox_messages_dedupe",
        "outbox_messages.queue, outbox_messages.dedupe_key",
    ),
];

impl Constraint {
    fn from_postgres(name: &str) -> Self {
        CONSTRAINTS
            .iter()
            .find(|(_, postgres, _)| *postgres == name)
            .map_or(Self::Other, |(constraint, _, _)| *constraint)
    }

    fn from_sqlite(columns: &str) -> Self {
        CONSTRAINTS
            .iter()
            .find(|(_, _, sqlite)| *sqlite == columns)
            .map_or(Self::Other, |(constraint, _, _)| *constraint)
    }
}

impl StoreError {
    /// Whether the same operation may succeed later: the database could not
    /// be reached or was too busy. Otherwise it refused what it was given.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Contended
            | Self::AcquireTimeout
            | Self::Closed
            | Self::RolledBack
            | Self::Pool(_)
            | Self::Io(_) => true,
            #[cfg(feature = "testing")]
            Self::Unanswered => true,
            Self::Postgres(_) => self.is_unanswered(),
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(
                    ffi::ErrorCode::DatabaseLocked
                        | ffi::ErrorCode::SystemIoFailure
                        | ffi::ErrorCode::DiskFull
                        | ffi::ErrorCode::CannotOpen
                )
            ),
            _ => false,
        }
    }

    /// Whether the connection was lost, so that nobody knows whether a commit
    /// took place.
    pub fn is_unanswered(&self) -> bool {
        match self {
            #[cfg(feature = "testing")]
            Self::Unanswered => true,
            Self::Postgres(error) => match error.as_db_error() {
                Some(refusal) => is_outage(refusal.code()),
                None => true,
            },
            _ => false,
        }
    }
}

/// Whether the server ends sessions or has no room for one: the classes of
/// connections (08), resources (53), operators (57) and the system (58).
fn is_outage(code: &SqlState) -> bool {
    let class = code.code().get(..2);
    class.is_some_and(|class| ["08", "53", "57", "58"].contains(&class))
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(failure, message) = &error else {
            return Self::Sqlite(error);
        };
        match failure.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
                // SQLite has no other channel for the rule's identity than
                // this list of columns, whose form is part of its contract.
                let columns = message
                    .as_deref()
                    .and_then(|text| text.strip_prefix("UNIQUE constraint failed: "))
                    .unwrap_or_default();
                Self::Unique(Constraint::from_sqlite(columns))
            }
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Self::ForeignKey,
            ffi::SQLITE_CONSTRAINT_CHECK => Self::Check,
            _ if failure.code == ffi::ErrorCode::DatabaseBusy => Self::Contended,
            _ => Self::Sqlite(error),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::Postgres(error);
        };
        let code = db.code();
        if *code == SqlState::UNIQUE_VIOLATION {
            let name = db.constraint().unwrap_or_default();
            Self::Unique(Constraint::from_postgres(name))
        } else if *code == SqlState::FOREIGN_KEY_VIOLATION {
            Self::ForeignKey
        } else if *code == SqlState::CHECK_VIOLATION {
            Self::Check
        } else if is_contention(code) {
            Self::Contended
        } else {
            Self::Postgres(error)
        }
    }
}

fn is_contention(code: &SqlState) -> bool {
    [
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
        &SqlState::LOCK_NOT_AVAILABLE,
    ]
    .contains(&code)
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        use deadpool_postgres::PoolError;
        match error {
            PoolError::Timeout(_) => Self::AcquireTimeout,
            PoolError::Backend(error) => error.into(),
            PoolError::Closed => Self::Closed,
            other => Self::Pool(other.to_string()),
        }
    }
}
