//! A turn, from the message to its settlement.
//!
//! ```text
//! admission -> plan -> reserve -> converse -> finalize
//! ```
//!
//! [`admission`] checks a send, a retry or an edit; only there do the ways to
//! begin a turn differ. [`plan`] chooses model, price and context, or refuses
//! for lack of credits. [`reserve`] is the first transaction; both run inside
//! it, and after it the turn is *open*. [`converse`] talks to the provider.
//! [`finalize`] is the second transaction, for every outcome. [`task`] runs
//! these steps in one detached task (TURN-13).

pub(crate) mod account;
mod admission;
pub(crate) mod attachments;
mod audit_content;
mod audit_event;
mod body;
mod channel;
mod citations;
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
mod summary_request;
mod task;
mod tool_calls;
mod tools;
mod usage_event;

use std::sync::Arc;

use minichat_core::{AttachmentId, ChatId, RequestId};
use minichat_telemetry::{HalfClose, TraceContext};

use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;
use admission::TurnRequest;

pub use body::SseBody;
pub use mutation::{Replacement, delete};
pub(crate) use stop::obey;
pub use stop::stop;

/// A message to a chat (API-62) whose form was checked.
#[derive(Debug)]
pub struct SendMessage {
    /// Not blank; stored unchanged.
    pub content: String,
    /// The turn's idempotency key. If the client sent none, one is made here.
    pub request_id: Option<RequestId>,
    /// At most 20.
    pub attachment_ids: Vec<AttachmentId>,
    pub web_search: bool,
}

/// The ids of a request for logs, traces and the provider, and whether its
/// client has closed its sending half.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub http_request_id: Arc<str>,
    pub trace: TraceContext,
    pub half_close: HalfClose,
}

/// Answers a message with a stream. A [`Problem`] means that nothing was
/// written (API-65). From the first byte of the body on, everything is reported
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

/// Replaces the chat's newest turn and answers with the stream of the new one
/// (TURN-55). A [`Problem`] means that nothing was changed.
pub async fn replace(
    app: Arc<App>,
    caller: Caller,
    chat_id: ChatId,
    request_id: RequestId,
    change: Replacement,
    request: RequestContext,
) -> Result<SseBody, Problem> {
    let attempt = mutation::Attempt::begin(&app, caller.tenant_id, change.op());
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
