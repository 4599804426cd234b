//! Path parameters (API-21).

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use minichat_core::{AttachmentId, ChatId, MessageId, RequestId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// Parameters of the matched path, or 400 with the name of the wrong one.
pub(super) struct Params<T>(pub(super) T);

/// `/chats/{id}` and everything below it.
#[derive(Deserialize)]
pub(super) struct ChatPath {
    pub(super) id: ChatId,
}

/// `/chats/{id}/turns/{request_id}`.
#[derive(Deserialize)]
pub(super) struct TurnPath {
    pub(super) id: ChatId,
    pub(super) request_id: RequestId,
}

/// `/chats/{id}/messages/{msg_id}` and everything below it.
#[derive(Deserialize, Clone, Copy)]
pub(super) struct MessagePath {
    pub(super) id: ChatId,
    pub(super) msg_id: MessageId,
}

/// `/chats/{id}/attachments/{attachment_id}`.
#[derive(Deserialize, Clone, Copy)]
pub(super) struct AttachmentPath {
    pub(super) id: ChatId,
    pub(super) attachment_id: AttachmentId,
}

/// `/models/{model_id}`.
#[derive(Deserialize)]
pub(super) struct ModelPath {
    pub(super) model_id: String,
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(params)) => Ok(Self(params)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(invalid(error.kind())),
            Err(error) => {
                tracing::error!(%error, "a route has other parameters than its handler");
                Err(Problem::internal())
            }
        }
    }
}

fn invalid(kind: &ErrorKind) -> Problem {
    match kind {
        ErrorKind::DeserializeError { key, .. } | ErrorKind::ParseErrorAtKey { key, .. } => {
            Problem::invalid_field(key, "must be a UUID")
        }
        ErrorKind::InvalidUtf8InPathParam { key } => {
            Problem::invalid_field(key, "is not UTF-8 text")
        }
        _ => Problem::invalid_field("path", "has a malformed parameter"),
    }
}
