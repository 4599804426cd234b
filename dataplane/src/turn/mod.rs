//! A turn, from the message to its settled end.
//!
//! ```text
//! admission -> plan -> reserve -> converse -> finalize
//! ```
//!
//! [`admission`] is the only place where ways to begin a turn differ; [`plan`]
//! chooses model, price and context, or refuses for lack of credits; [`reserve`] is the first transaction, in
//! which both happen and after which the turn is *open*; [`converse`] talks to
//! the provider;
//! [`finalize`] writes the second transaction for every outcome, and
//! [`task`] ties them together in one detached task (TURN-13).

pub(crate) mod account;
mod admission;
mod audit_event;
mod body;
mod channel;
mod converse;
pub(crate) mod finalize;
mod in_doubt;
pub(crate) mod instrumentation;
mod mutation;
mod mutation_event;
mod open;
mod plan;
pub(crate) mod policy;
mod progress;
pub(crate) mod relay;
mod replay;
mod reserve;
mod stop;
mod task;
mod usage_event;

use std::sync::Arc;

use minichat_core::{ChatId, RequestId};
use minichat_telemetry::{HalfClose, TraceContext};

use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;
use admission::TurnRequest;

pub use body::SseBody;
pub use mutation::{Replacement, delete};
pub(crate) use stop::obey;
pub use stop::stop;

/// A message to a chat (API-62), checked for form.
#[derive(Debug)]
pub struct SendMessage {
    /// Not blank; stored as sent.
    pub content: String,
    /// The turn's idempotency key; made here when the client gave none.
    pub request_id: Option<RequestId>,
    pub web_search: bool,
}

/// What a request is called in logs, traces and towards the provider, and
/// whether its client has ended its side of the connection.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub http_request_id: Arc<str>,
    pub trace: TraceContext,
    pub half_close: HalfClose,
}

/// Answers a message with a stream. A [`Problem`] means that nothing was
/// written (API-65); from the first byte of the body on everything is reported
/// inside the stream.
pub async fn send(
    app: Arc<App>,
    caller: Caller,
    chat_id: ChatId,
    message: SendMessage,
    request: RequestContext,
) -> Result<SseBody, Problem> {
    check_serving(&app)?;
    let turn = TurnRequest::send(chat_id, message, app.clock.now());
    task::start(app, caller, request, turn, None).await
}

/// Puts a new turn in the place of the chat's newest and answers with its
/// stream (TURN-55). A [`Problem`] means that nothing was changed.
pub async fn replace(
    app: Arc<App>,
    caller: Caller,
    chat_id: ChatId,
    request_id: RequestId,
    change: Replacement,
    request: RequestContext,
) -> Result<SseBody, Problem> {
    let attempt = mutation::Attempt::begin(&app.metrics, change.op());
    if let Err(problem) = check_serving(&app) {
        let refused = Err(problem);
        attempt.end(&refused);
        return refused;
    }
    let turn = TurnRequest::replace(chat_id, request_id, change, app.clock.now());
    task::start(app, caller, request, turn, Some(attempt)).await
}

fn check_serving(app: &App) -> Result<(), Problem> {
    if app.refusing.is_fired() {
        return Err(Problem::unavailable(
            "This server is shutting down. Send the request again; another one will answer.",
        ));
    }
    Ok(())
}
