//! Commits in doubt: their acknowledgement was lost with the connection. Only
//! the database knows whether they succeeded, or still will, so it is queried
//! until it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_core::TurnId;
use minichat_store::{BoxFuture, Store, StoreError, Tx};
use tokio::time::Instant;

const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(2);

/// The last query begins within this time. Transaction and query together take less
/// than the timeout of every watchdog (TURN-1), so no watchdog has changed the turn
/// when the query reads it.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// What the last attempt of a transaction was about to commit, to recognize its
/// commit by.
#[derive(Clone)]
pub(super) struct Attempted<T>(Arc<Mutex<Option<T>>>);

impl<T> Default for Attempted<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Attempted<T> {
    pub(super) fn note(&self, attempt: T) {
        *self.lock() = Some(attempt);
    }

    pub(super) fn take(&self) -> Option<T> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of `query` about `turn`, as soon as the database answers; `None`
/// if it does not answer within `patience`. It is asked at least once.
///
/// The connection is lost, but its transaction may still run in the server and
/// commit later. So `query` first takes a lock that the transaction holds. This
/// waits for the end of the transaction, or prevents it if it has not begun, so
/// that a commit in progress is never mistaken for a missing one.
pub(super) async fn resolve<T, F>(
    store: &Store,
    turn: TurnId,
    patience: Duration,
    query: F,
) -> Option<T>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Clone + Send + 'static,
    T: Send + 'static,
{
    let began = Instant::now();
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match store.write_closing(query.clone()).await {
            Ok(found) => return Some(found),
            Err(error) if error.is_unavailable() && began.elapsed() + back_off < patience => {
                tracing::warn!(turn.id = %turn, %error, "a commit is in doubt, and the database cannot be asked");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
            Err(error) => {
                tracing::error!(turn.id = %turn, %error, "it remains unknown whether a commit succeeded");
                return None;
            }
        }
    }
}
