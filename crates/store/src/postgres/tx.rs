//! A transaction on one pooled connection.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::TryStreamExt;
use futures_util::future::{join_all, join3};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Statement};

use super::sessions::Sessions;
use super::wire::AsText;
use crate::StoreError;
use crate::value::Param;

type Posted = (&'static str, Vec<Param<'static>>);

/// Statements that travel together at most, so that none waits unread behind
/// a full socket.
const PIPELINE_LIMIT: usize = 16;

/// How long a server may take to roll back.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct PostgresTx {
    /// `None` once the connection was given up.
    connection: Option<Object>,
    sessions: Arc<Sessions>,
    deadline: Instant,
    state: State,
    posted: Vec<Posted>,
    has_collided: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Every statement is its own transaction.
    Reading,
    /// `BEGIN` goes with the first statements.
    NotBegun,
    /// The server may have an open transaction.
    Open,
    Ended,
}

impl PostgresTx {
    pub(crate) const fn transaction(
        connection: Object,
        sessions: Arc<Sessions>,
        deadline: Instant,
    ) -> Self {
        Self::new(connection, sessions, deadline, State::NotBegun)
    }

    pub(crate) const fn reading(
        connection: Object,
        sessions: Arc<Sessions>,
        deadline: Instant,
    ) -> Self {
        Self::new(connection, sessions, deadline, State::Reading)
    }

    const fn new(
        connection: Object,
        sessions: Arc<Sessions>,
        deadline: Instant,
        state: State,
    ) -> Self {
        Self {
            connection: Some(connection),
            sessions,
            deadline,
            state,
            posted: Vec::new(),
            has_collided: false,
        }
    }

    /// Whether a statement failed because of another transaction.
    pub(crate) const fn has_collided(&self) -> bool {
        self.has_collided
    }

    /// Queues a statement for the next round trip.
    pub(crate) fn post(
        &mut self,
        sql: &'static str,
        params: Vec<Param<'static>>,
    ) -> Result<(), StoreError> {
        if self.state == State::Reading {
            return Err(StoreError::ReadOnly);
        }
        self.posted.push((sql, params));
        Ok(())
    }

