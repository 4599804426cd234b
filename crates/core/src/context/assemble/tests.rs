use proptest::prelude::*;

use super::*;
use crate::quota::{EstimationBudgets, Pricing, Tier, ToolSupport};

pub(super) fn model(budgets: &EstimationBudgets, window: u32, max_input: u32) -> PolicyModel<'_> {
    PolicyModel {
        id: "m",
        tier: Tier::Standard,
        enabled: true,
        is_default: true,
        context_window: window,
        max_input_tokens: max_input,
        max_output_tokens: 1024,
        pricing: Pricing {
            input_multiplier_micro: 1,
            output_multiplier_micro: 1,
        },
        budgets,
        system_prompt: "",
        tools: ToolSupport::default(),
    }
}

fn request<'a>(
    model: &'a PolicyModel<'a>,
    recent: &'a [PlanMessage<'a>],
    user_text: &'a str,
) -> ContextRequest<'a> {
    ContextRequest {
        model,
        max_output_tokens_applied: 1024,
        offered: OfferedTools::default(),
        instructions: None,
        summary: None,
        recent,
        user_text,
        images: 0,
    }
}

pub(super) fn said(role: Role, text: &str) -> PlanMessage<'_> {
    PlanMessage { role, text }
}

/// CONT-7, CONT-9, CONT-10: each image costs its flat budget. Messages of the
/// window make room for it; it is never left out.
#[test]
fn images_are_paid_before_the_window() {
    let budgets = EstimationBudgets {
        image_token_budget: 300,
        ..EstimationBudgets::default()
    };
    // 1024 tokens of output and 100 of overhead leave 824; each text costs 112.
    let model = model(&budgets, 1948, 120_000);
    let recent = [said(Role::User, "x"), said(Role::Assistant, "y")];
    let plan_of = |images| {
        let mut request = request(&model, &recent, "z");
        request.images = images;
        assemble(&request)
    };
    let kept = |images| {
        let plan = plan_of(images).unwrap();
        (plan.messages.len(), plan.estimated_context_tokens)
    };
    assert_eq!(kept(0), (3, 336));
    assert_eq!(kept(1), (3, 636));
    assert_eq!(kept(2), (2, 824));
    let refused = plan_of(3).unwrap_err();
    assert_eq!((refused.required, refused.available), (1012, 824));
}

/// CONT-2, CONT-10
#[test]
fn a_plan_ends_with_the_current_message() {
    let budgets = EstimationBudgets::default();
    let model = model(&budgets, 128_000, 120_000);
    let recent = [said(Role::User, "one"), said(Role::Assistant, "two")];
    let mut request = request(&model, &recent, "three");
    request.instructions = Some("be brief");
    let plan = assemble(&request).unwrap();
    assert_eq!(plan.instructions, Some("be brief"));
    assert_eq!(
        plan.messages,
        [
            said(Role::User, "one"),
            said(Role::Assistant, "two"),
            said(Role::User, "three"),
        ]
    );
    assert!(!plan.messages_truncated);
    // 112 for each text of up to 4 bytes, 113 for those of 5 to 8.
    assert_eq!(plan.estimated_context_tokens, 112 + 112 + 113 + 113);
}

/// Check 6 of chapter 04: CONT-7 to CONT-10
#[test]
fn one_more_message_is_kept_when_it_fits_exactly() {
    let budgets = EstimationBudgets::default();
    let recent = [said(Role::User, "old"), said(Role::Assistant, "new")];
    // Overhead 100 and three texts of 112 each.
    let exact = model(&budgets, 4096, 100 + 3 * 112);
    let plan = assemble(&request(&exact, &recent, "now")).unwrap();
    assert_eq!(plan.messages.len(), 3);
    assert!(!plan.messages_truncated);
    let tight = model(&budgets, 4096, 100 + 3 * 112 - 1);
    let plan = assemble(&request(&tight, &recent, "now")).unwrap();
    assert_eq!(
        plan.messages,
        [said(Role::Assistant, "new"), said(Role::User, "now")]
    );
    assert!(plan.messages_truncated);
    assert_eq!(plan.estimated_context_tokens, 2 * 112);
}

