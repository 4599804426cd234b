//! A scripted provider over real sockets (PLAT-122). It speaks the Responses
//! API and chat completions, streamed or not, with the events and members of
//! the real ones.
//! Without instructions, the last user text chooses the answer ([`script`]). A
//! model such as `paced-ttft50-chunks100-interval20` sets the pace instead
//! ([`pace`]). One-shot [`Scenario`]s override both. A test queues them
//! directly, or over `/_control/…` if the provider is another process
//! ([`control`]).
//! Connections are kept alive unless a scenario says otherwise. Every
//! connection and stream is counted, so that a disconnect can be observed.

mod answer;
mod call;
mod chat_completions;
mod control;
mod errors;
mod files;
mod form;
mod models;
mod pace;
mod reading;
mod recorded;
mod responses;
mod scenario;
mod script;
mod server;
mod short;
mod stats;
mod steps;
mod usage;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use call::Call;
pub use recorded::RecordedRequest;
pub use scenario::{Ending, Reading, Scenario, Tokens, UsageDetails};
pub use stats::StatsSnapshot;

use files::Files;
use stats::Stats;

/// A running scripted provider. It stops accepting connections when dropped.
#[derive(Debug)]
pub struct ScriptedProvider {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// The state that all connections share.
#[derive(Debug)]
struct Shared {
    scenarios: Mutex<VecDeque<Scenario>>,
    requests: Mutex<Vec<RecordedRequest>>,
    files: Mutex<Files>,
    drops_files: AtomicBool,
    stats: Arc<Stats>,
    /// Generations so far.
    answers: AtomicU64,
    /// One permit lets one held answer continue.
    releases: Arc<Semaphore>,
}

impl ScriptedProvider {
    /// Starts on a free port of the loopback interface.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts on `addr`.
    pub async fn start_on(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            scenarios: Mutex::default(),
            requests: Mutex::default(),
            files: Mutex::default(),
            drops_files: AtomicBool::new(false),
            stats: Arc::default(),
            answers: AtomicU64::default(),
            releases: Arc::new(Semaphore::new(0)),
        });
        let accepting = tokio::spawn(server::accept(listener, Arc::clone(&shared)));
        Ok(Self {
            addr,
            shared,
            accepting,
        })
    }

    /// Queues `scenario` for the next matching request.
    pub fn push_scenario(&self, scenario: Scenario) {
        self.shared.push_scenario(scenario);
    }

    /// Forgets the scenarios that no request has taken.
    pub fn clear_scenarios(&self) {
        lock(&self.shared.scenarios).clear();
    }

    /// Every recorded request, oldest first. Requests for paced models are not
    /// recorded, because benchmarks make too many.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests().clone()
    }

    /// The current counters.
    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// Waits until the counters satisfy `condition`.
    pub async fn wait_until(&self, condition: impl Fn(&StatsSnapshot) -> bool) -> StatsSnapshot {
        self.shared.stats.wait_until(condition).await
    }

    /// The content of the file `id`.
    pub fn file(&self, id: &str) -> Option<bytes::Bytes> {
        self.shared.files().content(id)
    }

    /// From now on, uploaded files are read and counted, but not kept, and their
    /// requests are not recorded. A benchmark uploads more than fits into memory.
    pub fn drop_files(&self) {
        self.shared.drops_files.store(true, Ordering::Relaxed);
    }

    /// The ids of all files and of all vector stores.
    pub fn stored(&self) -> (Vec<String>, Vec<String>) {
        self.shared.files().ids()
    }

    /// The files in vector stores, each with its store before it.
    pub fn indexed(&self) -> Vec<(String, String)> {
        self.shared.files().indexed()
    }

    /// Lets `count` held answers continue, now or as soon as they hold.
    pub fn release(&self, count: usize) {
        self.shared.releases.add_permits(count);
    }

    /// Forgets scenarios, requests, files, releases and past counts. Ids begin
    /// from the first again.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Serves until the listener fails.
    pub async fn run(mut self) {
        // The only error is a panic of the accept loop, which was printed.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for ScriptedProvider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn push_scenario(&self, scenario: Scenario) {
        let mut scenarios = lock(&self.scenarios);
        for _ in 1..scenario.times {
            scenarios.push_back(scenario.clone());
        }
        scenarios.push_back(scenario);
    }

    /// Takes the oldest scenario that matches a request.
    fn take_scenario(&self, method: &str, path: &str, is_generation: bool) -> Option<Scenario> {
        let mut scenarios = lock(&self.scenarios);
        let fits = scenarios
            .iter()
            .position(|scenario| scenario.fits(method, path, is_generation))?;
        scenarios.remove(fits)
    }

    fn requests(&self) -> MutexGuard<'_, Vec<RecordedRequest>> {
        lock(&self.requests)
    }

    fn drops_files(&self) -> bool {
        self.drops_files.load(Ordering::Relaxed)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    fn reset(&self) {
        lock(&self.scenarios).clear();
        self.requests().clear();
        *self.files() = Files::default();
        self.releases
            .forget_permits(self.releases.available_permits());
        self.answers.store(0, Ordering::Relaxed);
        self.stats.reset();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
