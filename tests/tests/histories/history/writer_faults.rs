//! Faults of the statements with which the writer of `SQLite` begins and ends
//! transactions. Waiting writes then share one transaction, as under load. Only
//! in this case a job runs again because another one failed.

use anyhow::Context as _;
use minichat_store::testing::{Access, Control, Fault, Moment, Waiter};

use super::History;
use super::faults::BACK_OFF;
use crate::world::{Life, World};

const STATEMENTS: [Control; 6] = [
    Control::Begin,
    Control::Savepoint,
    Control::RollbackTo,
    Control::Release,
    Control::Commit,
    Control::Rollback,
];
const FAULTS: [Fault; 3] = [Fault::Busy, Fault::Full, Fault::Io];

/// Microseconds before a cut without faults. During a back-off, a cut would
/// come before the retried end of the turn.
const CALM_BEFORE_CUT: i64 = 4_006_000;

impl History {
    pub(super) fn may_fail_writes(&self, life: &Life, waiting: &[Waiter]) -> bool {
        let is_calm = self
            .model
            .until_cut()
            .is_none_or(|left| left > CALM_BEFORE_CUT);
        life.app.store.writer().is_some()
            && is_calm
            && self.may_advance()
            && self.model.may_lose()
            && self.model.may_fail_again()
            && waiting.iter().any(is_write)
    }

    /// Runs one or two writes in one transaction, of which one or two
    /// statements fail. Their callers get their answers at once, and the
    /// history continues when the back-off of the retries is over.
    pub(super) async fn fail_writes(
        &mut self,
        world: &mut World,
        life: &Life,
        waiting: &[Waiter],
    ) -> anyhow::Result<()> {
        let numbers = self.batch(waiting);
        let faults = self.faults();
        self.note(format!("writes {numbers:?} happen with {faults:?}"));
        let writer = life.app.store.writer().context("no writer of SQLite")?;
        for &(statement, after, fault) in &faults {
            writer.fail(statement, after, fault);
        }
        writer.gather(numbers.len());
        let release = |&number: &u64| (number, life.turnstile.release(number));
        let released: Vec<_> = numbers.iter().map(release).collect();
        self.model.happening.clone_from(&numbers);
        life.settle().await;
        let has_failed = writer.recover() < faults.len();
        if has_failed {
            self.model.fail(&numbers);
        }
        self.settle(world, life, true).await?;
        for (number, answer) in released {
            self.remember_answer(life, number, answer);
        }
        if has_failed {
            self.note("  a statement failed".to_owned());
            self.answer(life, &numbers);
            life.settle().await;
            self.move_clock(world, life, BACK_OFF).await?;
        }
        Ok(())
    }

    fn batch(&mut self, waiting: &[Waiter]) -> Vec<u64> {
        let writes = waiting.iter().filter(|waiter| is_write(waiter));
        let mut left: Vec<u64> = writes.map(|waiter| waiter.number).collect();
        let mut batch = Vec::new();
        while batch.len() < 2
            && let Some(number) = self.choices.one_of(&left).copied()
        {
            left.retain(|&other| other != number);
            batch.push(number);
        }
        batch
    }

    /// Which statements fail, after how many successes, and how.
    fn faults(&mut self) -> Vec<(Control, usize, Fault)> {
        let count = if self.choices.chance(20) { 2 } else { 1 };
        let mut faults = Vec::new();
        for _ in 0..count {
            let statement = STATEMENTS[self.choices.below(6) as usize];
            let after = self.choices.below(3) as usize;
            faults.push((statement, after, FAULTS[self.choices.below(3) as usize]));
        }
        faults
    }

    /// Answers the writes with these numbers; rarely, an answer is lost.
    fn answer(&mut self, life: &Life, numbers: &[u64]) {
        for number in numbers {
            let mut writes = self.writes.iter();
            let answer = writes.find(|(_, write)| *write == number);
            let Some(answer) = answer.map(|(answer, _)| *answer) else {
                continue;
            };
            self.writes.remove(&answer);
            if self.choices.chance(15) {
                self.note(format!("  the answer to write #{number} is lost"));
                self.model.lose(*number);
                life.turnstile.lose(answer);
            } else {
                life.turnstile.release(answer);
            }
        }
    }
}

fn is_write(waiter: &Waiter) -> bool {
    (waiter.access, waiter.moment) == (Access::Write, Moment::Begin)
}
