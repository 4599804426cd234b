//! The two databases on which every test runs, and direct access to their
//! tables.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::types::ValueRef;
use uuid::Uuid;

use crate::postgres::{self, PostgresDatabase};

/// Rows with each value as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// The database on which a test runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatabaseKind {
    Sqlite,
    Postgres,
}

/// A fresh database.
#[derive(Clone, Debug)]
pub enum Database {
    Sqlite(PathBuf),
    Postgres(PostgresDatabase),
}

/// No other connection can write while it exists.
#[derive(Debug)]
pub enum WriteLock {
    Sqlite(rusqlite::Connection),
    Postgres(postgres::Transaction),
}

impl Database {
    /// Creates a database. A SQLite file is created in `directory`.
    pub async fn create(kind: DatabaseKind, directory: &Path) -> anyhow::Result<Self> {
        Ok(match kind {
            DatabaseKind::Sqlite => Self::Sqlite(directory.join("minichat.db")),
            DatabaseKind::Postgres => Self::Postgres(PostgresDatabase::create().await?),
        })
    }

    pub const fn kind(&self) -> DatabaseKind {
        match self {
            Self::Sqlite(_) => DatabaseKind::Sqlite,
            Self::Postgres(_) => DatabaseKind::Postgres,
        }
    }

    /// For `database.url`.
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(database) => database.url().to_owned(),
        }
    }

    /// The same database, whose sessions get `settings` if it is PostgreSQL.
    #[must_use]
    pub fn with_settings(&self, settings: &[(&str, &str)]) -> Self {
        match self {
            Self::Sqlite(_) => self.clone(),
            Self::Postgres(database) => Self::Postgres(database.with_settings(settings)),
        }
    }

    /// The rows of a statement that works on both databases.
    pub async fn query(&self, sql: &str) -> anyhow::Result<Rows> {
        match self {
            Self::Postgres(database) => postgres::query(database.url(), sql).await,
            Self::Sqlite(path) => {
                let (path, sql) = (path.clone(), sql.to_owned());
                tokio::task::spawn_blocking(move || query_sqlite(&path, &sql)).await?
            }
        }
    }

    /// The only value of a statement, as a number.
    pub async fn number(&self, sql: &str) -> anyhow::Result<i64> {
        let rows = self.query(sql).await?;
        let value = rows
            .first()
            .and_then(|row| row.first())
            .with_context(|| format!("no row: {sql}"))?;
        let value = value.as_deref().with_context(|| format!("null: {sql}"))?;
        value
            .parse()
            .with_context(|| format!("{value:?} is no number: {sql}"))
    }

    /// Moves the last progress of the turns that match `condition` one hour
    /// into the past, beyond every timeout of the watchdog.
    pub async fn age_turns(&self, condition: &str) -> anyhow::Result<()> {
        let hour = match self {
            Self::Sqlite(_) => "3600000000",
            Self::Postgres(_) => "INTERVAL '1 hour'",
        };
        let sql = format!(
            "UPDATE chat_turns SET last_progress_at = last_progress_at - {hour} WHERE {condition}"
        );
        self.query(&sql).await?;
        Ok(())
    }

    /// The payloads of a queue, oldest first.
    pub async fn payloads(&self, queue: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let sql =
            format!("SELECT payload FROM outbox_messages WHERE queue = '{queue}' ORDER BY id");
        let rows = self.query(&sql).await?;
        let texts = rows.iter().map(|row| row[0].as_deref().unwrap_or_default());
        texts.map(|text| Ok(serde_json::from_str(text)?)).collect()
    }

    /// Copies the only running turn, with its reserve, into `count` new chats
    /// of the same user.
    pub async fn copy_running_turn(&self, count: usize) -> anyhow::Result<()> {
        let id = match self {
            Self::Sqlite(_) => |column: &str| format!("v.{column}"),
            Self::Postgres(_) => |column: &str| format!("CAST(v.{column} AS UUID)"),
        };
        let (chat, turn) = (id("chat_id"), id("turn_id"));
        let columns = "requester_type, requester_user_id, state, provider_name, reserve_tokens, \
            reserved_credits_micro, policy_version_applied, max_output_tokens_applied, \
            minimal_generation_floor_applied, effective_model, reserve_day, started_at, \
            last_progress_at, updated_at";
        let rows: Vec<String> = (0..count)
            .map(|_| format!("('{}', '{}')", Uuid::new_v4(), Uuid::new_v4()))
            .collect();
        for sql in [
            "CREATE TABLE copied (chat_id TEXT, turn_id TEXT)".to_owned(),
            format!("INSERT INTO copied VALUES {}", rows.join(", ")),
            format!(
                "INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at) \
                 SELECT {chat}, c.tenant_id, c.user_id, c.model, c.created_at, c.updated_at \
                 FROM copied v, chats c"
            ),
            format!(
                "INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, {columns}) \
                 SELECT {turn}, t.tenant_id, {chat}, t.request_id, {columns} \
                 FROM copied v, chat_turns t"
            ),
            format!(
                "UPDATE quota_usage SET reserved_credits_micro = \
                 reserved_credits_micro * {}",
                count + 1
            ),
            "DROP TABLE copied".to_owned(),
        ] {
            self.query(&sql).await?;
        }
        Ok(())
    }

    /// Blocks other writers until the lock is dropped. They wait.
    pub async fn lock_writes(&self) -> anyhow::Result<WriteLock> {
        match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path)?;
                connection.busy_timeout(std::time::Duration::from_secs(10))?;
                connection.execute_batch("BEGIN IMMEDIATE")?;
                Ok(WriteLock::Sqlite(connection))
            }
            Self::Postgres(database) => {
                let lock = "LOCK TABLE chat_turns, quota_usage IN EXCLUSIVE MODE";
                Ok(WriteLock::Postgres(
                    postgres::Transaction::begin(database.url(), lock).await?,
                ))
            }
        }
    }

    /// Blocks other writers of `table` until the lock is dropped; on SQLite, of
    /// all tables. Rows can still be locked.
    pub async fn lock_table(&self, table: &str) -> anyhow::Result<WriteLock> {
        match self {
            Self::Sqlite(_) => self.lock_writes().await,
            Self::Postgres(database) => {
                let lock = format!("LOCK TABLE {table} IN SHARE MODE");
                let lock = postgres::Transaction::begin(database.url(), &lock).await?;
                Ok(WriteLock::Postgres(lock))
            }
        }
    }

    /// Holds all rows of `table` until the lock is dropped; on SQLite, lets nobody
    /// else write.
    pub async fn lock_rows(&self, table: &str) -> anyhow::Result<WriteLock> {
        match self {
            Self::Sqlite(_) => self.lock_writes().await,
            Self::Postgres(database) => {
                let lock = format!("SELECT 1 FROM {table} FOR UPDATE");
                let lock = postgres::Transaction::begin(database.url(), &lock).await?;
                Ok(WriteLock::Postgres(lock))
            }
        }
    }

    /// Removes what does not lie in the test's directory.
    pub async fn remove(&self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(database) => database.remove().await,
        }
    }
}

fn query_sqlite(path: &Path, sql: &str) -> anyhow::Result<Rows> {
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    let mut statement = connection
        .prepare(sql)
        .with_context(|| format!("in {sql}"))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let values: Result<Vec<_>, rusqlite::Error> = (0..columns)
            .map(|index| row.get_ref(index).map(text))
            .collect();
        found.push(values?);
    }
    Ok(found)
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(format!("{bytes:02x?}")),
    }
}
