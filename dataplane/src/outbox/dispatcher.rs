//! Decides which partitions this process works on, and when (PLAT-36).

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use minichat_config::process::{self, OutboxKind};
use minichat_config::tenant::Sink;
use minichat_core::{Clock, TenantId};
use minichat_metrics::Metrics;
use minichat_provider::ProviderClient;
use minichat_store::{DueTenant, Store, StoreError};
use minichat_telemetry::Signal;
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::pass::Pass;
use super::records::Records;
use super::wake::Place;
use super::{Outbox, Survey, handler, survey};
use crate::config_source::Tenants;

/// How often everything that is due is looked for.
const POLL: Duration = Duration::from_secs(1);
/// After which time a partition that another process holds is tried again, and for
/// how long; then the poll finds it.
const HELD: Duration = Duration::from_millis(25);
const PATIENCE: Duration = Duration::from_secs(1);
/// How long what runs may take to end when the process does.
const GOODBYE: Duration = Duration::from_secs(5);
/// Deliveries at a time that are not slow, and those that are.
const HEALTHY: usize = 64;
const SLOW: usize = 1024;
/// How long delivered messages are kept, and how often older ones are removed.
const KEPT: Duration = Duration::from_hours(1);
const VACUUM: Duration = Duration::from_hours(1);
/// How long dead letters are kept that were delivered after all.
const KEPT_RESOLVED: Duration = Duration::from_hours(7 * 24);
/// Messages that one statement removes or acknowledges.
const BATCH: u32 = 500;

/// What passes and deliveries share.
pub(super) struct Shared {
    pub(super) records: Records,
    pub(super) outbox: Arc<Outbox>,
    pub(super) config: process::Outbox,
    pub(super) tenants: Arc<Tenants>,
    pub(super) metrics: Arc<dyn Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) client: ProviderClient,
    pub(super) survey: Arc<Survey>,
    pub(super) healthy: Arc<Semaphore>,
    pub(super) slow: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    /// Begins the tokens of this process.
    instance: String,
    claims: AtomicU64,
}

impl Shared {
    /// A token that no other claim has.
    pub(super) fn next_token(&self) -> String {
        let claim = self.claims.fetch_add(1, Ordering::Relaxed);
        format!("{}/{claim}", self.instance)
    }

    pub(super) fn wake(&self, (kind, partition): Place) {
        if let Some(wake) = self.outbox.wake() {
            wake.want(kind, partition);
        }
    }

    /// Wakes when a parked tenant is due.
    pub(super) fn wake_after(self: &Arc<Self>, wait: Duration, place: Place) {
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(shared) = shared.upgrade() {
                shared.wake(place);
            }
        });
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        // Those that have ended leave.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a dispatcher works with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) config: process::Outbox,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) client: ProviderClient,
    pub(crate) survey: Arc<Survey>,
}

/// When the dispatcher works next, and on what.
struct Times {
    poll: Instant,
    survey: Instant,
    surveyed: Instant,
    vacuum: Instant,
    /// For partitions that others hold.
    retry: Option<Instant>,
}

impl Times {
    const fn from(now: Instant) -> Self {
        Self {
            poll: now,
            survey: now,
            surveyed: now,
            vacuum: now,
            retry: None,
        }
    }
}

/// The dispatcher of a process.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    /// Partitions that are wanted, and since when another process holds them.
    wanted: HashMap<Place, Option<Instant>>,
    /// Partitions of which a pass runs, by its task.
    active: HashMap<Id, Place>,
    passes: JoinSet<()>,
    is_failing: bool,
}

impl Dispatcher {
    pub(crate) fn new(parts: Parts) -> Self {
        let shared = Shared {
            records: Records::of(parts.store),
            outbox: parts.outbox,
            config: parts.config,
            tenants: parts.tenants,
            metrics: parts.metrics,
            clock: parts.clock,
            client: parts.client,
            survey: parts.survey,
            healthy: Arc::new(Semaphore::new(HEALTHY)),
            slow: Arc::new(Semaphore::new(SLOW)),
            tasks: Mutex::default(),
            instance: Uuid::new_v4().as_simple().to_string(),
            claims: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            wanted: HashMap::new(),
            active: HashMap::new(),
            passes: JoinSet::new(),
            is_failing: false,
        }
    }

