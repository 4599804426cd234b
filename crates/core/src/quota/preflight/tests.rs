use proptest::prelude::*;

use super::*;
use crate::quota::{EstimationBudgets, KillSwitches, Limits, Pricing, TierLimits, ToolSupport};
use crate::quota::{Settlement, settle};
use crate::turn::{SettlementMethod, Usage};

const BUDGETS: EstimationBudgets = EstimationBudgets {
    bytes_per_token_conservative: 4,
    fixed_overhead_tokens: 100,
    safety_margin_pct: 10,
    image_token_budget: 1000,
    tool_surcharge_tokens: 500,
    web_search_surcharge_tokens: 500,
    code_interpreter_surcharge_tokens: 1000,
    minimal_generation_floor: 50,
};

fn model(id: &'static str, tier: Tier, input: u64, output: u64) -> PolicyModel<'static> {
    PolicyModel {
        id,
        tier,
        enabled: true,
        is_default: true,
        context_window: 128_000,
        max_input_tokens: 120_000,
        max_output_tokens: 1000,
        pricing: Pricing {
            input_multiplier_micro: input,
            output_multiplier_micro: output,
        },
        budgets: &BUDGETS,
        system_prompt: "",
        tools: ToolSupport {
            web_search: true,
            file_search: true,
            code_interpreter: true,
        },
    }
}

/// The fixture of chapter 03, section 17.
fn catalog() -> [PolicyModel<'static>; 2] {
    [
        model("prem", Tier::Premium, 3_000_000, 15_000_000),
        model("std", Tier::Standard, 1_000_000, 3_000_000),
    ]
}

fn policy<'a>(models: &'a [PolicyModel<'a>]) -> Policy<'a> {
    Policy {
        models,
        kill_switches: KillSwitches::default(),
        max_output_tokens: 32_768,
        limits: Limits::default(),
        negative_threshold_credits_micro: 0,
        tool_quotas: crate::quota::ToolQuotas::default(),
    }
}

/// M of section 17: a message of 4,000 bytes.
fn message() -> RequestFacts {
    RequestFacts {
        message_bytes: 4000,
        ..RequestFacts::default()
    }
}

fn decide(policy: &Policy<'_>, selected: &str, facts: &RequestFacts) -> Decision {
    preflight(policy, selected, facts, &Cells::default()).unwrap()
}

fn reserve_of(policy: &Policy<'_>, selected: &str, facts: &RequestFacts) -> Reserve {
    decide(policy, selected, facts).allowed().unwrap().1
}

fn downgraded(decision: Decision) -> Option<(DowngradeReason, usize)> {
    match decision {
        Decision::Downgrade { reason, model, .. } => Some((reason, model)),
        Decision::Allow { .. } | Decision::Reject { .. } => None,
    }
}

const OUT_OF_TOKENS: Decision = Decision::Reject {
    scope: QuotaScope::Tokens,
    tier: Tier::Standard,
};

/// Checks 1 and 3: QUOTA-33, QUOTA-35, QUOTA-41, QUOTA-43
#[test]
fn a_message_of_4000_bytes_reserves_what_the_fixture_says() {
    let models = catalog();
    let policy = policy(&models);
    let decision = decide(&policy, "prem", &message());
    let reserve = Reserve {
        reserve_tokens: 2210,
        max_output_tokens_applied: 1000,
        minimal_generation_floor_applied: 50,
        reserved_credits_micro: 18_630,
    };
    assert_eq!(decision, Decision::Allow { model: 0, reserve });
    assert_eq!(reserve.estimated_input_tokens(), 1210);
    let standard = reserve_of(&policy, "std", &message());
    assert_eq!(standard.reserved_credits_micro, 4210);
}

/// Check 4: QUOTA-37
#[test]
fn prior_context_is_reserved_too() {
    let models = catalog();
    let facts = RequestFacts {
        prior_context_tokens: 32,
        ..message()
    };
    let reserve = reserve_of(&policy(&models), "prem", &facts);
    assert_eq!(reserve.reserve_tokens, 2242);
    assert_eq!(reserve.reserved_credits_micro, 18_726);
}

/// Check 6: QUOTA-35, QUOTA-38, QUOTA-39
#[test]
fn only_offered_tools_are_surcharged() {
    let models = catalog();
    let mut policy = policy(&models);
    let estimate = |policy: &Policy<'_>, facts: &RequestFacts| {
        reserve_of(policy, "prem", facts).estimated_input_tokens()
    };
    let web = RequestFacts {
        web_search_requested: true,
        ..message()
    };
    assert_eq!(estimate(&policy, &web), 1710);
    let images = RequestFacts {
        images: 2,
        ..message()
    };
    assert_eq!(estimate(&policy, &images), 3210);
    let sheet = RequestFacts {
        has_code_files: true,
        ..message()
    };
    assert_eq!(estimate(&policy, &sheet), 2210);
    policy.kill_switches.disable_code_interpreter = true;
    assert_eq!(estimate(&policy, &sheet), 1210);
}

/// Check 7: QUOTA-36
#[test]
fn instructions_count_only_without_prior_context() {
    let prompt = "p".repeat(400);
    let mut models = catalog();
    models[0].system_prompt = &prompt;
    let policy = policy(&models);
    let estimate =
        |facts: &RequestFacts| reserve_of(&policy, "prem", facts).estimated_input_tokens();
    assert_eq!(estimate(&message()), 1320);
    let second = RequestFacts {
        prior_context_tokens: 32,
        ..message()
    };
    assert_eq!(estimate(&second), 1242);
}

/// QUOTA-36, CONT-2
#[test]
fn instructions_are_counted_with_their_guards_and_blank_lines() {
    let mut prompted = catalog()[0];
    prompted.system_prompt = "four";
    let facts = RequestFacts {
        web_search_guard_bytes: 10,
        file_search_guard_bytes: 20,
        ..RequestFacts::default()
    };
    let offered = |web_search, file_search| OfferedTools {
        web_search,
        file_search,
        code_interpreter: true,
    };
    assert_eq!(
        instructions_bytes(&prompted, offered(false, false), &facts),
        4
    );
    assert_eq!(
        instructions_bytes(&prompted, offered(true, true), &facts),
        38
    );
    let bare = catalog()[0];
    assert_eq!(instructions_bytes(&bare, offered(false, true), &facts), 20);
    assert_eq!(instructions_bytes(&bare, offered(false, false), &facts), 0);
}

/// Check 8: QUOTA-40
#[test]
fn the_length_guard_looks_at_the_message_alone() {
    let mut model = catalog()[0];
    model.max_input_tokens = 1210;
    assert_eq!(check_message_length(&model, 4000), Ok(()));
    model.max_input_tokens = 1209;
    let refusal = InputTooLong::Message {
        required: 1210,
        allowed: 1209,
    };
    assert_eq!(check_message_length(&model, 4000), Err(refusal));
}

/// Check 9: QUOTA-41, QUOTA-42, PLAT-154
#[test]
fn the_tenant_cap_bounds_output_and_floor() {
    let models = catalog();
    let mut policy = policy(&models);
    policy.max_output_tokens = 400;
    let reserve = reserve_of(&policy, "prem", &message());
    assert_eq!(reserve.max_output_tokens_applied, 400);
    policy.max_output_tokens = 20;
    let reserve = reserve_of(&policy, "prem", &message());
    assert_eq!(reserve.minimal_generation_floor_applied, 20);
}

/// Check 10: QUOTA-12, QUOTA-13, QUOTA-47
#[test]
fn equality_is_allowed_and_one_less_downgrades() {
    let models = catalog();
    for period in Period::ALL {
        let mut policy = policy(&models);
        let set = |policy: &mut Policy<'_>, limit| match period {
            Period::Daily => policy.limits.premium.daily = limit,
            Period::Monthly => policy.limits.premium.monthly = limit,
        };
        set(&mut policy, 18_630);
        assert_eq!(decide(&policy, "prem", &message()).as_str(), "allow");
        set(&mut policy, 18_629);
        assert_eq!(
            downgraded(decide(&policy, "prem", &message())),
            Some((DowngradeReason::PremiumQuotaExhausted, 1))
        );
    }
}

