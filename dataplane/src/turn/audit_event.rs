//! Audit events of turns (PLAT-81 to PLAT-83). They contain no text of the
//! conversation, unless the tenant asks for it (PLAT-85).

use std::time::Duration;

use minichat_core::turn::{Outcome, TurnErrorCode, TurnState, Usage};
use minichat_core::{ChatId, RequestId, TenantId, Timestamp, TurnId, UserId};
use minichat_store::StoreError;
use serde::Serialize;

use super::account::{Account, QuotaDecision};
use super::attachments::AttachedFile;
use super::audit_content::AuditContent;
use super::tool_calls::CallCounts;

/// The longest payload in bytes, as that of a usage event (QUOTA-85, PLAT-87).
const MAX_PAYLOAD: usize = 64 * 1024;

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
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    attachments: &'a [AttachedFile],
    terminal_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_signal: Option<CompletionSignal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<License>,
    quota: Quota<'a>,
}

/// The licence that admitted the turn (PLAT-135).
#[derive(Serialize)]
struct License {
    feature: &'static str,
    decision: &'static str,
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
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the event"
)]
struct ToolCalls {
    file_search_calls: u32,
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
    pub(super) calls: CallCounts,
    pub(super) timestamp: Timestamp,
}

impl<'a> TurnEvent<'a> {
    pub(super) fn new(account: &'a Account, end: &End, content: &'a AuditContent) -> Self {
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
                license: license(account),
                quota: quota(account),
            },
            tool_calls: ToolCalls {
                file_search_calls: end.calls.file_search,
                web_search_calls: end.calls.web_search,
                code_interpreter_calls: end.calls.code_interpreter,
            },
            attachments: &account.attachments,
            terminal_state: state.as_str(),
            completion_signal: CompletionSignal::of(end.outcome),
            error_code: end.outcome.error_code().map(TurnErrorCode::as_str),
            prompt: content.prompt.as_deref(),
            response: content.response.as_deref(),
        }
    }

    /// The payload. If it is too long, it has no response, and if that is not
    /// enough, no prompt (PLAT-87).
    pub(super) fn payload(mut self) -> Result<String, StoreError> {
        let mut payload = json(&self)?;
        if payload.len() > MAX_PAYLOAD && self.response.take().is_some() {
            payload = json(&self)?;
        }
        if payload.len() > MAX_PAYLOAD && self.prompt.take().is_some() {
            payload = json(&self)?;
        }
        Ok(payload)
    }
}

pub(super) fn json(event: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(event).map_err(|_| StoreError::Parameter("payload"))
}

/// Only a licensed tenant's turn begins. Who finds a row later knows only that.
fn license(account: &Account) -> Option<License> {
    let is_known = account.decision != QuotaDecision::Unknown;
    is_known.then_some(License {
        feature: "ai_chat",
        decision: "allow",
    })
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
