//! Replays (TURN-44): the recorded stream of a completed turn, rebuilt from
//! rows. This path only reads; it has no access to quota, provider or
//! finalization.

use std::borrow::Cow;

use minichat_core::stream::{
    DeltaKind, Done, DoneUsage, QuotaDecision, StreamEvent, StreamStarted,
};
use minichat_store::{Message, StoreError, Turn};

use super::admission::request_id_conflict;
use super::{SseBody, instrumentation};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

/// A turn that can be replayed.
pub(super) struct CompletedTurn {
    pub(super) turn: Turn,
    pub(super) selected_model: String,
}

pub(super) async fn replay(
    app: &App,
    caller: &Caller,
    recorded: &CompletedTurn,
) -> Result<SseBody, Problem> {
    instrumentation::step("replay");
    let CompletedTurn {
        turn,
        selected_model,
    } = recorded;
    let chat_id = turn.chat_id;
    let Some(message_id) = turn.assistant_message_id else {
        return Err(unreadable(turn));
    };
    let (tenant_id, user_id, request_id) = (caller.tenant_id, caller.user_id, turn.request_id);
    let (message, now) = app
        .store
        .read(move |tx| {
            Box::pin(async move {
                let message = tx
                    .message_get(tenant_id, user_id, chat_id, message_id)
                    .await?;
                // If the message is missing, the current turn explains why.
                let now = match &message {
                    Some(_) => {
                        tx.flush_seen().await?;
                        None
                    }
                    None => Some(tx.turn_get(tenant_id, user_id, chat_id, request_id).await?),
                };
                Ok::<_, StoreError>((message, now))
            })
        })
        .await?;
    match (message, now) {
        (Some(message), _) => Ok(SseBody::recorded(frames(turn, &message, selected_model))),
        // The turn or its chat was replaced or deleted since it was found.
        (None, Some(Some(turn))) if turn.is_deleted => Err(request_id_conflict()),
        (None, Some(None)) => Err(Problem::chat_not_found()),
        (None, _) => Err(unreadable(turn)),
    }
}

fn unreadable(turn: &Turn) -> Problem {
    tracing::error!(turn.id = %turn.id, "a completed turn has no readable answer");
    Problem::internal()
}

fn frames(turn: &Turn, message: &Message, selected_model: &str) -> Vec<u8> {
    let effective_model = turn.effective_model.as_deref().unwrap_or(selected_model);
    let usage = DoneUsage {
        input_tokens: message.input_tokens,
        output_tokens: message.output_tokens,
    };
    let quota_decision = if effective_model == selected_model {
        QuotaDecision::Allow
    } else {
        QuotaDecision::Downgrade {
            downgrade_from: selected_model.to_owned(),
            downgrade_reason: None,
        }
    };
    let events = [
        StreamEvent::StreamStarted(StreamStarted {
            request_id: turn.request_id,
            message_id: message.id,
            is_new_turn: false,
            thread_summary_applied: None,
        }),
        StreamEvent::Delta {
            kind: DeltaKind::Text,
            text: Cow::Borrowed(&message.content),
        },
        StreamEvent::Done(Box::new(Done {
            usage: (usage.input_tokens > 0 || usage.output_tokens > 0).then_some(usage),
            effective_model: effective_model.to_owned(),
            selected_model: selected_model.to_owned(),
            quota_decision,
            quota_warnings: None,
        })),
    ];
    let mut frames = Vec::with_capacity(message.content.len() + 512);
    for event in events {
        event.encode(&mut frames);
    }
    frames
}
