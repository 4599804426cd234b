//! `SQLite`: one file, owned by one process (D16), written by one thread.
//!
//! The writer drains the jobs that wait into one transaction, so that many
//! turns share one flush to disk. Readers have snapshots of their own and
//! never wait for it. Checkpoints run on a connection of their own, because on
//! the writer they would stall commits.

mod checkpoint;
mod lock;
mod log;
mod queue;
mod reader;
mod tx;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use futures_util::future::{BoxFuture, FutureExt};
use minichat_core::Clock;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use checkpoint::Checkpoints;
pub(crate) use lock::InstanceLock;
use queue::Queue;
pub(crate) use tx::{SqliteTx, value};

use crate::{StoreError, Tx, migrate};

/// Readers beyond the number of cores of a small machine only cost memory.
const MAX_READERS: usize = 4;

pub(crate) struct Sqlite {
    writes: Arc<Queue<Box<dyn Job>>>,
    reads: Arc<Queue<Box<dyn Job>>>,
    checkpoints: Arc<Checkpoints>,
    threads: Vec<JoinHandle<()>>,
    _lock: InstanceLock,
}

impl Sqlite {
    pub(crate) fn open(
        path: &Path,
        lock: InstanceLock,
        max_readers: usize,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let mut connection = connect(path, OpenFlags::default())?;
        // Bytes; of a new file. A commit writes each page it touched, mostly
        // for one row of an index, so small pages make small commits; still
        // smaller ones cost more processor time than they save.
        connection.pragma_update(None, "page_size", 2_048)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A commit that was answered survives a power failure.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // KiB. The pages of one group commit fit, so none is spilled early. More
        // would cost time: a commit may look at every page that is cached.
        connection.pragma_update(None, "cache_size", -4_096)?;
        // The journal of savepoints stays in memory, too.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        migrate::sqlite(&mut connection)?;
        log::lengthen(path);

        let checkpoints = Arc::new(Checkpoints::default());
        let mut store = Self {
            writes: Arc::default(),
            reads: Arc::default(),
            checkpoints: Arc::clone(&checkpoints),
            threads: Vec::new(),
            _lock: lock,
        };
        let tx = SqliteTx::new(connection, Arc::clone(clock))?;
        let writes = Arc::clone(&store.writes);
        let written = Arc::clone(&checkpoints);
        store.spawn("sqlite-writer", move || writer::run(tx, &writes, &written))?;
        for _ in 0..max_readers.clamp(1, MAX_READERS) {
            let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let tx = SqliteTx::new(connection, Arc::clone(clock))?;
            let reads = Arc::clone(&store.reads);
            store.spawn("sqlite-reader", move || reader::run(tx, &reads))?;
        }
        let connection = connect(path, OpenFlags::default())?;
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

    pub(crate) async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        submit(&self.writes, job).await
    }

    pub(crate) async fn read<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        submit(&self.reads, job).await
    }
}

impl Drop for Sqlite {
    /// Ends the threads, so that the file is free when the lock is.
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
        self.checkpoints.close();
        let here = thread::current().id();
        for thread in self.threads.drain(..) {
            // A job may own the last handle, and no thread can join itself.
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Without this guarantee SQLite prepares a statement anew whenever a bound
    // value might have led to another plan, which is most of the time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Work for a database thread.
trait Job: Send {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;

    /// Runs against the transaction and keeps the answer; whether it is `Ok`.
    fn run(&mut self, tx: &mut Tx) -> bool;

    /// Replaces the answer by a failure of the store.
    fn fail(&mut self, error: StoreError);

    /// Hands the answer over.
    fn reply(self: Box<Self>);
}

struct Submitted<F, T, E> {
    job: F,
    answer: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

async fn submit<T, E, F>(queue: &Queue<Box<dyn Job>>, job: F) -> Result<T, E>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Submitted {
        job,
        answer: None,
        reply,
    };
    queue.push(Box::new(job));
    answer
        .await
        .unwrap_or_else(|_| Err(StoreError::Closed.into()))
}

impl<T, E, F> Job for Submitted<F, T, E>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, tx: &mut Tx) -> bool {
        let job = &mut self.job;
        // The transaction of a job that panicked is rolled back, so nobody
        // sees what it left behind.
        let polled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(tx).now_or_never()));
        let answer = match polled {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(StoreError::JobSuspended.into()),
            Err(_) => Err(StoreError::JobPanicked.into()),
        };
        self.answer.insert(answer).is_ok()
    }

    fn fail(&mut self, error: StoreError) {
        self.answer = Some(Err(error.into()));
    }

    fn reply(self: Box<Self>) {
        let answer = self
            .answer
            .unwrap_or_else(|| Err(StoreError::Closed.into()));
        // The caller may have gone; then nobody is told.
        drop(self.reply.send(answer));
    }
}
