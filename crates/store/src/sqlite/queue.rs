//! The queue between callers and database threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// An unbounded queue; what bounds it is the process's in-flight limit.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// How many of them a thread waits for.
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
    /// Adds an item; dropped if the queue is closed.
    pub(super) fn push(&self, item: T) {
        let mut state = self.lock();
        if !state.is_closed {
            state.items.push_back(item);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Waits for work and moves up to `limit` items into `batch`. False once
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

    /// Hands nothing out before `count` items wait, and then these together.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn gather(&self, count: usize) {
        self.lock().wanted = count;
    }

    /// Refuses new items; what waits is still handed out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code runs under the lock that could leave the state broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
