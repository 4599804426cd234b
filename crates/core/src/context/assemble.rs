//! Builds the context plan of one turn within the effective model's budget
//! (CONT-2 to CONT-10). The same input gives the same plan (CONT-6).

use crate::quota::PolicyModel;
use crate::quota::estimate::OfferedTools;

/// The author of a message in a plan. Rows of role `system` are never part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    User,
    Assistant,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// `None` for `system` and anything unknown.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::User, Self::Assistant]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// One message of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanMessage<'a> {
    pub role: Role,
    pub text: &'a str,
}

/// The inputs of a plan, all of them for the effective model.
#[derive(Clone, Copy, Debug)]
pub struct ContextRequest<'a> {
    pub model: &'a PolicyModel<'a>,
    /// The output cap pinned on the turn (QUOTA-42).
    pub max_output_tokens_applied: u32,
    /// Tools that are in the provider request. Their surcharges reduce the budget.
    pub offered: OfferedTools,
    /// The joined system instructions ([`join_instructions`]).
    pub instructions: Option<&'a str>,
    /// The thread summary with its preamble, if there is one (CONT-2).
    pub summary: Option<&'a str>,
    /// The recent window, in chronological order (CONT-5).
    pub recent: &'a [PlanMessage<'a>],
    /// The text of the current user message.
    pub user_text: &'a str,
    /// Number of its images. They follow its text, and are never left out.
    pub images: u32,
}

/// What is sent to the provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<'a> {
    pub instructions: Option<&'a str>,
    /// The summary if it was kept, then chronological; the last is the current user
    /// message.
    pub messages: Vec<PlanMessage<'a>>,
    /// Whether the thread summary is among them (CONT-9).
    pub has_summary: bool,
    /// Messages of the window that were left out, the oldest.
    pub dropped: usize,
    /// `input_budget` of CONT-8.
    pub input_budget: u64,
    /// Estimated tokens of the plan, without surcharges and output (CONT-10).
    pub estimated_context_tokens: u64,
    /// Whether a message of the window did not fit (CONT-10).
    pub messages_truncated: bool,
}

/// The context does not fit: 422 `context_budget_exceeded` (CONT-9). Both values are in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the request needs about {required} tokens of context, {available} are available")]
pub struct ContextBudgetExceeded {
    pub required: u64,
    pub available: u64,
}

/// The non-empty parts of the system instructions with one blank line between
/// them; `None` if all are empty (CONT-2).
pub fn join_instructions(parts: &[&str]) -> Option<String> {
    let parts: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

/// Keeps the instructions, the current message, the summary if it fits, and the
/// newest messages that fit, without gaps (CONT-9).
pub fn assemble<'a>(request: &ContextRequest<'a>) -> Result<Plan<'a>, ContextBudgetExceeded> {
    let cost = |text: &str| request.model.budgets.text_tokens(text.len() as u64);
    let available = available_tokens(request)?;
    let mandatory = request
        .instructions
        .map_or(0, cost)
        .saturating_add(cost(request.user_text))
        .saturating_add(request.model.budgets.image_tokens(request.images));
    let mut remaining = available
        .checked_sub(mandatory)
        .ok_or(ContextBudgetExceeded {
            required: mandatory,
            available,
        })?;
    let summary = request
        .summary
        .and_then(|summary| Some((summary, remaining.checked_sub(cost(summary))?)));
    remaining = summary.map_or(remaining, |(_, rest)| rest);
    let mut first_kept = request.recent.len();
    for (index, message) in request.recent.iter().enumerate().rev() {
        let Some(rest) = remaining.checked_sub(cost(message.text)) else {
            break;
        };
        remaining = rest;
        first_kept = index;
    }
    Ok(Plan {
        instructions: request.instructions,
        messages: in_order(request, summary.map(|(text, _)| text), first_kept),
        has_summary: summary.is_some(),
        dropped: first_kept,
        input_budget: input_budget(request),
        estimated_context_tokens: available - remaining,
        messages_truncated: first_kept > 0,
    })
}

fn in_order<'a>(
    request: &ContextRequest<'a>,
    summary: Option<&'a str>,
    first_kept: usize,
) -> Vec<PlanMessage<'a>> {
    let kept = request.recent.get(first_kept..).unwrap_or_default();
    let mut messages = Vec::with_capacity(kept.len() + 2);
    messages.extend(summary.map(|text| PlanMessage {
        role: Role::User,
        text,
    }));
    messages.extend_from_slice(kept);
    messages.push(PlanMessage {
        role: Role::User,
        text: request.user_text,
    });
    messages
}

/// `input_budget` of CONT-8.
fn input_budget(request: &ContextRequest<'_>) -> u64 {
    let window = u64::from(request.model.context_window);
    u64::from(request.model.max_input_tokens)
        .min(window.saturating_sub(u64::from(request.max_output_tokens_applied)))
}

/// `available` of CONT-8, always positive.
fn available_tokens(request: &ContextRequest<'_>) -> Result<u64, ContextBudgetExceeded> {
    let model = request.model;
    let deductions =
        u64::from(model.budgets.fixed_overhead_tokens) + model.budgets.tool_tokens(request.offered);
    match input_budget(request).saturating_sub(deductions) {
        0 => Err(ContextBudgetExceeded {
            required: deductions,
            available: u64::from(model.context_window),
        }),
        available => Ok(available),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
