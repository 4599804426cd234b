use proptest::prelude::*;

use super::*;

/// The standard model and the reserve of M in chapter 03, section 17.
const STANDARD: Pricing = Pricing {
    input_multiplier_micro: 1_000_000,
    output_multiplier_micro: 3_000_000,
};
const PREMIUM: Pricing = Pricing {
    input_multiplier_micro: 3_000_000,
    output_multiplier_micro: 15_000_000,
};

fn reserve(reserved_credits_micro: i64) -> Reserve {
    Reserve {
        reserve_tokens: 2210,
        max_output_tokens_applied: 1000,
        minimal_generation_floor_applied: 50,
        reserved_credits_micro,
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "usage is optional where it is used"
)]
fn usage(input_tokens: u64, output_tokens: u64) -> Option<Usage> {
    Some(Usage {
        input_tokens,
        output_tokens,
        ..Usage::default()
    })
}

fn by_usage(input: u64, output: u64) -> Settlement {
    let method = SettlementMethod::Actual;
    settle(&reserve(4210), STANDARD, method, usage(input, output), 10)
}

/// QUOTA-1: the product is one more than a multiple of a million; a float of 64
/// bits loses that one.
#[test]
fn a_price_is_exact_where_a_float_is_not() {
    let dear = Pricing {
        input_multiplier_micro: 9_999_999_999,
        output_multiplier_micro: 0,
    };
    assert_eq!(credits(9_999_999, 0, dear), Ok(99_999_989_991));
}

/// Checks 2 and 3: QUOTA-3, QUOTA-62
#[test]
fn reported_usage_is_what_is_charged() {
    let method = SettlementMethod::Actual;
    let premium = settle(&reserve(18_630), PREMIUM, method, usage(30, 2), 10);
    assert_eq!(premium.committed_credits_micro, 120);
    assert_eq!(
        by_usage(30, 2),
        Settlement {
            committed_credits_micro: 36,
            charged_tokens: 32,
            input_tokens: 30,
            output_tokens: 2,
            ..Settlement::default()
        }
    );
}

/// Check 18: QUOTA-58
#[test]
fn usage_within_the_tolerance_may_cost_more_than_the_reserve() {
    let settled = by_usage(2000, 431);
    assert_eq!(settled.committed_credits_micro, 3293);
    assert!(settled.overshoot && !settled.overshoot_capped);
}

/// Check 18: QUOTA-58
#[test]
fn usage_beyond_the_tolerance_is_capped_at_the_reserve() {
    assert_eq!(
        by_usage(1432, 1000),
        Settlement {
            committed_credits_micro: 4210,
            charged_tokens: 2210,
            overshoot_capped: true,
            usage_out_of_bounds: false,
            overshoot: true,
            input_tokens: 1432,
            output_tokens: 1000,
        }
    );
}

/// Check 18: QUOTA-58, the cap is an upper bound only.
#[test]
fn cheap_usage_beyond_the_tolerance_is_charged_as_it_is() {
    let settled = by_usage(3000, 10);
    assert_eq!(settled.committed_credits_micro, 3030);
    assert_eq!(settled.charged_tokens, 3010);
    assert!(settled.overshoot && !settled.overshoot_capped);
    let long = Reserve {
        reserve_tokens: 9902,
        max_output_tokens_applied: 8192,
        minimal_generation_floor_applied: 50,
        reserved_credits_micro: 128_010,
    };
    let method = SettlementMethod::Actual;
    let settled = settle(&long, PREMIUM, method, usage(17_000, 500), 10);
    assert_eq!(settled.committed_credits_micro, 58_500);
}

/// Check 18: QUOTA-5
#[test]
fn impossible_usage_is_charged_the_reserve_and_flagged() {
    let settled = by_usage(20_000_000, 1);
    assert_eq!(settled.committed_credits_micro, 4210);
    assert_eq!(settled.charged_tokens, 2210);
    assert!(settled.overshoot_capped && settled.usage_out_of_bounds);
    assert_eq!(settled.input_tokens, 20_000_000);
}

/// Check 19: QUOTA-59
#[test]
fn unknown_usage_is_charged_the_estimate_and_the_floor() {
    let method = SettlementMethod::Estimated;
    let premium = settle(&reserve(18_630), PREMIUM, method, None, 10);
    assert_eq!(premium.committed_credits_micro, 4380);
    let standard = settle(&reserve(4210), STANDARD, method, None, 10);
    assert_eq!(
        standard,
        Settlement {
            committed_credits_micro: 1360,
            charged_tokens: 1260,
            ..Settlement::default()
        }
    );
}

