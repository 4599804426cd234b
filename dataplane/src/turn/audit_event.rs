//! Audit events of turns (PLAT-81 to PLAT-83). They contain no text of the
//! conversation (PLAT-85).

use std::time::Duration;

use minichat_core::turn::{Outcome, TurnErrorCode, TurnState, Usage};
use minichat_core::{ChatId, RequestId, TenantId, Timestamp, TurnId, UserId};
use serde::Serialize;

use super::account::{Account, QuotaDecision};

/// The event of a finalized turn: `turn_completed`, or `turn_failed` for every
/// other outcome.
#[derive(Serialize)]
pub(super) struct TurnEvent<'a> {
    r#type: &'static str,
    event_type: &'static str,
    timestamp: Timestamp,
    tenant_id: TenantId,
    user_id: UserId,
    requester_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    chat_id: ChatId,
    turn_id: TurnId,
    request_id: RequestId,
    selected_model: &'a str,
    effective_model: &'a str,
    policy_version_applied: u64,
    usage: UsageOfModel<'a>,
    latency_ms: LatencyMs,
    policy_decisions: PolicyDecisions<'a>,
    tool_calls: ToolCalls,
    terminal_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_signal: Option<CompletionSignal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
}

#[derive(Serialize)]
struct UsageOfModel<'a> {
    #[serde(flatten)]
    usage: Usage,
    model: &'a str,
}

/// How long the user waited. Values that were not measured are left out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct LatencyMs {
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_ms: Option<u64>,
}

#[derive(Serialize)]
struct PolicyDecisions<'a> {
    quota: Quota<'a>,
}

#[derive(Serialize)]
struct Quota<'a> {
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    downgrade_from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    downgrade_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct ToolCalls {
    web_search_calls: u32,
    code_interpreter_calls: u32,
}

/// Why the provider stopped early (PLAT-40); also part of the usage event.
#[derive(Clone, Copy, Serialize)]
pub(super) struct CompletionSignal {
    kind: &'static str,
    reason: &'static str,
}

/// How the turn ended.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) usage: Option<Usage>,
    pub(super) ttft: Option<Duration>,
    pub(super) total: Option<Duration>,
    pub(super) web_search_calls: u32,
    pub(super) code_interpreter_calls: u32,
    pub(super) timestamp: Timestamp,
}

impl<'a> TurnEvent<'a> {
    pub(super) fn new(account: &'a Account, end: &End) -> Self {
        let state = end.outcome.state();
        Self {
            r#type: "turn",
            event_type: match state {
                TurnState::Completed => "turn_completed",
                _ => "turn_failed",
            },
            timestamp: end.timestamp,
            tenant_id: account.tenant_id,
            user_id: account.user_or_nil(),
            requester_type: account.requester_type.as_str(),
            trace_id: account.trace_id.as_deref(),
            chat_id: account.chat_id,
            turn_id: account.turn_id,
            request_id: account.request_id,
            selected_model: &account.selected_model,
            effective_model: &account.effective_model,
            policy_version_applied: account.policy_version,
            usage: UsageOfModel {
                usage: end.usage.unwrap_or_default(),
                model: &account.effective_model,
            },
            latency_ms: LatencyMs {
                ttft_ms: end.ttft.map(whole_millis),
                total_ms: end.total.map(whole_millis),
            },
            policy_decisions: PolicyDecisions {
                quota: quota(account),
            },
            tool_calls: ToolCalls {
                web_search_calls: end.web_search_calls,
                code_interpreter_calls: end.code_interpreter_calls,
            },
            terminal_state: state.as_str(),
            completion_signal: CompletionSignal::of(end.outcome),
            error_code: end.outcome.error_code().map(TurnErrorCode::as_str),
        }
    }
}

impl CompletionSignal {
    pub(super) fn of(outcome: Outcome) -> Option<Self> {
        let reason = outcome.incomplete()?.as_str();
        Some(Self {
            kind: "incomplete",
            reason,
        })
    }
}

fn quota(account: &Account) -> Quota<'_> {
    let (decision, downgrade_from) = match account.decision {
        QuotaDecision::Allow => ("allow", None),
        QuotaDecision::Downgrade(_) => ("downgrade", account.downgrade_from()),
        QuotaDecision::Unknown => ("unknown", None),
    };
    Quota {
        decision,
        downgrade_from,
        downgrade_reason: account.downgrade_reason(),
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
