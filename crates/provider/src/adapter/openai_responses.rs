//! The Responses API of `OpenAI` and Azure (PLAT-107, PLAT-113).

use std::borrow::Cow;

use minichat_config::tenant::Provider;
use minichat_core::turn::{IncompleteReason, Usage};
use minichat_core::{ChatId, TenantId};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::output::Output;
use super::reported_error::ReportedError;
use super::sampling::{Reasoning, Sampling, non_empty};
use crate::event::{Completion, DeltaKind};
use crate::failure::Failure;
use crate::request::{InputMessage, RequestMetadata, RequestType, Role, TurnRequest};
use crate::sse;

/// The request body (CONT-31).
#[derive(Serialize)]
pub(super) struct RequestJson<'a> {
    model: &'a str,
    stream: bool,
    store: bool,
    previous_response_id: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    #[serde(skip_serializing_if = "Input::is_empty")]
    input: Input<'a>,
    max_output_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tool_calls: Option<u32>,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(flatten)]
    sampling: Sampling<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_body: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning<'a>>,
}

impl<'a> RequestJson<'a> {
    pub(super) fn new(provider: &Provider, request: &TurnRequest<'a>) -> Self {
        Self {
            model: request.provider_model_id,
            stream: true,
            store: false,
            previous_response_id: None,
            instructions: non_empty(request.instructions),
            input: Input(request.messages),
            max_output_tokens: request.max_output_tokens,
            max_tool_calls: request.max_tool_calls,
            user: request.user,
            metadata: provider
                .send_metadata
                .then(|| Metadata::new(request.metadata)),
            sampling: Sampling::new(provider, request.api_params),
            extra_body: request.api_params.extra_body.as_ref(),
            reasoning: Reasoning::new(request.api_params),
        }
    }
}

struct Input<'a>(&'a [InputMessage<'a>]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Item::new))
    }
}

/// One `input[]` entry whose content is an array of one text part.
#[derive(Serialize)]
pub(super) struct Item<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    role: Role,
    content: [TextPart<'a>; 1],
}

#[derive(Serialize)]
struct TextPart<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

impl<'a> Item<'a> {
    pub(super) fn new(message: &InputMessage<'a>) -> Self {
        Self {
            kind: "message",
            role: message.role,
            content: [TextPart {
                kind: match message.role {
                    Role::User => "input_text",
                    Role::Assistant => "output_text",
                },
                text: message.text,
            }],
        }
    }
}

/// PLAT-109
#[derive(Serialize)]
struct Metadata {
    tenant_id: TenantId,
    user_id: MetadataUser,
    chat_id: ChatId,
    request_type: RequestType,
    feature: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MetadataUser {
    Person(minichat_core::UserId),
    System(&'static str),
}

impl Metadata {
    fn new(metadata: RequestMetadata) -> Self {
        Self {
            tenant_id: metadata.tenant_id,
            user_id: metadata
                .user_id
                .map_or(MetadataUser::System("system"), MetadataUser::Person),
            chat_id: metadata.chat_id,
            request_type: metadata.request_type,
            feature: "none",
        }
    }
}

#[derive(Deserialize)]
struct TextDelta<'a> {
    #[serde(borrow)]
    delta: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// Payload of an event that ends the stream, if the response object is nested.
#[derive(Deserialize)]
struct Nested {
    response: Option<Response>,
}

/// The response object, or the top level of an event that has none.
#[derive(Deserialize)]
struct Response {
    id: Option<String>,
    usage: Option<ResponseUsage>,
    incomplete_details: Option<IncompleteDetails>,
    error: Option<Value>,
    code: Option<Value>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct IncompleteDetails {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ResponseUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<InputTokensDetails>,
    output_tokens_details: Option<OutputTokensDetails>,
}

#[derive(Deserialize)]
struct InputTokensDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct OutputTokensDetails {
    reasoning_tokens: Option<u64>,
}

impl From<ResponseUsage> for Usage {
    fn from(usage: ResponseUsage) -> Self {
        Self {
            input_tokens: usage.input_tokens.unwrap_or(0),
            output_tokens: usage.output_tokens.unwrap_or(0),
            cache_read_input_tokens: usage
                .input_tokens_details
                .and_then(|details| details.cached_tokens)
                .unwrap_or(0),
            cache_write_input_tokens: 0,
            reasoning_tokens: usage
                .output_tokens_details
                .and_then(|details| details.reasoning_tokens)
                .unwrap_or(0),
        }
    }
}

/// The events that matter (TURN-20).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    TextDelta,
    Completed,
    Incomplete,
    Failed,
}

impl Known {
    /// By the `event` field, else by `type` inside the data (TURN-19).
    pub(super) fn of(event: sse::Event<'_>) -> Option<Self> {
        if event.name.is_empty() {
            let typed: Typed<'_> = serde_json::from_slice(event.data).ok()?;
            Self::from_name(typed.kind.as_bytes())
        } else {
            Self::from_name(event.name)
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"response.output_text.delta" => Some(Self::TextDelta),
            b"response.completed" => Some(Self::Completed),
            b"response.incomplete" => Some(Self::Incomplete),
            b"response.failed" | b"error" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// Reads one event of the kind `openai_responses`.
pub(super) fn read(event: sse::Event<'_>, output: &mut Output) {
    match Known::of(event) {
        None => {}
        Some(Known::TextDelta) => match text_delta(event.data) {
            Ok(text) => output.delta(DeltaKind::Text, &text),
            Err(error) => output.fail(Failure::unreadable(&error)),
        },
        Some(ending) => end(ending, event.data, output),
    }
}

/// The text of a delta.
pub(super) fn text_delta(data: &[u8]) -> Result<Cow<'_, str>, serde_json::Error> {
    serde_json::from_slice::<TextDelta<'_>>(data).map(|payload| payload.delta)
}

/// Reads an event that ends the stream.
pub(super) fn end(known: Known, data: &[u8], output: &mut Output) {
    let response = match Response::read(data) {
        Ok(response) => response,
        Err(error) => return output.fail(Failure::unreadable(&error)),
    };
    let completion = Completion {
        usage: response.usage.map(Usage::from),
        response_id: response.id,
    };
    match known {
        Known::Completed => output.complete(completion),
        Known::Incomplete => {
            let reason = response
                .incomplete_details
                .and_then(|details| details.reason);
            let reason = IncompleteReason::from_provider(reason.as_deref().unwrap_or_default());
            output.incomplete(reason, completion);
        }
        Known::Failed | Known::TextDelta => {
            let error = ReportedError::from_parts(response.error, response.code, response.message);
            let error = error.unwrap_or_default();
            output.fail(error.into_failure(completion.usage, completion.response_id));
        }
    }
}

impl Response {
    /// The nested response object, with what only the top level says about an
    /// error; or the top level itself.
    fn read(data: &[u8]) -> Result<Self, serde_json::Error> {
        match serde_json::from_slice::<Nested>(data)?.response {
            Some(nested) if nested.tells_an_error() => Ok(nested),
            Some(nested) => Ok(Self {
                id: nested.id,
                usage: nested.usage,
                incomplete_details: nested.incomplete_details,
                ..serde_json::from_slice(data)?
            }),
            None => serde_json::from_slice(data),
        }
    }

    fn tells_an_error(&self) -> bool {
        self.error.is_some() || self.code.is_some() || self.message.is_some()
    }
}