/// QUOTA-57
#[test]
fn all_zero_usage_is_unknown() {
    assert_eq!(by_usage(0, 0).committed_credits_micro, 1360);
}

/// QUOTA-60
#[test]
fn a_released_reserve_costs_nothing() {
    let method = SettlementMethod::Released;
    let settled = settle(&reserve(4210), STANDARD, method, usage(30, 2), 10);
    assert_eq!(settled, Settlement::default());
}

/// Section 15, the variants of its fourth step.
#[test]
fn the_variants_of_the_worked_example_come_out_as_written() {
    let pricing = Pricing {
        input_multiplier_micro: 1_000_000,
        output_multiplier_micro: 1_000_000,
    };
    let reserve = Reserve {
        reserve_tokens: 1500,
        max_output_tokens_applied: 500,
        minimal_generation_floor_applied: 50,
        reserved_credits_micro: 1500,
    };
    let committed = |method, usage| {
        let settled = settle(&reserve, pricing, method, usage, 10);
        (settled.committed_credits_micro, settled.overshoot_capped)
    };
    let actual = |input, output| committed(SettlementMethod::Actual, usage(input, output));
    assert_eq!(committed(SettlementMethod::Estimated, None), (1050, false));
    assert_eq!(committed(SettlementMethod::Released, None), (0, false));
    assert_eq!(actual(900, 300), (1200, false));
    assert_eq!(actual(1000, 500), (1500, false));
    assert_eq!(actual(1150, 500), (1650, false));
    assert_eq!(actual(1151, 500), (1500, true));
}

proptest! {
    /// QUOTA-58: a charge passes the reserve only inside the tolerance, and
    /// never passes the price of the usage.
    #[test]
    fn a_charge_is_bounded(
        input in 0..5_000_u64,
        output in 0..5_000_u64,
        im in 0..20_000_000_u64,
        om in 0..20_000_000_u64,
        estimate in 0..3_000_u64,
        cap in 1..3_000_u32,
        pct in 0..=50_u32,
    ) {
        let pricing = Pricing { input_multiplier_micro: im, output_multiplier_micro: om };
        let reserve = Reserve {
            reserve_tokens: estimate + u64::from(cap),
            max_output_tokens_applied: cap,
            minimal_generation_floor_applied: cap.min(50),
            reserved_credits_micro: credits(estimate, u64::from(cap), pricing).unwrap(),
        };
        let method = SettlementMethod::Actual;
        let settled = settle(&reserve, pricing, method, usage(input, output), pct);
        let committed = settled.committed_credits_micro;
        if input + output > 0 {
            let price = credits(input, output, pricing).unwrap();
            prop_assert!(committed <= price);
            prop_assert_eq!(settled.overshoot_capped, committed < price);
            let within =
                (input + output) * 100 <= reserve.reserve_tokens * u64::from(100 + pct);
            prop_assert!(within || committed <= reserve.reserved_credits_micro);
            prop_assert!(!within || committed == price);
        }
        let estimated = settle(&reserve, pricing, SettlementMethod::Estimated, None, pct);
        prop_assert!(estimated.committed_credits_micro <= reserve.reserved_credits_micro);
        prop_assert!(estimated.charged_tokens <= reserve.reserve_tokens);
    }

    /// QUOTA-5: whatever a provider reports, there is a charge.
    #[test]
    fn never_panics(
        input: u64, output: u64, im: u64, om: u64,
        reserve_tokens: u64, cap: u32, floor: u32, reserved in 0..=i64::MAX, pct: u32,
    ) {
        let pricing = Pricing { input_multiplier_micro: im, output_multiplier_micro: om };
        let reserve = Reserve {
            reserve_tokens,
            max_output_tokens_applied: cap,
            minimal_generation_floor_applied: floor,
            reserved_credits_micro: reserved,
        };
        for method in [
            SettlementMethod::Actual,
            SettlementMethod::Estimated,
            SettlementMethod::Released,
        ] {
            let settled = settle(&reserve, pricing, method, usage(input, output), pct);
            prop_assert!(settled.committed_credits_micro >= 0);
        }
    }
}
