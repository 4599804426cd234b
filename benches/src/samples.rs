//! The figures of all rounds: one number per round, subject and measure.

use crate::subject::Subject;
use crate::waits::Waits;

/// A measure. Its name contains the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Time to the first token, one client.
    FirstTokenP50Micros,
    /// The same, slowest hundredth.
    FirstTokenP99Micros,
    /// Time to the first token while 200 streams run.
    LoadedFirstTokenP50Micros,
    /// The same, slowest hundredth.
    LoadedFirstTokenP99Micros,
    /// One-way latency of a chunk while 200 streams run.
    ChunkP50Micros,
    /// The same, slowest hundredth.
    ChunkP99Micros,
    /// Processor time of the subject per chunk while 200 streams run.
    ChunkCpuMicros,
    /// Processor time of the subject per chunk of an unpaced answer.
    BurstChunkCpuMicros,
    /// One-token turns per second of the subject's processor time.
    TurnsPerCpuSecond,
    /// One-token turns per second.
    TurnsPerSecond,
    /// One-token turns per second, all of one user.
    OneUserTurnsPerSecond,
    /// Transactions per second of `pgbench` on the same server.
    PgbenchPerSecond,
    /// Round trips to PostgreSQL per one-token turn.
    RoundTripsPerTurn,
    /// Time of a chunk between data plane and PostgreSQL, one way.
    NetworkP50Micros,
    /// From a client's disconnect until the provider connection is closed, while 200 streams run.
    LeaveP50Micros,
    /// The same, slowest hundredth.
    LeaveP99Micros,
    /// From a client's stop request until the provider connection is closed, while 200 streams run.
    StopP50Micros,
    /// The same, slowest hundredth.
    StopP99Micros,
    /// Resident memory of the fresh process.
    IdleRssKilobytes,
    /// Growth of resident memory per stream while 200 streams run.
    StreamRssKilobytes,
    /// Processor time of the load generator per second of the run with 200 streams, in percent of one core.
    GeneratorPercent,
}

impl Measure {
    /// Every measure, in the order of the report.
    pub const ALL: [Self; 21] = [
        Self::FirstTokenP50Micros,
        Self::FirstTokenP99Micros,
        Self::LoadedFirstTokenP50Micros,
        Self::LoadedFirstTokenP99Micros,
        Self::ChunkP50Micros,
        Self::ChunkP99Micros,
        Self::ChunkCpuMicros,
        Self::BurstChunkCpuMicros,
        Self::TurnsPerCpuSecond,
        Self::TurnsPerSecond,
        Self::OneUserTurnsPerSecond,
        Self::PgbenchPerSecond,
        Self::RoundTripsPerTurn,
        Self::NetworkP50Micros,
        Self::LeaveP50Micros,
        Self::LeaveP99Micros,
        Self::StopP50Micros,
        Self::StopP99Micros,
        Self::IdleRssKilobytes,
        Self::StreamRssKilobytes,
        Self::GeneratorPercent,
    ];

    /// Name in the CSV file.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstTokenP50Micros => "first_token_p50_us",
            Self::FirstTokenP99Micros => "first_token_p99_us",
            Self::LoadedFirstTokenP50Micros => "loaded_first_token_p50_us",
            Self::LoadedFirstTokenP99Micros => "loaded_first_token_p99_us",
            Self::ChunkP50Micros => "chunk_p50_us",
            Self::ChunkP99Micros => "chunk_p99_us",
            Self::ChunkCpuMicros => "chunk_cpu_us",
            Self::BurstChunkCpuMicros => "burst_chunk_cpu_us",
            Self::TurnsPerCpuSecond => "turns_per_cpu_second",
            Self::TurnsPerSecond => "turns_per_second",
            Self::OneUserTurnsPerSecond => "one_user_turns_per_second",
            Self::PgbenchPerSecond => "pgbench_per_second",
            Self::RoundTripsPerTurn => "round_trips_per_turn",
            Self::NetworkP50Micros => "network_p50_us",
            Self::LeaveP50Micros => "leave_p50_us",
            Self::LeaveP99Micros => "leave_p99_us",
            Self::StopP50Micros => "stop_p50_us",
            Self::StopP99Micros => "stop_p99_us",
            Self::IdleRssKilobytes => "idle_rss_kb",
            Self::StreamRssKilobytes => "stream_rss_kb",
            Self::GeneratorPercent => "generator_cpu_percent",
        }
    }

    /// Heading in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::FirstTokenP50Micros => "first token, one client, p50 (µs)",
            Self::FirstTokenP99Micros => "first token, one client, p99 (µs)",
            Self::LoadedFirstTokenP50Micros => "first token, 200 streams, p50 (µs)",
            Self::LoadedFirstTokenP99Micros => "first token, 200 streams, p99 (µs)",
            Self::ChunkP50Micros => "chunk latency, 200 streams, p50 (µs)",
            Self::ChunkP99Micros => "chunk latency, 200 streams, p99 (µs)",
            Self::ChunkCpuMicros => "CPU per chunk, 200 streams (µs)",
            Self::BurstChunkCpuMicros => "CPU per chunk, unpaced (µs)",
            Self::TurnsPerCpuSecond => "one-token turns per CPU-second",
            Self::TurnsPerSecond => "one-token turns per second",
            Self::OneUserTurnsPerSecond => "one-token turns per second, one user",
            Self::PgbenchPerSecond => "pgbench transactions per second",
            Self::RoundTripsPerTurn => "round trips to PostgreSQL per turn",
            Self::NetworkP50Micros => "network to PostgreSQL, one way, p50 (µs)",
            Self::LeaveP50Micros => "client leaves, provider left, 200 streams, p50 (µs)",
            Self::LeaveP99Micros => "client leaves, provider left, 200 streams, p99 (µs)",
            Self::StopP50Micros => "client stops, provider left, 200 streams, p50 (µs)",
            Self::StopP99Micros => "client stops, provider left, 200 streams, p99 (µs)",
            Self::IdleRssKilobytes => "idle RSS (kB)",
            Self::StreamRssKilobytes => "RSS per open stream (kB)",
            Self::GeneratorPercent => "load generator, 200 streams (% of a core)",
        }
    }
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Round, from 1.
    pub round: u32,
    /// The subject that was measured.
    pub subject: Subject,
    /// The measure.
    pub measure: Measure,
    /// The figure, in the unit of the measure.
    pub value: f64,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Samples {
    samples: Vec<Sample>,
    /// What sessions of PostgreSQL waited for while one user had many turns at once.
    pub one_user_waits: Waits,
}

