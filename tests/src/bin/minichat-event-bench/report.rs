//! The tables of the results.

use std::fmt::Write as _;

use minichat_tests::database::DatabaseKind;
use minichat_tests::figures::verdict;

use crate::scene::{Plan, Result};

/// How much longer the events of healthy tenants may take beside sick ones.
const ALLOWED: f64 = 1.2;

/// What all runs showed.
#[derive(Default)]
pub(crate) struct Report {
    lags: String,
    kills: String,
    /// The 99th percentile of each run with kills, in milliseconds.
    p99: Vec<f64>,
    is_incomplete: bool,
}

impl Report {
    /// A run without sick receivers and kills (G23).
    pub(crate) fn lag(&mut self, plan: &Plan, result: Result) {
        println!("{plan:?}: {}", summary(&result));
        let Result { ledger, .. } = result;
        let (p50, p99) = (ledger.lag(50), ledger.lag(99));
        let database = match plan.database {
            DatabaseKind::Sqlite => "SQLite",
            DatabaseKind::Postgres => "PostgreSQL",
        };
        let is_met = p50 <= 20.0 && p99 <= 100.0;
        let _ = writeln!(
            self.lags,
            "| {database} | {} | {p50:.1} ms | {p99:.1} ms | {:.1} ms | {} |",
            ledger.lags.len(),
            ledger.lag(100),
            verdict(is_met)
        );
        self.is_incomplete |= !ledger.is_complete();
    }

    /// A run in which processes are killed.
    pub(crate) fn kills(&mut self, plan: &Plan, result: Result) {
        println!("{plan:?}: {}", summary(&result));
        let Result {
            ledger,
            answered,
            kills,
            dead_letters,
        } = result;
        let sinks = if plan.sick {
            "a fifth is sick"
        } else {
            "all healthy"
        };
        let _ = writeln!(
            self.kills,
            "| {sinks} | {answered} | {kills} | {} | {} | {} | {} | {dead_letters} | {:.0} ms | {:.0} ms |",
            ledger.enqueued,
            ledger.lost,
            ledger.out_of_order,
            ledger.repeated,
            ledger.lag(50),
            ledger.lag(99),
        );
        self.p99.push(ledger.lag(99));
        self.is_incomplete |= !ledger.is_complete();
    }

    /// The section of the page, and whether nothing was lost, reordered or made up.
    pub(crate) fn finish(self) -> (String, bool) {
        let ratio = match self.p99[..] {
            [healthy, sick] if healthy > 0.0 => sick / healthy,
            _ => f64::NAN,
        };
        let text = format!(
            "Measured by `cargo xtask bench --events`. The time runs from the commit of an event, as the database noted it,\n\
             until its receiver has read it. Usage events are sent one by one, audit events in batches of CloudEvents.\n\n\
             One process, 20 tenants, 200 turns/s, two events per turn. Goals: p50 ≤ 20 ms, p99 ≤ 100 ms (G23).\n\n\
             | Database | events | p50 | p99 | longest | Verdict |\n|---|---|---|---|---|---|\n{}\n\
             Three processes on PostgreSQL, of which one is killed (SIGKILL) every two seconds. The receivers of a fifth of\n\
             the tenants are down, slow (3 s), answer 500, 410 or garbage, or hang until all turns have ended; then\n\
             dead letters are requeued, and everything that is left must arrive. The times are those of the healthy tenants.\n\n\
             | Sinks | turns answered | kills | events | lost | out of order | repeated | dead letters | p50 | p99 |\n\
             |---|---|---|---|---|---|---|---|---|---|\n{}\n\
             Beside sick receivers the p99 of the healthy tenants is {ratio:.2} × that without (goal: ≤ {ALLOWED}): {}.\n",
            self.lags,
            self.kills,
            verdict(ratio <= ALLOWED)
        );
        (text, !self.is_incomplete)
    }
}

fn summary(result: &Result) -> String {
    let ledger = &result.ledger;
    format!(
        "{} answered, {} kills, {} events, {} lost, {} out of order, {} repeated, {} unknown, {} dead letters, lag p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        result.answered,
        result.kills,
        ledger.enqueued,
        ledger.lost,
        ledger.out_of_order,
        ledger.repeated,
        ledger.unknown,
        result.dead_letters,
        ledger.lag(50),
        ledger.lag(99),
        ledger.lag(100)
    )
}