/// Check 11: QUOTA-47, QUOTA-48
#[test]
fn an_exhausted_total_refuses_the_downgrade_too() {
    let models = catalog();
    let mut policy = policy(&models);
    policy.limits.premium.daily = 18_629;
    policy.limits.standard.daily = 4209;
    assert_eq!(decide(&policy, "prem", &message()), OUT_OF_TOKENS);
    policy.limits.standard.daily = 4210;
    assert_eq!(decide(&policy, "prem", &message()).as_str(), "downgrade");
}

/// Check 12: QUOTA-18, QUOTA-47
#[test]
fn a_switched_off_premium_tier_names_its_switch() {
    let models = catalog();
    let mut policy = policy(&models);
    let reason = |policy: &Policy<'_>| decide(policy, "prem", &message()).downgrade_reason();
    policy.kill_switches.disable_premium_tier = true;
    assert_eq!(reason(&policy), Some(DowngradeReason::DisablePremiumTier));
    policy.kill_switches.force_standard_tier = true;
    assert_eq!(reason(&policy), Some(DowngradeReason::ForceStandardTier));
    policy.kill_switches.disable_premium_tier = false;
    assert_eq!(reason(&policy), Some(DowngradeReason::ForceStandardTier));
    assert_eq!(decide(&policy, "std", &message()).as_str(), "allow");
}

