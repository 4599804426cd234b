//! `SQLite`: one file, owned by one process (D16) and written by one thread.
//! The writer runs all waiting jobs in one transaction, so that many turns
//! share one flush to disk. Readers have their own snapshots and never wait for
//! the writer. Checkpoints run on a separate connection, because on the
//! writer's they would delay commits.

mod checkpoint;
mod copy;
mod job;
mod lock;
mod log;
mod queue;
mod reader;
mod transaction;
mod tx;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::future::BoxFuture;
use minichat_core::Clock;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use checkpoint::Checkpoints;
pub use copy::{CopyError, DatabaseFile};
use job::{Job, submitted};
pub(crate) use lock::InstanceLock;
use queue::Queue;
#[cfg(any(test, feature = "testing"))]
pub use tx::Control;
pub(crate) use tx::{SqliteTx, bind, value};

use crate::{StoreError, Tx, migrate};

/// More readers than a small machine has cores only cost memory.
const MAX_READERS: usize = 4;

/// Resource limits of a store.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) readers: usize,
    /// How long to wait for a lock of another process, such as a backup.
    pub(crate) lock_timeout: Duration,
    /// Maximum time from when a job starts to wait for a thread until its
    /// answer.
    pub(crate) job_timeout: Duration,
}

pub(crate) struct Sqlite {
    writes: Arc<Queue<Box<dyn Job>>>,
    reads: Arc<Queue<Box<dyn Job>>>,
    checkpoints: Arc<Checkpoints>,
    threads: Vec<JoinHandle<()>>,
    limits: Limits,
    _lock: InstanceLock,
}

impl Sqlite {
    pub(crate) fn open(
        path: &Path,
        lock: InstanceLock,
        limits: Limits,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let mut connection = connect(path, OpenFlags::default(), limits)?;
        // Page size of a new file in bytes. A commit writes each page that it
        // changed, often for one row of an index, so small pages make small
        // commits. Even smaller pages cost more processor time than they save.
        connection.pragma_update(None, "page_size", 2_048)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A commit that was acknowledged survives a power failure.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // KiB. The pages of one group commit fit, so that none is written
        // early. A larger cache costs time, because a commit may visit every
        // cached page.
        connection.pragma_update(None, "cache_size", -4_096)?;
        // The journal of savepoints stays in memory too.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        migrate::sqlite(&mut connection)?;

        let checkpoints = Arc::new(Checkpoints::of(path.to_owned()));
        checkpoints.lengthen_log();
        let mut store = Self {
            writes: Arc::default(),
            reads: Arc::default(),
            checkpoints: Arc::clone(&checkpoints),
            threads: Vec::new(),
            limits,
            _lock: lock,
        };
        let tx = SqliteTx::new(connection, Arc::clone(clock))?;
        #[cfg(any(test, feature = "testing"))]
        let tx = tx.failing_as(checkpoints.faults());
        let writes = Arc::clone(&store.writes);
        let written = Arc::clone(&checkpoints);
        store.spawn("sqlite-writer", move || writer::run(tx, &writes, &written))?;
        for _ in 0..limits.readers.clamp(1, MAX_READERS) {
            let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, limits)?;
            let tx = SqliteTx::new(connection, Arc::clone(clock))?;
            let reads = Arc::clone(&store.reads);
            store.spawn("sqlite-reader", move || reader::run(tx, &reads))?;
        }
        let connection = connect(path, OpenFlags::default(), limits)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        store.spawn("sqlite-checkpoint", move || {
            checkpoint::run(&connection, &checkpoints);
        })?;
        Ok(store)
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Runs `job`. Refuses it if the remaining room on the disk is reserved for
    /// ending turns.
    pub(crate) async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.checkpoints.check_room()?;
        self.write_closing(job).await
    }

    /// Runs `job`, which may use the reserved room.
    pub(crate) async fn write_closing<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let in_doubt = |error| StoreError::InDoubt(Arc::new(error));
        submit(&self.writes, job, self.limits.job_timeout, in_doubt).await
    }

    pub(crate) async fn read<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        submit(&self.reads, job, self.limits.job_timeout, |error| error).await
    }

    /// The jobs that wait for the writer, and its planned faults.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn writer(&self) -> crate::testing::Writer {
        let queue = Arc::clone(&self.writes);
        crate::testing::Writer::new(self.checkpoints.faults(), move |jobs| queue.gather(jobs))
    }
}

impl Drop for Sqlite {
    /// Ends the threads before the lock is released, so that the file is closed
    /// then.
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
        self.checkpoints.close();
        let here = thread::current().id();
        for thread in self.threads.drain(..) {
            // A job may own the last handle, and a thread cannot join itself.
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}

fn connect(path: &Path, flags: OpenFlags, limits: Limits) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(limits.lock_timeout)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Without it, SQLite prepares a statement again whenever another bound
    // value might lead to another query plan, which happens with most
    // statements.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Waits for the answer of a database thread. `in_doubt` makes the error for a
/// job that started and did not end in time.
async fn submit<T, E, F>(
    queue: &Queue<Box<dyn Job>>,
    job: F,
    limit: Duration,
    in_doubt: fn(StoreError) -> StoreError,
) -> Result<T, E>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (job, claim, answer) = submitted(job);
    queue.push(job);
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(StoreError::Closed.into())),
        // The first to claim the job decides whether it runs.
        Err(_) if claim.take() => Err(StoreError::Deadline.into()),
        Err(_) => Err(in_doubt(StoreError::Deadline).into()),
    }
}
