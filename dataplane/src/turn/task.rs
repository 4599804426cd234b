//! The task that owns a turn from its reserve to its end (TURN-13).
//! It is detached from the connection: a client that disconnects changes how
//! the turn ends, never whether it ends. The inner function [`converse`]
//! returns a result, and both arms are finalized here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use minichat_core::quota::status;
use minichat_core::stream::{
    Done, QuotaDecision, StreamErrorCode, StreamEvent, StreamStarted, ThreadSummaryApplied,
};
use minichat_core::turn::{IncompleteReason, Outcome, TurnErrorCode, Usage};
use minichat_metrics::{AbortTrigger, ActiveStreamGuard, Trigger};
use minichat_provider::{FailureKind, ResponseId, StartedFlag};
use minichat_telemetry::{TraceContext, traces};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::account::Account;
use super::admission::TurnRequest;
use super::channel;
use super::citations;
use super::converse::{Answer, Sink, TurnError, converse};
use super::finalize::{Ending, Finalized, Verdict, finalize};
use super::mutation::Attempt;
use super::open::OpenTurn;
use super::relay::{Labels, Relay};
use super::reserve::{self, Opened};
use super::{RequestContext, SseBody, instrumentation};
use crate::app::App;
use crate::caller::Caller;
use crate::open_turns::{Cancel, Interrupt};
use crate::problem::Problem;

/// How long before a watchdog may take a turn its task gives up (TURN-1).
const MARGIN: Duration = Duration::from_mins(1);

/// The result of [`converse`].
type Ended = Result<Option<IncompleteReason>, TurnError>;

type Reply = oneshot::Sender<Result<SseBody, Problem>>;

/// Opens `turn` and answers with its stream, or refuses. `attempt` is the
/// mutation that begins the turn, if one does.
pub(super) async fn start(
    app: Arc<App>,
    caller: Caller,
    request: RequestContext,
    turn: TurnRequest,
    attempt: Option<Attempt>,
) -> Result<SseBody, Problem> {
    let (reply, opened) = oneshot::channel();
    // Before the reserve, so that a stop finds the turn as soon as its row can
    // be read.
    let open = app
        .turns
        .enter(turn.ids.turn_id, longest_life(&app, &caller));
    let task = async move {
        let ends = (reply, open.interrupt());
        run(app, caller, request, turn, attempt, ends).await;
        drop(open);
    };
    tokio::spawn(task.in_current_span());
    opened.await.unwrap_or_else(|_| {
        tracing::error!("a turn's task ended before it answered");
        Err(Problem::internal())
    })
}

/// The longest that the task of a turn may take: for the provider's answer, and
/// as long as a watchdog waits for the reserve and for the finalization each,
/// which may have to wait for the database (TURN-1).
fn longest_life(app: &App, caller: &Caller) -> Duration {
    let providers = caller.tenant.config.providers.values();
    let answer = providers.map(|provider| provider.timeouts.total).max();
    answer.unwrap_or_default() + 2 * app.config.orphan_watchdog.timeout
}

async fn run(
    app: Arc<App>,
    caller: Caller,
    request: RequestContext,
    turn: TurnRequest,
    attempt: Option<Attempt>,
    (reply, interrupt): (Reply, Arc<Interrupt>),
) {
    let planned = reserve::reserve(&app, &caller, &request, turn).await;
    if let Some(attempt) = attempt {
        attempt.end(&planned);
    }
    let plan = match planned {
        Ok(Opened::Turn(plan)) => *plan,
        Ok(Opened::Replay(body)) => {
            // The client may be gone.
            let _ = reply.send(Ok(body));
            return;
        }
        Err(problem) => {
            // The client may be gone.
            let _ = reply.send(Err(problem));
            return;
        }
    };
    let labels = Labels {
        metrics: Arc::clone(&app.metrics),
        provider: plan.model().provider_id.as_str().into(),
        model: plan.model().id.as_str().into(),
    };
    labels
        .metrics
        .stream_started(&labels.provider, &labels.model);
    let active = ActiveStreamGuard::new(Arc::clone(&labels.metrics));
    let turn = Arc::new(OpenTurn {
        app,
        caller,
        request,
        plan,
        labels,
    });
    let sink = open_relay(&turn, reply, interrupt);
    live(&turn, &sink, active).await;
}

/// Gives the stream to the client. If the client is gone, dropping the relay
/// ends the conversation.
fn open_relay(turn: &OpenTurn, reply: Reply, interrupt: Arc<Interrupt>) -> Sink {
    let streaming = &turn.app.config.streaming;
    let started = StreamEvent::StreamStarted(StreamStarted {
        request_id: turn.ids().request_id,
        message_id: turn.ids().assistant_message_id,
        is_new_turn: true,
        thread_summary_applied: turn.plan.summary().map(|summary| ThreadSummaryApplied {
            token_estimate: summary.token_estimate,
        }),
    });
    let (events, receiver) = channel::channel(streaming.sse_channel_capacity, &started);
    let relay = Relay::new(
        receiver,
        Arc::clone(&interrupt),
        turn.labels.clone(),
        streaming.sse_ping_interval,
        turn.request.half_close.clone(),
    );
    drop(reply.send(Ok(SseBody::live(relay))));
    Sink::new(events, interrupt)
}

