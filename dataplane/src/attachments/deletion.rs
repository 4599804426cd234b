//! Deletes an attachment (CONT-73, CONT-162). The provider's file is left to the
//! clean-up.

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_core::{AttachmentId, ChatId, ErrorCode, TenantId, Timestamp, UserId};
use minichat_store::{AttachmentDeletion, AttachmentKey, DeletedAttachment, OutboxMessage};
use serde::Serialize;

use crate::app::App;
use crate::problem::Problem;

/// The message for the clean-up (CONT-162).
#[derive(Serialize)]
struct CleanupEvent<'a> {
    event_type: &'static str,
    tenant_id: TenantId,
    chat_id: ChatId,
    attachment_id: AttachmentId,
    provider_file_id: Option<&'a str>,
    vector_store_id: Option<&'a str>,
    storage_backend: &'a str,
    attachment_kind: &'static str,
    deleted_at: Timestamp,
}

/// Deletes a file of the user's chat that no message refers to. A file that is
/// deleted already stays deleted.
pub(crate) async fn delete(app: &App, user: UserId, key: AttachmentKey) -> Result<(), Problem> {
    let now = app.clock.now();
    let outbox = Arc::clone(&app.outbox);
    let is_new = app
        .store
        .write(move |tx| {
            let outbox = Arc::clone(&outbox);
            Box::pin(async move {
                let deletion = tx.attachment_delete(user, key, now).await?;
                let Some(deleted) = deleted(deletion)? else {
                    return Ok(false);
                };
                let payload = payload(key, &deleted, now)?;
                tx.outbox_enqueue(&OutboxMessage {
                    queue: outbox.queue(OutboxKind::AttachmentCleanup),
                    tenant_id: key.tenant_id,
                    key: key.tenant_id.0,
                    partitions: outbox.partitions(),
                    dedupe_key: None,
                    payload: &payload,
                    created_at: now,
                })?;
                Ok::<_, Problem>(true)
            })
        })
        .await?;
    if is_new {
        let kinds = [OutboxKind::AttachmentCleanup];
        app.outbox.enqueued(key.tenant_id, &kinds);
    }
    Ok(())
}

/// What was deleted now; `None` if it was deleted before.
fn deleted(deletion: AttachmentDeletion) -> Result<Option<DeletedAttachment>, Problem> {
    let (code, detail) = match deletion {
        AttachmentDeletion::Deleted(deleted) => return Ok(Some(deleted)),
        AttachmentDeletion::Already => return Ok(None),
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

fn payload(
    key: AttachmentKey,
    deleted: &DeletedAttachment,
    now: Timestamp,
) -> Result<String, Problem> {
    let event = CleanupEvent {
        event_type: "attachment_deleted",
        tenant_id: key.tenant_id,
        chat_id: key.chat_id,
        attachment_id: key.id,
        provider_file_id: deleted.provider_file_id.as_deref(),
        vector_store_id: deleted.vector_store_id.as_deref(),
        storage_backend: &deleted.storage_backend,
        attachment_kind: deleted.kind.as_str(),
        deleted_at: now,
    };
    serde_json::to_string(&event).map_err(|_| Problem::internal())
}
