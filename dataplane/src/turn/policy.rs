//! Converts the tenant's configuration for the pure rules of
//! `minichat_core::quota`.

use minichat_config::{Model, TenantConfig};
use minichat_core::UserId;
use minichat_core::quota::{Policy, PolicyModel};
use minichat_store::ToolFiles;

use super::tools;

/// The catalog for preflight, in its order, for a chat with `files`.
pub(crate) fn models<'a>(config: &'a TenantConfig, files: &ToolFiles) -> Vec<PolicyModel<'a>> {
    let models = config.models.iter();
    models
        .map(|model| self::model(config, model, files))
        .collect()
}

/// An entry of the catalog, for a chat with `files`.
pub(crate) fn model<'a>(
    config: &TenantConfig,
    model: &'a Model,
    files: &ToolFiles,
) -> PolicyModel<'a> {
    model.policy(tools::usable(config, model, files))
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
        tool_quotas: limits.tool_quotas(),
    }
}
