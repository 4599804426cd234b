//! One round: every subject is measured in turn, under the same load.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;

use crate::cpu::{process_cpu_micros, process_rss_bytes};
use crate::interrupt;
use crate::load::{self, Plan, Reading};
use crate::network::Network;
use crate::postgres::Postgres;
use crate::samples::{Measure, Sample, Samples};
use crate::subject::{Fleet, Pace, Running, Setup, Subject};

/// How much load a round puts on each subject.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Streams of one client, one after the other.
    pub first_token_streams: usize,
    /// Open streams of the loaded run.
    pub open_streams: usize,
    /// Streams that each of these clients reads, one after the other.
    pub streams_per_client: usize,
    /// One-token turns of the throughput run.
    pub turns: usize,
    /// Unpaced answers.
    pub bursts: usize,
    /// Streams whose client disconnects at the first token, one after the other, while the others run.
    pub left: usize,
    /// Seconds of `pgbench`.
    pub pgbench_seconds: u32,
}

impl Load {
    /// The load whose figures are published.
    pub const FULL: Self = Self {
        first_token_streams: 500,
        open_streams: 200,
        streams_per_client: 4,
        turns: 4_000,
        bursts: 100,
        left: 200,
        pgbench_seconds: 5,
    };
    /// Enough to see a regression, too little to publish.
    pub const SHORT: Self = Self {
        first_token_streams: 200,
        open_streams: 200,
        streams_per_client: 2,
        turns: 1_000,
        bursts: 40,
        left: 100,
        pgbench_seconds: 2,
    };
}

/// A part of the load, which can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Streams of one client.
    FirstToken,
    /// Many paced streams at once.
    Streams,
    /// One-token turns of many users.
    Turns,
    /// One-token turns of one user.
    OneUser,
    /// Unpaced answers.
    Bursts,
    /// Streams whose client disconnects or stops them.
    Leaving,
}

impl Part {
    /// Every part, in the order of a round.
    pub const ALL: [Self; 6] = [
        Self::FirstToken,
        Self::Streams,
        Self::Turns,
        Self::OneUser,
        Self::Bursts,
        Self::Leaving,
    ];

    /// Whether it is measured on `subject`: the network and the earlier commit only where they are compared.
    fn is_for(self, subject: Subject) -> bool {
        match self {
            Self::FirstToken | Self::Turns => true,
            Self::OneUser => subject.is_dataplane() && !subject.is_remote(),
            Self::Streams | Self::Bursts | Self::Leaving => {
                !subject.is_remote() && subject.after().is_none()
            }
        }
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstToken => "first-token",
            Self::Streams => "streams",
            Self::Turns => "turns",
            Self::OneUser => "one-user",
            Self::Bursts => "bursts",
            Self::Leaving => "leaving",
        }
    }
}

/// Streams to read as a warm-up, so that connections, caches and prepared statements exist.
const WARM_UP_STREAMS: usize = 50;
/// Clients of the throughput run.
const TURN_CLIENTS: usize = 32;
/// Users of every run with more than one client, unless it is about one user.
const USERS: usize = 1_000;
/// Clients of the unpaced run.
const BURST_CLIENTS: usize = 4;
/// Time over which the clients of the loaded run start: one answer's length.
const RAMP: Duration = Duration::from_secs(2);
/// How often resident memory is read while streams are open.
const RSS_INTERVAL: Duration = Duration::from_millis(200);

/// Starts the subjects and measures each of them. The order rotates with the round, so that changes of the machine over
/// time affect all subjects alike.
pub fn measure(
    round: u32,
    setup: &Setup,
    load: &Load,
    parts: &[Part],
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let fleet = Fleet::start(setup)?;
    let is_wanted = |running: &&Running| setup.subjects.contains(&running.subject);
    let mut order: Vec<&Running> = fleet.running().iter().filter(is_wanted).collect();
    let shift = round as usize % order.len();
    order.rotate_left(shift);
    for running in order {
        let mut measuring = Measuring {
            round,
            running,
            provider: fleet.provider(),
            postgres: setup.postgres.as_ref(),
            load,
            samples,
        };
        measuring
            .all(parts)
            .with_context(|| format!("{} in round {round}", running.subject.name()))?;
    }
    Ok(())
}

pub(crate) fn runtime() -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build()
}

struct Measuring<'a> {
    round: u32,
    running: &'a Running,
    provider: SocketAddr,
    postgres: Option<&'a Postgres>,
    load: &'a Load,
    samples: &'a mut Samples,
}

/// Streams to run.
#[derive(Clone, Copy)]
struct Streams<'a> {
    pace: &'a Pace,
    clients: usize,
    /// As [`Plan::ramp`].
    ramp: Duration,
    count: usize,
    users: usize,
}

impl<'a> Streams<'a> {
    const fn at_once(pace: &'a Pace, clients: usize, count: usize, users: usize) -> Self {
        Self {
            pace,
            clients,
            ramp: Duration::ZERO,
            count,
            users,
        }
    }
}

