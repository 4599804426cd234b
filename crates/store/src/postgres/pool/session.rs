//! A session in use, and what becomes of it afterwards.

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{Connection as _, Executor as _, SqlStr};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::{Origin, Pool};
use crate::StoreError;

/// A session in use, which goes back when it is dropped.
pub(crate) struct Session {
    connection: Option<PgConnection>,
    origin: Origin,
    is_busy: bool,
    /// Whether a transaction may be open.
    is_in_transaction: bool,
    place: Option<Place>,
}

/// One of the sessions that there may be, until this is dropped.
struct Place {
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    pub(super) fn new(
        pool: Pool,
        connection: PgConnection,
        origin: Origin,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        pool.lock().in_use += 1;
        Self {
            connection: Some(connection),
            origin,
            is_busy: false,
            is_in_transaction: false,
            place: Some(Place {
                pool,
                _permit: permit,
            }),
        }
    }

    /// Begins or ends a transaction, by statements without parameters in one round trip.
    pub(in crate::postgres) async fn command(&mut self, sql: SqlStr) -> Result<(), StoreError> {
        self.is_busy = true;
        self.is_in_transaction = true;
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let answer = connection.execute(sqlx::raw_sql(sql)).await;
        self.is_busy = false;
        answer?;
        Ok(())
    }

    /// Runs one statement; the server keeps it prepared if `keep`.
    pub(in crate::postgres) async fn query(
        &mut self,
        sql: SqlStr,
        arguments: PgArguments,
        keep: bool,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.is_busy = true;
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let query = sqlx::query_with(sql, arguments).persistent(keep);
        let answer = connection.fetch_all(query).await;
        self.is_busy = false;
        Ok(answer?)
    }

    pub(in crate::postgres) const fn origin(&self) -> Origin {
        self.origin
    }

    pub(in crate::postgres) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }

    /// Closes the connection, which makes the server roll back. If a statement is under
    /// way, its answer is awaited first.
    pub(in crate::postgres) fn give_up(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.is_busy
            && let Some(place) = self.place.take()
        {
            let runtime = place.pool.0.runtime.clone();
            runtime.spawn(place.outlast(connection, self.origin, self.is_in_transaction));
        }
    }
}

impl Drop for Session {
    /// A session on which a statement is under way does not go back before its server
    /// has answered.
    fn drop(&mut self) {
        if self.is_busy {
            self.give_up();
        } else if let (Some(connection), Some(place)) = (self.connection.take(), &self.place) {
            place.pool.put_back(connection, self.origin);
        }
    }
}

impl Place {
    /// Keeps a place until the server has answered a statement for which nobody waits
    /// any more. It notices a closed connection only then, and meanwhile would have one
    /// session more than there may be. The session then serves the next job. A silent
    /// server, once it is given up, is not waited for.
    async fn outlast(self, mut connection: PgConnection, origin: Origin, is_in_transaction: bool) {
        let pool = &self.pool;
        let asked = Instant::now();
        // By then the server has ended the statement, and has had time to say so.
        let patience = pool.0.statement_timeout + pool.0.connect_timeout;
        let settled = timeout(patience, settle(&mut connection, is_in_transaction));
        let settled = tokio::select! {
            () = pool.given_up(origin) => return,
            settled = settled => settled,
        };
        match settled {
            Ok(Ok(())) => pool.put_back(connection, origin),
            // It is closed by the drop.
            Ok(Err(_)) => {}
            // Its server is silent, and so it will be to the others.
            Err(_) => pool.give_up_older(asked),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.lock().in_use -= 1;
        self.pool.0.returned.notify_one();
    }
}

/// Waits for the answer that is under way, and ends the transaction.
async fn settle(connection: &mut PgConnection, is_in_transaction: bool) -> Result<(), StoreError> {
    if let Err(failed) = connection.ping().await.map_err(StoreError::from) {
        // The answer that was under way may be a failure of the statement.
        if failed.ends_session() {
            return Err(failed);
        }
        connection.ping().await?;
    }
    if is_in_transaction {
        connection.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    Ok(())
}
