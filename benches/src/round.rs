//! One round: every subject is measured in turn, under the same load.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;

use crate::cpu::{process_cpu_micros, process_rss_bytes};
use crate::interrupt;
use crate::load::{self, Plan, Reading};
use crate::samples::{Measure, Sample, Samples};
use crate::subject::{Fleet, Pace, Running, Setup};

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
    };
    /// Enough to see a regression, too little to publish.
    pub const SHORT: Self = Self {
        first_token_streams: 200,
        open_streams: 200,
        streams_per_client: 2,
        turns: 1_000,
        bursts: 40,
        left: 100,
    };
}

/// A part of the load, which can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Streams of one client.
    FirstToken,
    /// Many paced streams at once.
    Streams,
    /// One-token turns.
    Turns,
    /// Unpaced answers.
    Bursts,
    /// Streams whose client disconnects or stops them.
    Leaving,
}

impl Part {
    /// Every part, in the order of a round.
    pub const ALL: [Self; 5] = [
        Self::FirstToken,
        Self::Streams,
        Self::Turns,
        Self::Bursts,
        Self::Leaving,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstToken => "first-token",
            Self::Streams => "streams",
            Self::Turns => "turns",
            Self::Bursts => "bursts",
            Self::Leaving => "leaving",
        }
    }
}

/// Streams to read as a warm-up, so that connections, caches and prepared statements exist.
const WARM_UP_STREAMS: usize = 50;
/// Clients of the throughput run.
const TURN_CLIENTS: usize = 32;
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
            load,
            samples,
        };
        measuring
            .all(parts)
            .with_context(|| format!("{} in round {round}", running.subject.name()))?;
    }
    Ok(())
}

fn runtime() -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build()
}

struct Measuring<'a> {
    round: u32,
    running: &'a Running,
    provider: SocketAddr,
    load: &'a Load,
    samples: &'a mut Samples,
}

/// Processor time and memory of the subject in one run.
struct Cost {
    reading: Reading,
    cpu_micros: f64,
    generator_micros: f64,
    rss_growth_bytes: f64,
}

impl Measuring<'_> {
    fn all(&mut self, parts: &[Part]) -> anyhow::Result<()> {
        let idle = process_rss_bytes(self.running.pid())?;
        self.record(Measure::IdleRssKilobytes, as_f64(idle) / 1e3);
        self.run(&Pace::INSTANT, 1, Duration::ZERO, WARM_UP_STREAMS)?;
        for part in parts {
            match part {
                Part::FirstToken => self.first_token()?,
                Part::Streams => self.open_streams()?,
                Part::Turns => self.turns()?,
                Part::Bursts => self.bursts()?,
                Part::Leaving => self.leaving()?,
            }
        }
        Ok(())
    }

    fn first_token(&mut self) -> anyhow::Result<()> {
        let cost = self.run(
            &Pace::INSTANT,
            1,
            Duration::ZERO,
            self.load.first_token_streams,
        )?;
        let histogram = &cost.reading.first_token;
        self.record(
            Measure::FirstTokenP50Micros,
            quantile_micros(histogram, 0.5),
        );
        self.record(
            Measure::FirstTokenP99Micros,
            quantile_micros(histogram, 0.99),
        );
        Ok(())
    }

    fn open_streams(&mut self) -> anyhow::Result<()> {
        let clients = self.load.open_streams;
        let cost = self.run(
            &Pace::STEADY,
            clients,
            RAMP,
            clients * self.load.streams_per_client,
        )?;
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
        let cost = self.run(&Pace::INSTANT, TURN_CLIENTS, Duration::ZERO, turns)?;
        let turns = as_f64(turns as u64);
        self.record(Measure::TurnsPerCpuSecond, turns / (cost.cpu_micros / 1e6));
        self.record(
            Measure::TurnsPerSecond,
            turns / cost.reading.elapsed.as_secs_f64(),
        );
        Ok(())
    }

    fn bursts(&mut self) -> anyhow::Result<()> {
        let cost = self.run(
            &Pace::BURST,
            BURST_CLIENTS,
            Duration::ZERO,
            self.load.bursts,
        )?;
        self.record(
            Measure::BurstChunkCpuMicros,
            cost.cpu_micros / as_f64(cost.reading.chunks),
        );
        Ok(())
    }

    fn leaving(&mut self) -> anyhow::Result<()> {
        let (running, provider) = (self.running, self.provider);
        let (pace, count) = (&Pace::STEADY, self.load.left);
        let streams = runtime()?.block_on(running.prepare_streams(pace, count))?;
        let left = self.beside_a_crowd(load::leave(running.address(), provider, &streams))?;
        self.record(Measure::LeaveP50Micros, quantile_micros(&left, 0.5));
        self.record(Measure::LeaveP99Micros, quantile_micros(&left, 0.99));
        let streams = runtime()?.block_on(running.prepare_stops(pace, count))?;
        if !streams.is_empty() {
            let stopped = self.beside_a_crowd(load::stop(running.address(), provider, &streams))?;
            self.record(Measure::StopP50Micros, quantile_micros(&stopped, 0.5));
            self.record(Measure::StopP99Micros, quantile_micros(&stopped, 0.99));
        }
        Ok(())
    }

    /// Runs `work` while many streams are open.
    fn beside_a_crowd<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let clients = self.load.open_streams;
        let streams = clients * self.load.streams_per_client;
        let found = runtime()?.block_on(async {
            let crowd = self.plan(&Pace::STEADY, clients, RAMP, streams).await?;
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
    fn run(
        &self,
        pace: &Pace,
        clients: usize,
        ramp: Duration,
        streams: usize,
    ) -> anyhow::Result<Cost> {
        let runtime = runtime()?;
        let (subject, generator) = (self.running.pid(), std::process::id());
        runtime.block_on(async {
            let plan = self.plan(pace, clients, ramp, streams).await?;
            let rss = process_rss_bytes(subject)?;
            let (cpu, own) = (process_cpu_micros(subject)?, process_cpu_micros(generator)?);
            let (reading, peak) = with_peak_rss(subject, load::run(plan)).await?;
            interrupt::check()?;
            let (cpu_after, own_after) =
                (process_cpu_micros(subject)?, process_cpu_micros(generator)?);
            ensure!(
                reading.faithful == reading.streams,
                "{} of {} answers were not faithful, the first: {}",
                reading.streams - reading.faithful,
                reading.streams,
                reading.first_fault.as_deref().unwrap_or("unknown")
            );
            Ok(Cost {
                reading,
                cpu_micros: as_f64(cpu_after - cpu),
                generator_micros: as_f64(own_after - own),
                rss_growth_bytes: as_f64(peak.saturating_sub(rss)),
            })
        })
    }

    /// Streams that are prepared.
    async fn plan(
        &self,
        pace: &Pace,
        clients: usize,
        ramp: Duration,
        streams: usize,
    ) -> anyhow::Result<Plan> {
        Ok(Plan {
            target: self.running.address(),
            clients,
            ramp,
            requests: self.running.prepare_streams(pace, streams).await?,
            expected_chunks: pace.chunks,
        })
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

fn quantile_micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    as_f64(histogram.value_at_quantile(quantile)) / 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures of a benchmark stay far below 2^52"
)]
fn as_f64(value: u64) -> f64 {
    value as f64
}
