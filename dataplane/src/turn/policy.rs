//! Converts the tenant's configuration for the pure rules of
//! `minichat_core::quota`.

use minichat_config::{Model, TenantConfig};
use minichat_core::UserId;
use minichat_core::quota::{Policy, PolicyModel, ToolQuotas};

/// The catalog for preflight, in its order.
pub(crate) fn models(config: &TenantConfig) -> Vec<PolicyModel<'_>> {
    config.models.iter().map(Model::policy).collect()
}

/// The policy for a request of `user`, given the catalog of [`models`].
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
        limits: limits.limits(),
        negative_threshold_credits_micro: 0,
        tool_quotas: ToolQuotas::default(),
    }
}
