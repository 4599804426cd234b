//! Quota cells (PLAT-12, QUOTA-77 to QUOTA-82): what a user spent and reserved
//! in one bucket during one period.
//! Every transaction that reserves or settles first inserts missing `total`
//! rows of both periods and locks them, monthly before daily. This serialises
//! all quota work of one user, so that parallel sends cannot overspend. A
//! transaction that also locks a chat, as a reserve does, locks the chat first.

use minichat_core::quota::{Bucket, Period, Tier};
use minichat_core::turn::Usage;
use minichat_core::{Date, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::tx::Dialect;
use crate::value::{FromValue, Param, Row, Value, params};
use crate::{StoreError, Tx};

/// The user and the day of cells: the day's cells and those of its month.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaDay {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// The UTC date of `started_at` (QUOTA-54). Settlement uses it too, not the
    /// current date.
    pub day: Date,
}

/// One row of `quota_usage`. Credits in micro-credits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaCell {
    pub period: Period,
    pub bucket: Bucket,
    pub period_start: Date,
    pub spent_credits_micro: u64,
    pub reserved_credits_micro: u64,
    pub calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub file_search_calls: u64,
    pub web_search_calls: u64,
    pub code_interpreter_calls: u64,
}

/// The cells of one [`QuotaDay`]. A row that does not exist yet is absent and
/// counts as zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QuotaCells {
    cells: Vec<QuotaCell>,
}

/// The amounts that settlement books on the cells of a reserve (QUOTA-62).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SettlementBooking {
    pub scope: QuotaDay,
    /// Whether the turn ran on a premium model. If so, `tier:premium` is booked
    /// too.
    pub premium: bool,
    /// The turn's reserve, which is released.
    pub reserved_credits_micro: u64,
    /// The charge.
    pub committed_credits_micro: u64,
    /// The provider's counts if the method is `actual`, otherwise zeros.
    pub usage: Usage,
    /// Completed tool calls; zeros if the reserve was released.
    pub file_search_calls: u32,
    pub web_search_calls: u32,
    pub code_interpreter_calls: u32,
    pub now: Timestamp,
}

/// A reserve that settlement did not find in full (QUOTA-65): the cell is
/// missing or holds less than the turn's reserve. The cell's reserve becomes 0.
/// The caller logs it as an error with the turn's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SettlementFault {
    pub period: Period,
    pub bucket: Bucket,
    /// What the cell held, in micro-credits.
    pub reserved_credits_micro: u64,
}

impl Tx {
    /// Inserts missing total rows and locks all cells of `scope` (QUOTA-82).
    /// One round trip.
    pub async fn quota_lock(&mut self, scope: QuotaDay) -> Result<QuotaCells, StoreError> {
        self.quota_ensure(scope)?;
        let sql = self.dialect().quota_lock_sql();
        let cells = self.query(sql, &scope.params(), cell_row).await?;
        Ok(QuotaCells::new(cells))
    }

    /// The cells of `scope`, without locks.
    pub async fn quota_cells(&mut self, scope: QuotaDay) -> Result<QuotaCells, StoreError> {
        let cells = self.query(CELLS_SQL, &scope.params(), cell_row).await?;
        Ok(QuotaCells::new(cells))
    }

    /// Adds a reserve to the total cells and, for a premium model, to the
    /// premium cells (QUOTA-53). The caller holds the locks and has checked
    /// the limits.
    pub fn quota_reserve(
        &mut self,
        scope: QuotaDay,
        premium: bool,
        reserved_credits_micro: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for bucket in booked(premium).iter().copied() {
            self.execute_later(
                concat!(
                    "INSERT INTO quota_usage (id, tenant_id, user_id, period_type, \
                     period_start, bucket, reserved_credits_micro, updated_at) VALUES \
                     ($1, $3, $4, 'monthly', $5, $7, $8, $9), \
                     ($2, $3, $4, 'daily', $6, $7, $8, $9) ",
                    cell_conflict!(),
                    " DO UPDATE SET reserved_credits_micro = \
                     quota_usage.reserved_credits_micro + excluded.reserved_credits_micro, \
                     updated_at = excluded.updated_at"
                ),
                params![
                    Uuid::new_v4(),
                    Uuid::new_v4(),
                    scope.tenant_id,
                    scope.user_id,
                    scope.day.first_of_month(),
                    scope.day,
                    bucket.as_str(),
                    reserved_credits_micro,
                    now,
                ],
            )?;
        }
        Ok(())
    }

