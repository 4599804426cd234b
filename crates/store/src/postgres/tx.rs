//! A transaction on one pooled connection.

use deadpool_postgres::Object;
use futures_util::TryStreamExt;
use futures_util::future::{join_all, join3};
use tokio_postgres::{Row, Statement};

use crate::StoreError;
use crate::value::Param;

type Posted = (&'static str, Vec<Param<'static>>);

/// Statements that travel together at most, so that none waits unread behind
/// a full socket.
const PIPELINE_LIMIT: usize = 16;

pub(crate) struct PostgresTx {
    /// `None` once the connection was given up.
    connection: Option<Object>,
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
    pub(crate) const fn transaction(connection: Object) -> Self {
        Self::new(connection, State::NotBegun)
    }

    pub(crate) const fn reading(connection: Object) -> Self {
        Self::new(connection, State::Reading)
    }

    const fn new(connection: Object, state: State) -> Self {
        Self {
            connection: Some(connection),
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
        let connection = self.connection.as_ref().ok_or(StoreError::Closed)?;
        let statement = if keep {
            connection.prepare_cached(sql).await?
        } else {
            connection.prepare(sql).await?
        };
        Ok(run(connection, &statement, params).await?)
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
        self.round_trip(&statements, true).await?;
        Ok(())
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
            && connection.batch_execute("ROLLBACK").await.is_ok()
        {
            self.state = State::Ended;
        }
    }

    async fn round_trip(
        &mut self,
        statements: &[(&'static str, &[Param<'_>])],
        commit: bool,
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let result = self.try_round_trip(statements, commit).await;
        self.has_collided |= matches!(result, Err(StoreError::Contended));
        result
    }

    async fn try_round_trip(
        &mut self,
        statements: &[(&'static str, &[Param<'_>])],
        commit: bool,
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let connection = self.connection.as_ref().ok_or(StoreError::Closed)?;
        let mut prepared = Vec::with_capacity(statements.len());
        for (sql, _) in statements {
            prepared.push(connection.prepare_cached(sql).await?);
        }
        let begin = self.state == State::NotBegun;
        if self.state != State::Reading {
            self.state = State::Open;
        }
        // Each future sends when it is polled first, and both joins poll in
        // order: the server sees BEGIN, the statements, COMMIT.
        let (opened, answers, committed) = join3(
            command(connection, begin, "BEGIN"),
            join_all(
                prepared
                    .iter()
                    .zip(statements)
                    .map(|(statement, (_, params))| run(connection, statement, params)),
            ),
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

impl Drop for PostgresTx {
    /// A connection with an open transaction never returns to the pool: it is
    /// closed, which makes the server roll back.
    fn drop(&mut self) {
        if self.state == State::Open
            && let Some(connection) = self.connection.take()
        {
            drop(Object::take(connection));
        }
    }
}
