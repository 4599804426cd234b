//! Background checkpoints: they copy the write-ahead log into the database file
//! while commits continue.
//! The log starts over only when all of it was copied, which never happens
//! while the writer keeps appending. So if the log stays long, the writer
//! copies the small rest between two transactions.
//! If the disk is full, the log cannot be copied and cannot start over. The
//! rest of its length is then all the room for commits. It is reserved for
//! ending open turns, so that no answer is lost for which a provider was
//! called. Every other write is refused until a checkpoint succeeds.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::log;
use crate::StoreError;

/// Number of commits after which a checkpoint starts at once.
const COMMITS: u32 = 128;
/// How long a checkpoint waits after fewer commits, or after a failed
/// checkpoint.
const DELAY: Duration = Duration::from_secs(1);
/// Number of pages (of 2 KiB) from which the writer helps: 16 MiB.
const LONG_LOG: i64 = 8_192;

pub(super) struct Checkpoints {
    database: PathBuf,
    /// The index of the log, kept open.
    index: Mutex<Option<File>>,
    state: Mutex<State>,
    changed: Condvar,
    is_log_long: AtomicBool,
    #[cfg(any(test, feature = "testing"))]
    faults: crate::testing::WriterFaults,
}

#[derive(Default)]
struct State {
    commits: u32,
    is_closed: bool,
    /// Why the last checkpoint failed.
    failure: Option<Arc<StoreError>>,
}

impl Checkpoints {
    pub(super) fn of(database: PathBuf) -> Self {
        Self {
            database,
            index: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            is_log_long: AtomicBool::new(false),
            #[cfg(any(test, feature = "testing"))]
            faults: crate::testing::WriterFaults::default(),
        }
    }

    /// The writer's planned faults, which checkpoints use too.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn faults(&self) -> crate::testing::WriterFaults {
        self.faults.clone()
    }

    /// Counts a commit. Returns whether the writer should copy the rest of the
    /// log.
    pub(super) fn committed(&self) -> bool {
        let mut state = self.lock();
        state.commits += 1;
        if state.commits == 1 || state.commits == COMMITS {
            self.changed.notify_one();
        }
        state.failure.is_none() && self.is_log_long.load(Ordering::Relaxed)
    }

    /// The writer calls this between two transactions.
    pub(super) fn finish_on_writer(&self, connection: &Connection) {
        self.checkpoint(connection);
        self.is_log_long.store(false, Ordering::Relaxed);
    }

    /// Fails if the remaining room is reserved for ending turns.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        match &self.lock().failure {
            Some(cause) => Err(StoreError::NoRoom(Arc::clone(cause))),
            None => Ok(()),
        }
    }

    /// Extends the log to its full length before the room is needed.
    pub(super) fn lengthen_log(&self) {
        self.note(self.make_room().map_err(StoreError::from));
    }

    fn make_room(&self) -> io::Result<()> {
        log::lengthen(&self.database)?;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if index.is_none() {
            *index = Some(log::open_index(&self.database)?);
        }
        index.as_mut().map_or(Ok(()), log::lengthen_index)
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits until a checkpoint is due; false when the store closes.
    fn wait(&self) -> bool {
        let is_idle =
            |state: &mut State| state.commits == 0 && state.failure.is_none() && !state.is_closed;
        let state = self.changed.wait_while(self.lock(), is_idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, DELAY, |state| {
                state.commits < COMMITS && !state.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.commits = 0;
        !state.is_closed
    }

    /// Copies everything that no reader still needs. Returns the length of the
    /// log in pages.
    fn checkpoint(&self, connection: &Connection) -> Option<i64> {
        let pages = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1));
        #[cfg(any(test, feature = "testing"))]
        let pages = self.faults.strike_checkpoint().and(pages);
        match pages.map_err(StoreError::from) {
            Ok(pages) => {
                self.note(self.make_room().map_err(StoreError::from));
                Some(pages)
            }
            // Another checkpoint is in progress.
            Err(StoreError::Contended(_)) => None,
            Err(error) => {
                self.note(Err(error));
                None
            }
        }
    }

    fn note(&self, outcome: Result<(), StoreError>) {
        let mut state = self.lock();
        match (outcome, &state.failure) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::info!("the write-ahead log can be emptied again; requests are served");
                state.failure = None;
            }
            (Err(error), was) => {
                if was.is_none() {
                    tracing::error!(%error, "the write-ahead log cannot be emptied; only turns that are open can still be ended");
                }
                state.failure = Some(Arc::new(error));
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code runs under the lock that could leave the state broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn run(connection: &Connection, checkpoints: &Checkpoints) {
    while checkpoints.wait() {
        let pages = checkpoints.checkpoint(connection);
        let is_long = pages.is_some_and(|pages| pages > LONG_LOG);
        checkpoints.is_log_long.store(is_long, Ordering::Relaxed);
    }
}