/// Median, smallest and largest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Smallest value.
    pub min: f64,
    /// Value in the middle.
    pub median: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` if there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(*values.get(middle.checked_sub(1)?)?, values[middle])
        } else {
            values[middle]
        };
        Some(Self {
            min: *values.first()?,
            median,
            max: *values.last()?,
        })
    }
}

impl Samples {
    /// Adds one figure.
    pub fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// All figures, in the order in which they were measured.
    pub fn all(&self) -> &[Sample] {
        &self.samples
    }

    /// The figures with those of the earlier commit in place of the current ones.
    #[must_use]
    pub fn before(&self) -> Self {
        let of_before = |sample: &Sample| match sample.subject.after() {
            Some(subject) => Some(Sample { subject, ..*sample }),
            None if sample.subject.is_dataplane()
                && sample.measure != Measure::PgbenchPerSecond =>
            {
                None
            }
            None => Some(*sample),
        };
        Self {
            samples: self.samples.iter().filter_map(of_before).collect(),
            one_user_waits: Waits::default(),
        }
    }

    /// The figure of one round.
    pub fn get(&self, round: u32, subject: Subject, measure: Measure) -> Option<f64> {
        let same = |sample: &&Sample| {
            sample.round == round && sample.subject == subject && sample.measure == measure
        };
        self.samples.iter().find(same).map(|sample| sample.value)
    }

    /// Median and extremes over all rounds.
    pub fn spread(&self, subject: Subject, measure: Measure) -> Option<Spread> {
        self.spread_of(|samples, round| samples.get(round, subject, measure))
    }

    /// Median and extremes of a figure that is computed within each round, because subjects may be compared only there.
    /// Rounds without the figure are left out.
    pub fn spread_of(&self, figure: impl Fn(&Self, u32) -> Option<f64>) -> Option<Spread> {
        let rounds = self.samples.iter().map(|sample| sample.round).max()?;
        Spread::of((1..=rounds).filter_map(|round| figure(self, round)))
    }

    /// Leaves out a whole round.
    pub fn drop_round(&mut self, round: u32) {
        self.samples.retain(|sample| sample.round != round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        for (round, &value) in (1..).zip(values) {
            let measure = Measure::TurnsPerSecond;
            samples.push(Sample {
                round,
                subject: Subject::Direct,
                measure,
                value,
            });
        }
        samples
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_in_between() {
        let spread =
            samples(&[4.0, 1.0, 2.0, 9.0]).spread(Subject::Direct, Measure::TurnsPerSecond);
        assert_eq!(
            spread,
            Some(Spread {
                min: 1.0,
                median: 3.0,
                max: 9.0
            })
        );
    }

    #[test]
    fn a_dropped_round_does_not_count() {
        let mut samples = samples(&[4.0, 100.0, 2.0]);
        samples.drop_round(2);
        let spread = samples.spread(Subject::Direct, Measure::TurnsPerSecond);
        assert_eq!(
            spread,
            Some(Spread {
                min: 2.0,
                median: 3.0,
                max: 4.0
            })
        );
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        assert_eq!(
            samples(&[1.0]).spread(Subject::Nginx, Measure::TurnsPerSecond),
            None
        );
        assert_eq!(
            samples(&[]).spread(Subject::Direct, Measure::TurnsPerSecond),
            None
        );
    }
}
