//! Files of a chat (API-100 to API-109). What an upload does is in
//! [`crate::attachments`].

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use minichat_core::{AttachmentId, AttachmentKind, ErrorCode, Timestamp};
use minichat_store::{Attachment, AttachmentKey, AttachmentStatus, Thumbnail};
use schemars::JsonSchema;
use serde::Serialize;

use super::body::check_encoding;
use super::path::{AttachmentPath, ChatPath, Params};
use crate::app::App;
use crate::attachments::{self, UploadRequest};
use crate::caller::Caller;
use crate::problem::Problem;

/// A file as its chat's owner sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Attachment")]
pub(super) struct AttachmentView {
    id: AttachmentId,
    /// The client's name of the file, at most 255 characters.
    filename: String,
    /// The type as which the file is treated.
    content_type: String,
    /// Bytes. While `pending`, what the client announced.
    size_bytes: u64,
    /// Only a `ready` file can be sent with a message.
    #[schemars(extend("enum" = STATUSES))]
    status: &'static str,
    #[schemars(extend("enum" = AttachmentKind::ALL.map(AttachmentKind::as_str)))]
    kind: &'static str,
    /// Why the file is `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// What the document is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    doc_summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    img_thumbnail: Option<ThumbnailView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary_updated_at: Option<Timestamp>,
    created_at: Timestamp,
}

/// A small picture of an image.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Thumbnail")]
pub(super) struct ThumbnailView {
    #[schemars(extend("const" = "image/webp"))]
    content_type: &'static str,
    /// Pixels.
    width: u32,
    /// Pixels.
    height: u32,
    /// The WebP file in base64.
    data_base64: String,
}

/// What clients are shown of a status.
const STATUSES: [&str; 3] = ["pending", "ready", "failed"];

/// `uploaded` is a step of the server that clients need not know (CONT-51).
const fn shown(status: AttachmentStatus) -> &'static str {
    match status {
        AttachmentStatus::Pending | AttachmentStatus::Uploaded => "pending",
        AttachmentStatus::Ready => "ready",
        AttachmentStatus::Failed => "failed",
    }
}

impl From<Attachment> for AttachmentView {
    fn from(attachment: Attachment) -> Self {
        let Attachment {
            id,
            uploaded_by_user_id: _,
            filename,
            content_type,
            size_bytes,
            status,
            kind,
            error_code,
            doc_summary,
            summary_updated_at,
            thumbnail,
            created_at,
            deleted_at: _,
        } = attachment;
        let is_ready = status == AttachmentStatus::Ready;
        Self {
            id,
            filename,
            content_type,
            size_bytes,
            status: shown(status),
            kind: kind.as_str(),
            error_code,
            doc_summary,
            img_thumbnail: thumbnail.filter(|_| is_ready).map(ThumbnailView::from),
            summary_updated_at,
            created_at,
        }
    }
}

impl From<Thumbnail> for ThumbnailView {
    fn from(thumbnail: Thumbnail) -> Self {
        let Thumbnail {
            webp,
            width,
            height,
        } = thumbnail;
        Self {
            content_type: "image/webp",
            width,
            height,
            data_base64: STANDARD.encode(webp),
        }
    }
}

/// `POST /chats/{id}/attachments`
pub(super) async fn upload(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<ChatPath>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    check_encoding(&parts.headers)?;
    let request = UploadRequest {
        caller,
        chat_id: path.id,
        headers: parts.headers,
        body,
    };
    let attachment = attachments::upload(app, request).await?;
    let location = format!("{}/{}", parts.uri.path(), attachment.id);
    let location = HeaderValue::try_from(location).map_err(|_| Problem::internal())?;
    let view = Json(AttachmentView::from(attachment));
    Ok((StatusCode::CREATED, [(LOCATION, location)], view).into_response())
}

/// `GET /chats/{id}/attachments/{attachment_id}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<AttachmentPath>,
) -> Result<Response, Problem> {
    let key = key(&caller, path);
    let user = caller.user_id;
    let attachment = app
        .store
        .read(move |tx| {
            Box::pin(async move {
                match tx.attachment_get(user, key).await? {
                    Some(attachment) if attachment.deleted_at.is_none() => Ok(attachment),
                    Some(_) => Err(not_found()),
                    None if tx
                        .chat_get(key.tenant_id, user, key.chat_id)
                        .await?
                        .is_some() =>
                    {
                        Err(not_found())
                    }
                    None => Err(Problem::chat_not_found()),
                }
            })
        })
        .await?;
    Ok(Json(AttachmentView::from(attachment)).into_response())
}

/// `DELETE /chats/{id}/attachments/{attachment_id}` (CONT-73)
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<AttachmentPath>,
) -> Result<StatusCode, Problem> {
    let key = key(&caller, path);
    attachments::delete(&app, caller.user_id, key).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn key(caller: &Caller, path: AttachmentPath) -> AttachmentKey {
    AttachmentKey {
        tenant_id: caller.tenant_id,
        chat_id: path.id,
        id: path.attachment_id,
    }
}

fn not_found() -> Problem {
    Problem::new(
        ErrorCode::AttachmentNotFound,
        "The chat has no such attachment.",
    )
}
