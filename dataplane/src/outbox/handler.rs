//! Hands events over to a sink.

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_config::tenant::sink::{Sink, Webhook};
use minichat_core::TenantId;
use minichat_store::PendingMessage;
use serde::Deserialize;
use tokio::time::Instant;

use super::shared::Shared;
use super::webhook::{self, Answer};
use crate::config_source::TenantRuntime;
use crate::summary::Handled;

/// Events that are handed over together, in their order.
pub(super) struct Slice<'a> {
    pub(super) kind: OutboxKind,
    pub(super) tenant_id: TenantId,
    pub(super) messages: &'a [PendingMessage],
    /// When the answer must be known.
    pub(super) deadline: Instant,
}

/// The sink of a tenant for a kind of event; `None` if it cannot be known.
pub(super) fn sink(tenant: &TenantRuntime, kind: OutboxKind) -> Option<&Sink> {
    let sinks = tenant.sinks().ok()?;
    match kind {
        OutboxKind::Usage => Some(&sinks.usage),
        OutboxKind::Audit => Some(&sinks.audit),
        OutboxKind::ChatCleanup | OutboxKind::AttachmentCleanup | OutboxKind::ThreadSummary => None,
    }
}

/// Who takes the messages of a tenant.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Nobody waits for them; they count as delivered.
    Nobody,
    Sink(Sink),
    /// This process makes the summaries that they ask for.
    Summarizer(Arc<TenantRuntime>),
}

/// Who takes the tenant's messages of a kind; `None` if it cannot be known.
pub(super) fn target(
    shared: &Shared,
    tenant: &Arc<TenantRuntime>,
    kind: OutboxKind,
) -> Option<Target> {
    if kind == OutboxKind::ThreadSummary {
        let is_enabled = shared.summarizer.is_enabled(tenant);
        return Some(if is_enabled {
            Target::Summarizer(Arc::clone(tenant))
        } else {
            Target::Nobody
        });
    }
    Some(match sink(tenant, kind)? {
        Sink::None => Target::Nobody,
        sink => Target::Sink(sink.clone()),
    })
}

/// How many of the first events of `messages` go together; 0: they wait for more.
pub(super) fn first_slice(target: &Target, messages: &[PendingMessage], now: i64) -> usize {
    match target {
        Target::Nobody | Target::Sink(Sink::None | Sink::Log) => messages.len(),
        Target::Sink(Sink::Webhook(webhook)) => of_webhook(webhook, messages, now),
        Target::Summarizer(_) => messages.len().min(1),
    }
}

fn of_webhook(webhook: &Webhook, messages: &[PendingMessage], now: i64) -> usize {
    let Some(batch) = webhook.batch else {
        return messages.len().min(1);
    };
    let most = usize::try_from(batch.max_events).unwrap_or(usize::MAX);
    let Some(first) = messages.first() else {
        return 0;
    };
    let wait = i64::try_from(batch.max_wait.as_micros()).unwrap_or(i64::MAX);
    let is_over = now.saturating_sub(first.created_at.as_micros()) >= wait;
    match messages.len() {
        all if all >= most => most,
        all if is_over => all,
        _ => 0,
    }
}

/// Hands `slice` over to `target`.
pub(super) async fn deliver(shared: &Shared, target: &Target, slice: &Slice<'_>) -> Answer {
    match target {
        Target::Nobody | Target::Sink(Sink::None) => Answer::Ok,
        Target::Sink(Sink::Log) => log(slice),
        Target::Sink(Sink::Webhook(webhook)) => post(shared, webhook, slice).await,
        Target::Summarizer(tenant) => summarize(shared, tenant, slice).await,
    }
}

/// A slice for the summarizer has one message.
async fn summarize(shared: &Shared, tenant: &TenantRuntime, slice: &Slice<'_>) -> Answer {
    for message in slice.messages {
        let handled = shared
            .summarizer
            .handle(tenant, &message.payload, slice.deadline);
        match handled.await {
            Handled::Done { has_event } => {
                if has_event {
                    let kinds = [OutboxKind::Usage];
                    shared.outbox.enqueued(slice.tenant_id, &kinds);
                }
            }
            Handled::Retry(error) => return Answer::Retry(error),
            Handled::Reject(reason) => return Answer::Reject(reason.to_owned()),
        }
    }
    Answer::Ok
}

async fn post(shared: &Shared, webhook: &Webhook, slice: &Slice<'_>) -> Answer {
    let keys: Vec<String> = slice.messages.iter().map(PendingMessage::key).collect();
    let events = slice.messages.iter().zip(&keys);
    let events: Vec<_> = events
        .map(|(message, key)| webhook::Event {
            key,
            payload: &message.payload,
        })
        .collect();
    let delivery = webhook::Delivery {
        tenant_id: slice.tenant_id,
        webhook,
        events: &events,
        now: shared.clock.now(),
        deadline: slice.deadline,
    };
    webhook::deliver(&shared.client, &delivery).await
}

/// One line per event, without anything of the conversation (PLAT-87).
fn log(slice: &Slice<'_>) -> Answer {
    let mut lines = Vec::with_capacity(slice.messages.len());
    for message in slice.messages {
        match serde_json::from_str::<Line>(&message.payload) {
            Ok(line) => lines.push((line, message.key())),
            Err(_) => return Answer::Reject(UNREADABLE.to_owned()),
        }
    }
    for (line, key) in lines {
        line.write(slice.kind, slice.tenant_id, &key);
    }
    Answer::Ok
}

const UNREADABLE: &str = "the payload is not an event that this release can read";

/// What the log says of an event.
#[derive(Deserialize)]
struct Line {
    event_type: String,
    timestamp: Option<String>,
    user_id: Option<String>,
    actor_user_id: Option<String>,
    chat_id: Option<String>,
    turn_id: Option<String>,
    request_id: Option<String>,
    selected_model: Option<String>,
    effective_model: Option<String>,
    terminal_state: Option<String>,
    error_code: Option<String>,
    settlement_method: Option<String>,
    committed_credits_micro: Option<i64>,
    usage: Option<Tokens>,
    trace_id: Option<String>,
}

#[derive(Deserialize)]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
}

impl Line {
    fn write(&self, kind: OutboxKind, tenant_id: TenantId, key: &str) {
        let tokens = self.usage.as_ref();
        tracing::info!(
            kind = kind.as_str(),
            event_type = self.event_type,
            key,
            timestamp = self.timestamp,
            %tenant_id,
            user_id = self.user_id.as_ref().or(self.actor_user_id.as_ref()),
            chat_id = self.chat_id,
            turn_id = self.turn_id,
            request_id = self.request_id,
            selected_model = self.selected_model,
            effective_model = self.effective_model,
            terminal = self.terminal_state,
            error_code = self.error_code,
            settlement_method = self.settlement_method,
            committed_credits_micro = self.committed_credits_micro,
            input_tokens = tokens.map(|it| it.input_tokens),
            output_tokens = tokens.map(|it| it.output_tokens),
            trace_id = self.trace_id,
            "event"
        );
    }
}
