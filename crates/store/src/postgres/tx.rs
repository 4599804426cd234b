//! A transaction on one pooled session.

use std::sync::Arc;
use std::time::Duration;

use minichat_core::{TenantId, UserId};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};
use tokio::time::{Instant, timeout, timeout_at};

use super::flush::FLUSH;
use super::pool::{Origin, Session};
use super::sessions::Sessions;
use super::types;
use super::under_way::Commit;
use crate::StoreError;
use crate::value::Param;

/// What another attempt at a failed transaction may come to.
#[derive(Clone, Copy)]
enum Chance {
    /// The same.
    None,
    Better,
    /// Nobody knows what came of the first one.
    Unknown,
}

type Posted = (&'static str, Vec<Param<'static>>);

/// How long a server may take to roll back.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct PostgresTx {
    session: Session,
    sessions: Arc<Sessions>,
    deadline: Instant,
    is_reading: bool,
    state: State,
    posted: Vec<Posted>,
    chance: Chance,
    /// When a statement was sent whose commit is not flushed.
    unflushed_since: Option<Instant>,
    /// Counts until the caller has an answer.
    under_way: Option<Commit>,
}

/// What a statement that is a transaction of its own commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Commits {
    /// It only reads.
    Nothing,
    /// Its answer comes after the flush to disk.
    Flushed,
    /// Its answer comes before; one without a row has written nothing.
    Unflushed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    NotBegun,
    /// Every statement is its own transaction.
    Single,
    /// The server may have an open transaction.
    Open,
    Ended,
}

impl PostgresTx {
    pub(crate) fn transaction(
        session: Session,
        sessions: Arc<Sessions>,
        deadline: Instant,
    ) -> Self {
        Self::new(session, sessions, deadline, false)
    }

    /// Its statements are transactions of their own; behind a pooler, where two
    /// of them may meet two sessions, one transaction.
    pub(crate) fn reading(session: Session, sessions: Arc<Sessions>, deadline: Instant) -> Self {
        Self::new(session, sessions, deadline, true)
    }

    fn new(session: Session, sessions: Arc<Sessions>, deadline: Instant, is_reading: bool) -> Self {
        let state = if is_reading && !sessions.is_pooled() {
            State::Single
        } else {
            State::NotBegun
        };
        Self {
            session,
            sessions,
            deadline,
            is_reading,
            state,
            posted: Vec::new(),
            chance: Chance::None,
            unflushed_since: None,
            under_way: None,
        }
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) const fn origin(&self) -> Origin {
        self.session.origin()
    }

    /// Whether the failed transaction may succeed in another attempt: it collided with
    /// another one, or the server ended its session, and nothing of it was committed.
    pub(crate) const fn may_run_again(&self) -> bool {
        matches!(self.chance, Chance::Better)
    }

    /// Keeps a statement for the next query or the commit.
    pub(crate) fn post(
        &mut self,
        sql: &'static str,
        params: Vec<Param<'static>>,
    ) -> Result<(), StoreError> {
        if self.is_reading {
            return Err(StoreError::ReadOnly);
        }
        self.posted.push((sql, params));
        Ok(())
    }

