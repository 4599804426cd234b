//! Deletes an attachment (CONT-73, CONT-162). The provider's file is left to the
//! clean-up.

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_core::{ErrorCode, Timestamp, UserId};
use minichat_store::{
    AttachmentDeletion, AttachmentKey, DeletedAttachment, OutboxMessage, StoreError, Tx,
};
use serde_json::json;

use crate::app::App;
use crate::outbox::Outbox;
use crate::problem::Problem;

/// Deletes a file of the user's chat that no message refers to. A file that is
/// deleted already stays deleted.
pub(crate) async fn delete(app: &App, user: UserId, key: AttachmentKey) -> Result<(), Problem> {
    let now = app.clock.now();
    let queue = Arc::clone(&app.outbox);
    let deletion: Result<_, StoreError> = app
        .store
        .write(move |tx| {
            let outbox = Arc::clone(&queue);
            Box::pin(async move {
                let deletion = tx.attachment_delete(user, key, now).await?;
                if let AttachmentDeletion::Deleted(deleted) = &deletion {
                    enqueue(tx, &outbox, key, deleted, now)?;
                }
                Ok(deletion)
            })
        })
        .await;
    let kinds = [OutboxKind::AttachmentCleanup];
    match &deletion {
        Ok(AttachmentDeletion::Deleted(_)) => app.outbox.enqueued(key.tenant_id, &kinds),
        Ok(_) => {}
        Err(_) => app.outbox.not_enqueued(&kinds),
    }
    answer(&deletion?)
}

/// The message for the clean-up.
fn enqueue(
    tx: &mut Tx,
    outbox: &Outbox,
    key: AttachmentKey,
    deleted: &DeletedAttachment,
    now: Timestamp,
) -> Result<(), StoreError> {
    let payload = json!({
        "event_type": "attachment_deleted",
        "tenant_id": key.tenant_id,
        "chat_id": key.chat_id,
        "attachment_id": key.id,
        "provider_file_id": deleted.provider_file_id,
        "vector_store_id": deleted.vector_store_id,
        "storage_backend": deleted.storage_backend,
        "attachment_kind": deleted.kind.as_str(),
        "deleted_at": now,
    });
    tx.outbox_enqueue(&OutboxMessage {
        queue: outbox.queue(OutboxKind::AttachmentCleanup),
        tenant_id: key.tenant_id,
        key: key.tenant_id.0,
        partitions: outbox.partitions(),
        dedupe_key: None,
        payload: &payload.to_string(),
        created_at: now,
    })
}

fn answer(deletion: &AttachmentDeletion) -> Result<(), Problem> {
    let (code, detail) = match deletion {
        AttachmentDeletion::Deleted(_) | AttachmentDeletion::Already => return Ok(()),
        AttachmentDeletion::NoChat => return Err(Problem::chat_not_found()),
        AttachmentDeletion::NoAttachment => (
            ErrorCode::AttachmentNotFound,
            "The chat has no such attachment.",
        ),
        AttachmentDeletion::Foreign => (
            ErrorCode::InsufficientPermissions,
            "Only the user who uploaded the attachment can delete it.",
        ),
        AttachmentDeletion::Locked => (
            ErrorCode::AttachmentLocked,
            "The attachment was sent with a message and cannot be deleted.",
        ),
    };
    Err(Problem::new(code, detail))
}
