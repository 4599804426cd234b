//! Checkpoints in the background: they copy the write-ahead log into the
//! database file while commits go on.
//!
//! A log starts over only when all of it was copied, which never happens while
//! the writer keeps appending. So when a log stays long, the writer copies the
//! little that is left between two transactions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

/// Commits after which a checkpoint starts at once.
const COMMITS: u32 = 128;
/// How long fewer commits wait for one.
const DELAY: Duration = Duration::from_secs(1);
/// Pages (of 2 KiB) after which the writer helps: 16 MiB.
const LONG_LOG: i64 = 8_192;

#[derive(Default)]
pub(super) struct Checkpoints {
    state: Mutex<State>,
    changed: Condvar,
    is_log_long: AtomicBool,
}

#[derive(Default)]
struct State {
    commits: u32,
    is_closed: bool,
}

impl Checkpoints {
    /// Counts a commit; whether the writer should copy the rest of the log.
    pub(super) fn committed(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.commits += 1;
        if state.commits == 1 || state.commits == COMMITS {
            self.changed.notify_one();
        }
        self.is_log_long.load(Ordering::Relaxed)
    }

    /// Called by the writer between two transactions.
    pub(super) fn finish_on_writer(&self, connection: &Connection) {
        checkpoint(connection);
        self.is_log_long.store(false, Ordering::Relaxed);
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_closed = true;
        self.changed.notify_one();
    }

    /// Waits until a checkpoint is due; false when the store closes.
    fn wait(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .changed
            .wait_while(state, |state| state.commits == 0 && !state.is_closed)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, DELAY, |state| {
                state.commits < COMMITS && !state.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.commits = 0;
        !state.is_closed
    }
}

pub(super) fn run(connection: &Connection, checkpoints: &Checkpoints) {
    while checkpoints.wait() {
        let is_long = checkpoint(connection).is_some_and(|pages| pages > LONG_LOG);
        checkpoints.is_log_long.store(is_long, Ordering::Relaxed);
    }
}

/// Copies what no reader prevents; the length of the log in pages.
fn checkpoint(connection: &Connection) -> Option<i64> {
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
        .inspect_err(|error| tracing::warn!(%error, "checkpoint failed"))
        .ok()
}
