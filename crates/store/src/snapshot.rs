//! One snapshot of a database, for a report that takes longer than a job may. It
//! is only read, beside the processes that use the database: a `SQLite` file is not
//! taken from its owner, and PostgreSQL reads in one transaction.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use rusqlite::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::time::timeout;

use crate::postgres::{connections, silent, types};
use crate::settings::Location;
use crate::sqlite::bind;
use crate::value::{Param, Row};
use crate::{CopyError, DatabaseFile, DatabaseSettings, StoreError, migrate};

/// Waits for nobody, and takes as long as it takes.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
     SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

/// A database as it was when the first row was read. Dropping it ends it.
pub struct Snapshot {
    source: Source,
}

enum Source {
    Sqlite(Connection),
    Postgres(Box<PgConnection>),
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    File(#[from] CopyError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Snapshot {
    /// Opens the database, whose schema must be that of this release.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, SnapshotError> {
        let source = match settings.location()? {
            Location::Sqlite(path) => {
                let file = DatabaseFile::open(&path, settings.lock_timeout)?;
                migrate::check(file.schema_version())?;
                Source::Sqlite(file.into_snapshot()?)
            }
            Location::Postgres(servers) => {
                settings.check_files()?;
                let url = servers.direct.as_ref().unwrap_or(&servers.main);
                Source::Postgres(Box::new(
                    connect(connections(url), settings.connect_timeout).await?,
                ))
            }
        };
        Ok(Self { source })
    }

    /// Gives each row of a query to `take`, one after the other.
    pub(crate) async fn each<T>(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
        mut take: impl FnMut(T),
    ) -> Result<(), StoreError> {
        match &mut self.source {
            Source::Sqlite(connection) => {
                let mut statement = connection.prepare(sql)?;
                bind(&mut statement, params)?;
                let mut rows = statement.raw_query();
                while let Some(row) = rows.next()? {
                    take(map(&Row::sqlite(row))?);
                }
            }
            Source::Postgres(connection) => {
                let query = sqlx::query_with(sql, types::arguments(params)?).persistent(false);
                let mut rows = query.fetch(&mut **connection);
                while let Some(row) = rows.try_next().await? {
                    take(map(&Row::postgres(&row))?);
                }
            }
        }
        Ok(())
    }
}

/// A connection to the first server that answers in time, which may be a replica.
async fn connect(
    servers: Vec<PgConnectOptions>,
    limit: Duration,
) -> Result<PgConnection, StoreError> {
    let mut failure = StoreError::Closed;
    for server in servers {
        let connected = timeout(limit, begin(&server)).await;
        match connected.unwrap_or_else(|_| Err(silent(limit))) {
            Ok(connection) => return Ok(connection),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Whether another server would say the same.
const fn is_final(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NewerSchema { .. } | StoreError::OlderSchema { .. }
    )
}

async fn begin(server: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let mut connection = server.connect().await?;
    let version = sqlx::query_scalar(migrate::READ_VERSION).persistent(false);
    migrate::check(version.fetch_one(&mut connection).await?)?;
    connection.execute(sqlx::raw_sql(BEGIN)).await?;
    Ok(connection)
}
