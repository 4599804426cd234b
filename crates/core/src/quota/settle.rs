//! What a turn is charged when it ends (QUOTA-56 to QUOTA-63). Reads nothing but what
//! was pinned on the turn, the stored price of its model and the provider's
//! usage, so that every process computes the same amounts (QUOTA-34).

use super::{Pricing, Reserve, credits};
use crate::turn::{SettlementMethod, Usage};

/// The charge of one turn, and the values to write to its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settlement {
    /// Micro-credits added to `spent_credits_micro` and to bill (QUOTA-87).
    pub committed_credits_micro: i64,
    pub charged_tokens: u64,
    /// Whether the provider's usage cost more than was charged (QUOTA-58).
    pub overshoot_capped: bool,
    /// Whether the usage exceeds the bounds of QUOTA-4, which is an error to log (QUOTA-5).
    pub usage_out_of_bounds: bool,
    /// The provider reported more tokens than were reserved, capped or not:
    /// counts in `quota_overshoot` (QUOTA-103).
    pub overshoot: bool,
    /// The provider's counts for the total rows, uncapped; 0 unless the method
    /// is `actual` (QUOTA-62).
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// Settles `reserve` by `method`, which [`crate::turn::billing`] derives.
///
/// `overshoot_tolerance_pct` is the integer per cent by which usage may exceed
/// the reserved tokens before its price is capped. `Actual` without known usage
/// is settled as `Estimated`.
pub fn settle(
    reserve: &Reserve,
    pricing: Pricing,
    method: SettlementMethod,
    usage: Option<Usage>,
    overshoot_tolerance_pct: u32,
) -> Settlement {
    match (method, usage.and_then(Usage::known)) {
        (SettlementMethod::Released, _) => Settlement::default(),
        (SettlementMethod::Actual, Some(usage)) => {
            actual(reserve, pricing, usage, overshoot_tolerance_pct)
        }
        (SettlementMethod::Actual | SettlementMethod::Estimated, _) => estimated(reserve, pricing),
    }
}

/// QUOTA-58
fn actual(reserve: &Reserve, pricing: Pricing, usage: Usage, tolerance_pct: u32) -> Settlement {
    let used = usage.input_tokens.saturating_add(usage.output_tokens);
    let price = credits(usage.input_tokens, usage.output_tokens, pricing).ok();
    let (committed, capped) = match price {
        Some(price) if within_tolerance(used, reserve.reserve_tokens, tolerance_pct) => {
            (price, false)
        }
        Some(price) => {
            let committed = price.min(reserve.reserved_credits_micro);
            (committed, committed < price)
        }
        None => (reserve.reserved_credits_micro, true),
    };
    Settlement {
        committed_credits_micro: committed,
        charged_tokens: if capped { reserve.reserve_tokens } else { used },
        overshoot_capped: capped,
        usage_out_of_bounds: price.is_none(),
        overshoot: used > reserve.reserve_tokens,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    }
}

fn within_tolerance(used: u64, reserved: u64, tolerance_pct: u32) -> bool {
    u128::from(used) * 100 <= u128::from(reserved) * (100 + u128::from(tolerance_pct))
}

/// QUOTA-59
fn estimated(reserve: &Reserve, pricing: Pricing) -> Settlement {
    let input = reserve.estimated_input_tokens();
    let output = u64::from(reserve.minimal_generation_floor_applied);
    let reserved = reserve.reserved_credits_micro;
    Settlement {
        committed_credits_micro: credits(input, output, pricing)
            .map_or(reserved, |price| price.min(reserved)),
        charged_tokens: input.saturating_add(output).min(reserve.reserve_tokens),
        ..Settlement::default()
    }
}

#[cfg(test)]
mod tests;
