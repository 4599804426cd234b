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

/// Longest time for which a database that cannot serve is asked.
const PATIENCE: Duration = Duration::from_mins(1);

/// A task gives its turn up so long before a watchdog may take it (TURN-1): time
/// for one more job of the database, and until the next sign of life.
pub(super) const MARGIN: Duration = Duration::from_mins(1);

/// Until when a transaction may be asked about that is in doubt since `now`, if
/// the turn showed life at `began`: what is found by then is still as the commit
/// left it, and is found before a watchdog may take the turn.
pub(super) fn ask_until(now: Instant, began: Instant, orphan_timeout: Duration) -> Instant {
    (began + orphan_timeout.saturating_sub(MARGIN)).min(now + PATIENCE)
}

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
/// nobody knows. It is asked at least once, and until `until`.
///
/// The connection is lost, but its transaction may live on in the server, and
/// its commit may still be on the way. So `look` first takes a lock that the
/// transaction held when its last statement was answered, and thereby waits for
/// its end: a commit under way is never read as absent.
pub(super) async fn resolve<T, F>(store: &Store, turn: TurnId, until: Instant, look: F) -> Option<T>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Clone + Send + 'static,
    T: Send + 'static,
{
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match store.write_closing(look.clone()).await {
            Ok(found) => return Some(found),
            Err(error) if error.is_unavailable() && Instant::now() < until => {
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

#[cfg(test)]
mod tests {
    use super::super::progress;
    use super::*;

    /// TURN-1: with the shortest timeout of a watchdog and jobs of the database
    /// that take all their time.
    #[test]
    fn what_is_in_doubt_is_known_before_a_watchdog_may_take_the_turn() {
        let job = Duration::from_secs(15);
        let began = Instant::now();
        for timeout in [90, 120, 300].map(Duration::from_secs) {
            // The reserve, and the first sign of life after it.
            let looked = ask_until(began + job, began, timeout).max(began + job) + job;
            let shown = looked + progress::INTERVAL;
            assert!(shown <= began + timeout, "{timeout:?}");
            // Three attempts at a finalization after the last sign of life.
            let entered = began + progress::INTERVAL;
            let tried = entered + 3 * job;
            let looked = ask_until(tried, began, timeout).max(tried) + job;
            assert!(looked <= began + timeout, "{timeout:?}");
        }
        let (soon, late) = (began + PATIENCE, Duration::from_hours(1));
        assert_eq!(ask_until(began, began, late), soon);
    }
}
