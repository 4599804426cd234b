//! The usage event of a summary (QUOTA-96): it belongs to no user and no turn, and
//! costs no credits.

use minichat_core::turn::Usage;
use minichat_core::{ChatId, TenantId, Timestamp};
use minichat_store::StoreError;
use serde::Serialize;
use uuid::Uuid;

use super::generate::Generated;
use super::item::{self, Item};

/// The event; its instant is that of the commit.
#[derive(Clone, Serialize)]
pub(super) struct UsageEvent {
    event_type: &'static str,
    dedupe_key: String,
    tenant_id: TenantId,
    chat_id: ChatId,
    request_id: Uuid,
    requester_type: &'static str,
    system_task_type: &'static str,
    selected_model: String,
    effective_model: String,
    quota_decision: &'static str,
    terminal_state: &'static str,
    billing_outcome: &'static str,
    outcome: &'static str,
    settlement_method: &'static str,
    completion_signal: Option<()>,
    error_code: Option<()>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
}

impl UsageEvent {
    pub(super) fn new(item: &Item, generated: &Generated) -> Self {
        Self {
            event_type: "usage_snapshot",
            dedupe_key: item::dedupe_key(item.tenant_id, item.system_request_id),
            tenant_id: item.tenant_id,
            chat_id: item.chat_id,
            request_id: item.system_request_id,
            requester_type: "system",
            system_task_type: item::TASK,
            selected_model: generated.model.clone(),
            effective_model: generated.model.clone(),
            quota_decision: "allow",
            terminal_state: "completed",
            billing_outcome: "system_task",
            outcome: "system_task",
            settlement_method: "none",
            completion_signal: None,
            error_code: None,
            usage: generated.usage,
            actual_credits_micro: 0,
            committed_credits_micro: 0,
            reserved_credits_micro: 0,
            reserve_tokens: 0,
            overshoot_capped: false,
            policy_version_applied: 0,
            web_search_calls: 0,
            code_interpreter_calls: 0,
            file_search_calls: 0,
            timestamp: None,
        }
    }

    /// The event of a commit at `now`.
    pub(super) fn payload(&self, now: Timestamp) -> Result<String, StoreError> {
        let event = Self {
            timestamp: Some(now),
            ..self.clone()
        };
        serde_json::to_string(&event).map_err(|_| StoreError::Parameter("payload"))
    }
}
