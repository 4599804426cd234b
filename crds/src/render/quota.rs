//! Which quota applies to which users (QUOTA-25).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use minichat_config::tenant::UserLimits;
use minichat_config::tenant::document::UserLimitsDocument;
use minichat_core::UserId;
use minichat_core::quota::TierLimits;

use super::RenderSettings;
use super::shortfall::{Shortfall, shortfall};
use crate::chat_quota::{
    ChatQuotaSpec, CodeInterpreterCalls, Limits, PremiumLimits, StandardLimits, WebSearchCalls,
};
use crate::{ChatQuota, ChatTenant};

/// More warnings of one kind only say how many there are.
const MAX_WARNINGS: usize = 10;

/// What the quotas of one tenant come to.
#[derive(Debug)]
pub struct Allowances {
    /// Limits of every user.
    pub limits: UserLimitsDocument,
    /// By name, the quotas that do not apply to everybody whom they mean.
    pub shortfalls: BTreeMap<String, Shortfall>,
}

/// Whom a subject of a quota is in the API: users by the issuers that may open
/// the tenant (PLAT-132).
pub(super) struct Subjects<'a> {
    issuers: Vec<&'a str>,
}

impl<'a> Subjects<'a> {
    fn of(tenant: &'a ChatTenant, settings: &'a RenderSettings) -> Self {
        let own = tenant.spec.auth.issuers.iter();
        let own: Vec<_> = own.map(|issuer| issuer.issuer.as_str()).collect();
        let issuers = if own.is_empty() {
            settings.issuer.as_deref().into_iter().collect()
        } else {
            own
        };
        Self { issuers }
    }

    /// One user for each issuer, which may use one name for different people;
    /// nobody, when there is none to use it.
    pub(super) fn users(&self, name: &str) -> Vec<UserId> {
        if let Ok(user) = name.parse() {
            return vec![user];
        }
        let issuers = self.issuers.iter();
        issuers
            .map(|issuer| UserId::of_subject(issuer, name))
            .collect()
    }
}

/// Resolves the `quotas` of `tenant`: one that names the user, else one without
/// subjects, else the built-in defaults; among equals the higher priority, then
/// the smaller name.
pub fn allowances(
    tenant: &ChatTenant,
    quotas: &[&ChatQuota],
    settings: &RenderSettings,
) -> Allowances {
    let subjects = Subjects::of(tenant, settings);
    let mut ordered = quotas.to_vec();
    ordered.sort_by_key(|quota| (Reverse(quota.spec.priority), name(quota)));
    let default = ordered
        .iter()
        .copied()
        .find(|quota| quota.spec.subjects.is_empty());
    let mut by_user = BTreeMap::new();
    for quota in &ordered {
        let named = quota.spec.subjects.iter();
        for user in named.flat_map(|subject| subjects.users(&subject.name)) {
            by_user.entry(user).or_insert(*quota);
        }
    }
    let shortfalls = ordered.iter().filter_map(|quota| {
        let shortfall = shortfall(quota, &subjects, default, &by_user)?;
        Some((name(quota).to_owned(), shortfall))
    });
    Allowances {
        shortfalls: shortfalls.collect(),
        limits: UserLimitsDocument {
            default: default.map(|quota| limits(&quota.spec)).unwrap_or_default(),
            by_user: by_user
                .into_iter()
                .map(|(user, quota)| (user, limits(&quota.spec)))
                .collect(),
        },
    }
}

/// Warnings about quotas, for the status of the tenant.
pub(super) fn warnings(
    quotas: &[&ChatQuota],
    shortfalls: &BTreeMap<String, Shortfall>,
) -> Vec<String> {
    let above = quotas
        .iter()
        .flat_map(|quota| premium_above_standard(quota));
    let short = shortfalls
        .iter()
        .map(|(name, shortfall)| format!("ChatQuota {name} {}", shortfall.message));
    [
        bounded(
            short.collect(),
            "quotas do not apply to everybody whom they mean",
        ),
        bounded(
            above.collect(),
            "limits for premium models are above the standard ones",
        ),
    ]
    .concat()
}

/// The first `warnings`, and how many more there are.
fn bounded(mut warnings: Vec<String>, what: &str) -> Vec<String> {
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    warnings.truncate(MAX_WARNINGS);
    warnings.extend((more > 0).then(|| format!("{more} more {what}")));
    warnings
}

pub(super) fn name(quota: &ChatQuota) -> &str {
    quota.metadata.name.as_deref().unwrap_or_default()
}

fn limits(spec: &ChatQuotaSpec) -> UserLimits {
    let ChatQuotaSpec {
        tenant_ref: _,
        subjects: _,
        limits: Limits { standard, premium },
        overshoot_tolerance_pct,
        warning_threshold_pct,
        web_search,
        code_interpreter,
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
    let web = Calls::of_web_search(web_search);
    let code = Calls::of_code_interpreter(code_interpreter);
    UserLimits {
        standard,
        premium,
        overshoot_tolerance_pct: *overshoot_tolerance_pct,
        warning_threshold_pct: *warning_threshold_pct,
        web_search_max_calls_per_message: web.max_calls_per_turn,
        web_search_daily_quota: web.daily_calls,
        code_interpreter_max_calls_per_message: code.max_calls_per_turn,
        code_interpreter_daily_quota: code.daily_calls,
    }
}

/// Limits of calls; `None` where the manifest has the default, so that a document has
/// the hash that an earlier release computed for it.
struct Calls {
    max_calls_per_turn: Option<u32>,
    daily_calls: Option<u32>,
}

impl Calls {
    fn of_web_search(own: &WebSearchCalls) -> Self {
        let default = WebSearchCalls::default();
        Self {
            max_calls_per_turn: unless(own.max_calls_per_turn, default.max_calls_per_turn),
            daily_calls: unless(own.daily_calls, default.daily_calls),
        }
    }

    fn of_code_interpreter(own: &CodeInterpreterCalls) -> Self {
        let default = CodeInterpreterCalls::default();
        Self {
            max_calls_per_turn: unless(own.max_calls_per_turn, default.max_calls_per_turn),
            daily_calls: unless(own.daily_calls, default.daily_calls),
        }
    }
}

fn unless(value: u32, default: u32) -> Option<u32> {
    (value != default).then_some(value)
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
