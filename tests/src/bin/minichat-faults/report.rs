//! The table.

use std::fmt::Write as _;

use crate::faults::Fault;
use crate::load::{End, Sent};
use crate::probe::Probes;

/// What was found in one line.
pub(crate) struct Outcome {
    pub(crate) fault: Fault,
    pub(crate) sent: Sent,
    pub(crate) probes: Probes,
    /// Turns that were left running until the watchdog came.
    pub(crate) left_for_watchdog: i64,
    /// Turns that are left running for good.
    pub(crate) running: i64,
    /// `done` that a client saw and that is not in the database.
    pub(crate) not_stored: usize,
}

impl Outcome {
    /// Statuses other than 200 and 503.
    fn faulty(&self) -> Vec<String> {
        let ends = self.sent.ends.iter();
        ends.filter_map(|(end, count)| match end {
            // A turn that is left for the watchdog still holds its chat.
            End::Status(503 | 409) => None,
            End::Status(status) => Some(format!("{count} × {status}")),
            _ => None,
        })
        .collect()
    }

    pub(crate) fn is_right(&self) -> bool {
        let is_fault = self.fault != Fault::Pooler;
        let refused = self.sent.count(End::Status(503)) + self.sent.count(End::NoAnswer);
        let was_away = self.probes.not_ready + refused > 0;
        self.faulty().is_empty()
            && self.running == 0
            && self.not_stored == 0
            && self.probes.wrong == 0
            && self.sent.count(End::Done) > 0
            && was_away == is_fault
            && (!self.fault.keeps_answers() || self.sent.count(End::Interrupted) == 0)
    }
}

const HEAD: &str = "| Fault | `done` | interrupted | 503 | other statuses | no answer | slowest refusal | \
    ready / not ready / wrong | left for the watchdog | left running | `done` not stored | |\n\
    |---|---|---|---|---|---|---|---|---|---|---|---|\n";

pub(crate) fn table(outcomes: &[Outcome], streams: usize) -> String {
    let mut table = format!("{streams} streams.\n\n{HEAD}");
    for outcome in outcomes {
        let sent = &outcome.sent;
        let faulty = outcome.faulty().join(", ");
        // Writing to a text cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {:.1} s | {} / {} / {} | {} | {} | {} | {} |",
            outcome.fault.name(),
            sent.count(End::Done),
            sent.count(End::Interrupted),
            sent.count(End::Status(503)),
            if faulty.is_empty() { "none" } else { &faulty },
            sent.count(End::NoAnswer),
            sent.slowest_refusal.as_secs_f64(),
            outcome.probes.ready,
            outcome.probes.not_ready,
            outcome.probes.wrong,
            outcome.left_for_watchdog,
            outcome.running,
            outcome.not_stored,
            if outcome.is_right() {
                "ok"
            } else {
                "**wrong**"
            },
        );
    }
    table
}

pub(crate) fn document(table: &str) -> String {
    format!(
        "# Faults\n\nWritten by `cargo xtask faults`. Users send one message after the other, each of which streams for \
         about three seconds; meanwhile something breaks for eight seconds (the process: for two) and is repaired. No \
         request may be answered with another error than 503, no turn may be left running once the watchdog or the \
         start-up recovery has been there, every `done` must be in the database, and readiness must say what a send gets \
         (compared before and after one; what changed meanwhile does not count). A stream is interrupted when its \
         process or its database is gone at its end; on a full disk none may be, because room for its end is kept.\n\n{table}"
    )
}
