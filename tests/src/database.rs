//! The two databases on which every claim is checked, and a look into their
//! tables from outside.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::types::ValueRef;

use crate::postgres::{self, PostgresDatabase};

/// Rows with each value as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Which database a claim runs on.
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

impl Database {
    /// A new one; the SQLite file will lie in `directory`.
    pub async fn create(kind: DatabaseKind, directory: &Path) -> anyhow::Result<Self> {
        Ok(match kind {
            DatabaseKind::Sqlite => Self::Sqlite(directory.join("minichat.db")),
            DatabaseKind::Postgres => Self::Postgres(PostgresDatabase::create().await?),
        })
    }

    /// For `database.url`.
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(database) => database.url().to_owned(),
        }
    }

    /// The rows of a statement that both databases understand.
    pub async fn query(&self, sql: &str) -> anyhow::Result<Rows> {
        match self {
            Self::Postgres(database) => postgres::query(database.url(), sql).await,
            Self::Sqlite(path) => {
                let (path, sql) = (path.clone(), sql.to_owned());
                tokio::task::spawn_blocking(move || query_sqlite(&path, &sql)).await?
            }
        }
    }

    /// The one value of a statement that yields one, as a number.
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
