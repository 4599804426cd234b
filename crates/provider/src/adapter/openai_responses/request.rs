//! The request body (CONT-31).

use minichat_config::tenant::Provider;
use minichat_core::{ChatId, TenantId};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::adapter::sampling::{Reasoning, Sampling, non_empty};
use crate::request::{InputMessage, RequestMetadata, RequestType, Role, TurnRequest};

/// The request body.
#[derive(Serialize)]
pub(in crate::adapter) struct RequestJson<'a> {
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
    pub(in crate::adapter) fn new(provider: &Provider, request: &TurnRequest<'a>) -> Self {
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
pub(in crate::adapter) struct Item<'a> {
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
    pub(in crate::adapter) fn new(message: &InputMessage<'a>) -> Self {
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