async fn live(turn: &Arc<OpenTurn>, sink: &Sink, active: ActiveStreamGuard) {
    instrumentation::step("converse");
    let began = Instant::now();
    let started = StartedFlag::default();
    let mut answer = Answer::new(turn);
    let (span, context) = provider_span(turn);
    let conversation = AssertUnwindSafe(converse(turn, sink, context, &started, &mut answer))
        .catch_unwind()
        .instrument(span)
        .await;
    let ended = conversation.unwrap_or_else(|_| {
        tracing::error!(turn.id = %turn.ids().turn_id, "a turn's conversation panicked");
        Err(TurnError::Internal)
    });
    if let Err(error) = &ended {
        interrupted(turn, sink, error);
    }
    if was_refused(&ended) {
        started.set_refused();
    }
    answer.calls.stored().await;
    let ending = Ending {
        outcome: outcome(&ended),
        answer: Some((
            turn.ids().assistant_message_id,
            std::mem::take(&mut answer.text).into(),
        )),
        usage: answer.usage,
        response_id: answer.response_id.as_ref().map(|id| id.as_str().into()),
        provider_started: started.get(),
        began: Some(began),
        ttft: answer.ttft,
        calls: answer.calls.ended(),
        orphan: None,
    };
    let verdict = end(turn, ending).await;
    let total = began.elapsed();
    conclude(turn, &ended, &verdict, total);
    log(turn, &answer, &verdict, total);
    drop(active);
    if is_whole(&verdict)
        && let Some(event) = citations::event(turn, std::mem::take(&mut answer.citations)).await
    {
        // A client that is gone needs no event.
        let _ = sink.send(&event).await;
    }
    if let Some(event) = terminal(turn, answer.usage, &verdict, &ended) {
        // A client that is gone needs no event.
        let _ = sink.send(&event).await;
    }
}

/// Finalizes the turn. Waits for a database that cannot serve, but neither
/// until a watchdog may take the turn nor longer than the process can wait.
async fn end(turn: &OpenTurn, ending: Ending) -> Verdict {
    instrumentation::step("finalize");
    let account = Arc::new(Account::of_open(turn));
    let patience = turn.app.config.orphan_watchdog.timeout;
    let given_up = async {
        tokio::select! {
            () = tokio::time::sleep(patience.saturating_sub(MARGIN)) => {}
            () = turn.app.turns.abandoned() => {}
        }
    };
    finalize(&turn.app.store, &account, ending, given_up).await
}

/// The span of the provider's call, and its context for the provider. A trace
/// that is not kept has no span.
fn provider_span(turn: &OpenTurn) -> (tracing::Span, TraceContext) {
    let context = turn.request.trace.child();
    if !context.sampled() {
        return (tracing::Span::none(), context);
    }
    let ids = turn.ids();
    let span = tracing::info_span!(
        "provider_stream",
        otel.kind = "client",
        chat_id = %ids.chat_id,
        turn_request_id = %ids.request_id,
        turn_id = %ids.turn_id,
        model = %turn.labels.model,
    );
    traces::adopt(&span, context);
    (span, context)
}

/// The outcome to store for the end of the conversation.
fn outcome(ended: &Ended) -> Outcome {
    match ended {
        Ok(reason) => Outcome::Completed(*reason),
        Err(TurnError::Provider(failure)) => Outcome::Failed(failure.error_code()),
        Err(TurnError::TooManyCalls(error)) => Outcome::Failed(error.code()),
        Err(TurnError::Internal) => Outcome::Failed(TurnErrorCode::InternalError),
        Err(TurnError::Cancelled(_)) => Outcome::Cancelled,
    }
}

/// Whether the provider refused the call (D54).
fn was_refused(ended: &Ended) -> bool {
    matches!(ended, Err(TurnError::Provider(failure)) if failure.is_refusal())
}

/// Records what closed the connection to the provider.
fn interrupted(turn: &OpenTurn, sink: &Sink, error: &TurnError) {
    let metrics = &turn.labels.metrics;
    let (trigger, elapsed) = match error {
        TurnError::Cancelled(cancel) => {
            let trigger = match cancel {
                Cancel::Disconnect => Trigger::Disconnect,
                Cancel::Stop => Trigger::UserStop,
                Cancel::Drain => return,
            };
            (trigger, sink.cancelled_at())
        }
        TurnError::Provider(failure) if matches!(failure.kind, FailureKind::TimedOut(_)) => {
            (Trigger::Timeout, failure.expired_at)
        }
        _ => return,
    };
    let elapsed = elapsed.map_or(Duration::ZERO, |signal| signal.elapsed());
    metrics.cancel_requested(trigger);
    metrics.cancel_effective(trigger);
    metrics.time_to_abort_ms(trigger, elapsed);
}