/// Check 13: QUOTA-21, QUOTA-46
#[test]
fn a_disabled_or_unknown_selection_is_replaced() {
    let mut models = catalog();
    assert_eq!(
        downgraded(decide(&policy(&models), "gone", &message())),
        Some((DowngradeReason::ModelDisabled, 0))
    );
    models[0].enabled = false;
    assert_eq!(
        downgraded(decide(&policy(&models), "prem", &message())),
        Some((DowngradeReason::ModelDisabled, 1))
    );
    let mut models = catalog();
    models[1].enabled = false;
    assert_eq!(decide(&policy(&models), "std", &message()), OUT_OF_TOKENS);
}

/// QUOTA-48
#[test]
fn a_disabled_premium_model_is_replaced_inside_premium_and_the_first_reason_is_kept() {
    let other = model("prem-2", Tier::Premium, 3_000_000, 15_000_000);
    let mut models = [catalog()[0], other, catalog()[1]];
    models[0].enabled = false;
    let mut policy = policy(&models);
    assert_eq!(
        downgraded(decide(&policy, "prem", &message())),
        Some((DowngradeReason::ModelDisabled, 1))
    );
    policy.limits.premium.daily = 1;
    assert_eq!(
        downgraded(decide(&policy, "prem", &message())),
        Some((DowngradeReason::ModelDisabled, 2))
    );
}

/// Check 14: QUOTA-47
#[test]
fn the_selected_model_precedes_the_default_and_the_default_the_first() {
    let mut first = model("std-1", Tier::Standard, 1, 1);
    first.is_default = false;
    let mut models = [first, catalog()[1], model("std-3", Tier::Standard, 1, 1)];
    let chosen = |models: &[PolicyModel<'_>], selected: &str| {
        let decision = decide(&policy(models), selected, &message());
        decision.allowed().unwrap().0
    };
    assert_eq!(chosen(&models, "std-3"), 2);
    assert_eq!(chosen(&models, "gone"), 1);
    for model in &mut models {
        model.is_default = false;
    }
    assert_eq!(chosen(&models, "gone"), 0);
}

/// QUOTA-11, D25
#[test]
fn a_limit_of_zero_is_no_allowance_even_for_a_free_model() {
    let models = [model("free", Tier::Standard, 0, 0)];
    let mut policy = policy(&models);
    assert_eq!(decide(&policy, "free", &message()).as_str(), "allow");
    policy.limits.standard.monthly = 0;
    assert_eq!(decide(&policy, "free", &message()), OUT_OF_TOKENS);
}

/// QUOTA-14
#[test]
fn an_overshot_cell_beyond_the_threshold_is_unavailable() {
    let models = [model("free", Tier::Standard, 0, 0)];
    let mut policy = policy(&models);
    policy.negative_threshold_credits_micro = 10;
    policy.limits.standard.daily = 100;
    let mut cells = Cells::default();
    cells.total_daily.spent = 110;
    let decision = preflight(&policy, "free", &message(), &cells).unwrap();
    assert_eq!(
        decision, OUT_OF_TOKENS,
        "a reserve of 0 needs a remainder of 0 as well"
    );
}

