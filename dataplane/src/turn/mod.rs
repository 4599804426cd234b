//! A turn, from the message to its settled end.
//!
//! ```text
//! admit -> plan -> reserve -> converse -> finalize
//! ```
//!
//! [`admit`] is the only place where ways to begin a turn differ; [`plan`]
//! chooses model, price and context; [`reserve`] writes the first transaction,
//! after which the turn is *open*; [`converse`] talks to the provider;
//! [`finalize`] writes the second transaction for every outcome, and
//! [`pipeline`] ties them together in one detached task (TURN-13).

pub(crate) mod account;
mod admit;
mod audit_event;
mod body;
mod converse;
pub(crate) mod finalize;
mod open;
mod pipeline;
mod plan;
pub(crate) mod policy;
mod progress;
pub(crate) mod record;
pub(crate) mod relay;
mod replay;
mod reserve;
mod usage_event;

use std::sync::Arc;

use minichat_core::{ChatId, ErrorCode, RequestId};
use minichat_telemetry::TraceContext;

use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

pub use body::SseBody;

/// A message to a chat (API-62), checked for form.
#[derive(Debug)]
pub struct SendMessage {
    /// Not blank; stored as sent.
    pub content: String,
    /// The turn's idempotency key; made here when the client gave none.
    pub request_id: Option<RequestId>,
    pub web_search: bool,
}

/// What a request is called in logs, traces and towards the provider.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub http_request_id: Arc<str>,
    pub trace: TraceContext,
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
    if app.refusing.is_fired() {
        return Err(Problem::new(
            ErrorCode::ServiceUnavailable,
            "This server is shutting down. Send the message again; another one will answer.",
        ));
    }
    match admit::admit(&app, &caller, chat_id, message).await? {
        admit::Admission::New(draft, cells) => {
            pipeline::start(app, caller, request, *draft, cells).await
        }
        admit::Admission::Replay(body) => Ok(body),
    }
}
