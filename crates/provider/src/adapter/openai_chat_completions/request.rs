//! The request body (CONT-35).

use minichat_config::tenant::Provider;
use serde::{Serialize, Serializer};

use crate::adapter::sampling::{Sampling, non_empty};
use crate::request::{InputMessage, TurnRequest};

/// The request body.
#[derive(Serialize)]
pub(in crate::adapter) struct RequestJson<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    messages: Messages<'a>,
    max_completion_tokens: u32,
    user: &'a str,
    #[serde(flatten)]
    sampling: Sampling<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl<'a> RequestJson<'a> {
    pub(in crate::adapter) fn new(provider: &Provider, request: &TurnRequest<'a>) -> Self {
        Self {
            model: request.provider_model_id,
            stream: request.is_streamed,
            stream_options: request.is_streamed.then_some(StreamOptions {
                include_usage: true,
            }),
            messages: Messages {
                instructions: non_empty(request.instructions),
                conversation: request.messages,
            },
            max_completion_tokens: request.max_output_tokens,
            user: request.user,
            sampling: Sampling::new(provider, request.api_params),
            reasoning_effort: request.api_params.reasoning_effort.as_deref(),
        }
    }
}

struct Messages<'a> {
    instructions: Option<&'a str>,
    conversation: &'a [InputMessage<'a>],
}

#[derive(Serialize)]
struct Message<'a> {
    role: MessageRole,
    content: Content<'a>,
}

/// A text, and the images that follow it. Without images it is a plain string.
struct Content<'a> {
    text: &'a str,
    image_file_ids: &'a [String],
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
}

/// The id of a file in the place of its URL.
#[derive(Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.image_file_ids.is_empty() {
            return serializer.serialize_str(self.text);
        }
        let images = self.image_file_ids.iter().map(|id| Part::ImageUrl {
            image_url: ImageUrl { url: id },
        });
        let text = Part::Text { text: self.text };
        serializer.collect_seq(std::iter::once(text).chain(images))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum MessageRole {
    Instructions(&'static str),
    Conversation(crate::request::Role),
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let system = self.instructions.map(|text| Message {
            role: MessageRole::Instructions("system"),
            content: Content {
                text,
                image_file_ids: &[],
            },
        });
        let conversation = self.conversation.iter().map(|message| Message {
            role: MessageRole::Conversation(message.role),
            content: Content {
                text: message.text,
                image_file_ids: message.image_file_ids,
            },
        });
        serializer.collect_seq(system.into_iter().chain(conversation))
    }
}
