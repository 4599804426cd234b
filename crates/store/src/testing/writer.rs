//! Lets a test control the writer of `SQLite`: which jobs share a transaction,
//! and which of its transaction statements fail.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, ffi};

pub use crate::sqlite::Control;

/// How a statement fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Another process has the lock. The transaction stays open.
    Busy,
    /// The disk is full. `SQLite` rolls the transaction back.
    Full,
    /// The disk fails. `SQLite` rolls the transaction back.
    Io,
}

/// Planned faults, shared by all clones.
#[derive(Clone, Default, Debug)]
pub struct WriterFaults {
    planned: Arc<Mutex<Vec<Planned>>>,
    no_checkpoint: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Planned {
    statement: Control,
    /// Number of these statements that succeed first.
    after: usize,
    fault: Fault,
}

/// The writer of one store.
#[derive(Clone)]
pub struct Writer {
    faults: WriterFaults,
    gather: Arc<dyn Fn(usize) + Send + Sync>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.fmt(f)
    }
}

impl Writer {
    pub(crate) fn new(
        faults: WriterFaults,
        gather: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        Self {
            faults,
            gather: Arc::new(gather),
        }
    }

    /// Holds all jobs back until `jobs` of them wait, and then runs these in
    /// one transaction.
    pub fn gather(&self, jobs: usize) {
        (self.gather)(jobs);
    }

    /// Makes `statement` fail once, after it succeeded `after` times.
    pub fn fail(&self, statement: Control, after: usize, fault: Fault) {
        self.faults.lock().push(Planned {
            statement,
            after,
            fault,
        });
    }

    /// Makes checkpoints fail or succeed from now on.
    pub fn fail_checkpoints(&self, fail: bool) {
        self.faults.no_checkpoint.store(fail, Ordering::Relaxed);
    }

    /// Forgets the faults that did not happen yet. Returns their number.
    pub fn recover(&self) -> usize {
        self.faults.lock().drain(..).count()
    }
}

impl Fault {
    fn error(self, message: String) -> rusqlite::Error {
        let code = match self {
            Self::Busy => ffi::SQLITE_BUSY,
            Self::Full => ffi::SQLITE_FULL,
            Self::Io => ffi::SQLITE_IOERR_FSYNC,
        };
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message))
    }
}

impl WriterFaults {
    /// Fails if `statement` is planned to fail now.
    pub(crate) fn strike(
        &self,
        statement: Control,
        connection: &Connection,
    ) -> Result<(), rusqlite::Error> {
        let Some(fault) = self.due(statement) else {
            return Ok(());
        };
        if fault != Fault::Busy && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        Err(fault.error(format!("{fault:?} at {statement:?}")))
    }

    /// Fails if checkpoints are planned to fail.
    pub(crate) fn strike_checkpoint(&self) -> Result<(), rusqlite::Error> {
        if self.no_checkpoint.load(Ordering::Relaxed) {
            return Err(Fault::Full.error("no checkpoint".to_owned()));
        }
        Ok(())
    }

    fn due(&self, statement: Control) -> Option<Fault> {
        let mut planned = self.lock();
        let place = planned.iter().position(|it| it.statement == statement)?;
        if planned[place].after == 0 {
            return Some(planned.remove(place).fault);
        }
        planned[place].after -= 1;
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Planned>> {
        // No code runs under the lock that could leave the list broken.
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
