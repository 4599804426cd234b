//! A slow planner, written from the rules alone, and random requests that compare it
//! with the real one.

use proptest::prelude::*;

use super::tests::{model, said};
use super::*;
use crate::quota::EstimationBudgets;

/// What a plan is made of, in the order of CONT-2.
#[derive(Debug)]
struct Items<'a> {
    instructions: Option<&'a str>,
    recent: &'a [PlanMessage<'a>],
    user_text: &'a str,
    images: u32,
}

/// The tokens of a text by CONT-7, counted up one by one.
fn cost(budgets: &EstimationBudgets, text: &str) -> u64 {
    let bytes_per_token = usize::try_from(budgets.bytes_per_token_conservative.max(1)).unwrap();
    let pieces = text.as_bytes().chunks(bytes_per_token).count() as u64;
    let hundredths = (pieces + u64::from(budgets.fixed_overhead_tokens))
        * (100 + u64::from(budgets.safety_margin_pct));
    (0..=hundredths)
        .find(|tokens| tokens * 100 >= hundredths)
        .unwrap_or_default()
}

/// The tokens for everything that a plan has of `items` if it keeps `messages`.
fn total(budgets: &EstimationBudgets, items: &Items<'_>, messages: &[PlanMessage<'_>]) -> u64 {
    let mut tokens = cost(budgets, items.user_text);
    if let Some(instructions) = items.instructions {
        tokens += cost(budgets, instructions);
    }
    for _ in 0..items.images {
        tokens += u64::from(budgets.image_token_budget);
    }
    for message in messages {
        tokens += cost(budgets, message.text);
    }
    tokens
}

/// Of all plans without gaps, the one with the most messages that fits; or the two
/// numbers of a refusal.
fn planned<'a>(
    request: &ContextRequest<'a>,
    items: &Items<'a>,
) -> Result<(Vec<PlanMessage<'a>>, u64, bool), (u64, u64)> {
    let model = request.model;
    let budgets = model.budgets;
    let mut deductions = u64::from(budgets.fixed_overhead_tokens);
    for (is_offered, surcharge) in [
        (request.offered.file_search, budgets.tool_surcharge_tokens),
        (
            request.offered.web_search,
            budgets.web_search_surcharge_tokens,
        ),
        (
            request.offered.code_interpreter,
            budgets.code_interpreter_surcharge_tokens,
        ),
    ] {
        if is_offered {
            deductions += u64::from(surcharge);
        }
    }
    let window = i64::from(model.context_window);
    let input_budget = i64::from(model.max_input_tokens)
        .min(window - i64::from(request.max_output_tokens_applied));
    let available = match u64::try_from(input_budget) {
        Ok(budget) if budget > deductions => budget - deductions,
        _ => return Err((deductions, u64::from(model.context_window))),
    };
    let mandatory = total(budgets, items, &[]);
    if mandatory > available {
        return Err((mandatory, available));
    }
    let fits = |first: &usize| total(budgets, items, &items.recent[*first..]) <= available;
    let first = (0..=items.recent.len()).find(fits).unwrap();
    let kept = &items.recent[first..];
    let mut messages = kept.to_vec();
    messages.push(said(Role::User, items.user_text));
    Ok((messages, total(budgets, items, kept), first > 0))
}

/// Small numbers, so that sums often come out exactly at the limit.
fn any_budgets() -> impl Strategy<Value = EstimationBudgets> {
    (
        0..6_u32,
        0..4_u32,
        0..60_u32,
        1..12_u32,
        [0..9_u32, 0..9, 0..9],
    )
        .prop_map(
            |(bytes, overhead, margin, image, [file, web, code])| EstimationBudgets {
                bytes_per_token_conservative: bytes,
                fixed_overhead_tokens: overhead,
                safety_margin_pct: margin,
                image_token_budget: image,
                tool_surcharge_tokens: file,
                web_search_surcharge_tokens: web,
                code_interpreter_surcharge_tokens: code,
                ..EstimationBudgets::default()
            },
        )
}

fn any_tools() -> impl Strategy<Value = OfferedTools> {
    any::<[bool; 3]>().prop_map(|[web_search, file_search, code_interpreter]| OfferedTools {
        web_search,
        file_search,
        code_interpreter,
    })
}

/// Texts whose bytes are more than their characters.
const TEXT: &str = "[aé🏔]{0,24}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// CONT-2, CONT-6 to CONT-10: system instructions, the current message and its images
    /// are in every plan, and of the window the newest messages that fit.
    #[test]
    fn every_plan_is_that_of_the_rules(
        budgets in any_budgets(),
        offered in any_tools(),
        texts in prop::collection::vec((any::<bool>(), TEXT), 0..12),
        instructions in prop::option::of("[aé]{1,24}"),
        user_text in TEXT,
        images in 0..4_u32,
        (window, max_input, output) in (0..260_u32, 0..200_u32, 0..80_u32),
    ) {
        let role = |is_user| if is_user { Role::User } else { Role::Assistant };
        let recent: Vec<_> = texts.iter().map(|(user, text)| said(role(*user), text)).collect();
        let model = model(&budgets, window, max_input);
        let request = ContextRequest {
            summary: None,
            model: &model,
            max_output_tokens_applied: output,
            offered,
            instructions: instructions.as_deref(),
            recent: &recent,
            user_text: &user_text,
            images,
        };
        let items = Items {
            instructions: instructions.as_deref(),
            recent: &recent,
            user_text: &user_text,
            images,
        };
        let plan = assemble(&request);
        prop_assert_eq!(&plan, &assemble(&request), "the same plan");
        match (plan, planned(&request, &items)) {
            (Ok(plan), Ok((messages, tokens, is_truncated))) => {
                prop_assert_eq!(plan.messages, messages);
                prop_assert_eq!(plan.instructions, instructions.as_deref());
                prop_assert_eq!(plan.estimated_context_tokens, tokens);
                prop_assert_eq!(plan.messages_truncated, is_truncated);
            }
            (Err(refusal), Err(numbers)) => {
                prop_assert_eq!((refusal.required, refusal.available), numbers);
            }
            (plan, expected) => prop_assert!(false, "{plan:?}, but expected {expected:?}"),
        }
    }
}
