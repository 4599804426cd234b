//! How sessions of PostgreSQL are used.

use sqlx::SqlStr;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use super::flush::Flushes;
use super::pool::Pool;
use super::under_way::UnderWay;
use crate::DatabaseSettings;

/// What all transactions of a store share.
pub(crate) struct Sessions {
    pool: Pool,
    /// Whether two statements outside a transaction may meet two sessions, so
    /// that none can be prepared, as behind `PgBouncer` in transaction mode.
    is_pooled: bool,
    begin: SqlStr,
    flushes: Flushes,
    under_way: UnderWay,
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
        }
    }

    pub(super) const fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    pub(super) const fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) const fn under_way(&self) -> &UnderWay {
        &self.under_way
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> SqlStr {
        self.begin.clone()
    }
}
