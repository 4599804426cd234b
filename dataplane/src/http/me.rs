//! `DELETE /me`: erases the caller (API-113).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::RETRY_AFTER;
use minichat_store::{Erased, ErasureRest};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use crate::app::App;
use crate::caller::Caller;
use crate::erasure::{Eraser, Progress};
use crate::problem::Problem;

/// Seconds between two passes of the clean-up.
const RETRY_LATER: &str = "60";

/// How far the erasure of the caller is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Erasure")]
pub(super) struct ErasureView {
    status: ErasureStatus,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<WaitingView>,
    /// What it has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    erased: Option<ErasedView>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ErasureStatus")]
enum ErasureStatus {
    InProgress,
    Finished,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ErasureWaitingFor")]
struct WaitingView {
    /// Chats that still have content.
    chats: u64,
    /// Answers that are still being written.
    running_turns: u64,
    /// Files to delete at the provider.
    files: u64,
    /// Files that the provider refuses to delete; they need an administrator.
    failed_files: u64,
    /// Vector stores to delete at the provider.
    vector_stores: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ErasedCounts")]
struct ErasedView {
    chats: u64,
    messages: u64,
    files: u64,
    /// Turns that are kept without the person, as the books need them.
    turns: u64,
}

/// `DELETE /me`
pub(super) async fn erase(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let eraser = Eraser {
        store: app.store.clone(),
        outbox: Arc::clone(&app.outbox),
        clock: Arc::clone(&app.clock),
    };
    let erasure = eraser.begin(caller.tenant_id, caller.user_id).await?;
    // The clean-up goes on with what takes longer.
    let limit = app.config.server.request_deadline / 2;
    let progress = match timeout(limit, eraser.advance(erasure)).await {
        Ok(progress) => progress?,
        Err(_) => Progress::Waiting(eraser.rest(erasure).await?),
    };
    Ok(answer(progress))
}

fn answer(progress: Progress) -> Response {
    match progress {
        Progress::Finished(erased) => {
            let view = ErasureView {
                status: ErasureStatus::Finished,
                waiting_for: None,
                erased: Some(erased.into()),
            };
            (StatusCode::OK, Json(view)).into_response()
        }
        Progress::Waiting(rest) => {
            let view = ErasureView {
                status: ErasureStatus::InProgress,
                waiting_for: Some(rest.into()),
                erased: None,
            };
            let headers = [(RETRY_AFTER, RETRY_LATER)];
            (StatusCode::ACCEPTED, headers, Json(view)).into_response()
        }
    }
}

impl From<ErasureRest> for WaitingView {
    fn from(rest: ErasureRest) -> Self {
        let ErasureRest {
            chats,
            running_turns,
            files,
            failed_files,
            vector_stores,
        } = rest;
        Self {
            chats,
            running_turns,
            files,
            failed_files,
            vector_stores,
        }
    }
}

impl From<Erased> for ErasedView {
    fn from(erased: Erased) -> Self {
        Self {
            chats: erased.chats,
            messages: erased.messages,
            files: erased.files,
            turns: erased.turns,
        }
    }
}
