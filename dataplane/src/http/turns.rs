//! Turns (API-70 to API-74): their state, which a client reads after a
//! disconnect, and the operations on them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Version};
use minichat_core::turn::{TurnErrorCode, TurnState};
use minichat_core::{MessageId, RequestId, Timestamp};
use minichat_store::Turn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body;
use super::event_stream::event_stream;
use super::middleware::Authorized;
use super::path::{Params, TurnPath};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::turn::{self, Replacement};

/// A turn as its chat's owner sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Turn")]
pub(super) struct TurnView {
    request_id: RequestId,
    #[schemars(extend("enum" = TurnState::ALL.map(TurnState::wire)))]
    state: &'static str,
    /// Why the turn failed.
    #[schemars(extend("enum" = TurnErrorCode::ALL.map(TurnErrorCode::as_str)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The answer, if one is stored.
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
    let turn = read(&app, &caller, path).await?;
    Ok(Json(TurnView::from(turn)).into_response())
}

/// `POST /chats/{id}/turns/{request_id}/cancel` (D3): 202 if the turn was
/// running and will end soon, 200 if it had ended.
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<TurnPath>,
) -> Result<Response, Problem> {
    let turn = read(&app, &caller, path).await?;
    let status = if turn.state == TurnState::Running {
        turn::stop(&app, turn.id).await?;
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(TurnView::from(turn))).into_response())
}

async fn read(app: &App, caller: &Caller, path: TurnPath) -> Result<Turn, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    app.store
        .read(move |tx| {
            Box::pin(async move {
                match tx.turn_get(tenant, user, path.id, path.request_id).await? {
                    Some(turn) => {
                        // Nobody is told of an end that a crash could undo.
                        if turn.state != TurnState::Running {
                            tx.flush_seen().await?;
                        }
                        Ok(turn)
                    }
                    None if tx.chat_get(tenant, user, path.id).await?.is_some() => {
                        Err(Problem::turn_not_found())
                    }
                    None => Err(Problem::chat_not_found()),
                }
            })
        })
        .await
}

/// What can be changed in a turn.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EditTurn")]
pub(super) struct EditBody {
    /// The new message.
    #[schemars(required, pattern(r"\S"))]
    content: Option<String>,
}

/// `POST /chats/{id}/turns/{request_id}/retry`. A body is ignored (API-72).
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    authorized: Authorized,
    Params(path): Params<TurnPath>,
    version: Version,
) -> Result<Response, Problem> {
    replace(app, authorized, path, version, Replacement::Retry).await
}

/// `PATCH /chats/{id}/turns/{request_id}`.
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    authorized: Authorized,
    Params(path): Params<TurnPath>,
    version: Version,
    body::Json(body): body::Json<EditBody>,
) -> Result<Response, Problem> {
    let content = body::message(body.content)?;
    replace(
        app,
        authorized,
        path,
        version,
        Replacement::Edit { content },
    )
    .await
}

async fn replace(
    app: Arc<App>,
    authorized: Authorized,
    path: TurnPath,
    version: Version,
    change: Replacement,
) -> Result<Response, Problem> {
    let context = authorized.context();
    let TurnPath { id, request_id } = path;
    let events = turn::replace(app, authorized.caller, id, request_id, change, context).await?;
    Ok(event_stream(Body::new(events), version))
}

/// `DELETE /chats/{id}/turns/{request_id}`.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    authorized: Authorized,
    Params(path): Params<TurnPath>,
) -> Result<StatusCode, Problem> {
    let context = authorized.context();
    turn::delete(app, authorized.caller, path.id, path.request_id, context).await?;
    Ok(StatusCode::NO_CONTENT)
}
