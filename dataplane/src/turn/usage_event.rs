//! The usage event: what a consumer needs to bill one turn (QUOTA-86).

use minichat_core::ids::usage_dedupe_key;
use minichat_core::quota::Settlement;
use minichat_core::turn::{BillingOutcome, Outcome, SettlementMethod, TurnErrorCode, Usage};
use minichat_core::{ChatId, RequestId, TenantId, Timestamp, TurnId, UserId};
use serde::Serialize;

/// The queue of usage events (QUOTA-85).
pub(super) const QUEUE: &str = "mini-chat.usage_snapshot";

/// Partitions of the queue (PLAT-31).
pub(super) const PARTITIONS: u32 = 4;

#[derive(Serialize)]
pub(super) struct UsageEvent<'a> {
    event_type: &'static str,
    pub(super) dedupe_key: String,
    tenant_id: TenantId,
    user_id: UserId,
    chat_id: ChatId,
    turn_id: TurnId,
    request_id: RequestId,
    requester_type: &'static str,
    selected_model: &'a str,
    effective_model: &'a str,
    quota_decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    downgrade_from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    downgrade_reason: Option<&'static str>,
    terminal_state: &'static str,
    billing_outcome: &'static str,
    outcome: &'static str,
    settlement_method: &'static str,
    completion_signal: Option<CompletionSignal>,
    error_code: Option<&'static str>,
    usage: Option<Usage>,
    actual_credits_micro: i64,
    committed_credits_micro: i64,
    reserved_credits_micro: i64,
    reserve_tokens: u64,
    overshoot_capped: bool,
    policy_version_applied: u64,
    web_search_calls: u32,
    code_interpreter_calls: u32,
    file_search_calls: u32,
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct CompletionSignal {
    kind: &'static str,
    reason: &'static str,
}

/// The turn that an event is about.
pub(super) struct Subject<'a> {
    pub(super) tenant_id: TenantId,
    pub(super) user_id: UserId,
    pub(super) chat_id: ChatId,
    pub(super) turn_id: TurnId,
    pub(super) request_id: RequestId,
    pub(super) requester_type: &'static str,
    pub(super) selected_model: &'a str,
    pub(super) effective_model: &'a str,
    pub(super) downgrade_reason: Option<&'static str>,
}

/// How the turn was settled.
pub(super) struct Bill<'a> {
    pub(super) outcome: Outcome,
    pub(super) billing: BillingOutcome,
    pub(super) method: SettlementMethod,
    /// As the provider reported it, uncapped; unknown is `None` (QUOTA-89).
    pub(super) usage: Option<Usage>,
    pub(super) settlement: &'a Settlement,
    pub(super) reserved_credits_micro: i64,
    pub(super) reserve_tokens: u64,
    pub(super) policy_version_applied: u64,
    pub(super) timestamp: Timestamp,
}

impl<'a> UsageEvent<'a> {
    pub(super) fn new(subject: &Subject<'a>, bill: &Bill<'_>) -> Self {
        let downgraded = subject.selected_model != subject.effective_model;
        Self {
            event_type: "usage_snapshot",
            dedupe_key: usage_dedupe_key(subject.tenant_id, subject.turn_id, subject.request_id),
            tenant_id: subject.tenant_id,
            user_id: subject.user_id,
            chat_id: subject.chat_id,
            turn_id: subject.turn_id,
            request_id: subject.request_id,
            requester_type: subject.requester_type,
            selected_model: subject.selected_model,
            effective_model: subject.effective_model,
            quota_decision: if downgraded { "downgrade" } else { "allow" },
            downgrade_from: downgraded.then_some(subject.selected_model),
            downgrade_reason: subject.downgrade_reason,
            terminal_state: bill.outcome.state().as_str(),
            billing_outcome: bill.billing.as_str(),
            outcome: bill.billing.as_str(),
            settlement_method: bill.method.as_str(),
            completion_signal: bill.outcome.incomplete().map(|reason| CompletionSignal {
                kind: "incomplete",
                reason: reason.as_str(),
            }),
            error_code: bill.outcome.error_code().map(TurnErrorCode::as_str),
            usage: bill.usage,
            actual_credits_micro: bill.settlement.committed_credits_micro,
            committed_credits_micro: bill.settlement.committed_credits_micro,
            reserved_credits_micro: bill.reserved_credits_micro,
            reserve_tokens: bill.reserve_tokens,
            overshoot_capped: bill.settlement.overshoot_capped,
            policy_version_applied: bill.policy_version_applied,
            web_search_calls: 0,
            code_interpreter_calls: 0,
            file_search_calls: 0,
            timestamp: bill.timestamp,
        }
    }
}