/// Records the end of a started stream. Only the winner increments the terminal
/// counter (D1).
fn conclude(turn: &OpenTurn, ended: &Ended, verdict: &Verdict, total: Duration) {
    let abort = match ended {
        Err(TurnError::Cancelled(Cancel::Disconnect | Cancel::Stop)) => {
            AbortTrigger::ClientDisconnect
        }
        _ => AbortTrigger::InternalAbort,
    };
    if let Verdict::Won(finalized) = verdict {
        instrumentation::finalized(&turn.labels, finalized, abort);
    }
    let Labels {
        metrics,
        provider,
        model,
    } = &turn.labels;
    metrics.stream_total_latency_ms(provider, model, total);
}

/// The terminal event of the committed outcome; `None` if the relay has to end
/// the stream (TURN-38).
fn terminal(
    turn: &OpenTurn,
    usage: Option<Usage>,
    verdict: &Verdict,
    ended: &Ended,
) -> Option<StreamEvent<'static>> {
    let Verdict::Won(finalized) = verdict else {
        return None;
    };
    let (code, message) = match (finalized.outcome, ended) {
        (Outcome::Completed(_), _) => return Some(done(turn, usage, finalized)),
        (Outcome::Failed(code), Err(TurnError::Provider(failure))) => {
            (code.into(), String::from(failure.message.clone()).into())
        }
        (Outcome::Failed(code), Err(TurnError::TooManyCalls(error))) => {
            (code.into(), error.message().into())
        }
        (Outcome::Failed(code), _) => (code.into(), "The answer could not be completed.".into()),
        (Outcome::Cancelled, Err(TurnError::Cancelled(Cancel::Stop))) => (
            StreamErrorCode::Cancelled,
            "The answer was stopped on request.".into(),
        ),
        (Outcome::Cancelled, _) => return None,
    };
    Some(StreamEvent::Error { code, message })
}

/// Whether this process committed an answer that the provider finished (CONT-110).
fn is_whole(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Won(finalized) if finalized.outcome == Outcome::Completed(None))
}

fn done(turn: &OpenTurn, usage: Option<Usage>, finalized: &Finalized) -> StreamEvent<'static> {
    let draft = &turn.plan.draft;
    let quota_decision = match turn.plan.downgrade_reason() {
        None => QuotaDecision::Allow,
        Some(reason) => QuotaDecision::Downgrade {
            downgrade_from: draft.selected_model.as_ref().to_owned(),
            downgrade_reason: Some(reason),
        },
    };
    StreamEvent::Done(Box::new(Done {
        usage: usage.and_then(Usage::known).map(Into::into),
        effective_model: turn.plan.model().id.clone(),
        selected_model: draft.selected_model.as_ref().to_owned(),
        quota_decision,
        quota_warnings: quota_warnings(turn, finalized),
    }))
}

/// The cells after settlement. Left out if the turn began in an earlier period,
/// because its cells say nothing about the current one (QUOTA-102).
fn quota_warnings(
    turn: &OpenTurn,
    finalized: &Finalized,
) -> Option<Vec<minichat_core::quota::QuotaWarning>> {
    if turn.plan.draft.started_at.date() != finalized.now.date() {
        return None;
    }
    let pinned = &turn.caller.tenant;
    let current = turn.app.tenants.get(turn.caller.tenant_id);
    let config = &current.as_ref().unwrap_or(pinned).config;
    let limits = config.limits_for(turn.caller.user_id);
    let status = status::status(
        &limits.limits(),
        &finalized.cells,
        limits.warning_threshold_pct,
        finalized.now,
    );
    Some(status.warnings())
}

/// Logs one line per finished stream (PLAT-164). The request's span adds caller
/// and trace (PLAT-163).
fn log(turn: &OpenTurn, answer: &Answer, verdict: &Verdict, total: Duration) {
    let outcome = match verdict {
        Verdict::Won(finalized) => Some(finalized.outcome),
        Verdict::Lost | Verdict::Uncommitted => None,
    };
    let ids = turn.ids();
    let usage = answer.usage.unwrap_or_default();
    let calls = answer.calls.ended();
    tracing::info!(
        chat_id = %ids.chat_id,
        turn_id = %ids.turn_id,
        request_id = %ids.request_id,
        provider = %turn.labels.provider,
        effective_model = %turn.labels.model,
        selected_model = %turn.plan.draft.selected_model,
        terminal = outcome.map_or("unknown", |outcome| outcome.state().as_str()),
        error_code = outcome.and_then(Outcome::error_code).map(TurnErrorCode::as_str),
        input_tokens = usage.input_tokens,
        output_tokens = usage.output_tokens,
        file_search_calls = calls.file_search,
        web_search_calls = calls.web_search,
        code_interpreter_calls = calls.code_interpreter,
        ttft_ms = answer.ttft.map(whole_millis),
        total_ms = whole_millis(total),
        provider_response_id = answer.response_id.as_ref().map(ResponseId::as_str),
        "stream finished"
    );
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
