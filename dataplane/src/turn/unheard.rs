//! Commits whose answer was lost with the connection. Whether they took place
//! stands in the database and nowhere else, so it is asked until it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_core::TurnId;
use minichat_store::{BoxFuture, Store, StoreError, Tx};
use tokio::time::Instant;

const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(2);

/// Below the shortest patience of a watchdog (TURN-1): what is found in this
/// time is still as the lost commit left it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the latest attempt at a transaction was about to commit, by which its
/// commit is known.
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

/// What `look` finds about `turn`, as soon as the database can be asked. It may
/// lock rows, to wait for the end of the lost transaction. `None`: nobody
/// knows.
pub(super) async fn look_again<T, F>(store: &Store, turn: TurnId, look: F) -> Option<T>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Clone + Send + 'static,
    T: Send + 'static,
{
    let began = Instant::now();
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match store.write(look.clone()).await {
            Ok(found) => return Some(found),
            Err(error) if error.is_unavailable() && began.elapsed() < PATIENCE => {
                tracing::warn!(turn.id = %turn, %error, "the answer to a commit is lost, and the database cannot be asked");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
            Err(error) => {
                tracing::error!(turn.id = %turn, %error, "it is not known whether a commit took place");
                return None;
            }
        }
    }
}
