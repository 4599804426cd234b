//! The conversation with the provider: the inner function of an open turn.
//! It relays deltas as they come, and returns how the provider ended or what
//! interrupted it. It commits nothing. Every wait is raced against the signals
//! that end a turn early (TURN-47) and against the provider's time limits, also
//! while it waits for a reader (D44).

use std::sync::Arc;
use std::time::Duration;

use minichat_core::stream::{DeltaKind, StreamEvent};
use minichat_core::turn::{IncompleteReason, Usage};
use minichat_provider::{
    Citation, Completion, Failure, ProviderCall, ProviderEvent, ProviderStream, RequestMetadata,
    RequestType, ResponseId, StartedFlag, Terminal, TurnRequest, user_hash,
};
use minichat_telemetry::TraceContext;
use tokio::time::{Instant, sleep, sleep_until};

use super::channel::{self, Sender};
use super::open::OpenTurn;
use super::progress::Progress;
use super::relay::Labels;
use super::tool_calls::{TooManyCalls, ToolCalls};
use crate::open_turns::{Cancel, Interrupt};

/// A client that has closed its sending half may be gone. In that case the
/// first event is answered with a reset within this time. The provider is then
/// not called, which costs nothing.
const DEPARTURE_TIME: Duration = Duration::from_millis(250);

/// The provider's answer so far. It is kept however the turn ends.
pub(super) struct Answer {
    /// Visible text (TURN-16). Reasoning is not kept (TURN-21).
    pub(super) text: String,
    pub(super) usage: Option<Usage>,
    pub(super) response_id: Option<ResponseId>,
    /// Time from sending the request to the first delta.
    pub(super) ttft: Option<Duration>,
    pub(super) calls: ToolCalls,
    /// The sources of a whole answer.
    pub(super) citations: Vec<Citation>,
}

/// Why a turn did not reach the provider's end.
#[derive(Debug)]
pub(super) enum TurnError {
    Provider(Failure),
    /// The provider was cut off because the model called a tool too often.
    TooManyCalls(TooManyCalls),
    /// An internal fault.
    Internal,
    Cancelled(Cancel),
}

/// The connection from the conversation to its client and to the rest of the
/// process.
pub(super) struct Sink {
    events: Sender,
    interrupt: Arc<Interrupt>,
}

impl Sink {
    pub(super) fn new(events: Sender, interrupt: Arc<Interrupt>) -> Self {
        Self { events, interrupt }
    }

    /// When the turn was cancelled, if known.
    pub(super) fn cancelled_at(&self) -> Option<Instant> {
        self.interrupt.fired().map(|(_, at)| at)
    }

    /// Sends `event`, waiting for room. If the relay is gone, the client has
    /// disconnected; this never counts as completed.
    pub(super) async fn send(&self, event: &StreamEvent<'_>) -> Result<(), Cancel> {
        let sent = self.events.send(event).await;
        sent.map_err(|channel::Closed| Cancel::Disconnect)
    }
}

/// Calls the provider and relays its answer. `Ok` is the provider's own end:
/// complete (`None`) or early.
pub(super) async fn converse(
    turn: &OpenTurn,
    sink: &Sink,
    trace: TraceContext,
    started: &StartedFlag,
    answer: &mut Answer,
) -> Result<Option<IncompleteReason>, TurnError> {
    let cancelled = sink.interrupt.wait();
    tokio::pin!(cancelled);

    if turn.request.half_close.has_happened() {
        tokio::select! {
            biased;
            cancel = &mut cancelled => return Err(TurnError::Cancelled(cancel)),
            () = sleep(DEPARTURE_TIME) => {}
        }
    }
    let dispatched = Instant::now();
    let mut progress = Progress::begin(turn);
    let mut provider = tokio::select! {
        biased;
        cancel = &mut cancelled => return Err(TurnError::Cancelled(cancel)),
        opened = open(turn, trace, started) => match opened {
            Ok(provider) => provider,
            Err(TurnError::Provider(failure)) => {
                return answer.conclude(Terminal::Failed(failure));
            }
            Err(error) => return Err(error),
        },
        never = progress.keep_showing() => match never {},
    };
    let total_at = provider.total_at();
    loop {
        let event = tokio::select! {
            biased;
            cancel = &mut cancelled => return Err(TurnError::Cancelled(cancel)),
            event = provider.next() => event,
        };
        progress.note();
        let shown = match event {
            Some(ProviderEvent::Progress) => continue,
            Some(ProviderEvent::TextWasReasoning) => {
                answer.text.clear();
                continue;
            }
            Some(ProviderEvent::Delta { kind, text }) => {
                let event = answer.take(kind, text);
                if answer.ttft.is_none() {
                    first_delta(turn, sink, dispatched, answer);
                }
                event
            }
            Some(ProviderEvent::Tool(tool)) => {
                answer.calls.note(&tool).map_err(TurnError::TooManyCalls)?;
                StreamEvent::Tool(turn.plan.tools.without_ids(tool))
            }
            Some(ProviderEvent::Terminal(terminal)) => {
                sink.events.provider_ended();
                return answer.conclude(terminal);
            }
            // The provider client always sends a terminal event first.
            None => return Err(TurnError::Internal),
        };
        tokio::select! {
            biased;
            sent = sink.send(&shown) => sent.map_err(TurnError::Cancelled)?,
            cancel = &mut cancelled => return Err(TurnError::Cancelled(cancel)),
            failure = out_of_time(total_at) => return Err(TurnError::Provider(failure)),
            never = progress.keep_showing() => match never {},
        }
    }
}