/// CONT-9
#[test]
fn a_message_that_does_not_fit_hides_the_older_ones() {
    let budgets = EstimationBudgets::default();
    let model = model(&budgets, 4096, 700);
    let large = "x".repeat(4000);
    let recent = [
        said(Role::User, "small"),
        said(Role::Assistant, &large),
        said(Role::User, "newest"),
    ];
    let plan = assemble(&request(&model, &recent, "now")).unwrap();
    assert_eq!(
        plan.messages,
        [said(Role::User, "newest"), said(Role::User, "now")]
    );
}

/// CONT-8: the smaller of input limit and window without output.
#[test]
fn the_budget_is_the_smaller_of_two() {
    let budgets = EstimationBudgets::default();
    let available = |window, max_input| {
        let model = model(&budgets, window, max_input);
        available_tokens(&request(&model, &[], ""))
    };
    assert_eq!(available(4096, 120_000), Ok(4096 - 1024 - 100));
    assert_eq!(available(128_000, 500), Ok(400));
    assert_eq!(
        available(1124, 120_000),
        Err(ContextBudgetExceeded {
            required: 100,
            available: 1124
        })
    );
}

/// CONT-8
#[test]
fn offered_tools_narrow_the_budget() {
    let budgets = EstimationBudgets::default();
    let model = model(&budgets, 128_000, 10_000);
    let mut request = request(&model, &[], "");
    request.offered = OfferedTools {
        web_search: true,
        file_search: true,
        code_interpreter: true,
    };
    assert_eq!(available_tokens(&request), Ok(10_000 - 100 - 2000));
}

/// CONT-9
#[test]
fn instructions_and_message_are_never_cut() {
    let budgets = EstimationBudgets::default();
    let model = model(&budgets, 4096, 320);
    let mut request = request(&model, &[], "now");
    request.instructions = Some("be");
    assert_eq!(
        assemble(&request),
        Err(ContextBudgetExceeded {
            required: 224,
            available: 220
        })
    );
}

/// CONT-2
#[test]
fn instructions_are_joined_by_one_blank_line() {
    assert_eq!(join_instructions(&["", ""]), None);
    assert_eq!(
        join_instructions(&["P", "", "web"]).as_deref(),
        Some("P\n\nweb")
    );
}

proptest! {
    /// CONT-6, CONT-9, CONT-10
    #[test]
    fn a_plan_is_the_longest_suffix_that_fits(
        texts in prop::collection::vec("[a-z]{0,400}", 0..12),
        user_text in "[a-z]{0,400}",
        window in 0..3_000_u32,
        max_input in 0..3_000_u32,
    ) {
        let budgets = EstimationBudgets::default();
        let model = model(&budgets, window, max_input);
        let recent: Vec<_> = texts.iter().map(|text| said(Role::Assistant, text)).collect();
        let request = request(&model, &recent, &user_text);
        let cost = |text: &str| budgets.text_tokens(text.len() as u64);
        match assemble(&request) {
            Ok(plan) => {
                let available = available_tokens(&request).unwrap();
                let kept = plan.messages.len() - 1;
                prop_assert_eq!(&plan.messages[..kept], &recent[recent.len() - kept..]);
                let total: u64 = plan.messages.iter().map(|message| cost(message.text)).sum();
                prop_assert_eq!(plan.estimated_context_tokens, total);
                prop_assert!(total <= available);
                prop_assert_eq!(plan.messages_truncated, kept < recent.len());
                if let Some(next) = recent.len().checked_sub(kept + 1) {
                    prop_assert!(total + cost(recent[next].text) > available);
                }
            }
            Err(refusal) => {
                let fits = available_tokens(&request).is_ok_and(|a| a >= cost(&user_text));
                prop_assert!(!fits, "{refusal}");
            }
        }
    }
}
