//! The state of a turn (API-70): what a client asks after a disconnect.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use minichat_core::turn::TurnState;
use minichat_core::{ErrorCode, MessageId, RequestId, Timestamp};
use minichat_store::Turn;
use serde::Serialize;

use super::path::{Params, TurnPath};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

/// A turn as its chat's owner sees it.
#[derive(Serialize)]
struct TurnView {
    request_id: RequestId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assistant_message_id: Option<MessageId>,
    updated_at: Timestamp,
}

impl From<Turn> for TurnView {
    fn from(turn: Turn) -> Self {
        Self {
            request_id: turn.request_id,
            state: turn.state.wire(),
            error_code: turn.error_code.filter(|_| turn.state == TurnState::Failed),
            assistant_message_id: turn
                .assistant_message_id
                .filter(|_| matches!(turn.state, TurnState::Completed | TurnState::Cancelled)),
            updated_at: turn.updated_at,
        }
    }
}

/// `GET /chats/{id}/turns/{request_id}`. Deleted turns stay readable.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<TurnPath>,
) -> Result<Response, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let turn: Turn = app
        .store
        .read(move |tx| {
            Box::pin(async move {
                match tx.turn_get(tenant, user, path.id, path.request_id).await? {
                    Some(turn) => Ok(turn),
                    None if tx.chat_get(tenant, user, path.id).await?.is_some() => {
                        Err(turn_not_found())
                    }
                    None => Err(Problem::chat_not_found()),
                }
            })
        })
        .await?;
    Ok(Json(TurnView::from(turn)).into_response())
}

fn turn_not_found() -> Problem {
    Problem::new(
        ErrorCode::TurnNotFound,
        "The chat has no turn with this request_id.",
    )
}
