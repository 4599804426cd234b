//! Which model a request gets, what is reserved for it, or why it is refused
//! (QUOTA-12 to QUOTA-14, QUOTA-44 to QUOTA-50).
//!
//! The same function runs before the reserve transaction and again on the
//! locked rows inside it; the second result counts (QUOTA-52).

use std::fmt;

use schemars::JsonSchema;

use super::credits::MAX_TOKENS;
use super::estimate::{Demand, OfferedTools, estimated_input_tokens};
use super::{Bucket, CreditsOutOfBounds, Period, Policy, PolicyModel, Tier, credits};

/// One bucket in one period, in micro-credits: the current row, or zeros if there
/// is no row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cell {
    pub spent: i64,
    pub reserved: i64,
}

impl Cell {
    /// Spent and reserved together. Saturates.
    pub const fn used(self) -> i64 {
        self.spent.saturating_add(self.reserved)
    }
}

/// What a user has used in the current periods. The default is a user who has no
/// rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cells {
    pub total_daily: Cell,
    pub total_monthly: Cell,
    pub premium_daily: Cell,
    pub premium_monthly: Cell,
    /// Completed calls of the daily total row; negative counts as 0
    /// (QUOTA-50).
    pub web_search_calls: i64,
    pub code_interpreter_calls: i64,
}

impl Cells {
    pub const fn of(&self, bucket: Bucket, period: Period) -> Cell {
        match (bucket, period) {
            (Bucket::Total, Period::Daily) => self.total_daily,
            (Bucket::Total, Period::Monthly) => self.total_monthly,
            (Bucket::TierPremium, Period::Daily) => self.premium_daily,
            (Bucket::TierPremium, Period::Monthly) => self.premium_monthly,
        }
    }

    pub const fn of_mut(&mut self, bucket: Bucket, period: Period) -> &mut Cell {
        match (bucket, period) {
            (Bucket::Total, Period::Daily) => &mut self.total_daily,
            (Bucket::Total, Period::Monthly) => &mut self.total_monthly,
            (Bucket::TierPremium, Period::Daily) => &mut self.premium_daily,
            (Bucket::TierPremium, Period::Monthly) => &mut self.premium_monthly,
        }
    }
}

/// What preflight needs to know about a request. The default is an empty
/// message in a new chat without tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestFacts {
    /// UTF-8 bytes of the user's message.
    pub message_bytes: u64,
    /// `prior_context_tokens` of QUOTA-37.
    pub prior_context_tokens: u64,
    /// Images that will be sent (QUOTA-39).
    pub images: u32,
    /// `web_search.enabled` of the request.
    pub web_search_requested: bool,
    /// The chat has a ready document for file search.
    pub has_documents: bool,
    /// The chat has a ready file for the code interpreter.
    pub has_code_files: bool,
    /// Bytes of the guard texts, which are sent with their tools (CONT-2).
    pub web_search_guard_bytes: u64,
    pub file_search_guard_bytes: u64,
}

/// The amounts that are stored with a turn when it is reserved, and settled when it
/// ends (QUOTA-33).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reserve {
    /// Estimated input and the output cap together (QUOTA-43).
    pub reserve_tokens: u64,
    /// Sent to the provider as the hard output cap (QUOTA-42).
    pub max_output_tokens_applied: u32,
    /// Output tokens that are charged if the usage is unknown (QUOTA-41).
    pub minimal_generation_floor_applied: u32,
    /// Micro-credits that are deducted from every cell of the tier.
    pub reserved_credits_micro: i64,
}

impl Reserve {
    /// The reserve without the output cap, never below 0 (QUOTA-59).
    pub fn estimated_input_tokens(&self) -> u64 {
        self.reserve_tokens
            .saturating_sub(u64::from(self.max_output_tokens_applied))
    }
}

/// Why a turn does not run on the model that its chat selected (QUOTA-48).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum DowngradeReason {
    PremiumQuotaExhausted,
    ForceStandardTier,
    DisablePremiumTier,
    ModelDisabled,
}

impl DowngradeReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PremiumQuotaExhausted => "premium_quota_exhausted",
            Self::ForceStandardTier => "force_standard_tier",
            Self::DisablePremiumTier => "disable_premium_tier",
            Self::ModelDisabled => "model_disabled",
        }
    }
}

/// The limit because of which a request was refused (QUOTA-49).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum QuotaScope {
    Tokens,
    WebSearch,
    CodeInterpreter,
}

impl QuotaScope {
    pub const ALL: [Self; 3] = [Self::Tokens, Self::WebSearch, Self::CodeInterpreter];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::WebSearch => "web_search",
            Self::CodeInterpreter => "code_interpreter",
        }
    }
}

impl fmt::Display for QuotaScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of preflight. `model` is an index into [`Policy::models`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The selected model.
    Allow { model: usize, reserve: Reserve },
    /// A model other than the selected one, which is `downgrade_from`.
    Downgrade {
        reason: DowngradeReason,
        model: usize,
        reserve: Reserve,
    },
    /// 429 `quota_exceeded`. `tier` is the label of `quota_preflight`
    /// (QUOTA-103).
    Reject { scope: QuotaScope, tier: Tier },
}