    /// Releases the reserve and books the charge (QUOTA-62). `cells` are those
    /// that [`Tx::turn_finish`] locked. Never fails because of a cell's amounts
    /// (QUOTA-65).
    pub fn quota_settle(
        &mut self,
        settlement: &SettlementBooking,
        cells: &QuotaCells,
    ) -> Result<Vec<SettlementFault>, StoreError> {
        for bucket in booked(settlement.premium).iter().copied() {
            self.execute_later(SETTLE_SQL, settlement.params(bucket))?;
        }
        Ok(settlement.faults(cells))
    }

    /// A missing row cannot be locked, so both total rows are inserted first.
    pub(crate) fn quota_ensure(&mut self, scope: QuotaDay) -> Result<(), StoreError> {
        self.execute_later(
            concat!(
                "INSERT INTO quota_usage (id, tenant_id, user_id, period_type, period_start, \
                 bucket, updated_at) VALUES \
                 ($1, $3, $4, 'monthly', $5, 'total', statement_timestamp()), \
                 ($2, $3, $4, 'daily', $6, 'total', statement_timestamp()) ",
                cell_conflict!(),
                " DO NOTHING"
            ),
            params![
                Uuid::new_v4(),
                Uuid::new_v4(),
                scope.tenant_id,
                scope.user_id,
                scope.day.first_of_month(),
                scope.day,
            ],
        )
    }
}

macro_rules! cell_conflict {
    () => {
        "ON CONFLICT (tenant_id, user_id, period_type, period_start, bucket)"
    };
}
pub(crate) use cell_conflict;

macro_rules! cell_select {
    ($month:literal, $day:literal, $lock:literal) => {
        concat!(
            "SELECT period_type, bucket, period_start, spent_credits_micro, \
             reserved_credits_micro, calls, input_tokens, output_tokens, file_search_calls, \
             web_search_calls, code_interpreter_calls FROM quota_usage \
             WHERE tenant_id = $1 AND user_id = $2 \
             AND ((period_type = 'monthly' AND period_start = ",
            $month,
            ") OR (period_type = 'daily' AND period_start = ",
            $day,
            ")) ORDER BY period_type DESC, bucket ",
            $lock
        )
    };
}
pub(crate) use cell_select;

const CELLS_SQL: &str = cell_select!("$3", "$4", "");

impl Dialect {
    /// Reads the cells of a scope and locks them in the order of QUOTA-82.
    /// `SQLite` has only one writer and needs no lock.
    pub(crate) const fn quota_lock_sql(self) -> &'static str {
        match self {
            Self::Sqlite => CELLS_SQL,
            Self::Postgres => cell_select!("$3", "$4", "FOR UPDATE"),
        }
    }

    /// The same for the UTC date of the database's clock.
    pub(crate) const fn quota_lock_today_sql(self) -> &'static str {
        match self {
            Self::Sqlite => cell_select!(
                "strftime('%Y-%m-01', statement_timestamp() / 1000000, 'unixepoch')",
                "strftime('%Y-%m-%d', statement_timestamp() / 1000000, 'unixepoch')",
                ""
            ),
            Self::Postgres => cell_select!(
                "CAST(date_trunc('month', statement_timestamp() AT TIME ZONE 'UTC') AS DATE)",
                "CAST(statement_timestamp() AT TIME ZONE 'UTC' AS DATE)",
                "FOR UPDATE"
            ),
        }
    }
}

const SETTLE_SQL: &str = concat!(
    "INSERT INTO quota_usage (id, tenant_id, user_id, period_type, period_start, bucket, \
     spent_credits_micro, calls, input_tokens, output_tokens, file_search_calls, \
     web_search_calls, code_interpreter_calls, updated_at) VALUES \
     ($1, $3, $4, 'monthly', $5, $7, $8, 1, $10, $11, $12, $13, $14, $15), \
     ($2, $3, $4, 'daily', $6, $7, $8, 1, $10, $11, $12, $13, $14, $15) ",
    cell_conflict!(),
    settled!("$9")
);

/// How a row is settled whose reserve was the given parameter.
macro_rules! settled {
    ($reserve:literal) => {
        concat!(
            " DO UPDATE SET \
             spent_credits_micro = quota_usage.spent_credits_micro + excluded.spent_credits_micro, \
             reserved_credits_micro = GREATEST(0, quota_usage.reserved_credits_micro - ",
            $reserve,
            "), calls = quota_usage.calls + 1, \
             input_tokens = quota_usage.input_tokens + excluded.input_tokens, \
             output_tokens = quota_usage.output_tokens + excluded.output_tokens, \
             file_search_calls = quota_usage.file_search_calls + excluded.file_search_calls, \
             web_search_calls = quota_usage.web_search_calls + excluded.web_search_calls, \
             code_interpreter_calls = \
             quota_usage.code_interpreter_calls + excluded.code_interpreter_calls, \
             updated_at = excluded.updated_at"
        )
    };
}
pub(crate) use settled;

