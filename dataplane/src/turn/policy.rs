//! The tenant's configuration as the pure rules of `minichat_core::quota` see
//! it.

use minichat_config::{Model, TenantConfig};
use minichat_core::UserId;
use minichat_core::quota::{Policy, PolicyModel, Pricing, ToolQuotas, ToolSupport};

/// The catalog, in its order, as preflight reads it.
pub(crate) fn models(config: &TenantConfig) -> Vec<PolicyModel<'_>> {
    config.models.iter().map(model).collect()
}

pub(crate) fn model(model: &Model) -> PolicyModel<'_> {
    PolicyModel {
        id: &model.id,
        tier: model.tier,
        enabled: model.enabled,
        is_default: model.is_default(),
        context_window: model.context_window,
        max_input_tokens: model.max_input_tokens,
        max_output_tokens: model.max_output_tokens,
        pricing: pricing(model),
        budgets: &model.estimation_budgets,
        system_prompt: &model.system_prompt,
        tools: ToolSupport::default(),
    }
}

pub(crate) fn pricing(model: &Model) -> Pricing {
    Pricing {
        input_multiplier_micro: model.input_tokens_credit_multiplier_micro,
        output_multiplier_micro: model.output_tokens_credit_multiplier_micro,
    }
}

/// What decides about a request of `user`, given the catalog of [`models`].
pub(crate) fn policy<'a>(
    config: &TenantConfig,
    models: &'a [PolicyModel<'a>],
    user: UserId,
) -> Policy<'a> {
    let limits = config.limits_for(user);
    Policy {
        models,
        kill_switches: config.kill_switches,
        max_output_tokens: config.max_output_tokens,
        limits: limits.credits(),
        negative_threshold_credits_micro: 0,
        tool_quotas: ToolQuotas::default(),
    }
}