/// QUOTA-50, QUOTA-79, QUOTA-103, CONT-102
#[test]
fn used_up_daily_calls_reject_only_turns_that_offer_the_tool() {
    let models = catalog();
    let mut policy = policy(&models);
    let cells = Cells {
        web_search_calls: 75,
        code_interpreter_calls: 50,
        ..Cells::default()
    };
    let scope =
        |policy: &Policy<'_>, facts: &RequestFacts| match preflight(policy, "prem", facts, &cells)
            .unwrap()
        {
            Decision::Reject { scope, tier } => Some((scope, tier)),
            Decision::Allow { .. } | Decision::Downgrade { .. } => None,
        };
    let web = RequestFacts {
        web_search_requested: true,
        ..message()
    };
    let code = RequestFacts {
        has_code_files: true,
        ..message()
    };
    assert_eq!(scope(&policy, &message()), None);
    assert_eq!(
        scope(&policy, &web),
        Some((QuotaScope::WebSearch, Tier::Premium))
    );
    assert_eq!(
        scope(&policy, &code),
        Some((QuotaScope::CodeInterpreter, Tier::Premium))
    );
    policy.kill_switches.disable_code_interpreter = true;
    assert_eq!(scope(&policy, &code), None);
}

/// QUOTA-5
#[test]
fn an_estimate_beyond_the_bounds_is_input_too_long() {
    let models = catalog();
    let facts = RequestFacts {
        message_bytes: 41_000_000,
        ..RequestFacts::default()
    };
    let result = preflight(&policy(&models), "std", &facts, &Cells::default());
    assert!(
        matches!(result, Err(InputTooLong::Unpriceable { .. })),
        "{result:?}"
    );
}

/// Section 15: the worked example, up to the settlement and its variants.
#[test]
fn the_worked_example_comes_out_as_written() {
    let mut models = [
        model("P", Tier::Premium, 2_500_000, 2_500_000),
        model("S", Tier::Standard, 1_000_000, 1_000_000),
    ];
    for model in &mut models {
        model.max_output_tokens = 500;
    }
    let mut policy = policy(&models);
    policy.limits = Limits {
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
        total_daily: spent(25_000),
        total_monthly: spent(240_000),
        premium_daily: spent(20_000),
        premium_monthly: spent(200_000),
        ..Cells::default()
    };
    let facts = RequestFacts {
        message_bytes: 3236,
        ..RequestFacts::default()
    };
    let decision = preflight(&policy, "P", &facts, &cells).unwrap();
    let reserve = Reserve {
        reserve_tokens: 1500,
        max_output_tokens_applied: 500,
        minimal_generation_floor_applied: 50,
        reserved_credits_micro: 1500,
    };
    assert_eq!(
        decision,
        Decision::Downgrade {
            reason: DowngradeReason::PremiumQuotaExhausted,
            model: 1,
            reserve,
        }
    );
    let usage = Usage {
        input_tokens: 900,
        output_tokens: 300,
        ..Usage::default()
    };
    let Settlement {
        committed_credits_micro,
        ..
    } = settle(
        &reserve,
        models[1].pricing,
        SettlementMethod::Actual,
        Some(usage),
        10,
    );
    assert_eq!(committed_credits_micro, 1200);
}

fn any_cell() -> impl Strategy<Value = Cell> {
    (0..200_000_i64, 0..50_000_i64).prop_map(|(spent, reserved)| Cell { spent, reserved })
}

fn any_cells() -> impl Strategy<Value = Cells> {
    (any_cell(), any_cell(), any_cell(), any_cell()).prop_map(|(td, tm, pd, pm)| Cells {
        total_daily: td,
        total_monthly: tm,
        premium_daily: pd,
        premium_monthly: pm,
        ..Cells::default()
    })
}

