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
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// The goals. Ratios compare subjects of one round; absolute bounds are promises to users.
const GOALS: [Goal; 17] = [
    Goal {
        id: "G1",
        text: "added first token p50, one client, SQLite, ≤ 1.0 ms (stretch 0.5 ms)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Sqlite, M::FirstTokenP50Micros)? / 1e3),
        must: Bound::AtMost(1.0),
        stretch: Bound::AtMost(0.5),
    },
    Goal {
        id: "G1",
        text: "the same, ≤ 8 × the bare relay's (stretch 4 ×)",
        unit: "× H",
        figure: |s, r| added_ratio(s, r, S::Sqlite, S::BareRelay, M::FirstTokenP50Micros),
        must: Bound::AtMost(8.0),
        stretch: Bound::AtMost(4.0),
    },
    Goal {
        id: "G2",
        text: "added first token p99, 200 streams, SQLite, ≤ 20 ms (stretch 5 ms)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Sqlite, M::LoadedFirstTokenP99Micros)? / 1e3),
        must: Bound::AtMost(20.0),
        stretch: Bound::AtMost(5.0),
    },
    Goal {
        id: "G3",
        text: "added first token p50, one client, PostgreSQL, ≤ 2.5 ms (stretch 1.5 ms)",
        unit: "ms",
        figure: |s, r| Some(added(s, r, S::Postgres, M::FirstTokenP50Micros)? / 1e3),
        must: Bound::AtMost(2.5),
        stretch: Bound::AtMost(1.5),
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
        text: "CPU per chunk, 200 streams, SQLite, ≤ 2.3 × nginx (stretch 1.8 ×)",
        unit: "× N",
        figure: |s, r| ratio(s, r, S::Sqlite, S::Nginx, M::ChunkCpuMicros),
        must: Bound::AtMost(2.3),
        stretch: Bound::AtMost(1.8),
    },
    Goal {
        id: "G5",
        text: "CPU per chunk, 200 streams, PostgreSQL, ≤ 2.3 × nginx (stretch 1.8 ×)",
        unit: "× N",
        figure: |s, r| ratio(s, r, S::Postgres, S::Nginx, M::ChunkCpuMicros),
        must: Bound::AtMost(2.3),
        stretch: Bound::AtMost(1.8),
    },
    Goal {
        id: "G6",
        text: "CPU per chunk, unpaced, SQLite, ≤ 0.8 × the bare relay (stretch 0.4 ×)",
        unit: "× H",
        figure: |s, r| ratio(s, r, S::Sqlite, S::BareRelay, M::BurstChunkCpuMicros),
        must: Bound::AtMost(0.8),
        stretch: Bound::AtMost(0.4),
    },
    Goal {
        id: "G7",
        text: "one-token turns per CPU-second, SQLite, ≥ 2,500 (stretch 6,000)",
        unit: "turns",
        figure: |s, r| s.get(r, S::Sqlite, M::TurnsPerCpuSecond),
        must: Bound::AtLeast(2_500.0),
        stretch: Bound::AtLeast(6_000.0),
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
        text: "RSS per open stream, SQLite, ≤ 100 kB (stretch 64 kB)",
        unit: "kB",
        figure: |s, r| s.get(r, S::Sqlite, M::StreamRssKilobytes),
        must: Bound::AtMost(100.0),
        stretch: Bound::AtMost(64.0),
    },
    Goal {
        id: "G9",
        text: "client leaves, provider left, p99, 200 streams, SQLite, ≤ 50 ms (stretch 10 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Sqlite, M::LeaveP99Micros)? / 1e3),
        must: Bound::AtMost(50.0),
        stretch: Bound::AtMost(10.0),
    },
    Goal {
        id: "G9",
        text: "client leaves, provider left, p99, 200 streams, PostgreSQL, ≤ 50 ms (stretch 10 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Postgres, M::LeaveP99Micros)? / 1e3),
        must: Bound::AtMost(50.0),
        stretch: Bound::AtMost(10.0),
    },
    Goal {
        id: "G9",
        text: "client stops, provider left, p99, 200 streams, SQLite, ≤ 50 ms (stretch 10 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Sqlite, M::StopP99Micros)? / 1e3),
        must: Bound::AtMost(50.0),
        stretch: Bound::AtMost(10.0),
    },
    Goal {
        id: "G9",
        text: "client stops, provider left, p99, 200 streams, PostgreSQL, ≤ 50 ms (stretch 10 ms)",
        unit: "ms",
        figure: |s, r| Some(s.get(r, S::Postgres, M::StopP99Micros)? / 1e3),
        must: Bound::AtMost(50.0),
        stretch: Bound::AtMost(10.0),
    },
];

/// Decides every goal by the medians over the rounds.
pub fn judge(samples: &Samples) -> Vec<Judgement> {
    GOALS.iter().map(|goal| judge_one(goal, samples)).collect()
}

fn judge_one(goal: &Goal, samples: &Samples) -> Judgement {
    let figure = samples.spread_of(goal.figure);
    let verdict = match figure {
        None => Verdict::Unmeasured,
        Some(spread) if goal.stretch.holds(spread.median) => Verdict::Stretch,
        Some(spread) if goal.must.holds(spread.median) => Verdict::Pass,
        Some(_) => Verdict::Fail,
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
        let judgements = judge(&samples);
        judgements
            .iter()
            .filter(|judgement| judgement.id == id)
            .map(|judgement| judgement.verdict)
            .collect()
    }

    #[test]
    fn added_time_is_compared_with_the_time_the_bare_relay_adds() {
        let figures = [
            (S::Direct, M::FirstTokenP50Micros, 100.0),
            (S::BareRelay, M::FirstTokenP50Micros, 200.0),
            (S::Sqlite, M::FirstTokenP50Micros, 1_000.0),
        ];
        assert_eq!(judged("G1", &figures), [Verdict::Pass, Verdict::Fail]);
    }

    #[test]
    fn more_turns_are_better() {
        let turns = |value| judged("G7", &[(S::Sqlite, M::TurnsPerCpuSecond, value)]);
        assert_eq!(turns(2_499.0), [Verdict::Fail]);
        assert_eq!(turns(2_500.0), [Verdict::Pass]);
        assert_eq!(turns(6_000.0), [Verdict::Stretch]);
    }

    #[test]
    fn a_goal_without_figures_is_not_passed() {
        assert_eq!(judged("G3", &[]), [Verdict::Unmeasured]);
    }
}