    /// Works until `stop` fires.
    async fn run(mut self, stop: Signal) {
        let mut times = Times::from(Instant::now());
        let outbox = Arc::clone(&self.shared.outbox);
        let survey = Arc::clone(&self.shared.survey);
        while !stop.is_fired() {
            tokio::select! {
                () = stop.fired() => break,
                () = wanted(&outbox) => {}
                () = survey.outdated() => times.survey = times.survey.min(times.surveyed + POLL),
                () = sleep_until(times.poll.min(times.survey)) => {}
                () = until(times.retry) => {}
                Some(ended) = self.passes.join_next_with_id() => self.ended(&ended),
            }
            // A database that hangs does not keep the process from ending. What was
            // claimed meanwhile is given back at the end.
            tokio::select! {
                () = stop.fired() => break,
                () = self.work(&mut times) => {}
            }
        }
        self.finish().await;
    }

    async fn work(&mut self, times: &mut Times) {
        let now = Instant::now();
        if now >= times.poll {
            let polled = self.poll().await;
            let is_more = matches!(polled, Ok(true));
            self.note(polled);
            times.poll = Instant::now() + if is_more { Duration::ZERO } else { POLL };
        }
        if now >= times.survey {
            self.survey().await;
            times.surveyed = Instant::now();
            times.survey = times.surveyed + survey::INTERVAL;
        }
        if now >= times.vacuum {
            self.shared.spawn(vacuum(Arc::clone(&self.shared)));
            times.vacuum = now + VACUUM;
        }
        times.retry = self.claim().await;
    }

    /// A pass ended, or panicked.
    fn ended(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.active.remove(&id);
    }

    fn note(&mut self, polled: Result<bool, StoreError>) {
        match polled {
            Ok(_) => self.is_failing = false,
            Err(error) => {
                if !self.is_failing {
                    tracing::warn!(%error, "events that are due cannot be looked for");
                }
                self.is_failing = true;
            }
        }
    }

    /// Finds everything that is due: the net for wake-ups that were lost, parked
    /// tenants, and events of other processes. Returns whether tenants without a sink
    /// have more events.
    async fn poll(&mut self) -> Result<bool, StoreError> {
        let mut is_more = false;
        for kind in OutboxKind::DELIVERED {
            let queue: Arc<str> = self.shared.outbox.queue(kind).into();
            let due = due(&self.shared, &queue).await?;
            let mut without_sink = Vec::new();
            for due in due {
                let Some(runtime) = self.shared.tenants.get(due.tenant_id) else {
                    continue;
                };
                match handler::sink(&runtime, kind) {
                    None => {}
                    Some(Sink::None) => without_sink.push(due.tenant_id),
                    Some(Sink::Log | Sink::Webhook(_)) => {
                        self.wanted.entry((kind, due.partition)).or_default();
                    }
                }
            }
            if !without_sink.is_empty() {
                is_more |= acknowledge_some(&self.shared, &queue, without_sink).await?;
            }
        }
        Ok(is_more)
    }

    /// Claims what is wanted and begins its passes. Returns when to try again what
    /// others hold.
    async fn claim(&mut self) -> Option<Instant> {
        if let Some(wake) = self.shared.outbox.wake() {
            for place in wake.take() {
                self.wanted.entry(place).or_default();
            }
        }
        let free = self.wanted.keys().filter(|it| !self.is_active(**it));
        let free: Vec<Place> = free.copied().collect();
        if free.is_empty() {
            return None;
        }
        let token = self.shared.next_token();
        let asked = Instant::now();
        let claimed = match claim(&self.shared, &free, &token).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::debug!(%error, "partitions cannot be claimed");
                HashSet::new()
            }
        };
        let now = Instant::now();
        for place in free {
            if claimed.contains(&place) {
                self.wanted.remove(&place);
                self.begin(place, token.clone(), asked);
                continue;
            }
            let since = self.wanted.entry(place).or_default();
            if *since.get_or_insert(now) + PATIENCE <= now {
                self.wanted.remove(&place);
            }
        }
        let is_held = self.wanted.keys().any(|it| !self.is_active(*it));
        is_held.then(|| now + jittered(HELD))
    }

    fn is_active(&self, place: Place) -> bool {
        self.active.values().any(|it| *it == place)
    }

    /// Begins a pass with a lease that was asked for at `asked`.
    fn begin(&mut self, place: Place, token: String, asked: Instant) {
        let pass = Pass {
            shared: Arc::clone(&self.shared),
            place,
            queue: self.shared.outbox.queue(place.0).into(),
            token,
            until: asked + self.shared.config.pass_lease() / 2,
        };
        let task = self.passes.spawn(pass.run());
        self.active.insert(task.id(), place);
    }

    async fn survey(&self) {
        let shared = &self.shared;
        let refreshed = shared
            .survey
            .refresh(
                &shared.records,
                &shared.outbox,
                &shared.metrics,
                shared.clock.now(),
            )
            .await;
        if let Err(error) = refreshed {
            tracing::debug!(%error, "the state of the outbox cannot be read");
        }
    }

    /// Gives the events of the last turns a chance, then gives everything back.
    async fn finish(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut slow = JoinSet::new();
        let last = async {
            while let Some(ended) = self.passes.join_next_with_id().await {
                self.ended(&ended);
            }
            let polled = self.poll().await;
            self.note(polled);
            self.claim().await;
            while self.passes.join_next().await.is_some() {}
            slow = std::mem::take(&mut *shared.tasks());
            while slow.join_next().await.is_some() {}
        };
        if timeout(GOODBYE, last).await.is_err() {
            tracing::info!("some deliveries are left to other processes, or to the next start");
        }
        self.passes.shutdown().await;
        slow.shutdown().await;
        let mut tasks = std::mem::take(&mut *shared.tasks());
        tasks.shutdown().await;
        let instance = shared.instance.clone();
        let released = shared.records.write(move |tx| {
            let released = tx.outbox_release_all(&instance);
            Box::pin(async move { released })
        });
        if !matches!(timeout(GOODBYE, released).await, Ok(Ok(()))) {
            tracing::warn!("leases are not given back; they end by themselves");
        }
    }
}

