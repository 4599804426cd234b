//! How sessions of PostgreSQL are used, and which of them are used no more.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{DatabaseSettings, StoreError};

/// What all transactions of a store share.
pub(crate) struct Sessions {
    /// Whether two statements outside a transaction may meet two sessions, so
    /// that none can be prepared, as behind `PgBouncer` in transaction mode.
    is_pooled: bool,
    begin: String,
    /// A server that says nothing for so long has vanished, since it ends every
    /// statement by then.
    silence: Duration,
    /// Sessions that are older than this are given up.
    oldest: Mutex<Option<Instant>>,
}

impl Sessions {
    pub(super) fn new(settings: &DatabaseSettings) -> Self {
        let is_pooled = settings.listen_url.is_some();
        let mut begin = vec!["BEGIN".to_owned()];
        if is_pooled {
            let limits = settings.limits().into_iter();
            begin.extend(limits.map(|(name, millis)| format!("SET LOCAL {name} = {millis}")));
        }
        Self {
            is_pooled,
            begin: begin.join("; "),
            silence: settings.statement_timeout,
            oldest: Mutex::default(),
        }
    }

    pub(super) const fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> &str {
        &self.begin
    }

    /// Notes a failure after `waited`; whether its session must not be used
    /// again. One that may only be read, or whose server is silent, is a sign of
    /// what the others are: all are made anew, so that the pool finds the server
    /// that serves now. A job whose time was over when it began says nothing.
    pub(super) fn note(&self, error: &StoreError, waited: Duration) -> bool {
        let is_silent = matches!(error, StoreError::Deadline) && waited >= self.silence;
        if is_silent || error.is_read_only_server() {
            *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            return true;
        }
        error.ends_session()
    }

    /// Whether a session that was made at `created` may be used.
    pub(super) fn may_use(&self, created: Instant) -> bool {
        let oldest = *self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.is_none_or(|oldest| created > oldest)
    }
}
