//! What works but is probably not meant (QUOTA-17).

use minichat_config::tenant::sink::{Sink, WebhookAuth};
use minichat_config::tenant::{Sinks, Tier, UserLimits};
use minichat_config::{Credentials, Model, Secret, TenantConfig};
use minichat_core::quota::{Bucket, Period, credits};

pub(super) fn warnings(
    config: &TenantConfig,
    sinks: &Sinks,
    credentials: &Credentials,
) -> Vec<String> {
    let mut warnings = short_credentials(config, credentials);
    warnings.extend(of_sinks(sinks));
    if !config
        .models_enabled()
        .any(|model| model.tier == Tier::Standard)
    {
        warnings.push(
            "no enabled model is Standard: who has used up the premium allowance cannot chat"
                .to_owned(),
        );
    }
    if let Some(model) = config.default_model() {
        warnings.extend(limits_below_one_message(config, model));
    }
    warnings
}

/// Credentials that answers may repeat to users.
fn short_credentials(config: &TenantConfig, credentials: &Credentials) -> Vec<String> {
    let is_short = |reference: &str| {
        credentials
            .get(reference)
            .is_some_and(|secret| secret.expose().len() < Secret::SHORTEST_MASKED)
    };
    let providers = config.providers.values();
    providers
        .filter(|provider| provider.auth.as_ref().is_some_and(|auth| is_short(&auth.secret_ref)))
        .map(|provider| {
            format!(
                "the credential of provider {} has fewer than {} bytes, so it is not masked where an answer repeats it: write a longer one, unless the provider takes any",
                provider.id,
                Secret::SHORTEST_MASKED
            )
        })
        .collect()
}

/// A short credential of a webhook, and content that nobody gets.
fn of_sinks(sinks: &Sinks) -> Vec<String> {
    let is_short = |sink: &Sink| {
        sink.webhook().is_some_and(|webhook| {
            matches!(&webhook.auth, WebhookAuth::Header { value, .. } if value.expose().len() < Secret::SHORTEST_MASKED)
        })
    };
    let mut warnings: Vec<_> = [("usageSink", &sinks.usage), ("auditSink", &sinks.audit)]
        .into_iter()
        .filter(|(_, sink)| is_short(sink))
        .map(|(name, _)| {
            format!(
                "the credential of {name} has fewer than {} bytes, so it is not masked where an answer of the receiver repeats it: write a longer one",
                Secret::SHORTEST_MASKED
            )
        })
        .collect();
    if sinks.include_content && sinks.audit == Sink::Log {
        warnings.push(
            "auditSink.includeContent has no effect on the log: only a webhook gets prompts and answers"
                .to_owned(),
        );
    }
    warnings
}

/// A limit that does not even cover an empty message on the default model.
fn limits_below_one_message(config: &TenantConfig, model: &Model) -> Option<String> {
    let least_input = model.estimation_budgets.text_tokens(0);
    let output = model.max_output_tokens.min(config.max_output_tokens);
    let reserve = credits(least_input, output.into(), model.pricing).ok()?;
    let too_small = |limits: &UserLimits| {
        let limits = limits.limits();
        model.tier.buckets().iter().any(|bucket: &Bucket| {
            [Period::Daily, Period::Monthly]
                .into_iter()
                .any(|period| limits.of(*bucket, period) < reserve)
        })
    };
    too_small(&config.user_limits.default).then(|| {
        format!(
            "the default limits are smaller than the {reserve} micro-credits that the shortest message on {} reserves; raise them or lower maxOutputTokens",
            model.id
        )
    })
}
