//! The goals of the benchmark, and whether the figures reach them.

use crate::samples::{Measure, Samples, Spread};
use crate::subject::Subject;

use Measure as M;
use Subject as S;

/// The verdict on a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The stretch goal is reached.
    Stretch,
    /// The goal is reached.
    Pass,
    /// The goal is not reached.
    Fail,
    /// A subject was not measured.
    Unmeasured,
}

/// One line of the table of goals.
#[derive(Debug)]
pub struct Judgement {
    /// Id of the goal, as in the table of goals.
    pub id: &'static str,
    /// The goal in words, with its bound.
    pub goal: &'static str,
    /// The figure over all rounds.
    pub figure: Option<Spread>,
    /// Unit of the figure.
    pub unit: &'static str,
    /// What it means.
    pub verdict: Verdict,
}

struct Goal {
    id: &'static str,
    text: &'static str,
    unit: &'static str,
    figure: fn(&Samples, u32) -> Option<f64>,
    must: Bound,
    stretch: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// At most another figure, by its median.
    Figure(fn(&Samples, u32) -> Option<f64>),
}

impl Bound {
    /// `None`: what it is compared with was not measured.
    fn holds(self, value: f64, samples: &Samples) -> Option<bool> {
        Some(match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Figure(bound) => value <= samples.spread_of(bound)?.median,
        })
    }
}