pub(crate) fn cell_row(row: &Row<'_>) -> Result<QuotaCell, StoreError> {
    Ok(QuotaCell {
        period: row.take()?,
        bucket: row.take()?,
        period_start: row.take()?,
        spent_credits_micro: row.take()?,
        reserved_credits_micro: row.take()?,
        calls: row.take()?,
        input_tokens: row.take()?,
        output_tokens: row.take()?,
        file_search_calls: row.take()?,
        web_search_calls: row.take()?,
        code_interpreter_calls: row.take()?,
    })
}

impl QuotaDay {
    /// Tenant, user, month, day.
    pub(crate) fn params(self) -> [Param<'static>; 4] {
        params![
            self.tenant_id,
            self.user_id,
            self.day.first_of_month(),
            self.day
        ]
    }
}

impl QuotaCells {
    pub(crate) const fn new(cells: Vec<QuotaCell>) -> Self {
        Self { cells }
    }

    /// The stored cell, if the row exists.
    pub fn get(&self, period: Period, bucket: Bucket) -> Option<&QuotaCell> {
        self.cells
            .iter()
            .find(|cell| cell.period == period && cell.bucket == bucket)
    }

    /// `spent + reserved` of a cell in micro-credits, 0 when the row is absent.
    pub fn used_credits_micro(&self, period: Period, bucket: Bucket) -> u64 {
        self.get(period, bucket).map_or(0, |cell| {
            cell.spent_credits_micro
                .saturating_add(cell.reserved_credits_micro)
        })
    }

    /// Whether both total rows of `day` are among the cells.
    pub(crate) fn has_totals(&self, day: Date) -> bool {
        self.are_complete(day, false)
    }

    /// Whether all rows of `day` are there that a turn is booked on.
    pub fn are_complete(&self, day: Date, premium: bool) -> bool {
        let has = |period, start, bucket| {
            self.get(period, bucket)
                .is_some_and(|cell| cell.period_start == start)
        };
        booked(premium).iter().all(|bucket| {
            has(Period::Monthly, day.first_of_month(), *bucket) && has(Period::Daily, day, *bucket)
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &QuotaCell> {
        self.cells.iter()
    }

    fn faults(&self, bucket: Bucket, reserve: u64) -> impl Iterator<Item = SettlementFault> {
        [Period::Monthly, Period::Daily]
            .into_iter()
            .map(move |period| SettlementFault {
                period,
                bucket,
                reserved_credits_micro: self
                    .get(period, bucket)
                    .map_or(0, |cell| cell.reserved_credits_micro),
            })
            .filter(move |cell| cell.reserved_credits_micro < reserve)
    }
}

impl SettlementBooking {
    /// What `cells`, as they were locked, should have held and did not.
    pub fn faults(&self, cells: &QuotaCells) -> Vec<SettlementFault> {
        let buckets = booked(self.premium).iter().copied();
        buckets
            .flat_map(|bucket| cells.faults(bucket, self.reserved_credits_micro))
            .collect()
    }

    /// Telemetry goes to the total cells alone (PLAT-12).
    fn params(&self, bucket: Bucket) -> [Param<'static>; 15] {
        let Self {
            scope,
            premium: _,
            reserved_credits_micro,
            committed_credits_micro,
            usage,
            file_search_calls,
            web_search_calls,
            code_interpreter_calls,
            now,
        } = *self;
        let in_total = u64::from(bucket == Bucket::Total);
        params![
            Uuid::new_v4(),
            Uuid::new_v4(),
            scope.tenant_id,
            scope.user_id,
            scope.day.first_of_month(),
            scope.day,
            bucket.as_str(),
            committed_credits_micro,
            reserved_credits_micro,
            usage.input_tokens * in_total,
            usage.output_tokens * in_total,
            u64::from(file_search_calls) * in_total,
            u64::from(web_search_calls) * in_total,
            u64::from(code_interpreter_calls) * in_total,
            now,
        ]
    }
}

/// The buckets on which a turn is booked (QUOTA-9).
const fn booked(premium: bool) -> &'static [Bucket] {
    if premium {
        Tier::Premium.buckets()
    } else {
        Tier::Standard.buckets()
    }
}

impl FromValue for Period {
    const EXPECTED: &'static str = "a period type";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}

impl FromValue for Bucket {
    const EXPECTED: &'static str = "a bucket";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}
