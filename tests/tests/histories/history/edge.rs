//! A live turn that a watchdog may take for an orphan. Random steps rarely
//! produce this, so it is a step of its own.

use super::History;
use super::checks::operation_of;
use crate::model::stale_at;
use crate::provider::{CallView, Phase};
use crate::world::{Life, World};

impl History {
    /// Streams of running turns, and when each turn becomes stale.
    pub(super) fn at_risk(&self, open: &[CallView]) -> Vec<(CallView, i64)> {
        let edge = |call: &CallView| {
            let operation = operation_of(call).ok()?;
            let turn = self.model.operations[operation].turn?;
            let row = &self.model.facts.turns[&turn];
            row.is_running().then(|| stale_at(row))
        };
        open.iter()
            .filter(|call| call.phase == Phase::Streaming)
            .filter_map(|call| Some((call.clone(), edge(call)?)))
            .collect()
    }

    /// Moves the clock to the limit or just before it. Then a watchdog starts
    /// while the provider continues, in any order.
    pub(super) async fn tempt_watchdog(
        &mut self,
        world: &mut World,
        life: &Life,
        at_risk: &[(CallView, i64)],
    ) -> anyhow::Result<()> {
        let Some((call, edge)) = self.choices.one_of(at_risk).cloned() else {
            return Ok(());
        };
        let left = edge - self.model.now;
        let millis = if self.choices.chance(70) {
            // Rounded up, because at the limit the turn is already stale.
            (left + 999) / 1_000
        } else {
            (left - 1) / 1_000
        };
        if let Ok(millis @ 1..) = u32::try_from(millis) {
            self.move_clock(world, life, millis).await?;
        }
        self.start_watchdog(world, life).await?;
        for _ in 0..2 + self.choices.below(7) {
            let waiting = life.turnstile.waiting();
            let open: Vec<_> = super::open_calls(life);
            let goes_on = open.iter().find(|open| open.index == call.index);
            let weights = [
                3 * u32::from(!waiting.is_empty()),
                2 * u32::from(goes_on.is_some()),
            ];
            match (self.choices.weighted(&weights), goes_on) {
                (Some(0), _) => {
                    if let Some(waiter) = self.choices.one_of(&waiting).copied() {
                        self.release(world, life, waiter).await?;
                    }
                }
                (Some(_), Some(call)) => {
                    self.provider_step(world, life, std::slice::from_ref(call))
                        .await?;
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}
