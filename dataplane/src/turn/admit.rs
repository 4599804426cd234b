//! The ways to begin a turn, and the checks that come before any decision about
//! quota: those of a send (API-64 a to e), and those of a retry or an edit
//! (API-71).

use std::sync::Arc;

use minichat_core::context::Role;
use minichat_core::quota::{Cells, RequestFacts};
use minichat_core::turn::TurnState;
use minichat_core::{ChatId, ErrorCode, MessageId, RequestId, TurnId};
use minichat_store::{AdmissionFacts, AdmissionQuery, MutationTarget, StoreError, Turn};

use super::mutation::{self, Replaced, Replacement};
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

/// What enters a draft from the client, or from the turn that it replaces.
struct Message {
    request_id: RequestId,
    content: String,
    web_search: bool,
    replaces: Option<Replaced>,
}

/// Admits a message that a client sent.
pub(super) async fn send(
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
    check_web_search(caller, message.web_search)?;
    let cells = quota::cells(&facts.quota);
    let message = Message {
        request_id,
        content: message.content,
        web_search: message.web_search,
        replaces: None,
    };
    Ok(Admission::New(
        Box::new(draft(chat_id, message, facts)),
        cells,
    ))
}

/// Admits a turn in the place of the chat's newest, which `target` must name.
/// The new turn gets a request id of its own (API-72).
pub(super) async fn replacement(
    app: &App,
    caller: &Caller,
    chat_id: ChatId,
    target: RequestId,
    change: Replacement,
) -> Result<(Draft, Cells), Problem> {
    let (found, facts) = read_target(app, caller, chat_id, target).await?;
    let turn = mutation::check(found, caller)?;
    let facts = facts.ok_or_else(Problem::chat_not_found)?;
    if facts.is_running {
        return Err(generation_in_progress());
    }
    check_web_search(caller, turn.web_search_enabled)?;
    let op = change.op();
    let content = match change {
        Replacement::Edit { content } => content,
        Replacement::Retry => turn.content.ok_or_else(|| {
            tracing::error!(turn.id = %turn.id, "a turn has no message of its user");
            Problem::internal()
        })?,
    };
    let cells = quota::cells(&facts.quota);
    let message = Message {
        request_id: RequestId::random(),
        content,
        web_search: turn.web_search_enabled,
        replaces: Some(Replaced {
            op,
            request_id: target,
        }),
    };
    Ok((draft(chat_id, message, facts), cells))
}

/// Step 7 of TURN-9, for what was asked for and for what is inherited.
fn check_web_search(caller: &Caller, requested: bool) -> Result<(), Problem> {
    if requested && caller.tenant.config.kill_switches.disable_web_search {
        return Err(Problem::new(
            ErrorCode::WebSearchDisabled,
            "Web search is switched off. Send the message without it.",
        ));
    }
    Ok(())
}

fn admission_query(caller: &Caller, chat_id: ChatId, request_id: RequestId) -> AdmissionQuery {
    AdmissionQuery {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        chat_id,
        request_id,
        recent_messages_limit: caller.tenant.config.context.recent_messages_limit,
    }
}

async fn read_target(
    app: &App,
    caller: &Caller,
    chat_id: ChatId,
    target: RequestId,
) -> Result<(MutationTarget, Option<AdmissionFacts>), StoreError> {
    let mutation = mutation::query(caller, chat_id, target);
    let admission = admission_query(caller, chat_id, target);
    app.store
        .read(move |tx| {
            Box::pin(async move {
                let found = tx.turn_mutation_target(&mutation).await?;
                Ok((found, tx.turn_admission_facts(&admission).await?))
            })
        })
        .await
}

async fn read(
    app: &App,
    caller: &Caller,
    chat_id: ChatId,
    request_id: RequestId,
) -> Result<AdmissionFacts, Problem> {
    let query = admission_query(caller, chat_id, request_id);
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

fn draft(chat_id: ChatId, message: Message, facts: AdmissionFacts) -> Draft {
    let recent: Vec<(Role, String)> = facts
        .recent_messages
        .into_iter()
        .filter_map(|message| Some((role(message.role)?, message.content)))
        .collect();
    Draft {
        ids: Ids {
            chat_id,
            turn_id: TurnId::random(),
            request_id: message.request_id,
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
        replaces: message.replaces,
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
