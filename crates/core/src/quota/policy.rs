//! The view of a tenant's policy that quota decisions need (QUOTA-15).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::OfferedTools;
use super::{Bucket, EstimationBudgets, Period};

/// The tier of a model. A premium turn counts towards both buckets, a standard
/// one only towards the total (QUOTA-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    #[serde(alias = "Standard")]
    Standard,
    #[serde(alias = "Premium")]
    Premium,
}

impl Tier {
    pub const ALL: [Self; 2] = [Self::Standard, Self::Premium];

    /// The value on the wire and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Premium => "premium",
        }
    }

    /// The buckets that a turn of this tier counts towards (QUOTA-9).
    pub const fn buckets(self) -> &'static [Bucket] {
        match self {
            Self::Standard => &[Bucket::Total],
            Self::Premium => &[Bucket::Total, Bucket::TierPremium],
        }
    }
}

/// Switches that take effect with the next preflight (QUOTA-18).
#[expect(
    clippy::struct_excessive_bools,
    reason = "each switch is independent of the others"
)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KillSwitches {
    pub disable_premium_tier: bool,
    pub force_standard_tier: bool,
    pub disable_web_search: bool,
    pub disable_file_search: bool,
    pub disable_images: bool,
    pub disable_code_interpreter: bool,
}

/// The two limits of one tier, in micro-credits. 0 means that no spending is
/// allowed (QUOTA-11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierLimits {
    #[serde(rename = "limit_daily_credits_micro")]
    pub daily: i64,
    #[serde(rename = "limit_monthly_credits_micro")]
    pub monthly: i64,
}

/// One user's limits. `standard` limits all spending, `premium` additionally
/// limits spending on premium models (QUOTA-10). The default applies if there is
/// no quota object (QUOTA-24).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub standard: TierLimits,
    pub premium: TierLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            standard: TierLimits {
                daily: 100_000_000,
                monthly: 1_000_000_000,
            },
            premium: TierLimits {
                daily: 50_000_000,
                monthly: 500_000_000,
            },
        }
    }
}

impl Limits {
    /// The limit of one cell, in micro-credits (QUOTA-10).
    pub const fn of(&self, bucket: Bucket, period: Period) -> i64 {
        let tier = match bucket {
            Bucket::Total => &self.standard,
            Bucket::TierPremium => &self.premium,
        };
        match period {
            Period::Daily => tier.daily,
            Period::Monthly => tier.monthly,
        }
    }
}

impl Policy<'_> {
    /// What each cell may hold at most so that it still allows `reserve`, in
    /// micro-credits (QUOTA-12, QUOTA-14).
    pub const fn most_used(&self, reserve: i64) -> Limits {
        let floor = self.negative_threshold_credits_micro.saturating_neg();
        let room = if reserve > floor { reserve } else { floor };
        let TierLimits { daily, monthly } = self.limits.standard;
        let standard = TierLimits {
            daily: daily.saturating_sub(room),
            monthly: monthly.saturating_sub(room),
        };
        let TierLimits { daily, monthly } = self.limits.premium;
        let premium = TierLimits {
            daily: daily.saturating_sub(room),
            monthly: monthly.saturating_sub(room),
        };
        Limits { standard, premium }
    }

    /// What the user's day may hold at most so that each of the `offered` tools can
    /// be called once more (QUOTA-50).
    pub const fn most_calls(&self, offered: OfferedTools) -> MostCalls {
        let ToolQuotas {
            web_search_daily,
            code_interpreter_daily,
        } = self.tool_quotas;
        MostCalls {
            web_search: most_calls(offered.web_search, web_search_daily),
            code_interpreter: most_calls(offered.code_interpreter, code_interpreter_daily),
        }
    }
}

const fn most_calls(is_offered: bool, daily: u32) -> i64 {
    // A cast, because conversions are not const.
    if is_offered {
        daily as i64 - 1
    } else {
        i64::MAX
    }
}

/// Completed calls of tools that a day may hold at most. A tool that is not offered
/// has no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MostCalls {
    pub web_search: i64,
    pub code_interpreter: i64,
}

/// Maximum number of tool calls of one user per day (QUOTA-50).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToolQuotas {
    pub web_search_daily: u32,
    pub code_interpreter_daily: u32,
}

impl Default for ToolQuotas {
    fn default() -> Self {
        Self {
            web_search_daily: 75,
            code_interpreter_daily: 50,
        }
    }
}

/// The price of a model in micro-credits per 1,000,000 tokens (QUOTA-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pricing {
    pub input_multiplier_micro: u64,
    pub output_multiplier_micro: u64,
}

/// The tools that a model can be offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ToolSupport {
    pub web_search: bool,
    pub file_search: bool,
    pub code_interpreter: bool,
}

/// A catalog entry as preflight and context assembly see it; it borrows from
/// the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyModel<'a> {
    pub id: &'a str,
    pub tier: Tier,
    pub enabled: bool,
    /// `preference.is_default`.
    pub is_default: bool,
    pub context_window: u32,
    pub max_input_tokens: u32,
    pub max_output_tokens: u32,
    pub pricing: Pricing,
    pub budgets: &'a EstimationBudgets,
    /// Empty means none.
    pub system_prompt: &'a str,
    pub tools: ToolSupport,
}

impl PolicyModel<'_> {
    /// The hard output cap of a request: the smaller of the model's and the
    /// tenant's (QUOTA-42).
    pub fn max_output_tokens_applied(&self, tenant_max_output_tokens: u32) -> u32 {
        self.max_output_tokens.min(tenant_max_output_tokens)
    }
}

/// The policy by which one user's request is decided, together with the request
/// and the user's previous spending.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// In catalog order; decisions name a model by its index here.
    pub models: &'a [PolicyModel<'a>],
    pub kill_switches: KillSwitches,
    /// The tenant's `max_output_tokens`.
    pub max_output_tokens: u32,
    pub limits: Limits,
    /// At least 0 (QUOTA-14).
    pub negative_threshold_credits_micro: i64,
    pub tool_quotas: ToolQuotas,
}
