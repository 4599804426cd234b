//! The queue between callers and database threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// An unbounded queue. The process's limit on requests in flight bounds it.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// The number of items for which a thread waits.
    wanted: usize,
    is_closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                wanted: 1,
                is_closed: false,
            }),
            filled: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Adds an item. It is dropped if the queue is closed.
    pub(super) fn push(&self, item: T) {
        let mut state = self.lock();
        if !state.is_closed {
            state.items.push_back(item);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Waits for items and moves up to `limit` of them into `batch`. `false` if
    /// the queue is closed and empty.
    pub(super) fn drain(&self, limit: usize, batch: &mut Vec<T>) -> bool {
        let mut state = self
            .filled
            .wait_while(self.lock(), |state| {
                state.items.len() < state.wanted && !state.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.wanted = 1;
        let count = state.items.len().min(limit);
        batch.extend(state.items.drain(..count));
        count > 0
    }

    /// Holds all items back until there are `count`, and then returns them
    /// together.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn gather(&self, count: usize) {
        self.lock().wanted = count;
    }

    /// Refuses new items. Those that wait are still returned.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code runs under the lock that could leave the state broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
