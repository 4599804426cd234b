//! A session in use, and what becomes of it afterwards.

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{Connection as _, Executor as _, Row as _, SqlStr};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::{Origin, Taken};
use crate::StoreError;

/// A session in use, which goes back when it is dropped.
pub(crate) struct Session {
    connection: Option<PgConnection>,
    origin: Origin,
    /// When it was asked what it has not answered.
    asked: Option<Instant>,
    /// Whether a transaction may be open.
    is_in_transaction: bool,
    place: Option<Place>,
}

/// One of the sessions that there may be, until this is dropped.
struct Place {
    taken: Taken,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    pub(super) fn new(
        connection: PgConnection,
        origin: Origin,
        taken: Taken,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            connection: Some(connection),
            origin,
            asked: None,
            is_in_transaction: false,
            place: Some(Place {
                taken,
                _permit: permit,
            }),
        }
    }

    /// Begins or ends a transaction, by statements without parameters in one round trip.
    pub(in crate::postgres) async fn command(&mut self, sql: SqlStr) -> Result<(), StoreError> {
        self.asked = Some(Instant::now());
        self.is_in_transaction = true;
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let answer = connection.execute(sqlx::raw_sql(sql)).await;
        self.asked = None;
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
        self.asked = Some(Instant::now());
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let query = sqlx::query_with(sql, arguments).persistent(keep);
        let answer = connection.fetch_all(query).await;
        self.asked = None;
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
        if let Some(asked) = self.asked
            && let Some(place) = self.place.take()
        {
            let abandoned = Abandoned {
                connection,
                origin: self.origin,
                asked,
                is_in_transaction: self.is_in_transaction,
            };
            let runtime = place.taken.0.runtime().clone();
            runtime.spawn(place.outlast(abandoned));
        }
    }
}

impl Drop for Session {
    /// A session on which a statement is under way does not go back before its server
    /// has answered.
    fn drop(&mut self) {
        if self.asked.is_some() {
            self.give_up();
        } else if let (Some(connection), Some(place)) = (self.connection.take(), &self.place) {
            place.taken.0.put_back(connection, self.origin);
        }
    }
}

/// A session with a statement for whose answer nobody waits any more.
struct Abandoned {
    connection: PgConnection,
    origin: Origin,
    asked: Instant,
    is_in_transaction: bool,
}

impl Place {
    /// Keeps a place until the server has answered what it was asked. It notices a closed
    /// connection only then, and meanwhile would have one session more than there may be.
    /// The session then serves the next job. A silent server, once it is given up, is not
    /// waited for.
    async fn outlast(self, mut session: Abandoned) {
        let pool = &self.taken.0;
        // By then the server has ended the statement, and has had time to say so.
        let patience = pool.0.statement_timeout + pool.0.connect_timeout;
        let settled = tokio::select! {
            () = pool.given_up(session.origin) => return,
            settled = timeout(patience, session.settle(pool.0.keeps_settings)) => settled,
        };
        match settled.unwrap_or(Err(StoreError::Deadline)) {
            Ok(()) => pool.put_back(session.connection, session.origin),
            // It is closed by the drop.
            Err(error) => {
                pool.note(&error, session.asked);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.0.0.returned.notify_one();
    }
}

impl Abandoned {
    /// Waits for the answer that is under way, ends the transaction, and forgets what the
    /// server keeps prepared for nobody, if it `keeps` anything.
    async fn settle(&mut self, keeps: bool) -> Result<(), StoreError> {
        let connection = &mut self.connection;
        if let Err(failed) = connection.ping().await.map_err(StoreError::from) {
            // The answer that was under way may be a failure of the statement.
            if failed.spoils_session() {
                return Err(failed);
            }
            connection.ping().await?;
        }
        if self.is_in_transaction {
            connection.execute(sqlx::raw_sql("ROLLBACK")).await?;
        }
        if keeps {
            forget_lost(connection).await?;
        }
        Ok(())
    }
}

/// A job that is over while a statement is prepared for it never gets its name, so that
/// the server would keep it as long as the session.
async fn forget_lost(connection: &mut PgConnection) -> Result<(), StoreError> {
    let sql = "SELECT COUNT(*) FROM pg_prepared_statements";
    let prepared: i64 = connection.fetch_one(sqlx::raw_sql(sql)).await?.try_get(0)?;
    if usize::try_from(prepared) != Ok(connection.cached_statements_size()) {
        connection.clear_cached_statements().await?;
        connection.execute(sqlx::raw_sql("DEALLOCATE ALL")).await?;
    }
    Ok(())
}
