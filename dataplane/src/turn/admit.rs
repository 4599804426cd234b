//! The checks that come before any decision about quota (API-64 a to c): the
//! chat, the idempotency key, and the one running turn of a chat.

use std::sync::Arc;

use minichat_core::context::Role;
use minichat_core::quota::{Cells, RequestFacts};
use minichat_core::turn::TurnState;
use minichat_core::{ChatId, ErrorCode, MessageId, RequestId, TurnId};
use minichat_store::{AdmissionFacts, AdmissionQuery, Turn};

use super::open::{Draft, Ids};
use super::{SendMessage, SseBody, replay};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::quota;

/// What becomes of a message.
pub(super) enum Admission {
    /// A new turn, with the user's cells as they were read.
    New(Box<Draft>, Cells),
    /// The key names a completed turn: its recording (API-67).
    Replay(SseBody),
}

pub(super) async fn admit(
    app: &App,
    caller: &Caller,
    chat_id: ChatId,
    message: SendMessage,
) -> Result<Admission, Problem> {
    let request_id = message.request_id.unwrap_or_else(RequestId::random);
    let facts = read(app, caller, chat_id, request_id).await?;
    // Idempotency precedes the parallel check, so a replay works while another
    // turn runs (TURN-46).
    if let Some(turn) = &facts.existing_turn {
        return existing(app, caller, chat_id, &facts, turn).await;
    }
    if facts.is_running {
        return Err(generation_in_progress());
    }
    let cells = quota::cells(&facts.quota);
    Ok(Admission::New(
        Box::new(draft(chat_id, request_id, message, facts)),
        cells,
    ))
}

async fn read(
    app: &App,
    caller: &Caller,
    chat_id: ChatId,
    request_id: RequestId,
) -> Result<AdmissionFacts, Problem> {
    let query = AdmissionQuery {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        chat_id,
        request_id,
        recent_messages_limit: caller.tenant.config.context.recent_messages_limit,
    };
    app.store
        .read(move |tx| Box::pin(async move { tx.turn_admission_facts(&query).await }))
        .await?
        .ok_or_else(Problem::chat_not_found)
}

async fn existing(
    app: &App,
    caller: &Caller,
    chat_id: ChatId,
    facts: &AdmissionFacts,
    turn: &Turn,
) -> Result<Admission, Problem> {
    if turn.state != TurnState::Completed || turn.is_deleted {
        return Err(request_id_conflict());
    }
    let body = replay::replay(app, caller, chat_id, &facts.model, turn).await?;
    Ok(Admission::Replay(body))
}

fn draft(
    chat_id: ChatId,
    request_id: RequestId,
    message: SendMessage,
    facts: AdmissionFacts,
) -> Draft {
    let recent: Vec<(Role, String)> = facts
        .recent_messages
        .into_iter()
        .filter_map(|message| Some((role(message.role)?, message.content)))
        .collect();
    Draft {
        ids: Ids {
            chat_id,
            turn_id: TurnId::random(),
            request_id,
            user_message_id: MessageId::random(),
            assistant_message_id: MessageId::random(),
        },
        facts: RequestFacts {
            message_bytes: message.content.len() as u64,
            prior_context_tokens: facts.prior_context_tokens,
            web_search_requested: message.web_search,
            ..RequestFacts::default()
        },
        started_at: facts.now,
        selected_model: facts.model.into(),
        content: message.content.into(),
        web_search_enabled: message.web_search,
        recent: Arc::from(recent),
    }
}

/// System rows never enter a request (CONT-2).
const fn role(role: minichat_store::Role) -> Option<Role> {
    match role {
        minichat_store::Role::User => Some(Role::User),
        minichat_store::Role::Assistant => Some(Role::Assistant),
        minichat_store::Role::System => None,
    }
}

pub(super) fn request_id_conflict() -> Problem {
    Problem::new(
        ErrorCode::RequestIdConflict,
        "This request_id names a turn that cannot be replayed. Read the turn's status; send again with a new request_id.",
    )
}

pub(super) fn generation_in_progress() -> Problem {
    Problem::new(
        ErrorCode::GenerationInProgress,
        "Another answer is being generated in this chat. Wait for it to end.",
    )
}