    /// Runs what was posted, then a query.
    pub(crate) async fn send(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<PgRow>, StoreError> {
        self.begin().await?;
        for (sql, params) in std::mem::take(&mut self.posted) {
            self.statement(sql.into_sql_str(), &params, true).await?;
        }
        self.statement(sql.into_sql_str(), params, true).await
    }

    /// Whether one server session serves this transaction from its first
    /// statement on.
    pub(crate) fn is_direct(&self) -> bool {
        !self.sessions.is_pooled()
    }

    /// How the next statement for a user is committed: without waiting for the disk
    /// if somebody may wait meanwhile, for its locks because other commits of the
    /// user are under way, or for its session because none is free.
    pub(crate) fn commits(&mut self, tenant: TenantId, user: UserId) -> Commits {
        // An earlier statement of this transaction is no other commit.
        self.under_way = None;
        let (commit, has_others) = self.sessions.under_way().begin(tenant, user);
        self.under_way = Some(commit);
        if has_others || !self.sessions.pool().has_free() {
            Commits::Unflushed
        } else {
            Commits::Flushed
        }
    }

    /// Runs a statement as a transaction of its own, before any other.
    pub(crate) async fn single(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        commits: Commits,
    ) -> Result<Vec<PgRow>, StoreError> {
        if self.state != State::NotBegun || !self.posted.is_empty() {
            return Err(StoreError::JobSuspended);
        }
        self.state = State::Open;
        let sent = Instant::now();
        let answer = self.statement(sql.into_sql_str(), params, true).await;
        self.state = State::NotBegun;
        if commits == Commits::Nothing {
            return answer;
        }
        let rows = answer.map_err(|error| self.in_doubt(error))?;
        if !rows.is_empty() {
            // It is committed, whatever the job does next.
            self.chance = Chance::Unknown;
        }
        if commits == Commits::Unflushed && !rows.is_empty() {
            self.unflushed_since = Some(sent);
        }
        Ok(rows)
    }

    /// What it has seen is flushed: at once if it only reads, otherwise with its
    /// commit.
    pub(crate) async fn flush_seen(&mut self) -> Result<(), StoreError> {
        if !self.is_reading {
            return self.post(FLUSH, Vec::new());
        }
        if self.state == State::NotBegun {
            return Ok(());
        }
        self.statement(FLUSH.into_sql_str(), &[], true).await?;
        if self.state == State::Open {
            self.command("COMMIT".into_sql_str()).await?;
            self.state = State::NotBegun;
        }
        Ok(())
    }

    /// Makes the server flush everything that is committed.
    pub(super) async fn flush(&mut self, limit: Duration) -> Result<(), StoreError> {
        self.deadline = Instant::now() + limit;
        self.statement(FLUSH.into_sql_str(), &[], true).await?;
        Ok(())
    }

    /// Waits until what was committed is flushed. The session goes back before.
    pub(crate) async fn flushed(mut self) -> Result<(), StoreError> {
        let Some(since) = self.unflushed_since else {
            return Ok(());
        };
        let _under_way = self.under_way.take();
        let flushes = self.sessions.flushes().clone();
        flushes.flushed(self, since).await
    }

    /// Runs a query of a snapshot, kept prepared if `keep`; otherwise the server
    /// forgets it.
    pub(crate) async fn send_page(
        &mut self,
        sql: &str,
        keep: bool,
        params: &[Param<'_>],
    ) -> Result<Vec<PgRow>, StoreError> {
        self.begin().await?;
        let sql = AssertSqlSafe(sql).into_sql_str();
        self.statement(sql, params, keep).await
    }

    /// Runs what was posted, and commits. One statement alone is a transaction of
    /// its own.
    pub(crate) async fn commit(&mut self) -> Result<(), StoreError> {
        let mut posted = std::mem::take(&mut self.posted);
        if self.state == State::NotBegun {
            match posted.as_slice() {
                [] => {
                    self.state = State::Ended;
                    return Ok(());
                }
                [_] if !self.sessions.is_pooled() => {
                    let (sql, params) = posted.remove(0);
                    return self.commit_alone(sql, &params).await;
                }
                _ => self.begin().await?,
            }
        }
        for (sql, params) in posted {
            self.statement(sql.into_sql_str(), &params, true).await?;
        }
        if self.state == State::Open {
            let answer = self.command("COMMIT".into_sql_str()).await;
            answer.map_err(|error| self.in_doubt(error))?;
            self.state = State::Ended;
        }
        Ok(())
    }

    async fn commit_alone(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<(), StoreError> {
        self.state = State::Open;
        let answer = self.statement(sql.into_sql_str(), params, true).await;
        self.state = State::Ended;
        answer.map(drop).map_err(|error| self.in_doubt(error))
    }

    /// Ends a failed transaction. A session that cannot even do that is closed by
    /// the drop.
    pub(crate) async fn rollback(&mut self) {
        self.posted.clear();
        if self.state == State::Open
            && let Ok(Ok(())) = timeout(
                ROLLBACK_LIMIT,
                self.session.command("ROLLBACK".into_sql_str()),
            )
            .await
        {
            self.state = State::Ended;
        }
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        if self.state == State::NotBegun {
            self.state = State::Open;
            self.command(self.sessions.begin()).await?;
        }
        Ok(())
    }

    async fn command(&mut self, sql: SqlStr) -> Result<(), StoreError> {
        let began = Instant::now();
        let answer = timeout_at(self.deadline, self.session.command(sql)).await;
        let answer = answer.unwrap_or(Err(StoreError::Deadline));
        answer.map_err(|error| self.failed(error, began))
    }

    async fn statement(
        &mut self,
        sql: SqlStr,
        params: &[Param<'_>],
        keep: bool,
    ) -> Result<Vec<PgRow>, StoreError> {
        let began = Instant::now();
        let keep = keep && !self.sessions.is_pooled();
        let arguments = types::arguments(params)?;
        let answer = timeout_at(self.deadline, self.session.query(sql, arguments, keep)).await;
        let answer = answer.unwrap_or(Err(StoreError::Deadline));
        answer.map_err(|error| self.failed(error, began))
    }

    /// Notes what `error` tells of the session, which was asked at `began`.
    fn failed(&mut self, error: StoreError, began: Instant) -> StoreError {
        let has_collided = matches!(error, StoreError::Contended(_));
        let is_lost = error.ends_session() && !matches!(error, StoreError::Deadline);
        if (has_collided || is_lost) && !matches!(self.chance, Chance::Unknown) {
            self.chance = Chance::Better;
        }
        if self.sessions.pool().note(&error, began) {
            self.session.give_up();
        }
        error
    }

    /// Whether a statement that commits took place is not known if the session
    /// ended before its answer.
    fn in_doubt(&mut self, error: StoreError) -> StoreError {
        if !error.ends_session() {
            return error;
        }
        self.chance = Chance::Unknown;
        StoreError::InDoubt(Arc::new(error))
    }
}

impl Drop for PostgresTx {
    /// A session with an open transaction never goes back: it is closed, which
    /// makes the server roll back.
    fn drop(&mut self) {
        if self.state == State::Open {
            self.session.give_up();
        }
    }
}
