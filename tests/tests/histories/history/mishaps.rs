//! What befalls a process beside its clients and its provider.

use minichat_store::testing::Waiter;

use super::{End, History};
use crate::world::{Life, World};

/// Beyond every back-off of those who try again, or look for what became of a
/// commit.
pub(super) const BACK_OFF: u32 = 2_003;

/// How likely each of them is: a crash, a provider that refuses connections or
/// does so no more, a lost answer, a statement of the writer that fails,
/// SIGTERM, and the end that it leads to.
pub(super) type Mishaps = [u32; 6];

impl History {
    pub(super) fn mishaps(&self, life: &Life, waiting: &[Waiter]) -> Mishaps {
        let may_lose = self.may_advance() && self.model.may_lose();
        let is_over = self.drain.as_ref().map(|drain| drain.run.is_finished());
        [
            2,
            3,
            if may_lose && !self.answers(waiting).is_empty() {
                3
            } else {
                0
            },
            if self.may_fail_writes(life, waiting) {
                8
            } else {
                0
            },
            if is_over == Some(true) { 0 } else { 2 },
            if is_over == Some(true) { 40 } else { 0 },
        ]
    }

    /// `Some` if it ends the process.
    pub(super) async fn mishap(
        &mut self,
        world: &mut World,
        life: &Life,
        waiting: &[Waiter],
        weights: Mishaps,
    ) -> anyhow::Result<Option<End>> {
        match self.choices.weighted(&weights) {
            Some(0) => {
                self.note("crash".to_owned());
                return Ok(Some(End::Process));
            }
            Some(1) => {
                let is_away = !self.model.provider_is_away;
                self.model.provider_is_away = is_away;
                life.provider.refuse_connections(is_away);
                self.note(format!("the provider refuses connections: {is_away}"));
            }
            Some(2) => {
                let answers = self.answers(waiting);
                self.lose_answer(world, life, &answers).await?;
            }
            Some(3) => self.fail_writes(world, life, waiting).await?,
            Some(4) => self.terminate(world, life).await?,
            _ => {
                self.note("exit".to_owned());
                return Ok(Some(End::Process));
            }
        }
        Ok(None)
    }

    /// Before a cut: a turn hears that its client left when it hears that it is
    /// open, and whichever of departure and cut it hears of first is what ended
    /// it.
    pub(super) async fn hear_of_departures(
        &mut self,
        world: &mut World,
        life: &Life,
    ) -> anyhow::Result<()> {
        if self.model.has_departures() {
            self.flush(world, life).await?;
        }
        Ok(())
    }

    async fn terminate(&mut self, world: &mut World, life: &Life) -> anyhow::Result<()> {
        if self.drain.is_some() {
            self.hear_of_departures(world, life).await?;
        }
        self.note("SIGTERM".to_owned());
        self.model.terminate();
        match &self.drain {
            None => self.drain = Some(life.terminate()),
            Some(drain) => drain.hurry.fire(),
        }
        self.settle(world, life, false).await
    }

    /// The write with `number` has happened; its answer waits under the number
    /// `answer`, unless nobody waits for it.
    pub(super) fn remember_answer(&mut self, life: &Life, number: u64, answer: Option<u64>) {
        let mut waiting = life.turnstile.waiting().into_iter();
        let waits = |answer: &u64| waiting.any(|waiter| waiter.number == *answer);
        if let Some(answer) = answer.filter(waits) {
            self.writes.insert(answer, number);
        }
    }

    /// Those that wait for the answer to a write.
    fn answers(&self, waiting: &[Waiter]) -> Vec<Waiter> {
        let is_answer = |it: &&Waiter| self.writes.contains_key(&it.number);
        waiting.iter().filter(is_answer).copied().collect()
    }

    /// The answer to a write is lost; whoever waits for it looks again, and as
    /// soon as its back-off is over the history goes on.
    async fn lose_answer(
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
