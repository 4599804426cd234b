//! Decides which partitions this process works on, and when (PLAT-36).

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use minichat_config::process::OutboxKind;
use minichat_store::StoreError;
use minichat_telemetry::Signal;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::handler::Target;
use super::pass::{Pass, PassEnd};
use super::shared::{Parts, Shared};
use super::turns::{self, Turns};
use super::wake::Place;
use super::{Outbox, backoff, handler, survey, vacuum};

/// How often everything that is due is looked for.
const POLL: Duration = Duration::from_secs(1);
/// After which time, at most, a partition that another process holds is tried again,
/// and for how long; then the poll finds it.
const HELD: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(1);
/// How long what runs may take to end when the process does.
const GOODBYE: Duration = Duration::from_secs(5);
/// Messages of tenants without a sink that one statement acknowledges.
const BATCH: u32 = 500;

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
    turns: Turns,
    passes: JoinSet<PassEnd>,
    is_failing: bool,
}

impl Dispatcher {
    pub(crate) fn new(parts: Parts) -> Self {
        // Only one process has a file.
        let pause = if parts.store.is_sqlite() {
            Duration::ZERO
        } else {
            turns::BREAK
        };
        Self {
            shared: Arc::new(Shared::of(parts)),
            wanted: HashMap::new(),
            active: HashMap::new(),
            turns: Turns::with_break(pause),
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
            let vacuum = vacuum::vacuum(Arc::clone(&self.shared));
            self.shared.tasks.spawn(vacuum);
            times.vacuum = now + vacuum::INTERVAL;
        }
        times.retry = self.claim().await;
    }

    /// A pass ended, or panicked.
    fn ended(&mut self, ended: &Result<(Id, PassEnd), JoinError>) {
        let (id, end) = match ended {
            Ok((id, end)) => (*id, *end),
            Err(error) => (error.id(), PassEnd::Done),
        };
        let Some(place) = self.active.remove(&id) else {
            return;
        };
        self.turns.end(place, Instant::now());
        if end == PassEnd::TimeIsOver {
            self.wanted.entry(place).or_default();
        }
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
            let due = self.shared.records.due(&queue).await?;
            let mut without_sink = Vec::new();
            for due in due {
                let Some(runtime) = self.shared.tenants.get(due.tenant_id) else {
                    continue;
                };
                match handler::target(&self.shared, &runtime, kind) {
                    None => {}
                    Some(Target::Nobody) => without_sink.push(due.tenant_id),
                    Some(Target::Sink(_) | Target::Summarizer(_)) => {
                        self.wanted.entry((kind, due.partition)).or_default();
                    }
                }
            }
            if !without_sink.is_empty() {
                let records = &self.shared.records;
                let marked = records.acknowledge_all(&queue, without_sink, BATCH);
                is_more |= marked.await? >= BATCH as usize;
            }
        }
        Ok(is_more)
    }

    /// Claims what is wanted and begins its passes. Returns when to try again what
    /// others hold, or what is left to others for a moment.
    async fn claim(&mut self) -> Option<Instant> {
        if let Some(wake) = self.shared.outbox.wake() {
            for place in wake.take() {
                self.wanted.entry(place).or_default();
            }
        }
        let asked = Instant::now();
        let wanted = self.wanted.keys().copied();
        let wanted: Vec<Place> = wanted.filter(|it| !self.is_active(*it)).collect();
        let (later, free): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|it| self.turns.free_at(*it).is_some_and(|at| at > asked));
        let mut retry = later.iter().filter_map(|it| self.turns.free_at(*it)).min();
        if free.is_empty() {
            return retry;
        }
        let token = self.shared.next_token();
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
            } else {
                let again = now + backoff::jittered(HELD);
                retry = Some(retry.map_or(again, |at| at.min(again)));
            }
        }
        retry
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
            until: asked + turns::TURN.min(self.shared.config.pass_lease() / 2),
        };
        self.turns.begin(place, asked);
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
        // There is no next turn to wait for.
        self.turns = Turns::with_break(Duration::ZERO);
        let mut slow = JoinSet::new();
        let last = async {
            while let Some(ended) = self.passes.join_next_with_id().await {
                self.ended(&ended);
            }
            let polled = self.poll().await;
            self.note(polled);
            self.claim().await;
            while self.passes.join_next().await.is_some() {}
            slow = shared.tasks.take();
            while slow.join_next().await.is_some() {}
        };
        if timeout(GOODBYE, last).await.is_err() {
            tracing::info!("some deliveries are left to other processes, or to the next start");
        }
        self.passes.shutdown().await;
        slow.shutdown().await;
        shared.tasks.take().shutdown().await;
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

async fn claim(shared: &Shared, free: &[Place], token: &str) -> Result<HashSet<Place>, StoreError> {
    let wanted: Arc<[(String, u32)]> = free
        .iter()
        .map(|(kind, partition)| (shared.outbox.queue(*kind).to_owned(), *partition))
        .collect();
    let lease = shared.config.pass_lease();
    let claimed = shared.records.claim(&wanted, token, lease).await?;
    let places = free.iter().zip(wanted.iter());
    let places = places.filter(|(_, name)| claimed.contains(name));
    Ok(places.map(|(place, _)| *place).collect())
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
