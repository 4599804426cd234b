//! Exponential backoff of failed reconciles: one second to five minutes, with jitter (K8S-10).
//! It also keeps the last error of each object, for its status.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(5);

/// Failures in a row, by object.
#[derive(Debug)]
pub(crate) struct Backoff<K, E>(Mutex<HashMap<K, Failures<E>>>);

#[derive(Debug)]
struct Failures<E> {
    count: u32,
    last: Arc<E>,
}

impl<K, E> Default for Backoff<K, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, E> Backoff<K, E> {
    /// Counts a failure, and says how long to wait.
    pub(crate) fn failed(&self, key: K, error: E) -> Duration {
        let mut all = self.all();
        let before = all.get(&key).map_or(0, |failures| failures.count);
        let count = before.saturating_add(1);
        let last = Arc::new(error);
        all.insert(key, Failures { count, last });
        let (random, _) = Uuid::new_v4().as_u64_pair();
        delay(count, random)
    }

    /// Forgets the failures.
    pub(crate) fn succeeded(&self, key: &K) {
        self.all().remove(key);
    }

    /// What the object fails with, if it does.
    pub(crate) fn fails_with(&self, key: &K) -> Option<Arc<E>> {
        let all = self.all();
        all.get(key).map(|failures| Arc::clone(&failures.last))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<K, Failures<E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole delay less up to a quarter, which `random` decides.
fn delay(failures: u32, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(LAST);
    let less = whole / 4 * u32::try_from(random % 1024).unwrap_or_default() / 1024;
    whole.saturating_sub(less).max(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// K8S-10
    #[test]
    fn delays_double_from_one_second_to_five_minutes_with_jitter() {
        assert_eq!(delay(1, 0), FIRST);
        assert_eq!(delay(3, 0), Duration::from_secs(4));
        assert_eq!(delay(u32::MAX, 0), LAST);
        assert!(delay(9, 1023) < delay(9, 0));
        assert!(delay(9, u64::MAX) >= delay(9, 0) * 3 / 4);
        assert_eq!(delay(1, 1023), FIRST);
    }

    #[test]
    fn success_forgets_failures_of_that_object_alone() {
        let backoff = Backoff::default();
        for _ in 0..8 {
            backoff.failed("a", "no");
            backoff.failed("b", "no");
        }
        backoff.succeeded(&"a");
        assert_eq!(backoff.fails_with(&"a"), None);
        assert_eq!(backoff.fails_with(&"b").as_deref(), Some(&"no"));
        assert_eq!(backoff.failed("a", "no"), FIRST);
        assert!(backoff.failed("b", "no") > FIRST * 100);
    }
}
