use proptest::prelude::*;

use super::*;
use crate::quota::{Cell, TierLimits};

fn now() -> Timestamp {
    "2026-02-28T15:30:00Z".parse().unwrap()
}

fn cell(limit: i64, used: i64) -> Option<(u8, bool, bool)> {
    period_status(Period::Daily, limit, used, 80, now())
        .map(|cell| (cell.remaining_percentage, cell.warning, cell.exhausted))
}

/// Check 41: QUOTA-101
#[test]
fn percentages_round_down_and_flag_at_the_threshold() {
    assert_eq!(cell(150, 120), Some((20, true, false)));
    assert_eq!(cell(152, 120), Some((21, false, false)));
    assert_eq!(cell(1000, 990), Some((1, true, false)));
    assert_eq!(cell(1000, 991), Some((0, true, true)));
    assert_eq!(cell(10, 25), Some((0, true, true)));
    assert_eq!(cell(i64::MAX, 1), Some((99, false, false)));
}

/// Check 40: QUOTA-99, QUOTA-100
#[test]
fn a_fresh_user_has_four_full_cells() {
    let status = status(&Limits::default(), &Cells::default(), 80, now());
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["warning_threshold_pct"], 80);
    assert_eq!(json["tiers"][0]["tier"], "premium");
    assert_eq!(json["tiers"][1]["tier"], "total");
    assert_eq!(
        json["tiers"][0]["periods"][0],
        serde_json::json!({
            "period": "daily", "limit_credits_micro": 50_000_000, "used_credits_micro": 0,
            "remaining_credits_micro": 50_000_000, "remaining_percentage": 100,
            "next_reset": "2026-03-01T00:00:00Z", "warning": false, "exhausted": false,
        })
    );
    assert_eq!(json["tiers"][1]["periods"][1]["period"], "monthly");
}

/// QUOTA-100
#[test]
fn a_cell_without_allowance_is_left_out_and_its_tier_stays() {
    let limits = Limits {
        premium: TierLimits {
            daily: 0,
            monthly: 0,
        },
        ..Limits::default()
    };
    let status = status(&limits, &Cells::default(), 80, now());
    assert!(status.tiers[0].periods.is_empty());
    assert_eq!(status.tiers[1].periods.len(), 2);
    assert_eq!(status.warnings().len(), 2);
}

/// Section 15, step 5; QUOTA-101, QUOTA-102
#[test]
fn the_worked_example_ends_with_one_warning() {
    let limits = Limits {
        standard: TierLimits {
            daily: 60_000,
            monthly: 600_000,
        },
        premium: TierLimits {
            daily: 22_000,
            monthly: 300_000,
        },
    };
    let spent = |spent| Cell { spent, reserved: 0 };
    let cells = Cells {
        total_daily: spent(26_200),
        total_monthly: spent(241_200),
        premium_daily: spent(20_000),
        premium_monthly: spent(200_000),
        ..Cells::default()
    };
    let status = status(&limits, &cells, 80, now());
    assert_eq!(status.tiers[0].periods[0].remaining_credits_micro, 2000);
    assert_eq!(status.tiers[1].periods[0].remaining_credits_micro, 33_800);
    let warnings = serde_json::to_value(status.warnings()).unwrap();
    assert_eq!(
        warnings,
        serde_json::json!([
            {"tier": "premium", "period": "daily", "remaining_percentage": 9,
             "warning": true, "exhausted": false, "next_reset": "2026-03-01T00:00:00Z"},
            {"tier": "premium", "period": "monthly", "remaining_percentage": 33,
             "warning": false, "exhausted": false},
            {"tier": "total", "period": "daily", "remaining_percentage": 56,
             "warning": false, "exhausted": false},
            {"tier": "total", "period": "monthly", "remaining_percentage": 59,
             "warning": false, "exhausted": false},
        ])
    );
}

/// QUOTA-101
#[test]
fn a_held_reserve_counts_as_used() {
    let cells = Cells {
        total_daily: Cell {
            spent: 1,
            reserved: 99_999_999,
        },
        ..Cells::default()
    };
    let status = status(&Limits::default(), &cells, 80, now());
    assert!(status.tiers[1].periods[0].exhausted);
}

proptest! {
    #[test]
    fn remaining_and_percentage_stay_in_range(limit: i64, used: i64, threshold: u32) {
        if let Some(cell) = period_status(Period::Monthly, limit, used, threshold, now()) {
            prop_assert!(limit > 0);
            prop_assert!(cell.remaining_credits_micro >= 0);
            prop_assert!(cell.remaining_percentage <= 100);
            prop_assert!(!cell.exhausted || cell.warning || threshold > 100);
        }
    }
}
