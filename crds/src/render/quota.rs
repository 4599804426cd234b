//! Which quota applies to whom (QUOTA-25).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use minichat_config::tenant::UserLimits;
use minichat_config::tenant::document::UserLimitsDocument;
use minichat_core::UserId;
use minichat_core::quota::TierLimits;

use crate::ChatQuota;
use crate::chat_quota::{ChatQuotaSpec, Limits, PremiumLimits, StandardLimits};

/// The limits of every user, and warnings about quotas that never apply.
pub(super) fn user_limits(quotas: &[&ChatQuota]) -> (UserLimitsDocument, Vec<String>) {
    let mut ordered = quotas.to_vec();
    ordered.sort_by_key(|quota| (Reverse(quota.spec.priority), name(quota)));
    let mut warnings = Vec::new();
    let mut defaults = ordered
        .iter()
        .filter(|quota| quota.spec.subjects.is_empty());
    let default = defaults.next();
    if let Some(winner) = default {
        warnings.extend(defaults.map(|loser| {
            format!(
                "ChatQuota {}: ChatQuota {} is the tenant's default quota already; name subjects, or delete one of the two",
                name(loser),
                name(winner)
            )
        }));
    }
    let mut by_user = BTreeMap::new();
    for quota in &ordered {
        warnings.extend(premium_above_standard(quota));
        for user in quota
            .spec
            .subjects
            .iter()
            .filter_map(|s| s.name.parse::<UserId>().ok())
        {
            by_user.entry(user).or_insert_with(|| limits(&quota.spec));
        }
    }
    let default = default.map(|quota| limits(&quota.spec)).unwrap_or_default();
    (UserLimitsDocument { default, by_user }, warnings)
}

fn name(quota: &ChatQuota) -> &str {
    quota.metadata.name.as_deref().unwrap_or_default()
}

fn limits(spec: &ChatQuotaSpec) -> UserLimits {
    let ChatQuotaSpec {
        tenant_ref: _,
        subjects: _,
        limits: Limits { standard, premium },
        overshoot_tolerance_pct,
        warning_threshold_pct,
        priority: _,
    } = spec;
    let StandardLimits { daily, monthly } = standard;
    let standard = TierLimits {
        daily: daily.micro(),
        monthly: monthly.micro(),
    };
    let PremiumLimits { daily, monthly } = premium;
    let premium = TierLimits {
        daily: daily.micro(),
        monthly: monthly.micro(),
    };
    UserLimits {
        standard,
        premium,
        overshoot_tolerance_pct: *overshoot_tolerance_pct,
        warning_threshold_pct: *warning_threshold_pct,
    }
}

/// QUOTA-17, D25: allowed, but the sub-cap never acts.
fn premium_above_standard(quota: &ChatQuota) -> Vec<String> {
    let Limits { standard, premium } = &quota.spec.limits;
    [("daily", premium.daily, standard.daily), ("monthly", premium.monthly, standard.monthly)]
        .into_iter()
        .filter(|(_, premium, standard)| premium > standard)
        .map(|(period, premium, standard)| {
            format!(
                "ChatQuota {}: limits.premium.{period} ({premium}) is above limits.standard.{period} ({standard}), which caps all spending",
                name(quota)
            )
        })
        .collect()
}
