//! How sessions of PostgreSQL are used, and which of them are used no more.

use std::time::Duration;

use sqlx::SqlStr;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use tokio::time::Instant;

use super::flush::Flushes;
use super::pool::Pool;
use super::under_way::UnderWay;
use crate::{DatabaseSettings, StoreError};

/// What all transactions of a store share.
pub(crate) struct Sessions {
    pool: Pool,
    /// Whether two statements outside a transaction may meet two sessions, so
    /// that none can be prepared, as behind `PgBouncer` in transaction mode.
    is_pooled: bool,
    begin: SqlStr,
    flushes: Flushes,
    under_way: UnderWay,
    /// A server that says nothing for so long has vanished, since it ends every
    /// statement by then.
    silence: Duration,
}

impl Sessions {
    pub(super) fn new(settings: &DatabaseSettings, pool: Pool) -> Self {
        let is_pooled = settings.listen_url.is_some();
        let mut begin = vec!["BEGIN".to_owned()];
        if is_pooled {
            let limits = settings.limits().into_iter();
            begin.extend(limits.map(|(name, millis)| format!("SET LOCAL {name} = {millis}")));
        }
        Self {
            flushes: Flushes::new(pool.runtime().clone(), settings.job_timeout),
            under_way: UnderWay::default(),
            pool,
            is_pooled,
            begin: AssertSqlSafe(begin.join("; ")).into_sql_str(),
            silence: settings.statement_timeout,
        }
    }

    pub(super) const fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    pub(super) const fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// Whether a transaction that begins now finds a session at once.
    pub(super) fn has_free(&self) -> bool {
        self.pool.has_free()
    }

    pub(super) const fn under_way(&self) -> &UnderWay {
        &self.under_way
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> SqlStr {
        self.begin.clone()
    }

    /// Notes a failure of what was asked at `asked`; whether its session must not be used
    /// again. One that may only be read, that was lost, or whose server is silent
    /// is a sign of what the others are which were there then: all are made anew, so that
    /// the pool finds the server that serves now. If a session was ended, those that are
    /// left are asked before they are used. A job whose time was over when it began says
    /// nothing.
    pub(super) fn note(&self, error: &StoreError, asked: Instant) -> bool {
        let is_late = matches!(error, StoreError::Deadline);
        let is_silent = is_late && asked.elapsed() >= self.silence;
        let is_lost = matches!(error, StoreError::Connection(_));
        let is_read_only = error.is_read_only_server();
        if is_silent || is_lost || is_read_only {
            self.pool.give_up_older(asked);
        }
        let is_over = error.ends_session() || is_read_only;
        if is_over && !is_late {
            self.pool.doubt_all();
        }
        is_over
    }
}
