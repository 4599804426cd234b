//! Reactions to answers (API-111).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use minichat_core::{ChatId, ErrorCode, MessageId, Timestamp};
use minichat_store::{NewReaction, Reaction, Role, Tx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body;
use super::path::{MessagePath, Params};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

/// The caller's reaction to an answer.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PutReaction")]
pub(super) struct ReactionBody {
    #[schemars(required, extend("enum" = Reaction::ALL.map(Reaction::as_str)))]
    reaction: Option<String>,
}

/// The caller's reaction to an answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Reaction")]
pub(super) struct ReactionView {
    message_id: MessageId,
    #[schemars(extend("enum" = Reaction::ALL.map(Reaction::as_str)))]
    reaction: &'static str,
    created_at: Timestamp,
}

/// `PUT /chats/{id}/messages/{msg_id}/reaction`
pub(super) async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<MessagePath>,
    body::Json(body): body::Json<ReactionBody>,
) -> Result<Response, Problem> {
    let reaction = reaction(&body::required(body.reaction, "reaction")?)?;
    let new = NewReaction {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        chat_id: path.id,
        message_id: path.msg_id,
        reaction,
        created_at: app.clock.now(),
    };
    app.store
        .write(move |tx| {
            let caller = caller.clone();
            Box::pin(async move {
                // So that it is not added to what is being erased.
                tx.chat_lock(new.tenant_id, new.user_id, new.chat_id)?;
                if role(tx, &caller, new.chat_id, new.message_id).await? != Role::Assistant {
                    return Err(Problem::new(
                        ErrorCode::InvalidReactionTarget,
                        "Only answers of the assistant can be reacted to.",
                    ));
                }
                Ok(tx.reaction_put(&new)?)
            })
        })
        .await?;
    let view = ReactionView {
        message_id: new.message_id,
        reaction: reaction.as_str(),
        created_at: new.created_at,
    };
    Ok(Json(view).into_response())
}

/// `DELETE /chats/{id}/messages/{msg_id}/reaction`, even if there is none.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<MessagePath>,
) -> Result<StatusCode, Problem> {
    app.store
        .write(move |tx| {
            let caller = caller.clone();
            Box::pin(async move {
                role(tx, &caller, path.id, path.msg_id).await?;
                let (tenant, user) = (caller.tenant_id, caller.user_id);
                tx.reaction_delete(tenant, user, path.id, path.msg_id)?;
                Ok::<_, Problem>(())
            })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The author of the message, or which part of the path does not exist.
async fn role(
    tx: &mut Tx,
    caller: &Caller,
    chat: ChatId,
    message: MessageId,
) -> Result<Role, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    match tx.message_role(tenant, user, chat, message).await? {
        Some(role) => Ok(role),
        None if tx.chat_get(tenant, user, chat).await?.is_some() => Err(Problem::new(
            ErrorCode::MessageNotFound,
            "The chat has no such message.",
        )),
        None => Err(Problem::chat_not_found()),
    }
}

fn reaction(text: &str) -> Result<Reaction, Problem> {
    match text {
        "like" => Ok(Reaction::Like),
        "dislike" => Ok(Reaction::Dislike),
        _ => Err(Problem::invalid_field(
            "reaction",
            "must be `like` or `dislike`",
        )),
    }
}
