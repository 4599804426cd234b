//! What befalls a process beside its clients and its provider.

use minichat_store::testing::{Access, Moment, Waiter};

use super::History;
use crate::world::{Life, World};

/// Beyond every back-off of those who look for what became of a commit.
const BACK_OFF: u32 = 2_003;

impl History {
    /// The write with `number` has happened; its answer is new among those that
    /// wait.
    pub(super) fn remember_answer(&mut self, life: &Life, before: &[Waiter], number: u64) {
        let waiting = life.turnstile.waiting();
        let answer = waiting.iter().find(|waiter| {
            (waiter.access, waiter.moment) == (Access::Write, Moment::Answer)
                && !before.contains(waiter)
        });
        if let Some(answer) = answer {
            self.writes.insert(answer.number, number);
        }
    }

    /// Those that wait for the answer to a write.
    pub(super) fn answers(&self, waiting: &[Waiter]) -> Vec<Waiter> {
        let is_answer = |it: &&Waiter| self.writes.contains_key(&it.number);
        waiting.iter().filter(is_answer).copied().collect()
    }

    /// The answer to a write is lost; whoever waits for it looks again, and as
    /// soon as its back-off is over the history goes on.
    pub(super) async fn lose_answer(
        &mut self,
        world: &mut World,
        life: &Life,
        answers: &[Waiter],
    ) -> anyhow::Result<()> {
        let Some(answer) = self.choices.one_of(answers).copied() else {
            return Ok(());
        };
        let write = self.writes.remove(&answer.number).unwrap_or(answer.number);
        self.note(format!("the answer to write #{write} is lost"));
        self.model.lose(write);
        life.turnstile.lose(answer.number);
        life.settle().await;
        self.move_clock(world, life, BACK_OFF).await
    }
}
