//! Forward-only migrations, embedded in the binary (PLAT-1, K8S-43).
//! They run in one transaction under a lock. If several processes start at
//! once, one migrates, and the others find the schema up to date.

use std::cmp::Ordering;

use rusqlite::TransactionBehavior;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::StoreError;

/// Version `n` is the n-th text.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_stop_requests.sql"),
    include_str!("migrations/0003_tenants.sql"),
    include_str!("migrations/0004_single_statements.sql"),
    include_str!("migrations/0005_deliveries.sql"),
    include_str!("migrations/0006_erasures.sql"),
    include_str!("migrations/0007_cleanup.sql"),
    include_str!("migrations/0008_bounded_cleanup.sql"),
    include_str!("migrations/0009_purge.sql"),
    include_str!("migrations/0010_processes.sql"),
    include_str!("migrations/0011_cleanup_by_tenant.sql"),
];

/// The key of the advisory lock, `minichat` in ASCII.
const LOCK_KEY: i64 = 0x6d69_6e69_6368_6174;

const CREATE_VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
     (version BIGINT NOT NULL PRIMARY KEY)";
pub(crate) const READ_VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM schema_migrations";

/// The types in the migration texts: name, `SQLite` type, PostgreSQL type.
/// `SQLite` does not check lengths; the application does (chapter 05, section
/// 1.1).
const TYPES: [(&str, &str, &str); 18] = [
    ("{uuid}", "UUID", "TEXT"),
    ("{ts}", "TIMESTAMPTZ", "INTEGER"),
    ("{date}", "DATE", "TEXT"),
    ("{bool}", "BOOLEAN", "INTEGER"),
    ("{i32}", "INTEGER", "INTEGER"),
    ("{i64}", "BIGINT", "INTEGER"),
    ("{text}", "TEXT", "TEXT"),
    ("{json}", "JSONB", "TEXT"),
    ("{bytes}", "BYTEA", "BLOB"),
    ("{str16}", "VARCHAR(16)", "TEXT"),
    ("{str32}", "VARCHAR(32)", "TEXT"),
    ("{str64}", "VARCHAR(64)", "TEXT"),
    ("{str128}", "VARCHAR(128)", "TEXT"),
    ("{str255}", "VARCHAR(255)", "TEXT"),
    ("{str1024}", "VARCHAR(1024)", "TEXT"),
    ("{false}", "FALSE", "0"),
    (
        "{serial}",
        "BIGINT GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY",
        "INTEGER PRIMARY KEY AUTOINCREMENT",
    ),
    ("{strict}", "", " STRICT"),
];

pub(crate) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Versions to apply after `found`, with their texts.
fn missing(found: i64) -> Result<impl Iterator<Item = (i64, &'static str)>, StoreError> {
    let known = newest();
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    Ok((1..)
        .zip(MIGRATIONS.iter().copied())
        .filter(move |(version, _)| *version > found))
}

/// Refuses a schema that is not that of this release.
pub(crate) fn check(found: i64) -> Result<(), StoreError> {
    let known = newest();
    match found.cmp(&known) {
        Ordering::Less => Err(StoreError::OlderSchema { found, known }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(StoreError::NewerSchema { found, known }),
    }
}

fn for_postgres(text: &str) -> String {
    TYPES
        .iter()
        .fold(text.to_owned(), |sql, (token, postgres, _)| {
            sql.replace(token, postgres)
        })
}

fn for_sqlite(text: &str) -> String {
    TYPES
        .iter()
        .fold(text.to_owned(), |sql, (token, _, sqlite)| {
            sql.replace(token, sqlite)
        })
}

/// Migrates a file in one exclusive transaction.
pub(crate) fn sqlite(connection: &mut rusqlite::Connection) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    tx.execute_batch(CREATE_VERSIONS)?;
    let found = tx.query_row(READ_VERSION, [], |row| row.get(0))?;
    for (version, text) in missing(found)? {
        tx.execute_batch(&for_sqlite(text))?;
        tx.execute(
            "INSERT INTO schema_migrations (version) VALUES (?1)",
            [version],
        )?;
    }
    Ok(tx.commit()?)
}

/// Migrates a database under an advisory lock. If `migrate` is false, only
/// checks its version.
pub(crate) async fn postgres(
    connection: &mut PgConnection,
    migrate: bool,
) -> Result<(), StoreError> {
    let mut tx = connection.begin().await?;
    // A migration of a large table, or one in another process, may take longer
    // than a usual statement.
    tx.execute(sqlx::raw_sql(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; \
         SET LOCAL idle_in_transaction_session_timeout = 0",
    ))
    .await?;
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK_KEY);
    tx.execute(lock.persistent(false)).await?;
    tx.execute(sqlx::raw_sql(CREATE_VERSIONS)).await?;
    let version = sqlx::query_scalar(READ_VERSION).persistent(false);
    let found: i64 = version.fetch_one(&mut *tx).await?;
    let missing = missing(found)?;
    if !migrate {
        let known = newest();
        return if found < known {
            Err(StoreError::OlderSchema { found, known })
        } else {
            Ok(())
        };
    }
    for (version, text) in missing {
        tx.execute(sqlx::raw_sql(AssertSqlSafe(for_postgres(text))))
            .await?;
        let applied = sqlx::query("INSERT INTO schema_migrations (version) VALUES ($1)");
        tx.execute(applied.bind(version).persistent(false)).await?;
    }
    Ok(tx.commit().await?)
}
