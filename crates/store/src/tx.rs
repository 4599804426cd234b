//! One transaction on either database.
//!
//! Statements without a result are *posted*: PostgreSQL runs them before the next
//! query or the commit, which also reports their failure. `SQLite` runs them at
//! once. So a job behaves the same on both databases if it stops at the first
//! error.

use minichat_core::Timestamp;

use crate::StoreError;
use crate::postgres::{Commits, PostgresTx};
use crate::sqlite::SqliteTx;
use crate::value::{FromValue, Param, Row};

/// A transaction, or a snapshot for reading. Its methods are in the resource
/// files. Methods that are not `async` post their statements.
pub struct Tx {
    backend: Backend,
}

enum Backend {
    Sqlite(SqliteTx),
    Postgres(PostgresTx),
}

/// What differs between the SQL of the databases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// A query and how to read its rows.
pub(crate) struct Query<'a, T> {
    pub(crate) sql: &'static str,
    pub(crate) params: &'a [Param<'a>],
    pub(crate) map: fn(&Row<'_>) -> Result<T, StoreError>,
}

impl Tx {
    pub(crate) const fn sqlite(tx: SqliteTx) -> Self {
        Self {
            backend: Backend::Sqlite(tx),
        }
    }

    pub(crate) const fn postgres(tx: PostgresTx) -> Self {
        Self {
            backend: Backend::Postgres(tx),
        }
    }

    pub(crate) const fn as_sqlite(&mut self) -> Option<&mut SqliteTx> {
        match &mut self.backend {
            Backend::Sqlite(tx) => Some(tx),
            Backend::Postgres(_) => None,
        }
    }

    pub(crate) const fn as_postgres(&mut self) -> Option<&mut PostgresTx> {
        match &mut self.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(tx) => Some(tx),
        }
    }

    pub(crate) fn into_postgres(self) -> Option<PostgresTx> {
        match self.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(tx) => Some(tx),
        }
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        match self.backend {
            Backend::Sqlite(_) => Dialect::Sqlite,
            Backend::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The database's current instant in microseconds (TURN-6): PostgreSQL's
    /// own clock, or on `SQLite` the process clock, which stands still within a
    /// transaction. One round trip.
    pub async fn now(&mut self) -> Result<Timestamp, StoreError> {
        let now = self
            .query_opt("SELECT statement_timestamp()", &[], only_column)
            .await?;
        now.ok_or(StoreError::Closed)
    }

    /// Makes sure that what this transaction has read survives a crash of the
    /// server: at once if it only reads, otherwise when it is committed.
    /// Whoever answers that something took place has to: PostgreSQL shows what
    /// [`Tx::turn_reserve`] and [`Tx::turn_finalize`] have committed before it is
    /// flushed to disk. `SQLite` does not.
    pub async fn flush_seen(&mut self) -> Result<(), StoreError> {
        match &mut self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(tx) => tx.flush_seen().await,
        }
    }

    /// Posts a statement without a result.
    pub(crate) fn execute_later<const N: usize>(
        &mut self,
        sql: &'static str,
        params: [Param<'_>; N],
    ) -> Result<(), StoreError> {
        match &mut self.backend {
            Backend::Sqlite(tx) => tx.execute(sql, &params),
            Backend::Postgres(tx) => tx.post(sql, params.map(Param::into_owned).into()),
        }
    }

    pub(crate) async fn query<T>(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        match &mut self.backend {
            Backend::Sqlite(tx) => tx.query(&Query { sql, params, map }),
            Backend::Postgres(tx) => {
                let rows = tx.send(sql, params).await?;
                rows.iter().map(|row| map(&Row::postgres(row))).collect()
            }
        }
    }

    pub(crate) async fn query_opt<T>(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.query(sql, params, map).await?.into_iter().next())
    }

    /// Runs a statement of PostgreSQL as a transaction of its own, the first of the
    /// job. If it commits something, its failure may be in doubt.
    pub(crate) async fn single<T>(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
        commits: Commits,
    ) -> Result<Vec<T>, StoreError> {
        let tx = self.as_postgres().ok_or(StoreError::JobSuspended)?;
        let rows = tx.single(sql, params, commits).await?;
        rows.iter().map(|row| map(&Row::postgres(row))).collect()
    }

    /// A query for reading whose text is made at run time. It is kept prepared
    /// if `keep`, which is for texts of which there are few.
    pub(crate) async fn query_page<T>(
        &mut self,
        sql: &str,
        keep: bool,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        match &mut self.backend {
            Backend::Sqlite(tx) => tx.query_page(sql, keep, params, map),
            Backend::Postgres(tx) => {
                let rows = tx.send_page(sql, keep, params).await?;
                rows.iter().map(|row| map(&Row::postgres(row))).collect()
            }
        }
    }

    /// Two queries, one after the other.
    pub(crate) async fn query2<A, B>(
        &mut self,
        a: Query<'_, A>,
        b: Query<'_, B>,
    ) -> Result<(Vec<A>, Vec<B>), StoreError> {
        let first = self.query(a.sql, a.params, a.map).await?;
        Ok((first, self.query(b.sql, b.params, b.map).await?))
    }

    /// Three queries, one after the other.
    pub(crate) async fn query3<A, B, C>(
        &mut self,
        a: Query<'_, A>,
        b: Query<'_, B>,
        c: Query<'_, C>,
    ) -> Result<(Vec<A>, Vec<B>, Vec<C>), StoreError> {
        let (first, second) = self.query2(a, b).await?;
        Ok((first, second, self.query(c.sql, c.params, c.map).await?))
    }
}

/// Reads a row of one column.
pub(crate) fn only_column<T: FromValue>(row: &Row<'_>) -> Result<T, StoreError> {
    row.take()
}