/// Processor time and memory of the subject in one run.
struct Cost {
    reading: Reading,
    cpu_micros: f64,
    generator_micros: f64,
    rss_growth_bytes: f64,
    /// To PostgreSQL, if there is a network between.
    round_trips: u64,
}

impl Measuring<'_> {
    fn all(&mut self, parts: &[Part]) -> anyhow::Result<()> {
        let idle = process_rss_bytes(self.running.pid())?;
        self.record(Measure::IdleRssKilobytes, as_f64(idle) / 1e3);
        self.run(Streams::at_once(&Pace::INSTANT, 1, WARM_UP_STREAMS, 1))?;
        let subject = self.running.subject;
        let mut has_users = !subject.is_dataplane();
        for part in parts.iter().filter(|part| part.is_for(subject)) {
            let is_of_one = matches!(part, Part::FirstToken | Part::OneUser);
            if !is_of_one && !std::mem::replace(&mut has_users, true) {
                // The first turn of a user makes rows that the others find.
                self.run(Streams::at_once(&Pace::INSTANT, TURN_CLIENTS, USERS, USERS))?;
            }
            match part {
                Part::FirstToken => self.first_token()?,
                Part::Streams => self.open_streams()?,
                Part::Turns => self.turns()?,
                Part::OneUser => self.one_user()?,
                Part::Bursts => self.bursts()?,
                Part::Leaving => self.leaving()?,
            }
        }
        Ok(())
    }

    fn first_token(&mut self) -> anyhow::Result<()> {
        let turns = self.load.first_token_streams;
        let cost = self.run(Streams::at_once(&Pace::INSTANT, 1, turns, 1))?;
        let histogram = &cost.reading.first_token;
        self.record(
            Measure::FirstTokenP50Micros,
            quantile_micros(histogram, 0.5),
        );
        self.record(
            Measure::FirstTokenP99Micros,
            quantile_micros(histogram, 0.99),
        );
        if let Some(network) = &self.running.network {
            let transit = as_f64(network.median_transit_nanos()) / 1e3;
            let trips = as_f64(cost.round_trips) / as_f64(turns as u64);
            self.record(Measure::RoundTripsPerTurn, trips);
            self.record(Measure::NetworkP50Micros, transit);
        }
        Ok(())
    }

    fn open_streams(&mut self) -> anyhow::Result<()> {
        let clients = self.load.open_streams;
        let cost = self.run(self.crowd())?;
        let reading = &cost.reading;
        self.record(
            Measure::LoadedFirstTokenP50Micros,
            quantile_micros(&reading.first_token, 0.5),
        );
        self.record(
            Measure::LoadedFirstTokenP99Micros,
            quantile_micros(&reading.first_token, 0.99),
        );
        self.record(
            Measure::ChunkP50Micros,
            quantile_micros(&reading.chunk, 0.5),
        );
        self.record(
            Measure::ChunkP99Micros,
            quantile_micros(&reading.chunk, 0.99),
        );
        self.record(
            Measure::ChunkCpuMicros,
            cost.cpu_micros / as_f64(reading.chunks),
        );
        self.record(
            Measure::StreamRssKilobytes,
            cost.rss_growth_bytes / 1e3 / as_f64(clients as u64),
        );
        let elapsed_micros = reading.elapsed.as_secs_f64() * 1e6;
        self.record(
            Measure::GeneratorPercent,
            cost.generator_micros / elapsed_micros * 100.0,
        );
        Ok(())
    }

    fn turns(&mut self) -> anyhow::Result<()> {
        let turns = self.load.turns;
        let cost = self.run(Streams::at_once(&Pace::INSTANT, TURN_CLIENTS, turns, USERS))?;
        let turns = as_f64(turns as u64);
        self.record(Measure::TurnsPerCpuSecond, turns / (cost.cpu_micros / 1e6));
        self.record(
            Measure::TurnsPerSecond,
            turns / cost.reading.elapsed.as_secs_f64(),
        );
        if let (Subject::Postgres, Some(postgres)) = (self.running.subject, self.postgres) {
            let rate = postgres.pgbench(self.load.pgbench_seconds)?;
            self.record(Measure::PgbenchPerSecond, rate);
        }
        Ok(())
    }

    /// What one user's turns wait for is sampled in a run of its own, which samples do not slow down the measured one.
    fn one_user(&mut self) -> anyhow::Result<()> {
        let turns = self.load.turns / 2;
        let streams = Streams::at_once(&Pace::INSTANT, TURN_CLIENTS, turns, 1);
        let cost = self.run(streams)?;
        self.record(
            Measure::OneUserTurnsPerSecond,
            as_f64(turns as u64) / cost.reading.elapsed.as_secs_f64(),
        );
        if let (Subject::Postgres, Some(postgres)) = (self.running.subject, self.postgres) {
            let directory = tempfile::tempdir()?;
            let database = self.running.subject.database();
            let sampling = postgres.sample_waits(&database, directory.path())?;
            self.run(streams)?;
            self.samples.one_user_waits.add(&sampling.end()?);
        }
        Ok(())
    }

    fn bursts(&mut self) -> anyhow::Result<()> {
        let bursts = self.load.bursts;
        let cost = self.run(Streams::at_once(&Pace::BURST, BURST_CLIENTS, bursts, USERS))?;
        self.record(
            Measure::BurstChunkCpuMicros,
            cost.cpu_micros / as_f64(cost.reading.chunks),
        );
        Ok(())
    }

    fn leaving(&mut self) -> anyhow::Result<()> {
        let (running, provider) = (self.running, self.provider);
        let (pace, count) = (&Pace::STEADY, self.load.left);
        let streams = runtime()?.block_on(running.prepare_streams(pace, count, USERS))?;
        let left = self.beside_a_crowd(load::leave(running.address(), provider, &streams))?;
        self.record(Measure::LeaveP50Micros, quantile_micros(&left, 0.5));
        self.record(Measure::LeaveP99Micros, quantile_micros(&left, 0.99));
        let streams = runtime()?.block_on(running.prepare_stops(pace, count, USERS))?;
        if !streams.is_empty() {
            let stopped = self.beside_a_crowd(load::stop(running.address(), provider, &streams))?;
            self.record(Measure::StopP50Micros, quantile_micros(&stopped, 0.5));
            self.record(Measure::StopP99Micros, quantile_micros(&stopped, 0.99));
        }
        Ok(())
    }

    /// Many paced streams.
    fn crowd(&self) -> Streams<'static> {
        let clients = self.load.open_streams;
        Streams {
            pace: &Pace::STEADY,
            clients,
            ramp: RAMP,
            count: clients * self.load.streams_per_client,
            users: USERS,
        }
    }

    /// Runs `work` while many streams are open.
    fn beside_a_crowd<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let found = runtime()?.block_on(async {
            let crowd = self.plan(self.crowd()).await?;
            let work = async {
                tokio::time::sleep(RAMP).await;
                work.await
            };
            let (crowd, found) = tokio::join!(load::run(crowd), work);
            crowd?;
            found
        })?;
        interrupt::check()?;
        Ok(found)
    }

    /// Prepares and runs the streams. Reads the processor time of the subject and of this process before and after. An
    /// incorrect stream fails the benchmark.
    fn run(&self, streams: Streams<'_>) -> anyhow::Result<Cost> {
        let runtime = runtime()?;
        let (subject, generator) = (self.running.pid(), std::process::id());
        runtime.block_on(async {
            let plan = self.plan(streams).await?;
            let trips = self.round_trips();
            let rss = process_rss_bytes(subject)?;
            let (cpu, own) = (process_cpu_micros(subject)?, process_cpu_micros(generator)?);
            let (reading, peak) = with_peak_rss(subject, load::run(plan)).await?;
            interrupt::check()?;
            let (cpu_after, own_after) =
                (process_cpu_micros(subject)?, process_cpu_micros(generator)?);
            reading.ensure_faithful()?;
            Ok(Cost {
                reading,
                cpu_micros: as_f64(cpu_after - cpu),
                generator_micros: as_f64(own_after - own),
                rss_growth_bytes: as_f64(peak.saturating_sub(rss)),
                round_trips: self.round_trips() - trips,
            })
        })
    }

    /// Streams that are prepared.
    async fn plan(&self, streams: Streams<'_>) -> anyhow::Result<Plan> {
        let Streams {
            pace,
            clients,
            ramp,
            count,
            users,
        } = streams;
        Ok(Plan {
            target: self.running.address(),
            clients,
            ramp,
            requests: self.running.prepare_streams(pace, count, users).await?,
            expected_chunks: pace.chunks,
        })
    }

    fn round_trips(&self) -> u64 {
        let network = self.running.network.as_ref();
        network.map_or(0, Network::round_trips)
    }

    fn record(&mut self, measure: Measure, value: f64) {
        let subject = self.running.subject;
        self.samples.push(Sample {
            round: self.round,
            subject,
            measure,
            value,
        });
    }
}

/// Runs the load and reads the subject's memory meanwhile; returns the largest value in bytes.
async fn with_peak_rss(
    pid: u32,
    run: impl Future<Output = anyhow::Result<Reading>>,
) -> anyhow::Result<(Reading, u64)> {
    let mut peak = 0;
    let mut run = std::pin::pin!(run);
    let mut interval = tokio::time::interval(RSS_INTERVAL);
    loop {
        tokio::select! {
            reading = &mut run => return Ok((reading?, peak)),
            _ = interval.tick() => {
                interrupt::check()?;
                peak = peak.max(process_rss_bytes(pid)?);
            }
        }
    }
}

pub(crate) fn quantile_micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    as_f64(histogram.value_at_quantile(quantile)) / 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures of a benchmark stay far below 2^52"
)]
pub(crate) fn as_f64(value: u64) -> f64 {
    value as f64
}
