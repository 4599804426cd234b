//! Model, price and context of a draft (API-64 f to i): pure decisions from the
//! pinned configuration and the user's locked cells.

use minichat_config::TenantConfig;
use minichat_core::ErrorCode;
use minichat_core::context::{
    ContextBudgetExceeded, ContextRequest, PlanMessage, assemble, join_instructions,
};
use minichat_core::quota::estimate::OfferedTools;
use minichat_core::quota::{
    Cells, Decision, InputTooLong, Limits, MostCalls, PolicyModel, QuotaScope, Reserve,
    check_message_length, offered_tools, preflight,
};
use minichat_core::summary::ContextUse;
use serde_json::json;

use super::open::{Draft, Plan, PlannedContext};
use super::policy;
use super::tools::PlannedTools;
use crate::caller::Caller;
use crate::problem::Problem;

/// The plan for `draft` that follows from `decision`, or a refusal.
pub(super) fn plan(caller: &Caller, draft: Draft, decision: Decision) -> Result<Plan, Problem> {
    let config = &caller.tenant.config;
    let Some((index, reserve)) = decision.allowed() else {
        return Err(quota_exceeded(&decision));
    };
    let model = policy::model(config, &config.models[index], &draft.files);
    check_message_length(&model, draft.facts.message_bytes).map_err(|_| input_too_long())?;
    draft
        .attachments
        .check_images(config, &config.models[index])?;
    let policy = policy::policy(config, &[], caller.user_id);
    let offered = offered_tools(&policy, &model, &draft.facts);
    let context = context(config, &draft, &model, &reserve, offered);
    let context = context.map_err(|error| over_budget(&error))?;
    let tools = PlannedTools::new(config, &config.models[index], offered, &draft.files);
    let plan = Plan::new(
        caller.tenant.clone(),
        draft,
        decision,
        (index, reserve),
        (context, tools),
    );
    if !plan.is_routable() {
        tracing::error!(
            model = %plan.model().id,
            provider = %plan.model().provider_id,
            "the model's provider or its credential is not configured"
        );
        return Err(Problem::internal());
    }
    plan.draft.attachments.check_valid()?;
    Ok(plan)
}

/// Runs the cascade of QUOTA-44 to QUOTA-50 on `cells`. A message beyond the
/// bounds of the arithmetic has no decision (QUOTA-5).
pub(super) fn decide(
    caller: &Caller,
    draft: &Draft,
    cells: &Cells,
) -> Result<Decision, InputTooLong> {
    let config = &caller.tenant.config;
    let models = policy::models(config, &draft.files);
    let policy = policy::policy(config, &models, caller.user_id);
    preflight(&policy, &draft.selected_model, &draft.facts, cells)
}

/// What the cells may hold at most so that the reserve of `plan` is still covered.
pub(super) fn most_used(caller: &Caller, plan: &Plan) -> Limits {
    let config = &caller.tenant.config;
    let policy = policy::policy(config, &[], caller.user_id);
    policy.most_used(plan.reserve.reserved_credits_micro)
}

/// What the user's day may hold at most so that the tools of `plan` may still be called.
pub(super) fn most_calls(caller: &Caller, plan: &Plan) -> MostCalls {
    let config = &caller.tenant.config;
    let policy = policy::policy(config, &[], caller.user_id);
    policy.most_calls(plan.tools.offered())
}

fn context(
    config: &TenantConfig,
    draft: &Draft,
    model: &PolicyModel<'_>,
    reserve: &Reserve,
    offered: OfferedTools,
) -> Result<PlannedContext, ContextBudgetExceeded> {
    let guard = |is_offered: bool, text| if is_offered { text } else { "" };
    let guards = &config.context;
    let instructions = join_instructions(&[
        model.system_prompt,
        guard(offered.web_search, guards.web_search_guard.as_str()),
        guard(offered.file_search, guards.file_search_guard.as_str()),
    ]);
    let recent: Vec<PlanMessage<'_>> = draft
        .recent
        .iter()
        .map(|(role, text)| PlanMessage { role: *role, text })
        .collect();
    let assembled = assemble(&ContextRequest {
        model,
        max_output_tokens_applied: reserve.max_output_tokens_applied,
        offered,
        instructions: instructions.as_deref(),
        summary: draft.summary.as_ref().map(|summary| summary.text.as_str()),
        recent: &recent,
        user_text: &draft.content,
        images: draft.facts.images,
    })?;
    let kept = (assembled.has_summary, assembled.dropped);
    let context_use = ContextUse {
        estimated_tokens: assembled.estimated_context_tokens,
        input_budget: assembled.input_budget,
        messages_truncated: assembled.messages_truncated,
    };
    Ok(PlannedContext::new(instructions, kept, context_use))
}

fn quota_exceeded(decision: &Decision) -> Problem {
    let scope = match decision {
        Decision::Reject { scope, .. } => *scope,
        Decision::Allow { .. } | Decision::Downgrade { .. } => QuotaScope::Tokens,
    };
    let detail = match scope {
        QuotaScope::Tokens => {
            "The remaining credits do not cover this message. See GET /quota/status."
        }
        QuotaScope::WebSearch => "No web searches are left for today.",
        QuotaScope::CodeInterpreter => "No code interpreter calls are left for today.",
    };
    let mut problem = Problem::new(ErrorCode::QuotaExceeded, detail);
    problem.quota_scope = Some(scope.as_str());
    problem
}

pub(super) fn input_too_long() -> Problem {
    Problem::new(
        ErrorCode::InputTooLong,
        "The message is longer than the model accepts. Shorten it.",
    )
}

fn over_budget(error: &ContextBudgetExceeded) -> Problem {
    let ContextBudgetExceeded {
        required,
        available,
    } = *error;
    let mut problem = Problem::new(ErrorCode::ContextBudgetExceeded, error.to_string());
    problem.context = Some(Box::new(json!({
        "required_tokens": required,
        "available_tokens": available,
    })));
    problem
}