proptest! {
    /// QUOTA-80: what is allowed fits into every cell that it touches.
    #[test]
    fn an_allowed_reserve_never_passes_a_limit(
        cells in any_cells(),
        bytes in 0..100_000_u64,
        limits in prop::array::uniform4(0..300_000_i64),
        selected in prop::sample::select(vec!["prem", "std", "gone"]),
    ) {
        let models = catalog();
        let mut policy = policy(&models);
        let [daily, monthly, premium_daily, premium_monthly] = limits;
        policy.limits.standard = TierLimits { daily, monthly };
        policy.limits.premium = TierLimits { daily: premium_daily, monthly: premium_monthly };
        let facts = RequestFacts { message_bytes: bytes, ..RequestFacts::default() };
        let decision = preflight(&policy, selected, &facts, &cells).unwrap();
        if let Some((model, reserve)) = decision.allowed() {
            let tier = models[model].tier;
            prop_assert!(selected != "std" || tier == Tier::Standard, "never escalates");
            for &bucket in tier.buckets() {
                for period in Period::ALL {
                    let used = cells.of(bucket, period).used() + reserve.reserved_credits_micro;
                    prop_assert!(used <= policy.limits.of(bucket, period));
                }
            }
        }
    }

    /// QUOTA-52: a decision that needs only room stays the same with any use of
    /// the cells that leaves it.
    #[test]
    fn a_decision_holds_while_there_is_room(
        selected in 0..3_usize,
        switches: (bool, bool),
        spent in proptest::array::uniform4(0..2_000_000_i64),
        now in proptest::array::uniform4(0..2_000_000_i64),
        limit in 0..2_000_000_i64,
        tools: (bool, bool),
        calls in proptest::array::uniform4(-1..4_i64),
    ) {
        let models = catalog();
        let mut policy = policy(&models);
        policy.kill_switches.force_standard_tier = switches.0;
        policy.kill_switches.disable_premium_tier = switches.1;
        policy.limits.premium.daily = limit;
        policy.tool_quotas = crate::quota::ToolQuotas { web_search_daily: 2, code_interpreter_daily: 3 };
        let message = RequestFacts {
            web_search_requested: tools.0,
            has_code_files: tools.1,
            ..message()
        };
        let cells = |spent: [i64; 4], calls: &[i64]| Cells {
            total_daily: Cell { spent: spent[0], reserved: 0 },
            total_monthly: Cell { spent: spent[1], reserved: 0 },
            premium_daily: Cell { spent: spent[2], reserved: 0 },
            premium_monthly: Cell { spent: spent[3], reserved: 0 },
            web_search_calls: calls[0],
            code_interpreter_calls: calls[1],
        };
        let model = ["std", "prem", "gone"][selected];
        let decided = preflight(&policy, model, &message, &cells(spent, &calls[..2])).unwrap();
        if let (true, Some((index, reserve))) = (decided.holds_while_there_is_room(), decided.allowed()) {
            let most = policy.most_used(reserve.reserved_credits_micro);
            let most_calls = policy.most_calls(offered_tools(&policy, &models[index], &message));
            let now = cells(now, &calls[2..]);
            let has_room = now.web_search_calls <= most_calls.web_search
                && now.code_interpreter_calls <= most_calls.code_interpreter
                && models[index].tier.buckets().iter().all(|&bucket| {
                Period::ALL.into_iter().all(|period| now.of(bucket, period).used() <= most.of(bucket, period))
            });
            if has_room {
                proptest::prop_assert_eq!(preflight(&policy, model, &message, &now).unwrap(), decided);
            }
        }
    }

    #[test]
    fn never_panics(
        message_bytes: u64,
        prior_context_tokens: u64,
        images: u32,
        guard: u64,
        spent: i64,
        reserved: i64,
        limit: i64,
        threshold: i64,
    ) {
        let models = catalog();
        let mut policy = policy(&models);
        policy.limits.standard.daily = limit;
        policy.negative_threshold_credits_micro = threshold;
        let facts = RequestFacts {
            message_bytes,
            prior_context_tokens,
            images,
            web_search_requested: true,
            has_documents: true,
            has_code_files: true,
            web_search_guard_bytes: guard,
            file_search_guard_bytes: guard,
        };
        let cells = Cells { total_daily: Cell { spent, reserved }, ..Cells::default() };
        let _ = preflight(&policy, "prem", &facts, &cells);
    }
}
