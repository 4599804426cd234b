//! The three sides of the books, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use minichat_core::{Date, UserId};
use serde::Serialize;

use super::Books;
use super::ledger::Ledger;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Micro-credits that were booked.
    Credits,
    /// How many turns ended.
    Turns,
    /// Micro-credits that are reserved for turns that run.
    Reserved,
    /// Usage events whose payload cannot be read.
    UnreadableEvents,
}

/// Sides that do not agree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    pub user_id: UserId,
    /// `2026-11-30`, or `2026-11` for the month.
    pub period: String,
    /// `total` or `tier:premium`.
    pub bucket: &'static str,
    pub fact: Fact,
    /// What the turns say.
    pub turns: u64,
    /// What the usage events say; `None`: they do not.
    pub events: Option<u64>,
    /// What the quota row says; without a row, 0.
    pub quota: i64,
}

/// A user's day or month.
#[derive(Default)]
struct Account {
    total: Sides,
    premium: Sides,
    is_premium_unknown: bool,
    is_unsettled: bool,
}

/// What each side says of one bucket.
#[derive(Clone, Copy, Default)]
struct Sides {
    turns: u64,
    credits: u64,
    reserved: u64,
    events: u64,
    event_credits: u64,
    quota: Quota,
}

#[derive(Clone, Copy, Default)]
struct Quota {
    calls: i64,
    spent: i64,
    reserved: i64,
}

/// `None` is the month.
type Place = (UserId, Option<Date>);

pub(super) fn books(ledger: Ledger) -> Books {
    let accounts = accounts(&ledger);
    let mut differences = Vec::new();
    for ((user, day), account) in &accounts {
        if account.is_unsettled {
            continue;
        }
        let period = day.map_or_else(|| ledger.month.to_string(), |day| day.to_string());
        let difference = |bucket, fact, turns, events, quota| Difference {
            user_id: *user,
            period: period.clone(),
            bucket,
            fact,
            turns,
            events,
            quota,
        };
        differences.extend(differing("total", &account.total, true, difference));
        if !account.is_premium_unknown {
            let premium = &account.premium;
            differences.extend(differing("tier:premium", premium, false, difference));
        }
    }
    if ledger.unreadable > 0 {
        differences.push(Difference {
            user_id: UserId(uuid::Uuid::nil()),
            period: ledger.month.to_string(),
            bucket: "total",
            fact: Fact::UnreadableEvents,
            turns: 0,
            events: Some(ledger.unreadable),
            quota: 0,
        });
    }
    let month = ledger.month;
    let unsettled = ledger.unsettled.into_iter();
    Books {
        tenant: ledger.tenant,
        month,
        lines: ledger.lines,
        unsettled: unsettled
            .filter(|((_, day), _)| *day >= month.first())
            .map(|((user, day), turns)| (user, day, turns))
            .collect(),
        differences,
    }
}

fn differing<'a>(
    bucket: &'static str,
    sides: &Sides,
    has_events: bool,
    difference: impl Fn(&'static str, Fact, u64, Option<u64>, i64) -> Difference + 'a,
) -> impl Iterator<Item = Difference> + 'a {
    let quota = sides.quota;
    let events = |sum| has_events.then_some(sum);
    let facts = [
        (
            Fact::Credits,
            sides.credits,
            events(sides.event_credits),
            quota.spent,
        ),
        (Fact::Turns, sides.turns, events(sides.events), quota.calls),
        (Fact::Reserved, sides.reserved, None, quota.reserved),
    ];
    let differs = |turns: u64, events: Option<u64>, quota: i64| {
        events.is_some_and(|events| events != turns) || u64::try_from(quota) != Ok(turns)
    };
    facts
        .into_iter()
        .filter(move |(_, turns, events, quota)| differs(*turns, *events, *quota))
        .map(move |(fact, turns, events, quota)| difference(bucket, fact, turns, events, quota))
}

fn accounts(ledger: &Ledger) -> BTreeMap<Place, Account> {
    let mut accounts = BTreeMap::<Place, Account>::new();
    for (key, line) in &ledger.lines {
        for day in [Some(key.day), None] {
            let total = &mut accounts.entry((key.user, day)).or_default().total;
            total.turns += line.turns;
            total.credits += line.credits_micro;
            total.reserved += line.reserved_credits_micro;
            total.events += line.events;
            total.event_credits += line.event_credits_micro;
        }
    }
    for ((day, user), premium) in &ledger.premium {
        for day in [Some(*day), None] {
            let account = accounts.entry((*user, day)).or_default();
            account.premium.turns += premium.turns;
            account.premium.credits += premium.credits_micro;
            account.premium.reserved += premium.reserved_credits_micro;
            account.is_premium_unknown |= premium.is_unknown;
        }
    }
    for cell in &ledger.cells {
        let day = (cell.period == "daily").then_some(cell.start);
        let account = accounts.entry((cell.user_id, day)).or_default();
        let sides = match cell.bucket.as_str() {
            "total" => &mut account.total,
            _ => &mut account.premium,
        };
        sides.quota = Quota {
            calls: cell.calls,
            spent: cell.spent_credits_micro,
            reserved: cell.reserved_credits_micro,
        };
    }
    for place in unsettled(ledger) {
        accounts.entry(place).or_default().is_unsettled = true;
    }
    accounts
}

/// What cannot be compared because of unsettled turns.
fn unsettled(ledger: &Ledger) -> BTreeSet<Place> {
    let days = ledger.unsettled.keys();
    days.flat_map(|(user, day)| {
        [
            (*user, Some(*day)),
            (*user, Some(day.next_day())),
            (*user, None),
        ]
    })
    .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user_id,
            period,
            bucket,
            fact,
            turns,
            events,
            quota,
        } = self;
        let what = match fact {
            Fact::Credits => "micro-credits spent",
            Fact::Turns => "turns that ended",
            Fact::Reserved => "micro-credits reserved",
            Fact::UnreadableEvents => {
                let events = events.unwrap_or_default();
                return write!(f, "{events} usage events cannot be read");
            }
        };
        write!(
            f,
            "user {user_id}, {period}, {bucket}, {what}: {turns} by the turns"
        )?;
        if let Some(events) = events {
            write!(f, ", {events} by the usage events")?;
        }
        write!(f, ", {quota} by the quota row")
    }
}
