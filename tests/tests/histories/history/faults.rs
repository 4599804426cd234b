//! Faults that happen to a process, besides its clients and its provider.

use minichat_store::testing::Waiter;

use super::{End, History};
use crate::world::{Life, World};

/// Longer than every back-off of a retry or of the resolution of a commit in
/// doubt.
pub(super) const BACK_OFF: u32 = 2_003;

/// The weight of each fault: a crash, a provider that starts or stops to refuse
/// connections, a lost answer, a failing statement of the writer, SIGTERM, and
/// the end that follows it.
pub(super) type FaultWeights = [u32; 6];

impl History {
    pub(super) fn fault_weights(&self, life: &Life, waiting: &[Waiter]) -> FaultWeights {
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

    /// Injects one fault. `Some` if it ends the process.
    pub(super) async fn inject_fault(
        &mut self,
        world: &mut World,
        life: &Life,
        waiting: &[Waiter],
        weights: FaultWeights,
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

    /// Called before a cut. A turn learns that its client left when it learns that
    /// it is open; whichever of disconnect and cut it learns of first ends it.
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

    /// The write with `number` was made. Its answer waits as number `answer`,
    /// unless its caller is gone.
    pub(super) fn remember_answer(&mut self, life: &Life, number: u64, answer: Option<u64>) {
        let mut waiting = life.turnstile.waiting().into_iter();
        let waits = |answer: &u64| waiting.any(|waiter| waiter.number == *answer);
        if let Some(answer) = answer.filter(waits) {
            self.writes.insert(answer, number);
        }
    }

    /// The waiters for the answer of a write.
    fn answers(&self, waiting: &[Waiter]) -> Vec<Waiter> {
        let is_answer = |it: &&Waiter| self.writes.contains_key(&it.number);
        waiting.iter().filter(is_answer).copied().collect()
    }

    /// Loses the answer to a write. Its caller looks the result up, and the
    /// history continues when the back-off is over.
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
