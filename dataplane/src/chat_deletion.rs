//! Deletes a chat with everything in it, and enqueues the clean-up of its files at
//! the provider (API-55, CONT-163).

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_core::{ChatId, RequestId, TenantId, Timestamp, UserId};
use minichat_store::{OutboxMessage, Store, StoreError};
use serde_json::json;

use crate::outbox::Outbox;

/// The deletion of a user's chat.
pub(crate) struct ChatDeletion {
    tenant_id: TenantId,
    user_id: UserId,
    chat_id: ChatId,
    now: Timestamp,
    /// The message for the clean-up.
    payload: String,
}

impl ChatDeletion {
    pub(crate) fn new(
        tenant_id: TenantId,
        user_id: UserId,
        chat_id: ChatId,
        now: Timestamp,
    ) -> Self {
        let payload = json!({
            "reason": "chat_soft_delete",
            "tenant_id": tenant_id,
            "chat_id": chat_id,
            "system_request_id": RequestId::random(),
            "chat_deleted_at": now,
        });
        Self {
            tenant_id,
            user_id,
            chat_id,
            now,
            payload: payload.to_string(),
        }
    }

    /// `false`: the user has no such chat.
    pub(crate) async fn run(self, store: &Store, outbox: &Arc<Outbox>) -> Result<bool, StoreError> {
        let tenant = self.tenant_id;
        let deletion = Arc::new(self);
        let queue = Arc::clone(outbox);
        let deleted: Result<bool, StoreError> = store
            .write(move |tx| {
                let (deletion, outbox) = (Arc::clone(&deletion), Arc::clone(&queue));
                Box::pin(async move { deletion.commit(tx, &outbox).await })
            })
            .await;
        let kinds = [OutboxKind::ChatCleanup];
        match deleted {
            Ok(true) => outbox.enqueued(tenant, &kinds),
            Ok(false) => {}
            Err(_) => outbox.not_enqueued(&kinds),
        }
        deleted
    }

    async fn commit(
        &self,
        tx: &mut minichat_store::Tx,
        outbox: &Outbox,
    ) -> Result<bool, StoreError> {
        let Self {
            tenant_id,
            user_id,
            chat_id,
            now,
            ref payload,
        } = *self;
        if !tx.chat_delete(tenant_id, user_id, chat_id, now).await? {
            return Ok(false);
        }
        tx.outbox_enqueue(&OutboxMessage {
            queue: outbox.queue(OutboxKind::ChatCleanup),
            tenant_id,
            key: chat_id.0,
            partitions: outbox.partitions(),
            dedupe_key: None,
            payload,
            created_at: now,
        })?;
        Ok(true)
    }
}
