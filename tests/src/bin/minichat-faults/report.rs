//! The table, and what must hold in each of its lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::faults::Fault;
use crate::load::{End, Log};
use crate::readiness::Readiness;
use crate::scene::Rows;

/// What was found in one line.
pub(crate) struct Outcome {
    pub(crate) fault: Fault,
    pub(crate) log: Log,
    pub(crate) readiness: Readiness,
    /// When all users had read their last answer.
    pub(crate) before_watchdog: Rows,
    /// When a watchdog had been there.
    pub(crate) after_watchdog: Rows,
}

/// Requests compared with what readiness said all the while.
#[derive(Default)]
struct Compared {
    served_when_ready: usize,
    refused_when_not_ready: usize,
    wrong: usize,
    /// Readiness changed meanwhile.
    unknown: usize,
}

impl Outcome {
    fn compared(&self) -> Compared {
        let mut compared = Compared::default();
        for sent in &self.log.sent {
            let said = self.readiness.during(sent.began, sent.answered);
            let count = match (said, sent.is_served()) {
                (None, _) => &mut compared.unknown,
                (Some(true), true) => &mut compared.served_when_ready,
                (Some(false), false) => &mut compared.refused_when_not_ready,
                (Some(_), _) => &mut compared.wrong,
            };
            *count += 1;
        }
        compared
    }

    /// Refusals with another status than 503.
    fn other_statuses(&self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for sent in &self.log.sent {
            if let End::Status(status) = sent.end
                && status != 503
            {
                *counts.entry(status).or_default() += 1;
            }
        }
        counts
    }

    /// `done` that a user saw and whose answer is not in the database as it was
    /// read.
    fn not_stored(&self) -> usize {
        let stored = &self.after_watchdog.answers;
        let told = self.log.done.iter();
        told.filter(|&(request, answer)| stored.get(request) != Some(answer))
            .count()
    }

    fn slowest_refusal(&self) -> Duration {
        let refused = self.log.sent.iter().filter(|sent| !sent.is_served());
        let waits = refused.map(|sent| sent.answered.duration_since(sent.began));
        waits.max().unwrap_or_default()
    }

    /// What is not as it must be.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut none = |count: usize, what: &str| {
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        for (status, count) in self.other_statuses() {
            none(count, &format!("× status {status}"));
        }
        none(self.not_stored(), "`done` not stored");
        none(self.compared().wrong, "× readiness wrong");
        let expected = self.fault.expected();
        if !expected.cuts {
            none(self.log.count(End::NoAnswer), "without an answer");
            none(self.log.count(End::Interrupted), "interrupted");
        }
        if !expected.orphans {
            none(self.before_watchdog.running, "turns left for the watchdog");
        }
        none(self.after_watchdog.running, "turns left running");
        none(
            self.after_watchdog.unsettled,
            "turns or reserves not settled",
        );
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(what.to_owned());
            }
        };
        must(self.log.count(End::Done) > 0, "no answer at all");
        let refused = self.log.count(End::Status(503));
        must((refused > 0) == expected.refuses, "503 or none of it");
        let is_away = expected.refuses || expected.cuts;
        must(self.readiness.was_away() == is_away, "ready or not");
        faults
    }
}

const HEAD: &str = "| Fault | Seconds | `done` | interrupted | 503 | other statuses | no answer | slowest refusal | \
    served when ready | refused when not ready | readiness wrong | changed meanwhile | left for the watchdog | \
    left running | not settled | `done` not stored | |\n\
    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

pub(crate) fn table(outcomes: &[Outcome], streams: usize) -> String {
    let mut table = format!("{streams} streams.\n\n{HEAD}");
    for outcome in outcomes {
        table.push_str(&row(outcome));
    }
    table
}

fn row(outcome: &Outcome) -> String {
    let log = &outcome.log;
    let compared = outcome.compared();
    let others = outcome.other_statuses().into_iter();
    let others: Vec<_> = others
        .map(|(status, count)| format!("{count} × {status}"))
        .collect();
    let faults = outcome.faults();
    let mut row = format!(
        "| {} | {} |",
        outcome.fault.name(),
        outcome.fault.lasts().as_secs()
    );
    let cells = [
        log.count(End::Done).to_string(),
        log.count(End::Interrupted).to_string(),
        log.count(End::Status(503)).to_string(),
        if others.is_empty() {
            "0".to_owned()
        } else {
            others.join(", ")
        },
        log.count(End::NoAnswer).to_string(),
        format!("{:.1} s", outcome.slowest_refusal().as_secs_f64()),
        compared.served_when_ready.to_string(),
        compared.refused_when_not_ready.to_string(),
        compared.wrong.to_string(),
        compared.unknown.to_string(),
        outcome.before_watchdog.running.to_string(),
        outcome.after_watchdog.running.to_string(),
        outcome.after_watchdog.unsettled.to_string(),
        outcome.not_stored().to_string(),
        if faults.is_empty() {
            "ok".to_owned()
        } else {
            format!("**{}**", faults.join("; "))
        },
    ];
    for cell in cells {
        // Writing to a text cannot fail.
        let _ = write!(row, " {cell} |");
    }
    row.push('\n');
    row
}

const EXPLANATION: &str = "\
Written by `cargo xtask faults`. Users send one message after the other, each answer streams for about three seconds; 20 \
more ask for short answers, with a pause after each, because who is in the middle of an answer waits for its end and \
sends nothing. Meanwhile something breaks, is repaired, and everybody goes on for a while. A line is `ok` if

- no request was answered with another error than 503 (columns *other statuses*; no 500, and no 409 either: only who \
  was cut off goes on in a new chat, because a turn that nobody ended holds its chat until the watchdog comes);
- nothing was *interrupted* and nobody got *no answer*, but where the process itself was killed: a finished answer \
  waits for its database;
- no turn was *left for the watchdog* when all users had read their last answer, but where the process was killed on \
  PostgreSQL, and none was *left running* when the watchdog had been there (on SQLite, when the process was started \
  again);
- every turn has one usage event and no reserve is left (*not settled*: turns without, and rows of quotas with one);
- each answer that ended with `done` is in the database, word for word as it was read (*`done` not stored*);
- readiness was true to what a request got. `/readyz` is asked nine times a second. Every request is compared with what \
  it said from before the request until after its answer: all the time ready, and the request must be served; never \
  ready, and it must be refused, or find nobody. What readiness changed for meanwhile is counted, and proves nothing;
- the fault was one: requests were refused with 503 and readiness failed (a killed process: found nobody), and without \
  a fault neither happened.
";

pub(crate) fn document(table: &str) -> String {
    format!("# Faults\n\n{EXPLANATION}\n{table}")
}
