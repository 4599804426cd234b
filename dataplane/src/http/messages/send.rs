//! `POST /chats/{id}/messages:stream` (API-62): reads the message and hands it
//! to the turn, whose events are the body of the answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Version;
use minichat_core::{AttachmentId, RequestId};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::app::App;
use crate::http::body::{self, Json, Object};
use crate::http::event_stream::event_stream;
use crate::http::middleware::Authorized;
use crate::http::path::{ChatPath, Params};
use crate::problem::Problem;
use crate::turn::{self, SendMessage};

const MAX_ATTACHMENTS: usize = 20;

/// A message to answer.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SendMessage")]
pub(in crate::http) struct SendBody {
    /// Stored unchanged.
    #[schemars(required, pattern(r"\S"))]
    content: Option<String>,
    /// Identifies the new turn. Make one id per message, and send it again only
    /// to get the same answer again. If it is absent, the server makes one.
    request_id: Option<RequestId>,
    /// Files of the chat that are ready, in their order.
    #[schemars(length(max = 20), extend("uniqueItems" = true))]
    attachment_ids: Option<Vec<AttachmentId>>,
    #[schemars(with = "Option<WebSearch>")]
    web_search: Option<Object<WebSearch>>,
}

/// Whether the answer may use web search.
#[derive(Deserialize, JsonSchema)]
struct WebSearch {
    /// `false` if absent.
    enabled: Option<bool>,
}

pub(in crate::http) async fn send(
    State(app): State<Arc<App>>,
    authorized: Authorized,
    Params(path): Params<ChatPath>,
    version: Version,
    Json(body): Json<SendBody>,
) -> Result<Response, Problem> {
    let message = body.validated()?;
    let context = authorized.context();
    let events = turn::send(app, authorized.caller, path.id, message, context).await?;
    Ok(event_stream(Body::new(events), version))
}

impl SendBody {
    fn validated(self) -> Result<SendMessage, Problem> {
        let content = body::message(self.content)?;
        let attachment_ids = self.attachment_ids.unwrap_or_default();
        check_number(&attachment_ids)?;
        Ok(SendMessage {
            content,
            request_id: self.request_id,
            attachment_ids,
            web_search: self
                .web_search
                .and_then(|Object(it)| it.enabled)
                .unwrap_or(false),
        })
    }
}

/// The rest is checked where the chat's files are known (CONT-70).
fn check_number(ids: &[AttachmentId]) -> Result<(), Problem> {
    if ids.len() > MAX_ATTACHMENTS {
        return Err(Problem::invalid_field(
            "attachment_ids",
            format!("holds more than {MAX_ATTACHMENTS} ids"),
        ));
    }
    Ok(())
}
