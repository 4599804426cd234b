//! The Responses API as vLLM serves it (PLAT-110, CONT-36): fewer fields,
//! assistant content as a plain string. Its answers are read as those of
//! [`openai_responses`](super::openai_responses), with `<think>` tags.

use minichat_config::tenant::Provider;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::openai_responses::Item;
use super::sampling::{Reasoning, Sampling, non_empty};
use crate::request::{InputMessage, Role, TurnRequest};

/// The request body.
#[derive(Serialize)]
pub(super) struct RequestJson<'a> {
    model: &'a str,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    #[serde(skip_serializing_if = "Input::is_empty")]
    input: Input<'a>,
    max_output_tokens: u32,
    user: &'a str,
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
            instructions: non_empty(request.instructions),
            input: Input(request.messages),
            max_output_tokens: request.max_output_tokens,
            user: request.user,
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
        serializer.collect_seq(self.0.iter().map(InputItem::new))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum InputItem<'a> {
    User(Item<'a>),
    Assistant(PlainItem<'a>),
}

#[derive(Serialize)]
struct PlainItem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    role: Role,
    content: &'a str,
}

impl<'a> InputItem<'a> {
    fn new(message: &InputMessage<'a>) -> Self {
        match message.role {
            Role::User => Self::User(Item::new(message)),
            Role::Assistant => Self::Assistant(PlainItem {
                kind: "message",
                role: message.role,
                content: message.text,
            }),
        }
    }
}