impl Decision {
    /// The index of the effective model and its reserve; `None` if rejected.
    pub const fn allowed(&self) -> Option<(usize, Reserve)> {
        match *self {
            Self::Allow { model, reserve } | Self::Downgrade { model, reserve, .. } => {
                Some((model, reserve))
            }
            Self::Reject { .. } => None,
        }
    }

    pub const fn downgrade_reason(&self) -> Option<DowngradeReason> {
        match *self {
            Self::Downgrade { reason, .. } => Some(reason),
            Self::Allow { .. } | Self::Reject { .. } => None,
        }
    }

    /// Whether the decision stays the same as long as every cell of the model's
    /// tier holds no more than [`Policy::most_used`], and the day no more calls than
    /// [`Policy::most_calls`], whatever else changes in the cells. It does not if
    /// another tier or another model was passed over for what the cells held.
    pub const fn holds_while_there_is_room(&self) -> bool {
        match self {
            Self::Allow { .. } => true,
            Self::Downgrade { reason, .. } => matches!(
                reason,
                DowngradeReason::ForceStandardTier | DowngradeReason::DisablePremiumTier
            ),
            Self::Reject { .. } => false,
        }
    }

    /// The `decision` label of `quota_preflight`; `allow` and `downgrade` are
    /// `quota_decision` on the wire too.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Downgrade { .. } => "downgrade",
            Self::Reject { .. } => "reject",
        }
    }
}

/// 422 `input_too_long`, with nothing written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InputTooLong {
    /// QUOTA-40
    #[error("the message needs about {required} tokens, the model takes {allowed}")]
    Message { required: u64, allowed: u64 },
    /// QUOTA-5
    #[error("the request needs about {required} tokens, more than {MAX_TOKENS} cannot be priced")]
    Unpriceable { required: u64 },
}

/// The length guard of QUOTA-40, for the effective model.
pub fn check_message_length(
    model: &PolicyModel<'_>,
    message_bytes: u64,
) -> Result<(), InputTooLong> {
    let required = model.budgets.text_tokens(message_bytes);
    let allowed = u64::from(model.max_input_tokens);
    if required > allowed {
        return Err(InputTooLong::Message { required, allowed });
    }
    Ok(())
}

/// Steps 4 and 5 of QUOTA-44: the cascade, then the daily tool quotas.
///
/// `selected` is `chats.model`. An estimate beyond the bounds of QUOTA-4 is an
/// error, which counts in no metric.
pub fn preflight(
    policy: &Policy<'_>,
    selected: &str,
    facts: &RequestFacts,
    cells: &Cells,
) -> Result<Decision, InputTooLong> {
    let decision = cascade(policy, selected, facts, cells)?;
    let Some((model, _)) = decision.allowed() else {
        return Ok(decision);
    };
    let Some(model) = policy.models.get(model) else {
        return Ok(decision);
    };
    let offered = offered_tools(policy, model, facts);
    Ok(match exhausted_tool(policy, offered, cells) {
        Some(scope) => Decision::Reject {
            scope,
            tier: selected_tier(policy, selected),
        },
        None => decision,
    })
}

/// QUOTA-46 to QUOTA-48
fn cascade(
    policy: &Policy<'_>,
    selected: &str,
    facts: &RequestFacts,
    cells: &Cells,
) -> Result<Decision, InputTooLong> {
    let entry = policy.models.iter().find(|model| model.id == selected);
    let mut noted = match entry {
        Some(model) if model.enabled => None,
        _ => Some(DowngradeReason::ModelDisabled),
    };
    let tiers: &[Tier] = match entry.map(|model| model.tier) {
        Some(Tier::Standard) => &[Tier::Standard],
        Some(Tier::Premium) | None => &[Tier::Premium, Tier::Standard],
    };
    for &tier in tiers {
        if let Some(reason) = switched_off(policy, tier) {
            noted.get_or_insert(reason);
            continue;
        }
        let Some((index, model)) = candidate(policy.models, tier, selected) else {
            continue;
        };
        let reserve = reserve_for(policy, model, facts)?;
        if !tier_available(policy, tier, reserve.reserved_credits_micro, cells) {
            if tier == Tier::Premium {
                noted.get_or_insert(DowngradeReason::PremiumQuotaExhausted);
            }
            continue;
        }
        return Ok(match noted {
            None => Decision::Allow {
                model: index,
                reserve,
            },
            Some(reason) => Decision::Downgrade {
                reason,
                model: index,
                reserve,
            },
        });
    }
    Ok(Decision::Reject {
        scope: QuotaScope::Tokens,
        tier: Tier::Standard,
    })
}

