//! Audit events of mutations (PLAT-81, PLAT-82, PLAT-84). They are enqueued in
//! the transaction of the change that they report, whether or not the tenant
//! has a sink; the delivery decides that.

use minichat_config::process::OutboxKind;
use minichat_core::{ChatId, RequestId, TenantId, Timestamp, TurnId, UserId};
use minichat_metrics::MutationOp;
use minichat_store::{OutboxMessage, StoreError, Tx};
use serde::Serialize;

use super::RequestContext;
use super::audit_event::json;
use crate::caller::Caller;
use crate::outbox::Outbox;

/// One event: the members that all kinds have, and the `details` of its kind.
#[derive(Serialize)]
pub(super) struct MutationEvent<'a, D> {
    #[serde(rename = "type")]
    kind: &'static str,
    event_type: &'static str,
    timestamp: Timestamp,
    tenant_id: TenantId,
    requester_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    chat_id: ChatId,
    turn_id: TurnId,
    #[serde(flatten)]
    details: D,
}

/// Who changed a turn, and when.
pub(super) struct TurnMutation<'a> {
    pub(super) caller: &'a Caller,
    pub(super) request: &'a RequestContext,
    pub(super) chat_id: ChatId,
    /// The turn that was replaced or deleted.
    pub(super) turn_id: TurnId,
    pub(super) at: Timestamp,
}

#[derive(Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the event"
)]
pub(super) struct Replacement {
    actor_user_id: UserId,
    original_request_id: RequestId,
    new_request_id: RequestId,
}

#[derive(Serialize)]
pub(super) struct Deletion {
    actor_user_id: UserId,
    request_id: RequestId,
}

impl<D: Serialize> MutationEvent<'_, D> {
    /// Enqueues the event in the transaction.
    pub(super) fn enqueue(&self, tx: &mut Tx, outbox: &Outbox) -> Result<(), StoreError> {
        let payload = json(self)?;
        tx.outbox_enqueue(&OutboxMessage {
            queue: outbox.queue(OutboxKind::Audit),
            tenant_id: self.tenant_id,
            key: self.tenant_id.0,
            partitions: outbox.partitions(),
            dedupe_key: None,
            payload: &payload,
            created_at: self.timestamp,
        })
    }
}

impl<'a> TurnMutation<'a> {
    /// A retry or an edit: `new` replaced `original`.
    pub(super) fn replacement(
        &self,
        op: MutationOp,
        original: RequestId,
        new: RequestId,
    ) -> MutationEvent<'a, Replacement> {
        let details = Replacement {
            actor_user_id: self.caller.user_id,
            original_request_id: original,
            new_request_id: new,
        };
        self.event("mutation", op, details)
    }

    pub(super) fn deletion(&self, request_id: RequestId) -> MutationEvent<'a, Deletion> {
        let details = Deletion {
            actor_user_id: self.caller.user_id,
            request_id,
        };
        self.event("delete", MutationOp::Delete, details)
    }

    fn event<D>(&self, kind: &'static str, op: MutationOp, details: D) -> MutationEvent<'a, D> {
        MutationEvent {
            kind,
            event_type: match op {
                MutationOp::Retry => "turn_retry",
                MutationOp::Edit => "turn_edit",
                MutationOp::Delete => "turn_delete",
            },
            timestamp: self.at,
            tenant_id: self.caller.tenant_id,
            requester_type: self.caller.requester_type.as_str(),
            trace_id: Some(self.request.trace.trace_id()),
            chat_id: self.chat_id,
            turn_id: self.turn_id,
            details,
        }
    }
}