/// The goals. Ratios compare subjects of one round; absolute bounds are promises to users.
const GOALS: [Goal; 20] = [
    Goal {
        id: "G1",
        text: "added first token p50, one client, SQLite, ≤ 8 × the bare relay's or 0.5 ms (stretch 4 × and 0.5 ms)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Sqlite, M::FirstTokenP50Micros)? / 1e3),
        must: Bound::Figure(|s, r| Some(bare_relays_first_token(s, r, 8.0)?.max(0.5))),
        stretch: Bound::Figure(|s, r| Some(bare_relays_first_token(s, r, 4.0)?.min(0.5))),
    },
    Goal {
        id: "G2",
        text: "added first token p99, 200 streams, SQLite, ≤ 5 ms (stretch 1 ms)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Sqlite, M::LoadedFirstTokenP99Micros)? / 1e3),
        must: Bound::AtMost(5.0),
        stretch: Bound::AtMost(1.0),
    },
    Goal {
        id: "G3",
        text: "added first token p50, one client, PostgreSQL, ≤ 2 × SQLite's + 0.3 ms (stretch 1.5 × SQLite's)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Postgres, M::FirstTokenP50Micros)? / 1e3),
        must: Bound::Figure(|s, r| {
            Some(0.3 + 2.0 * added(s, r, S::Sqlite, M::FirstTokenP50Micros)? / 1e3)
        }),
        stretch: Bound::Figure(|s, r| {
            Some(1.5 * added(s, r, S::Sqlite, M::FirstTokenP50Micros)? / 1e3)
        }),
    },
    Goal {
        id: "G4",
        text: "added chunk latency p50, 200 streams, ≤ 1.5 × the bare relay's (stretch 1 ×)",
        unit: "× H",
        figure: |s, r| added_ratio(s, r, S::Sqlite, S::BareRelay, M::ChunkP50Micros),
        must: Bound::AtMost(1.5),
        stretch: Bound::AtMost(1.0),
    },
    Goal {
        id: "G4",
        text: "added chunk latency p99, 200 streams, ≤ 1.5 × the bare relay's (stretch 1 ×)",
        unit: "× H",
        figure: |s, r| added_ratio(s, r, S::Sqlite, S::BareRelay, M::ChunkP99Micros),
        must: Bound::AtMost(1.5),
        stretch: Bound::AtMost(1.0),
    },
    Goal {
        id: "G5",
        text: "CPU per chunk, 200 streams, SQLite, ≤ 2 × nginx (stretch 1.6 ×)",
        unit: "× N",
        figure: |s, r| ratio(s, r, S::Sqlite, S::Nginx, M::ChunkCpuMicros),
        must: Bound::AtMost(2.0),
        stretch: Bound::AtMost(1.6),
    },
    Goal {
        id: "G5",
        text: "CPU per chunk, 200 streams, PostgreSQL, ≤ 2 × nginx (stretch 1.6 ×)",
        unit: "× N",
        figure: |s, r| ratio(s, r, S::Postgres, S::Nginx, M::ChunkCpuMicros),
        must: Bound::AtMost(2.0),
        stretch: Bound::AtMost(1.6),
    },
    Goal {
        id: "G6",
        text: "CPU per chunk, unpaced, SQLite, ≤ 0.5 × the bare relay (stretch 0.25 ×)",
        unit: "× H",
        figure: |s, r| ratio(s, r, S::Sqlite, S::BareRelay, M::BurstChunkCpuMicros),
        must: Bound::AtMost(0.5),
        stretch: Bound::AtMost(0.25),
    },
    Goal {
        id: "G7",
        text: "one-token turns per CPU-second, SQLite, ≥ 0.15 × the bare relay (stretch 0.3 ×)",
        unit: "× H",
        figure: |s, r| ratio(s, r, S::Sqlite, S::BareRelay, M::TurnsPerCpuSecond),
        must: Bound::AtLeast(0.15),
        stretch: Bound::AtLeast(0.3),
    },
    Goal {
        id: "G8",
        text: "idle RSS, SQLite, ≤ 30 MB (stretch 15 MB)",
        unit: "MB",
        figure: |s, r| Some(s.get(r, S::Sqlite, M::IdleRssKilobytes)? / 1e3),
        must: Bound::AtMost(30.0),
        stretch: Bound::AtMost(15.0),
    },
    Goal {
        id: "G8",
        text: "idle RSS, PostgreSQL, ≤ 30 MB (stretch 15 MB)",
        unit: "MB",
        figure: |s, r| Some(s.get(r, S::Postgres, M::IdleRssKilobytes)? / 1e3),
        must: Bound::AtMost(30.0),
        stretch: Bound::AtMost(15.0),
    },
    Goal {
        id: "G8",
        text: "RSS per open stream, SQLite, ≤ 64 kB (stretch 40 kB)",
        unit: "kB",
        figure: |s, r| s.get(r, S::Sqlite, M::StreamRssKilobytes),
        must: Bound::AtMost(64.0),
        stretch: Bound::AtMost(40.0),
    },
    Goal {
        id: "G9",
        text: "client leaves, provider left, p99, 200 streams, SQLite, ≤ 10 ms (stretch 2 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Sqlite, M::LeaveP99Micros)? / 1e3),
        must: Bound::AtMost(10.0),
        stretch: Bound::AtMost(2.0),
    },
    Goal {
        id: "G9",
        text: "client leaves, provider left, p99, 200 streams, PostgreSQL, ≤ 10 ms (stretch 2 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Postgres, M::LeaveP99Micros)? / 1e3),
        must: Bound::AtMost(10.0),
        stretch: Bound::AtMost(2.0),
    },
    Goal {
        id: "G9",
        text: "client stops, provider left, p99, 200 streams, SQLite, ≤ 10 ms (stretch 2 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Sqlite, M::StopP99Micros)? / 1e3),
        must: Bound::AtMost(10.0),
        stretch: Bound::AtMost(2.0),
    },
    Goal {
        id: "G9",
        text: "client stops, provider left, p99, 200 streams, PostgreSQL, ≤ 10 ms (stretch 2 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Postgres, M::StopP99Micros)? / 1e3),
        must: Bound::AtMost(10.0),
        stretch: Bound::AtMost(2.0),
    },
    Goal {
        id: "G19",
        text: "one-token turns per second, 1,000 users, PostgreSQL, ≥ 0.25 × pgbench's transactions (stretch 0.4 ×)",
        unit: "× pgbench",
        figure: |s, r| of_pgbench(s, r, M::TurnsPerSecond),
        must: Bound::AtLeast(0.25),
        stretch: Bound::AtLeast(0.4),
    },
    Goal {
        id: "G19",
        text: "the same, one user, ≥ 0.15 × (stretch 0.3 ×)",
        unit: "× pgbench",
        figure: |s, r| of_pgbench(s, r, M::OneUserTurnsPerSecond),
        must: Bound::AtLeast(0.15),
        stretch: Bound::AtLeast(0.3),
    },
    Goal {
        id: "G20",
        text: "added first token p50, one client, PostgreSQL 1 ms of round trip away, ≤ 3.5 ms (stretch 2.6 ms)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Remote, M::FirstTokenP50Micros)? / 1e3),
        must: Bound::AtMost(3.5),
        stretch: Bound::AtMost(2.6),
    },
    Goal {
        id: "G21",
        text: "round trips to PostgreSQL per turn, counted at the socket, ≤ 3",
        unit: "round trips",
        figure: |s, r| s.get(r, S::Remote, M::RoundTripsPerTurn),
        // New sessions, probes and the listener of the process ask as well.
        must: Bound::AtMost(3.2),
        stretch: Bound::AtMost(3.2),
    },
];

/// The table of goals, decided by the medians over the rounds.
#[derive(Debug)]
pub struct Judgements {
    /// One for each goal.
    pub current: Vec<Judgement>,
    /// The same of the earlier commit, as far as it was measured.
    pub before: Vec<Judgement>,
}

impl Judgements {
    /// Decides every goal.
    pub fn of(samples: &Samples) -> Self {
        let judge = |samples: &Samples| {
            let judgements = GOALS.iter().map(|goal| judge(goal, samples));
            judgements.collect()
        };
        Self {
            current: judge(samples),
            before: judge(&samples.before()),
        }
    }

