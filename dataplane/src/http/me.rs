//! `DELETE /me`: erases the caller (API-113).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::RETRY_AFTER;
use tokio::time::timeout;

use crate::app::App;
use crate::caller::Caller;
use crate::erasure::{Eraser, ErasureReport, Progress};
use crate::problem::Problem;

/// Seconds between two passes of the clean-up.
const RETRY_LATER: &str = "60";

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
    let progress = match timeout(limit, eraser.advance(erasure, &|| false)).await {
        Ok(progress) => progress?,
        Err(_) => Progress::Waiting(eraser.rest(erasure).await?),
    };
    Ok(answer(progress))
}

fn answer(progress: Progress) -> Response {
    let report = Json(ErasureReport::from(progress));
    match progress {
        Progress::Finished(_) => (StatusCode::OK, report).into_response(),
        Progress::Waiting(_) => {
            let headers = [(RETRY_AFTER, RETRY_LATER)];
            (StatusCode::ACCEPTED, headers, report).into_response()
        }
    }
}