fn switched_off(policy: &Policy<'_>, tier: Tier) -> Option<DowngradeReason> {
    if tier == Tier::Standard {
        None
    } else if policy.kill_switches.force_standard_tier {
        Some(DowngradeReason::ForceStandardTier)
    } else if policy.kill_switches.disable_premium_tier {
        Some(DowngradeReason::DisablePremiumTier)
    } else {
        None
    }
}

/// The selected model, else the tier's default, else its first (QUOTA-47 b).
fn candidate<'p, 'a>(
    models: &'p [PolicyModel<'a>],
    tier: Tier,
    selected: &str,
) -> Option<(usize, &'p PolicyModel<'a>)> {
    let enabled = || {
        models
            .iter()
            .enumerate()
            .filter(move |(_, model)| model.enabled && model.tier == tier)
    };
    enabled()
        .find(|(_, model)| model.id == selected)
        .or_else(|| enabled().find(|(_, model)| model.is_default))
        .or_else(|| enabled().next())
}

/// The reserve of one candidate, by its own budgets, cap and price (QUOTA-43).
fn reserve_for(
    policy: &Policy<'_>,
    model: &PolicyModel<'_>,
    facts: &RequestFacts,
) -> Result<Reserve, InputTooLong> {
    let offered = offered_tools(policy, model, facts);
    let instructions = if facts.prior_context_tokens == 0 {
        instructions_bytes(model, offered, facts)
    } else {
        0
    };
    let input = estimated_input_tokens(
        model.budgets,
        Demand {
            utf8_bytes: facts.message_bytes.saturating_add(instructions),
            prior_context_tokens: facts.prior_context_tokens,
            images: facts.images,
            offered,
        },
    );
    let output = model.max_output_tokens_applied(policy.max_output_tokens);
    let reserve_tokens = input.saturating_add(u64::from(output));
    let reserved_credits_micro =
        credits(input, u64::from(output), model.pricing).map_err(|_: CreditsOutOfBounds| {
            InputTooLong::Unpriceable {
                required: reserve_tokens,
            }
        })?;
    Ok(Reserve {
        reserve_tokens,
        max_output_tokens_applied: output,
        minimal_generation_floor_applied: model.budgets.minimal_generation_floor.min(output),
        reserved_credits_micro,
    })
}

/// The tools that a request to `model` would contain (QUOTA-38).
pub fn offered_tools(
    policy: &Policy<'_>,
    model: &PolicyModel<'_>,
    facts: &RequestFacts,
) -> OfferedTools {
    let switches = &policy.kill_switches;
    OfferedTools {
        web_search: facts.web_search_requested
            && model.tools.web_search
            && !switches.disable_web_search,
        file_search: facts.has_documents
            && model.tools.file_search
            && !switches.disable_file_search,
        code_interpreter: facts.has_code_files
            && model.tools.code_interpreter
            && !switches.disable_code_interpreter,
    }
}

/// Bytes of the instructions as CONT-2 joins them: non-empty parts with one
/// blank line between them (QUOTA-36).
fn instructions_bytes(model: &PolicyModel<'_>, offered: OfferedTools, facts: &RequestFacts) -> u64 {
    let sent = |offered: bool, bytes: u64| if offered { bytes } else { 0 };
    let parts = [
        model.system_prompt.len() as u64,
        sent(offered.web_search, facts.web_search_guard_bytes),
        sent(offered.file_search, facts.file_search_guard_bytes),
    ];
    let mut bytes = 0_u64;
    for part in parts.into_iter().filter(|&part| part > 0) {
        let separator = if bytes > 0 { 2 } else { 0 };
        bytes = bytes.saturating_add(part).saturating_add(separator);
    }
    bytes
}

/// Whether every cell of `tier` allows `reserve` (QUOTA-11 to QUOTA-14).
fn tier_available(policy: &Policy<'_>, tier: Tier, reserve: i64, cells: &Cells) -> bool {
    let most_used = policy.most_used(reserve);
    tier.buckets().iter().all(|&bucket| {
        Period::ALL.into_iter().all(|period| {
            policy.limits.of(bucket, period) > 0
                && cells.of(bucket, period).used() <= most_used.of(bucket, period)
        })
    })
}

/// The offered tool whose daily number of calls is used up (QUOTA-50).
fn exhausted_tool(policy: &Policy<'_>, offered: OfferedTools, cells: &Cells) -> Option<QuotaScope> {
    let most = policy.most_calls(offered);
    if cells.web_search_calls.max(0) > most.web_search {
        return Some(QuotaScope::WebSearch);
    }
    (cells.code_interpreter_calls.max(0) > most.code_interpreter)
        .then_some(QuotaScope::CodeInterpreter)
}

/// The selected model's tier as a label; `standard` if it is disabled or
/// unknown (QUOTA-103).
fn selected_tier(policy: &Policy<'_>, selected: &str) -> Tier {
    policy
        .models
        .iter()
        .find(|model| model.id == selected && model.enabled)
        .map_or(Tier::Standard, |model| model.tier)
}

#[cfg(test)]
mod tests;
