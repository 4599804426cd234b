//! What the database says of a tenant's month, added up by user, day and model.

use std::collections::{BTreeMap, BTreeSet};

use minichat_core::quota::Tier;
use minichat_core::{Date, TenantId, UserId};
use minichat_store::{BookPeriod, BookedCell, BookedTurns, Snapshot, StoreError, UsageEvent};
use serde::Deserialize;
use uuid::Uuid;

use super::Month;

/// The place of a line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LineKey {
    /// The day of the reserve.
    pub day: Date,
    /// The nil id: no user.
    pub user: UserId,
    /// The effective model.
    pub model: String,
}

/// What was spent there, as the turns and as the usage events say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Line {
    pub turns: u64,
    /// Those of them that do not say what they booked.
    pub unsettled: u64,
    pub credits_micro: u64,
    pub events: u64,
    pub event_credits_micro: u64,
    pub running: u64,
    pub reserved_credits_micro: u64,
}

/// The premium part of a user's day, as far as the stored policies tell the tier of
/// each model.
#[derive(Clone, Copy, Default)]
pub(super) struct Premium {
    pub(super) turns: u64,
    pub(super) credits_micro: u64,
    pub(super) reserved_credits_micro: u64,
    pub(super) is_unknown: bool,
}

pub(super) struct Ledger {
    pub(super) tenant: TenantId,
    pub(super) month: Month,
    pub(super) lines: BTreeMap<LineKey, Line>,
    pub(super) premium: BTreeMap<(Date, UserId), Premium>,
    pub(super) cells: Vec<BookedCell>,
    /// Unsettled turns of the month and of the day before it.
    pub(super) unsettled: BTreeMap<(UserId, Date), u64>,
    /// Usage events whose payload cannot be read.
    pub(super) unreadable: u64,
}

impl Ledger {
    pub(super) async fn read(
        snapshot: &mut Snapshot,
        tenant: TenantId,
        month: Month,
        usage_queue: &str,
    ) -> Result<Self, StoreError> {
        let mut ledger = Self {
            tenant,
            month,
            lines: BTreeMap::new(),
            premium: BTreeMap::new(),
            cells: Vec::new(),
            unsettled: BTreeMap::new(),
            unreadable: 0,
        };
        let period = BookPeriod {
            tenant_id: tenant,
            first: month.first(),
            end: month.end(),
        };
        let (mut ended, mut running) = (Vec::new(), Vec::new());
        let with_day_before = BookPeriod {
            first: Date::from_days_since_epoch(period.first.days_since_epoch() - 1),
            ..period
        };
        let turns = snapshot.book_turns(&with_day_before, |turns| ended.push(turns));
        turns.await?;
        let turns = snapshot.book_running(&period, |turns| running.push(turns));
        turns.await?;
        let tiers = Tiers::read(snapshot, tenant, ended.iter().chain(&running)).await?;
        for turns in ended {
            ledger.add_ended(turns, &tiers);
        }
        for turns in running {
            ledger.add_running(turns, &tiers);
        }
        ledger.add_events(snapshot, &period, usage_queue).await?;
        let cells = snapshot.book_cells(&period, |cell| ledger.cells.push(cell));
        cells.await?;
        Ok(ledger)
    }

    fn add_ended(&mut self, turns: BookedTurns, tiers: &Tiers) {
        let unsettled = turns.turns.saturating_sub(turns.settled);
        let user = turns.user_id.unwrap_or(UserId(Uuid::nil()));
        if unsettled > 0 {
            *self.unsettled.entry((user, turns.day)).or_default() += unsettled;
        }
        if turns.day < self.month.first() {
            return;
        }
        let premium = self.premium.entry((turns.day, user)).or_default();
        match tiers.of(&turns) {
            Some(Tier::Premium) => {
                premium.turns += turns.turns;
                premium.credits_micro += turns.credits_micro;
            }
            Some(Tier::Standard) => {}
            None => premium.is_unknown = true,
        }
        let line = self.line(turns.day, user, turns.model);
        line.turns += turns.turns;
        line.unsettled += unsettled;
        line.credits_micro += turns.credits_micro;
    }

    fn add_running(&mut self, turns: BookedTurns, tiers: &Tiers) {
        let user = turns.user_id.unwrap_or(UserId(Uuid::nil()));
        let premium = self.premium.entry((turns.day, user)).or_default();
        match tiers.of(&turns) {
            Some(Tier::Premium) => premium.reserved_credits_micro += turns.credits_micro,
            Some(Tier::Standard) => {}
            None => premium.is_unknown = true,
        }
        let line = self.line(turns.day, user, turns.model);
        line.running += turns.turns;
        line.reserved_credits_micro += turns.credits_micro;
    }

    async fn add_events(
        &mut self,
        snapshot: &mut Snapshot,
        period: &BookPeriod,
        usage_queue: &str,
    ) -> Result<(), StoreError> {
        let rollups = snapshot.book_rollups(period, |rollup| {
            let line = self.line(rollup.day, rollup.user_id, rollup.model);
            line.events += rollup.events;
            line.event_credits_micro += rollup.credits_micro;
        });
        rollups.await?;
        let events = snapshot.book_events(period.tenant_id, usage_queue, |payload| {
            let Ok(Some(event)) = UsageEvent::read(&payload) else {
                self.unreadable += 1;
                return;
            };
            if event.is_of_system() {
                return;
            }
            let (day, user) = (event.day(), event.user());
            if day < period.first || day >= period.end {
                return;
            }
            let line = self.line(day, user, event.effective_model);
            line.events += 1;
            line.event_credits_micro += event.committed_credits_micro;
        });
        events.await
    }

    fn line(&mut self, day: Date, user: UserId, model: String) -> &mut Line {
        self.lines.entry(LineKey { day, user, model }).or_default()
    }
}

/// The tiers of the models by policy version, as the stored policies have them.
struct Tiers(BTreeMap<(u64, String), Tier>);

#[derive(Deserialize)]
struct Policy {
    model_catalog: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    tier: Tier,
}

impl Tiers {
    async fn read(
        snapshot: &mut Snapshot,
        tenant: TenantId,
        turns: impl Iterator<Item = &BookedTurns>,
    ) -> Result<Self, StoreError> {
        let versions: BTreeSet<u64> = turns.map(|turns| turns.policy_version).collect();
        let mut tiers = BTreeMap::new();
        for version in versions {
            let stored = snapshot.book_policy(tenant, version).await?;
            let policy = stored.and_then(|json| serde_json::from_str::<Policy>(&json).ok());
            for model in policy.into_iter().flat_map(|policy| policy.model_catalog) {
                tiers.insert((version, model.id), model.tier);
            }
        }
        Ok(Self(tiers))
    }

    fn of(&self, turns: &BookedTurns) -> Option<Tier> {
        let key = (turns.policy_version, turns.model.clone());
        self.0.get(&key).copied()
    }
}
