//! What a user sees of the quota (QUOTA-99 to QUOTA-102).

use schemars::JsonSchema;
use serde::Serialize;

use super::{Bucket, Cells, Limits, Period};
use crate::time::Timestamp;

/// The tier of a status entry. Its name on the wire is the bucket's short form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusTier {
    Premium,
    Total,
}

impl StatusTier {
    /// In the order of the answer (QUOTA-100).
    pub const ALL: [Self; 2] = [Self::Premium, Self::Total];

    pub const fn bucket(self) -> Bucket {
        match self {
            Self::Premium => Bucket::TierPremium,
            Self::Total => Bucket::Total,
        }
    }
}

/// The answer of `GET /v1/quota/status`, serialized as it is (QUOTA-99).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct QuotaStatus {
    pub tiers: Vec<TierStatus>,
    pub warning_threshold_pct: u32,
}

/// The periods of one tier that have a limit; possibly none (QUOTA-100).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct TierStatus {
    pub tier: StatusTier,
    pub periods: Vec<PeriodStatus>,
}

/// One cell as the user sees it. Amounts are in micro-credits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct PeriodStatus {
    pub period: Period,
    pub limit_credits_micro: i64,
    pub used_credits_micro: i64,
    pub remaining_credits_micro: i64,
    /// 0 to 100, rounded down.
    #[schemars(range(max = 100))]
    pub remaining_percentage: u8,
    pub next_reset: Timestamp,
    pub warning: bool,
    pub exhausted: bool,
}

/// One cell in the `quota_warnings` of the SSE `done` event (QUOTA-102).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct QuotaWarning {
    pub tier: StatusTier,
    pub period: Period,
    pub remaining_percentage: u8,
    pub warning: bool,
    pub exhausted: bool,
    /// Only for a cell that warns or is exhausted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_reset: Option<Timestamp>,
}

/// The status at `now` of a user with `limits` whose current periods hold
/// `cells`.
pub fn status(
    limits: &Limits,
    cells: &Cells,
    warning_threshold_pct: u32,
    now: Timestamp,
) -> QuotaStatus {
    let tiers = StatusTier::ALL.map(|tier| TierStatus {
        tier,
        periods: Period::ALL
            .into_iter()
            .filter_map(|period| {
                let used = cells.of(tier.bucket(), period).used();
                let limit = limits.of(tier.bucket(), period);
                period_status(period, limit, used, warning_threshold_pct, now)
            })
            .collect(),
    });
    QuotaStatus {
        tiers: tiers.into(),
        warning_threshold_pct,
    }
}

/// `None` if the limit is 0.
fn period_status(
    period: Period,
    limit: i64,
    used: i64,
    warning_threshold_pct: u32,
    now: Timestamp,
) -> Option<PeriodStatus> {
    if limit <= 0 {
        return None;
    }
    let remaining = limit.saturating_sub(used).max(0);
    let percentage = i128::from(remaining) * 100 / i128::from(limit);
    let percentage = u8::try_from(percentage.clamp(0, 100)).unwrap_or(100);
    Some(PeriodStatus {
        period,
        limit_credits_micro: limit,
        used_credits_micro: used,
        remaining_credits_micro: remaining,
        remaining_percentage: percentage,
        next_reset: period.next_reset(now),
        warning: u32::from(percentage) <= 100_u32.saturating_sub(warning_threshold_pct),
        exhausted: percentage == 0,
    })
}

impl QuotaStatus {
    /// The cells flattened in the same order (QUOTA-102).
    pub fn warnings(&self) -> Vec<QuotaWarning> {
        self.tiers
            .iter()
            .flat_map(|tier| tier.periods.iter().map(|cell| warning(tier.tier, cell)))
            .collect()
    }
}

fn warning(tier: StatusTier, cell: &PeriodStatus) -> QuotaWarning {
    QuotaWarning {
        tier,
        period: cell.period,
        remaining_percentage: cell.remaining_percentage,
        warning: cell.warning,
        exhausted: cell.exhausted,
        next_reset: (cell.warning || cell.exhausted).then_some(cell.next_reset),
    }
}

#[cfg(test)]
mod tests;
