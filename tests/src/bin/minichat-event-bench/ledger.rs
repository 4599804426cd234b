//! Compares what the receivers have with what the database says was enqueued.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use minichat_tests::database::{Database, DatabaseKind};

use crate::receiver::Received;

/// One event, as the database has it.
struct Enqueued {
    queue: String,
    tenant: String,
    key: String,
    /// Microseconds since 1970.
    at: i64,
}

/// The result of the comparison.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    pub(crate) enqueued: usize,
    pub(crate) lost: usize,
    /// Events that first arrived after a later one of the same sink.
    pub(crate) out_of_order: usize,
    /// Arrivals of keys that nobody enqueued.
    pub(crate) unknown: usize,
    /// Arrivals beyond the first one of a key.
    pub(crate) repeated: usize,
    /// Times from the commit to the arrival, of the tenants that were never sick, in microseconds.
    pub(crate) lags: Vec<i64>,
}

impl Ledger {
    /// `sick`: tenants whose lag does not count. `refusing`: tenants whose order does not count either, because their
    /// events were dead letters for a while.
    pub(crate) async fn read(
        database: &Database,
        received: &[Received],
        sick: &BTreeSet<String>,
        refusing: &BTreeSet<String>,
    ) -> anyhow::Result<Self> {
        let enqueued = enqueued(database).await?;
        let mut first: BTreeMap<&str, (usize, i64)> = BTreeMap::new();
        let mut ledger = Self {
            enqueued: enqueued.len(),
            ..Self::default()
        };
        for (place, arrival) in received.iter().enumerate() {
            if first.contains_key(&*arrival.key) {
                ledger.repeated += 1;
            } else {
                first.insert(&arrival.key, (place, arrival.at));
            }
        }
        let mut latest: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let mut known = 0;
        for event in &enqueued {
            let Some(&(place, at)) = first.get(&*event.key) else {
                ledger.lost += 1;
                continue;
            };
            known += 1;
            let latest = latest.entry((&event.queue, &event.tenant)).or_default();
            if place < *latest && !refusing.contains(&event.tenant) {
                ledger.out_of_order += 1;
            }
            *latest = place.max(*latest);
            if !sick.contains(&event.tenant) {
                ledger.lags.push(at - event.at);
            }
        }
        ledger.unknown = first.len() - known;
        ledger.lags.sort_unstable();
        Ok(ledger)
    }

    /// A percentile of the lags in milliseconds.
    pub(crate) fn lag(&self, percent: usize) -> f64 {
        let rank = (self.lags.len() * percent).div_ceil(100).max(1);
        let micros = self.lags.get(rank - 1).copied().unwrap_or_default();
        std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64() * 1000.0
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.lost == 0 && self.out_of_order == 0 && self.unknown == 0
    }
}

/// All events, in the order in which they were enqueued.
async fn enqueued(database: &Database) -> anyhow::Result<Vec<Enqueued>> {
    let (tenant, at) = match database.kind() {
        DatabaseKind::Sqlite => ("tenant_id", "created_at"),
        DatabaseKind::Postgres => (
            "CAST(tenant_id AS TEXT)",
            "CAST(EXTRACT(EPOCH FROM created_at) * 1000000 AS BIGINT)",
        ),
    };
    let sql = format!(
        "SELECT queue, {tenant}, COALESCE(dedupe_key, REPLACE({tenant}, '-', '') || '/' || CAST(id AS TEXT)), {at} \
         FROM outbox_messages ORDER BY id"
    );
    let rows = database.query(&sql).await?.into_iter();
    rows.map(|row| {
        let row: Option<Vec<String>> = row.into_iter().collect();
        let [queue, tenant, key, at] = <[String; 4]>::try_from(row.context("a null")?)
            .map_err(|row| anyhow::anyhow!("{row:?}"))?;
        Ok(Enqueued {
            queue,
            tenant,
            key,
            at: at.parse()?,
        })
    })
    .collect()
}
