//! The threads that serve connections.
//!
//! Each thread has its own runtime. A connection, its turns and their connections to
//! the provider stay on one thread, so a chunk of an answer wakes one thread. A
//! runtime with several threads would wake another thread whenever two tasks are
//! ready, and this thread would mostly find nothing to do.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// When dropped, ends the threads and everything that still runs on them.
#[derive(Debug)]
pub struct Workers(Vec<Worker>);

/// The runtimes of [`Workers`].
#[derive(Clone, Debug, Default)]
pub struct Runtimes(Vec<Handle>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// One thread per core that this process may use. Errors come from the
    /// operating system.
    pub fn per_core() -> io::Result<Self> {
        Self::start(thread::available_parallelism()?.get())
    }

    /// Starts `count` threads.
    pub fn start(count: usize) -> io::Result<Self> {
        let workers = (0..count).map(Worker::start);
        workers.collect::<io::Result<_>>().map(Self)
    }

    /// Where connections can be served.
    pub fn runtimes(&self) -> Runtimes {
        let runtimes = self.0.iter().map(|worker| worker.runtime.clone());
        Runtimes(runtimes.collect())
    }
}

impl Runtimes {
    /// The runtime with the fewest tasks (connections and turns).
    pub(crate) fn idlest(&self) -> Option<&Handle> {
        let runtimes = self.0.iter();
        runtimes.min_by_key(|runtime| runtime.metrics().num_alive_tasks())
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                // Nothing is ever sent. Dropping the sender ends the thread.
                let _ = runtime.block_on(stopped);
                // Does not wait for DNS lookups that are still running.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        let thread = self.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread that served connections panicked");
        }
    }
}