/// Returns when the call has used up its time. The stream itself notices this
/// only while it is read, and it is not read while the turn waits for its
/// reader.
async fn out_of_time(total_at: Instant) -> Failure {
    sleep_until(total_at).await;
    Failure::out_of_time(total_at)
}

async fn open(
    turn: &OpenTurn,
    trace: TraceContext,
    started: &StartedFlag,
) -> Result<ProviderStream, TurnError> {
    let OpenTurn {
        app, plan, caller, ..
    } = turn;
    let Some(provider) = plan.provider() else {
        return Err(TurnError::Internal);
    };
    let model = plan.model();
    let messages = plan.messages();
    let user = user_hash(caller.tenant_id, caller.user_id);
    let traceparent = trace.traceparent();
    let call = ProviderCall {
        provider,
        credential: plan.credential(),
        client_request_id: Some(&turn.request.http_request_id),
        traceparent: Some(&traceparent),
        request: TurnRequest {
            is_streamed: true,
            provider_model_id: &model.provider_model_id,
            instructions: plan.context.instructions(),
            messages: &messages,
            tools: plan.tools.of_request(model),
            max_output_tokens: plan.reserve.max_output_tokens_applied,
            max_tool_calls: Some(model.max_tool_calls),
            api_params: &model.api_params,
            user: &user,
            metadata: RequestMetadata {
                tenant_id: caller.tenant_id,
                user_id: Some(caller.user_id),
                chat_id: turn.ids().chat_id,
                request_type: RequestType::Chat,
            },
        },
        started: started.clone(),
    };
    let images = plan.draft.facts.images;
    if images > 0 {
        app.metrics.image_inputs_per_turn(images.into());
    }
    app.provider.open(&call).await.map_err(TurnError::Provider)
}

fn first_delta(turn: &OpenTurn, sink: &Sink, dispatched: Instant, answer: &mut Answer) {
    let now = Instant::now();
    sink.events.first_delta(now);
    let ttft = now - dispatched;
    answer.ttft = Some(ttft);
    let Labels {
        metrics,
        provider,
        model,
    } = &turn.labels;
    metrics.ttft_provider_ms(provider, model, ttft);
}

impl Answer {
    pub(super) fn new(turn: &OpenTurn) -> Self {
        Self {
            text: String::new(),
            usage: None,
            response_id: None,
            ttft: None,
            calls: ToolCalls::new(turn),
            citations: Vec::new(),
        }
    }

    /// The client's event for a piece of the answer. Text is kept.
    fn take<'a>(&mut self, kind: minichat_provider::DeltaKind, text: &'a str) -> StreamEvent<'a> {
        let kind = match kind {
            minichat_provider::DeltaKind::Text => {
                self.text.push_str(text);
                DeltaKind::Text
            }
            minichat_provider::DeltaKind::Reasoning => DeltaKind::Reasoning,
        };
        StreamEvent::Delta {
            kind,
            text: text.into(),
        }
    }

    fn conclude(&mut self, terminal: Terminal) -> Result<Option<IncompleteReason>, TurnError> {
        match terminal {
            Terminal::Completed(completion) => {
                self.report(completion);
                Ok(None)
            }
            Terminal::Incomplete { reason, completion } => {
                self.report(completion);
                Ok(Some(reason))
            }
            Terminal::Failed(failure) => {
                self.usage = failure.usage;
                self.response_id.clone_from(&failure.response_id);
                Err(TurnError::Provider(failure))
            }
        }
    }

    fn report(&mut self, completion: Completion) {
        self.usage = completion.usage;
        self.response_id = completion.response_id;
        self.citations = completion.citations;
    }
}
