//! The table, and the conditions for each of its lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::faults::{self, Fault, Struck};
use crate::load::{End, Log};
use crate::readiness::Readiness;
use crate::scene::Rows;

/// The result of one line.
pub(crate) struct Outcome {
    pub(crate) fault: Fault,
    pub(crate) struck: Struck,
    pub(crate) log: Log,
    pub(crate) readiness: Readiness,
    /// After all users had read their last answer.
    pub(crate) before_watchdog: Rows,
    /// After a watchdog had run.
    pub(crate) after_watchdog: Rows,
    /// What does not balance after that.
    pub(crate) books: Option<anyhow::Error>,
}

/// Requests compared with readiness.
#[derive(Default)]
struct Compared {
    served_when_ready: usize,
    refused_when_not_ready: usize,
    wrong: usize,
    /// Readiness changed during the request.
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

    /// Refusals with a status other than 503.
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

    /// Answers that a user read up to `done` and that are missing or different
    /// in the database.
    fn not_stored(&self) -> usize {
        let stored = &self.after_watchdog.answers;
        let acknowledged = self.log.done.iter();
        acknowledged
            .filter(|&(request, answer)| stored.get(request) != Some(answer))
            .count()
    }

    fn slowest_refusal(&self) -> Duration {
        let refused = self.log.sent.iter().filter(|sent| !sent.is_served());
        let waits = refused.map(|sent| sent.answered.duration_since(sent.began));
        waits.max().unwrap_or_default()
    }

    fn lasted(&self) -> Duration {
        self.struck.repaired - self.struck.began
    }

    /// When the first request was not served, and when the last was not.
    fn refused(&self) -> Option<(Instant, Instant)> {
        let refused = || self.log.sent.iter().filter(|sent| !sent.is_served());
        let times = refused().map(|sent| sent.answered);
        Some((times.clone().min()?, times.max()?))
    }

    /// In seconds since the fault began.
    fn since(&self, span: Option<(Instant, Instant)>) -> String {
        let seconds = |at: Instant| {
            let after = at.saturating_duration_since(self.struck.began);
            format!("{:.1}", after.as_secs_f64())
        };
        span.map_or_else(
            || "–".to_owned(),
            |(from, to)| format!("{}–{} s", seconds(from), seconds(to)),
        )
    }

    /// Every condition that does not hold.
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
        let expected = self.fault.expected();
        if expected.readiness == faults::Readiness::Agrees {
            none(self.compared().wrong, "× readiness wrong");
        }
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
        let is_refused = self.log.count(End::Status(503)) > 0;
        let is_expected = expected.refuses.unwrap_or(is_refused);
        must(is_refused == is_expected, "503 or none of it");
        let is_away = expected.refuses == Some(true) || expected.cuts;
        if expected.readiness != faults::Readiness::MayStay {
            let was_away = self.readiness.away().is_some();
            must(was_away == is_away, "ready or not");
        }
        let in_doubt = if expected.doubts {
            self.lasted()
        } else {
            Duration::ZERO
        };
        let slowest = self.slowest_refusal();
        must(slowest < SLOWEST + in_doubt, "a refusal that took too long");
        if let Some(unbalanced) = &self.books {
            faults.push(format!("books: {unbalanced}"));
        }
        faults
    }
}

/// Longer than every deadline of the data plane.
const SLOWEST: Duration = Duration::from_secs(7);

const HEAD: &str = "| Fault | repaired after | refused | not ready | `done` | interrupted | 503 | other statuses | no answer | slowest refusal | \
    served when ready | refused when not ready | readiness wrong | changed meanwhile | left for the watchdog | \
    left running | not settled | `done` not stored | |\n\
    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

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
    let lasted = outcome.lasted();
    let mut row = format!("| {} |", outcome.fault.name());
    let cells = [
        format!("{:.1} s", lasted.as_secs_f64()),
        outcome.since(outcome.refused()),
        outcome.since(outcome.readiness.away()),
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
Written by `cargo xtask faults`. 200 users send one message after the other, and each answer streams for about three \
seconds. 20 more users read short answers with a pause after each, because a user in the middle of an answer waits for \
its end and sends nothing. For each line, something breaks and is repaired, and the users continue for a while.

Times are counted from the beginning of the fault: when it was *repaired*, from when to when requests were *refused* or \
found no server, and from when to when `/readyz` was *not ready*.

A line is `ok` if all of this holds:

- No request was answered with an error other than 503 (column *other statuses*). This excludes 500, and also 409: a \
  user whose stream was cut continues in a new chat, because the old chat is blocked until the watchdog ends its turn.
- No stream was *interrupted* and no request got *no answer*, except when the process was killed. A finished answer \
  waits for its database.
- No turn was *left for the watchdog* after all users had read their last answer, except when the process was killed on \
  PostgreSQL. No turn was *left running* after the watchdog had run (on SQLite, after the process was started again).
- Every turn has one usage event, and no reserve remains (*not settled*: turns without an event and quota rows with a \
  reserve). The credits and calls of each user are the sum of the usage events.
- Each answer that ended with `done` is in the database exactly as it was read (*`done` not stored*).
- Readiness agreed with requests. `/readyz` is called nine times a second, and every request is compared with its \
  answers from before the request until after its end. If it was always ready, the request must be served. If it was \
  never ready, the request must be refused or find no server. If readiness changed, the request is only counted. Locked \
  rows and slow statements are an exception: the database serves what does not need them, and so the process may stay \
  ready. When single sessions end, as they do at first when `max_connections` is used up, a request may be refused by a \
  process that stays ready.
- No refusal took longer than the deadlines of the data plane (here 5 seconds). A request whose commit PostgreSQL did not \
  acknowledge may wait until the server says what came of it.
- The fault had an effect: requests were refused with 503 and readiness failed (when the process was killed: there was \
  no server). When single sessions end, or only 3 are left, readiness did not fail, and the few requests that may be \
  refused are those whose commit was under way. Without a fault, none is.
";

pub(crate) fn document(table: &str) -> String {
    format!("# Faults\n\n{EXPLANATION}\n{table}")
}