    /// Sends what was posted and `queries` in one round trip.
    pub(crate) async fn send<const N: usize>(
        &mut self,
        queries: [(&'static str, &[Param<'_>]); N],
    ) -> Result<[Vec<Row>; N], StoreError> {
        self.flush_excess().await?;
        let posted = std::mem::take(&mut self.posted);
        let skip = posted.len();
        let statements: Vec<_> = posted
            .iter()
            .map(|(sql, params)| (*sql, params.as_slice()))
            .chain(queries)
            .collect();
        let rows = self.round_trip(&statements, false).await?;
        let mut rows = rows.into_iter().skip(skip);
        Ok(std::array::from_fn(|_| rows.next().unwrap_or_default()))
    }

    /// Sends a query of a snapshot, kept prepared if `keep`; otherwise the
    /// server forgets it.
    pub(crate) async fn send_page(
        &mut self,
        sql: &str,
        keep: bool,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let began = Instant::now();
        let connection = self.connection.as_ref().ok_or(StoreError::Closed)?;
        let answer = async {
            if self.sessions.is_pooled() {
                return run_unprepared(connection, sql, params).await;
            }
            let statement = if keep {
                connection.prepare_cached(sql).await?
            } else {
                connection.prepare(sql).await?
            };
            run(connection, &statement, params).await
        };
        let answer = timeout_at(self.deadline, answer).await;
        let answer = answer.map_or(Err(StoreError::Deadline), |answer| Ok(answer?));
        answer.map_err(|error| self.failed(error, began))
    }

    /// Sends what was posted together with `COMMIT`.
    pub(crate) async fn commit(&mut self) -> Result<(), StoreError> {
        self.flush_excess().await?;
        let posted = std::mem::take(&mut self.posted);
        if posted.is_empty() && self.state == State::NotBegun {
            self.state = State::Ended;
            return Ok(());
        }
        let statements: Vec<_> = posted
            .iter()
            .map(|(sql, params)| (*sql, params.as_slice()))
            .collect();
        let committed = self.round_trip(&statements, true).await;
        committed.map(drop).map_err(|error| {
            if error.ends_session() {
                StoreError::InDoubt(Box::new(error))
            } else {
                error
            }
        })
    }

    async fn flush_excess(&mut self) -> Result<(), StoreError> {
        while self.posted.len() > PIPELINE_LIMIT {
            let rest = self.posted.split_off(PIPELINE_LIMIT);
            let batch = std::mem::replace(&mut self.posted, rest);
            let statements: Vec<_> = batch
                .iter()
                .map(|(sql, params)| (*sql, params.as_slice()))
                .collect();
            self.round_trip(&statements, false).await?;
        }
        Ok(())
    }

    /// Ends a failed transaction. A connection that cannot even do that is
    /// closed by the drop.
    pub(crate) async fn rollback(&mut self) {
        self.posted.clear();
        if self.state == State::Open
            && let Some(connection) = &self.connection
            && let Ok(Ok(())) = timeout(ROLLBACK_LIMIT, connection.batch_execute("ROLLBACK")).await
        {
            self.state = State::Ended;
        }
    }

    async fn round_trip(
        &mut self,
        statements: &[(&'static str, &[Param<'_>])],
        commit: bool,
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let (began, deadline) = (Instant::now(), self.deadline);
        let answer = timeout_at(deadline, self.try_round_trip(statements, commit)).await;
        let answer = answer.unwrap_or(Err(StoreError::Deadline));
        answer.map_err(|error| self.failed(error, began))
    }

    /// Notes what `error` tells of the session, which was asked at `began`.
    fn failed(&mut self, error: StoreError, began: Instant) -> StoreError {
        self.has_collided |= matches!(error, StoreError::Contended(_));
        if self.sessions.note(&error, began.elapsed()) {
            self.abandon();
        }
        error
    }

    /// Closes the session, which makes the server roll back.
    fn abandon(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }

    async fn try_round_trip(
        &mut self,
        statements: &[(&'static str, &[Param<'_>])],
        commit: bool,
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let connection = self.connection.as_ref().ok_or(StoreError::Closed)?;
        let is_pooled = self.sessions.is_pooled();
        let mut prepared = Vec::with_capacity(statements.len());
        for (sql, _) in statements {
            prepared.push(if is_pooled {
                None
            } else {
                Some(connection.prepare_cached(sql).await?)
            });
        }
        let begin = self.state == State::NotBegun;
        if self.state != State::Reading {
            self.state = State::Open;
        }
        // Each future sends when it is polled first, and both joins poll in
        // order: the server sees BEGIN, the statements, COMMIT.
        let (opened, answers, committed) = join3(
            command(connection, begin, self.sessions.begin()),
            join_all(prepared.iter().zip(statements).map(
                |(statement, (sql, params))| async move {
                    match statement {
                        Some(statement) => run(connection, statement, params).await,
                        None => run_unprepared(connection, sql, params).await,
                    }
                },
            )),
            command(connection, commit, "COMMIT"),
        )
        .await;
        opened?;
        let rows = answers.into_iter().collect::<Result<Vec<_>, _>>();
        if commit && committed.is_ok() {
            // Whether it committed or, after a failure, rolled back.
            self.state = State::Ended;
        }
        let rows = rows?;
        committed?;
        Ok(rows)
    }
}

async fn command(
    connection: &Object,
    wanted: bool,
    sql: &str,
) -> Result<(), tokio_postgres::Error> {
    if wanted {
        connection.batch_execute(sql).await
    } else {
        Ok(())
    }
}

async fn run(
    connection: &Object,
    statement: &Statement,
    params: &[Param<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let rows = connection.query_raw(statement, params.iter()).await?;
    rows.try_collect().await
}

/// One round trip without a prepared statement; the server finds out the types.
async fn run_unprepared(
    connection: &Object,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let params = params.iter().map(|param| (AsText(param), Type::UNKNOWN));
    let rows = connection.query_typed_raw(sql, params).await?;
    rows.try_collect().await
}

impl Drop for PostgresTx {
    /// A connection with an open transaction never returns to the pool: it is
    /// closed, which makes the server roll back.
    fn drop(&mut self) {
        if self.state == State::Open {
            self.abandon();
        }
    }
}
