//! In-doubt commits: those whose acknowledgement was lost with the connection.
//! Only the database knows whether they took place, or still will, so it is
//! asked until it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_core::TurnId;
use minichat_store::{BoxFuture, Store, StoreError, Tx};
use tokio::time::Instant;

const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(2);

/// Below the shortest timeout of a watchdog (TURN-1): what is found in this
/// time is still as the commit left it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the latest attempt at a transaction was about to commit: how its commit
/// is recognized.
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

/// What `look` finds about `turn`, as soon as the database can be asked; `None`:
/// nobody knows.
///
/// The connection is lost, but its transaction may live on in the server, and
/// its commit may still be on the way. So `look` first takes a lock that the
/// transaction held when its last statement was answered, and thereby waits for
/// its end: a commit under way is never read as absent.
pub(super) async fn resolve<T, F>(store: &Store, turn: TurnId, look: F) -> Option<T>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Clone + Send + 'static,
    T: Send + 'static,
{
    let began = Instant::now();
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match store.write_closing(look.clone()).await {
            Ok(found) => return Some(found),
            Err(error) if error.is_unavailable() && began.elapsed() < PATIENCE => {
                tracing::warn!(turn.id = %turn, %error, "a commit is in doubt, and the database cannot be asked");
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
