//! The usage event: everything that a consumer needs to bill one turn
//! (QUOTA-86).

use minichat_core::ids::usage_dedupe_key;
use minichat_core::quota::Settlement;
use minichat_core::turn::{BillingOutcome, Outcome, SettlementMethod, TurnErrorCode, Usage};
use minichat_core::{ChatId, Date, RequestId, TenantId, Timestamp, TurnId, UserId};
use serde::Serialize;

use super::account::Account;
use super::audit_event::CompletionSignal;
use super::tool_calls::CallCounts;

#[derive(Serialize)]
pub(super) struct UsageEvent<'a> {
    event_type: &'static str,
    pub(super) dedupe_key: String,
    tenant_id: TenantId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    chat_id: ChatId,
    turn_id: TurnId,
    request_id: RequestId,
    requester_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    reserve_day: Option<Date>,
    overshoot_capped: bool,
    policy_version_applied: u64,
    web_search_calls: u32,
    code_interpreter_calls: u32,
    file_search_calls: u32,
    timestamp: Timestamp,
}

/// How the turn was settled.
pub(super) struct Bill<'a> {
    pub(super) outcome: Outcome,
    pub(super) billing: BillingOutcome,
    pub(super) method: SettlementMethod,
    /// As the provider reported it, not capped; `None` if unknown (QUOTA-89).
    pub(super) usage: Option<Usage>,
    pub(super) settlement: &'a Settlement,
    pub(super) reserved_credits_micro: i64,
    pub(super) reserve_tokens: u64,
    /// `None`: the turn never had a reserve.
    pub(super) reserve_day: Option<Date>,
    /// Completed calls; zeros if the reserve was released.
    pub(super) calls: CallCounts,
    pub(super) timestamp: Timestamp,
}

impl<'a> UsageEvent<'a> {
    pub(super) fn new(account: &'a Account, bill: &Bill<'_>) -> Self {
        let downgrade_from = account.downgrade_from();
        Self {
            event_type: "usage_snapshot",
            dedupe_key: usage_dedupe_key(account.tenant_id, account.turn_id, account.request_id),
            tenant_id: account.tenant_id,
            user_id: account.user_id,
            chat_id: account.chat_id,
            turn_id: account.turn_id,
            request_id: account.request_id,
            requester_type: account.requester_type.as_str(),
            trace_id: account.trace_id.as_deref(),
            selected_model: &account.selected_model,
            effective_model: &account.effective_model,
            quota_decision: if downgrade_from.is_some() {
                "downgrade"
            } else {
                "allow"
            },
            downgrade_from,
            downgrade_reason: account.downgrade_reason(),
            terminal_state: bill.outcome.state().as_str(),
            billing_outcome: bill.billing.as_str(),
            outcome: bill.billing.as_str(),
            settlement_method: bill.method.as_str(),
            completion_signal: CompletionSignal::of(bill.outcome),
            error_code: bill.outcome.error_code().map(TurnErrorCode::as_str),
            usage: bill.usage,
            actual_credits_micro: bill.settlement.committed_credits_micro,
            committed_credits_micro: bill.settlement.committed_credits_micro,
            reserved_credits_micro: bill.reserved_credits_micro,
            reserve_tokens: bill.reserve_tokens,
            reserve_day: bill.reserve_day,
            overshoot_capped: bill.settlement.overshoot_capped,
            policy_version_applied: account.policy_version,
            web_search_calls: bill.calls.web_search,
            code_interpreter_calls: bill.calls.code_interpreter,
            file_search_calls: bill.calls.file_search,
            timestamp: bill.timestamp,
        }
    }
}