    /// Each judgement with that of the earlier commit, if that was measured.
    pub fn pairs(&self) -> impl Iterator<Item = (&Judgement, Option<&Judgement>)> {
        self.current
            .iter()
            .zip(&self.before)
            .map(|(current, before)| {
                let is_measured = before.verdict != Verdict::Unmeasured;
                (current, is_measured.then_some(before))
            })
    }
}

fn judge(goal: &Goal, samples: &Samples) -> Judgement {
    let figure = samples.spread_of(goal.figure);
    let holds = |bound: Bound| bound.holds(figure?.median, samples);
    let verdict = match (holds(goal.must), holds(goal.stretch)) {
        (None, _) => Verdict::Unmeasured,
        (_, Some(true)) => Verdict::Stretch,
        (Some(true), _) => Verdict::Pass,
        (Some(false), _) => Verdict::Fail,
    };
    Judgement {
        id: goal.id,
        goal: goal.text,
        figure,
        unit: goal.unit,
        verdict,
    }
}

fn added(samples: &Samples, round: u32, subject: Subject, measure: Measure) -> Option<f64> {
    Some(samples.get(round, subject, measure)? - samples.get(round, S::Direct, measure)?)
}

/// So many times what the bare relay adds to the first token of one client, in milliseconds.
fn bare_relays_first_token(samples: &Samples, round: u32, times: f64) -> Option<f64> {
    Some(times * added(samples, round, S::BareRelay, M::FirstTokenP50Micros)? / 1e3)
}

fn added_ratio(
    samples: &Samples,
    round: u32,
    of: Subject,
    to: Subject,
    measure: Measure,
) -> Option<f64> {
    let base = added(samples, round, to, measure)?;
    (base > 0.0).then_some(added(samples, round, of, measure)? / base)
}

fn ratio(samples: &Samples, round: u32, of: Subject, to: Subject, measure: Measure) -> Option<f64> {
    let base = samples.get(round, to, measure)?;
    (base > 0.0).then_some(samples.get(round, of, measure)? / base)
}

/// A rate of the data plane as a share of the transactions of `pgbench` on the same server.
fn of_pgbench(samples: &Samples, round: u32, measure: Measure) -> Option<f64> {
    let base = samples.get(round, S::Postgres, M::PgbenchPerSecond)?;
    (base > 0.0).then_some(samples.get(round, S::Postgres, measure)? / base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Sample;

    fn judged(id: &str, figures: &[(Subject, Measure, f64)]) -> Vec<Verdict> {
        let mut samples = Samples::default();
        for &(subject, measure, value) in figures {
            samples.push(Sample {
                round: 1,
                subject,
                measure,
                value,
            });
        }
        let judgements = Judgements::of(&samples);
        judgements
            .current
            .iter()
            .filter(|judgement| judgement.id == id)
            .map(|judgement| judgement.verdict)
            .collect()
    }

    #[test]
    fn added_time_is_compared_with_the_time_the_bare_relay_adds() {
        let added = |value| {
            let figures = [
                (S::Direct, M::FirstTokenP50Micros, 100.0),
                (S::BareRelay, M::FirstTokenP50Micros, 200.0),
                (S::Sqlite, M::FirstTokenP50Micros, 100.0 + value),
            ];
            judged("G1", &figures)
        };
        assert_eq!(added(801.0), [Verdict::Fail]);
        assert_eq!(added(800.0), [Verdict::Pass]);
        assert_eq!(added(400.0), [Verdict::Stretch]);
    }

    #[test]
    fn more_turns_are_better() {
        let relay = (S::BareRelay, M::TurnsPerCpuSecond, 20_000.0);
        let turns = |value| judged("G7", &[relay, (S::Sqlite, M::TurnsPerCpuSecond, value)]);
        assert_eq!(turns(2_999.0), [Verdict::Fail]);
        assert_eq!(turns(3_000.0), [Verdict::Pass]);
        assert_eq!(turns(6_000.0), [Verdict::Stretch]);
    }

    #[test]
    fn a_bound_may_be_another_figure() {
        let postgres = |value| {
            let added = [
                (S::Direct, M::FirstTokenP50Micros, 100.0),
                (S::Sqlite, M::FirstTokenP50Micros, 700.0),
                (S::Postgres, M::FirstTokenP50Micros, value),
            ];
            judged("G3", &added)
        };
        assert_eq!(postgres(1_000.0), [Verdict::Stretch]);
        assert_eq!(postgres(1_600.0), [Verdict::Pass]);
        assert_eq!(postgres(1_601.0), [Verdict::Fail]);
    }

    #[test]
    fn a_goal_without_figures_is_not_passed() {
        assert_eq!(judged("G3", &[]), [Verdict::Unmeasured]);
    }
}
