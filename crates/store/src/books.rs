//! What a tenant's turns of a month cost, from each place that says so: the turns
//! themselves, the usage events, and the quota rows. All of it is read from one
//! [`Snapshot`], so that it can be compared.

use minichat_core::{Date, NamespacedName, TenantId, UserId};

use crate::tx::only_column;
use crate::value::{Row, params};
use crate::{Snapshot, StoreError};

/// Whose books, of which days: from `first` to the day before `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BookPeriod {
    pub tenant_id: TenantId,
    pub first: Date,
    pub end: Date,
}

/// Turns of one user, day and model that were priced by one policy, by the day of
/// their reserve. There may be several: of chats that exist, and of purged ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BookedTurns {
    pub user_id: Option<UserId>,
    pub day: Date,
    pub model: String,
    pub policy_version: u64,
    pub turns: u64,
    /// Those that say what they booked; older releases did not write it.
    pub settled: u64,
    /// Of ended turns what was booked, of running ones what is reserved.
    pub credits_micro: u64,
}

/// Usage events whose messages are deleted, added up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageRollup {
    pub user_id: UserId,
    pub day: Date,
    pub model: String,
    pub events: u64,
    pub credits_micro: u64,
}

/// A quota row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BookedCell {
    pub user_id: UserId,
    /// `daily` or `monthly`.
    pub period: String,
    pub start: Date,
    /// `total` or `tier:premium`.
    pub bucket: String,
    pub spent_credits_micro: i64,
    pub reserved_credits_micro: i64,
    pub calls: i64,
}

/// As serializing writes it, its first member.
macro_rules! is_usage_event {
    () => {
        "(queue = $1 OR payload LIKE '{\"event_type\":\"usage_snapshot\",%')"
    };
}

macro_rules! turns {
    ($sum:literal, $condition:literal) => {
        concat!(
            "SELECT requester_user_id, reserve_day, COALESCE(effective_model, ''), \
             COALESCE(policy_version_applied, 0), COUNT(*), COUNT(settled_credits_micro), \
             CAST(COALESCE(SUM(",
            $sum,
            "), 0) AS BIGINT) FROM chat_turns WHERE tenant_id = $1 \
             AND reserve_day >= $2 AND reserve_day < $3 AND ",
            $condition,
            " GROUP BY requester_user_id, reserve_day, COALESCE(effective_model, ''), \
             COALESCE(policy_version_applied, 0)"
        )
    };
}

impl Snapshot {
    /// The tenant that belongs to `owner`.
    pub async fn book_tenant(
        &mut self,
        owner: &NamespacedName,
    ) -> Result<Option<TenantId>, StoreError> {
        let mut found = None;
        let sql = "SELECT id FROM tenants WHERE owner = $1";
        let params = params![owner.as_str()];
        self.each(sql, &params, only_column, |id| found = Some(id))
            .await?;
        Ok(found)
    }

    /// Turns that ended, also those of chats that were purged.
    pub async fn book_turns(
        &mut self,
        period: &BookPeriod,
        mut take: impl FnMut(BookedTurns),
    ) -> Result<(), StoreError> {
        let sql = turns!("settled_credits_micro", "state <> 'running'");
        let params = period.params();
        self.each(sql, &params, turns_row, &mut take).await?;
        let sql = "SELECT user_id, day, model, policy_version, turns, settled, credits_micro \
                   FROM turn_rollups WHERE tenant_id = $1 AND day >= $2 AND day < $3";
        self.each(sql, &params, turns_row, take).await
    }

    /// Turns that run, with what they have reserved.
    pub async fn book_running(
        &mut self,
        period: &BookPeriod,
        take: impl FnMut(BookedTurns),
    ) -> Result<(), StoreError> {
        let sql = turns!("reserved_credits_micro", "state = 'running'");
        self.each(sql, &period.params(), turns_row, take).await
    }

    /// Usage events that are in no queue any more.
    pub async fn book_rollups(
        &mut self,
        period: &BookPeriod,
        take: impl FnMut(UsageRollup),
    ) -> Result<(), StoreError> {
        let sql = "SELECT user_id, day, model, events, credits_micro FROM usage_rollups \
                   WHERE tenant_id = $1 AND day >= $2 AND day < $3";
        self.each(sql, &period.params(), rollup_row, take).await
    }

    /// The payloads of the tenant's other usage events, of all days, each once: the
    /// messages, and the dead letters that have none. Of `usage_queue` all are taken,
    /// of other queues, one of which it may have been, usage events.
    pub async fn book_events(
        &mut self,
        tenant: TenantId,
        usage_queue: &str,
        mut take: impl FnMut(String),
    ) -> Result<(), StoreError> {
        let params = params![usage_queue, tenant];
        for sql in [
            concat!(
                "SELECT payload FROM outbox_messages WHERE tenant_id = $2 AND ",
                is_usage_event!()
            ),
            concat!(
                "SELECT payload FROM outbox_dead_letters WHERE tenant_id = $2 \
                 AND status IN ('pending', 'discarded') AND ",
                is_usage_event!()
            ),
        ] {
            self.each(sql, &params, only_column, &mut take).await?;
        }
        Ok(())
    }

    /// Daily and monthly quota rows.
    pub async fn book_cells(
        &mut self,
        period: &BookPeriod,
        take: impl FnMut(BookedCell),
    ) -> Result<(), StoreError> {
        let sql = "SELECT user_id, period_type, period_start, bucket, spent_credits_micro, \
                   reserved_credits_micro, calls FROM quota_usage WHERE tenant_id = $1 \
                   AND period_start >= $2 AND period_start < $3";
        self.each(sql, &period.params(), cell_row, take).await
    }

    /// The stored policy of a version, as JSON.
    pub async fn book_policy(
        &mut self,
        tenant: TenantId,
        version: u64,
    ) -> Result<Option<String>, StoreError> {
        let mut found = None;
        let sql = "SELECT snapshot FROM policy_snapshots WHERE tenant_id = $1 \
                   AND policy_version = $2";
        let params = params![tenant, version];
        self.each(sql, &params, only_column, |json| found = Some(json))
            .await?;
        Ok(found)
    }
}

impl BookPeriod {
    fn params(&self) -> [crate::value::Param<'static>; 3] {
        params![self.tenant_id, self.first, self.end]
    }
}

fn turns_row(row: &Row<'_>) -> Result<BookedTurns, StoreError> {
    Ok(BookedTurns {
        user_id: row.take()?,
        day: row.take()?,
        model: row.take()?,
        policy_version: row.take()?,
        turns: row.take()?,
        settled: row.take()?,
        credits_micro: row.take()?,
    })
}

fn rollup_row(row: &Row<'_>) -> Result<UsageRollup, StoreError> {
    Ok(UsageRollup {
        user_id: row.take()?,
        day: row.take()?,
        model: row.take()?,
        events: row.take()?,
        credits_micro: row.take()?,
    })
}

fn cell_row(row: &Row<'_>) -> Result<BookedCell, StoreError> {
    Ok(BookedCell {
        user_id: row.take()?,
        period: row.take()?,
        start: row.take()?,
        bucket: row.take()?,
        spent_credits_micro: row.take()?,
        reserved_credits_micro: row.take()?,
        calls: row.take()?,
    })
}