async fn wanted(outbox: &Outbox) {
    match outbox.wake() {
        Some(wake) => wake.wanted().await,
        None => pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// `wait` and up to as much again, so that processes that wait for one do not come
/// together.
fn jittered(wait: Duration) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    wait + Duration::from_micros(random % micros.saturating_add(1))
}

async fn due(shared: &Shared, queue: &Arc<str>) -> Result<Vec<DueTenant>, StoreError> {
    let queue = Arc::clone(queue);
    shared
        .records
        .read(move |tx| {
            let queue = Arc::clone(&queue);
            Box::pin(async move { tx.outbox_due(&queue).await })
        })
        .await
}

async fn claim(shared: &Shared, free: &[Place], token: &str) -> Result<HashSet<Place>, StoreError> {
    let wanted: Arc<[(String, u32)]> = free
        .iter()
        .map(|(kind, partition)| (shared.outbox.queue(*kind).to_owned(), *partition))
        .collect();
    let (names, token, lease) = (
        Arc::clone(&wanted),
        token.to_owned(),
        shared.config.pass_lease(),
    );
    let claimed = shared
        .records
        .write(move |tx| {
            let (names, token) = (Arc::clone(&names), token.clone());
            Box::pin(async move { tx.outbox_claim(&names, &token, lease).await })
        })
        .await?;
    let places = free.iter().zip(wanted.iter());
    let places = places.filter(|(_, name)| claimed.contains(name));
    Ok(places.map(|(place, _)| *place).collect())
}

/// Acknowledges events of tenants without a sink (PLAT-41), and returns whether there
/// may be more.
async fn acknowledge_some(
    shared: &Shared,
    queue: &Arc<str>,
    tenants: Vec<TenantId>,
) -> Result<bool, StoreError> {
    let (queue, tenants) = (Arc::clone(queue), Arc::<[TenantId]>::from(tenants));
    let marked = shared.records.write(move |tx| {
        let (queue, tenants) = (Arc::clone(&queue), Arc::clone(&tenants));
        Box::pin(async move { tx.outbox_acknowledge_all(&queue, &tenants, BATCH).await })
    });
    Ok(marked.await? >= BATCH as usize)
}

/// Removes messages that were delivered long ago, and adds usage up (PLAT-21).
async fn vacuum(shared: Arc<Shared>) {
    let mut after = 0;
    loop {
        let queue = shared.outbox.queue(OutboxKind::Usage).to_owned();
        let vacuumed = shared.records.write(move |tx| {
            let queue = queue.clone();
            Box::pin(async move { tx.outbox_vacuum(&queue, after, KEPT, BATCH).await })
        });
        match vacuumed.await {
            Ok(Some(vacuumed)) => after = vacuumed.last,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "delivered events cannot be removed; the next hour tries again");
                return;
            }
        }
    }
    let letters = shared.records.write(|tx| {
        let removed = tx.outbox_vacuum_dead_letters(KEPT_RESOLVED);
        Box::pin(async move { removed })
    });
    if let Err(error) = letters.await {
        tracing::warn!(%error, "old dead letters cannot be removed; the next hour tries again");
    }
}

/// The dispatcher's task.
pub(crate) struct DispatcherHost {
    stop: Signal,
    task: JoinHandle<()>,
}

impl DispatcherHost {
    pub(crate) fn start(dispatcher: Dispatcher) -> Self {
        let stop = Signal::new();
        let task = tokio::spawn(dispatcher.run(stop.clone()));
        Self { stop, task }
    }

    /// Delivers what it can in a few seconds, and ends.
    pub(crate) async fn stop(self) {
        self.stop.fire();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the dispatcher of events panicked");
        }
    }
}
