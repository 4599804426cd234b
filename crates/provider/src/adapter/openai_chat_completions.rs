//! The chat completions API (PLAT-111, PLAT-114).

use std::borrow::Cow;
use std::fmt;

use minichat_config::tenant::Provider;
use minichat_core::turn::{IncompleteReason, Usage};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::output::Output;
use super::reported_error::ReportedError;
use super::sampling::{Sampling, non_empty};
use crate::event::{Completion, DeltaKind};
use crate::failure::Failure;
use crate::request::{InputMessage, TurnRequest};
use crate::sse;

/// The request body (CONT-35).
#[derive(Serialize)]
pub(super) struct RequestJson<'a> {
    model: &'a str,
    stream: bool,
    stream_options: StreamOptions,
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
    pub(super) fn new(provider: &Provider, request: &TurnRequest<'a>) -> Self {
        Self {
            model: request.provider_model_id,
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
            },
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
    content: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MessageRole {
    Instructions(&'static str),
    Conversation(crate::request::Role),
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let system = self.instructions.map(|content| Message {
            role: MessageRole::Instructions("system"),
            content,
        });
        let conversation = self.conversation.iter().map(|message| Message {
            role: MessageRole::Conversation(message.role),
            content: message.text,
        });
        serializer.collect_seq(system.into_iter().chain(conversation))
    }
}

/// What is known of the answer so far. The end of the text and the usage come
/// in different frames.
#[derive(Debug, Default)]
pub(super) struct Answer {
    response_id: Option<String>,
    finish: Option<Finish>,
}

/// What a finish reason means.
#[derive(Clone, Copy, Debug)]
enum Finish {
    Complete,
    Incomplete(IncompleteReason),
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    choices: Choices<'a>,
    usage: Option<ChunkUsage>,
    error: Option<Value>,
}

/// `choices`, of which only the first counts.
#[derive(Default)]
struct Choices<'a> {
    first: Option<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<ChoiceDelta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ChoiceDelta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ChunkUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptTokensDetails>,
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Deserialize)]
struct PromptTokensDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionTokensDetails {
    reasoning_tokens: Option<u64>,
}

impl Answer {
    /// Reads one frame.
    pub(super) fn read(&mut self, event: sse::Event<'_>, output: &mut Output) {
        if event.data.trim_ascii() == b"[DONE]" {
            if let Some(finish) = self.finish {
                self.end(finish, None, output);
            }
            return;
        }
        match serde_json::from_slice::<Chunk<'_>>(event.data) {
            Ok(chunk) => self.read_chunk(chunk, output),
            Err(error) => output.fail(Failure::unreadable(&error)),
        }
    }

    /// Content, finish reason and usage of one frame count in that order
    /// (TURN-22).
    fn read_chunk(&mut self, chunk: Chunk<'_>, output: &mut Output) {
        if let Some(error) = chunk.error {
            return self.fail(error, output);
        }
        if self.response_id.is_none() {
            self.response_id = chunk.id.map(Cow::into_owned);
        }
        let without_choices = chunk.choices.first.is_none();
        if let Some(choice) = chunk.choices.first {
            if let Some(text) = choice.delta.and_then(|delta| delta.content) {
                output.delta(DeltaKind::Text, &text);
            }
            if let Some(reason) = choice.finish_reason {
                self.finish = Some(Finish::from_reason(&reason));
            }
        }
        let Some(usage) = chunk.usage else {
            return;
        };
        match self.finish {
            Some(finish) => self.end(finish, Some(usage.into()), output),
            None if without_choices => self.end(Finish::Complete, Some(usage.into()), output),
            None => {}
        }
    }

    fn end(&mut self, finish: Finish, usage: Option<Usage>, output: &mut Output) {
        let completion = Completion {
            usage,
            response_id: self.response_id.take(),
        };
        match finish {
            Finish::Complete => output.complete(completion),
            Finish::Incomplete(reason) => output.incomplete(reason, completion),
        }
    }

    fn fail(&mut self, error: Value, output: &mut Output) {
        let error = ReportedError::from_parts(Some(error), None, None).unwrap_or_default();
        output.fail(error.into_failure(None, self.response_id.take()));
    }
}

impl Finish {
    fn from_reason(reason: &str) -> Self {
        match IncompleteReason::from_provider(reason) {
            IncompleteReason::Other => Self::Complete,
            early => Self::Incomplete(early),
        }
    }
}

impl From<ChunkUsage> for Usage {
    fn from(usage: ChunkUsage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens.unwrap_or(0),
            output_tokens: usage.completion_tokens.unwrap_or(0),
            cache_read_input_tokens: usage
                .prompt_tokens_details
                .and_then(|details| details.cached_tokens)
                .unwrap_or(0),
            cache_write_input_tokens: 0,
            reasoning_tokens: usage
                .completion_tokens_details
                .and_then(|details| details.reasoning_tokens)
                .unwrap_or(0),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Choices<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoicesVisitor)
    }
}

struct ChoicesVisitor;

impl<'de> Visitor<'de> for ChoicesVisitor {
    type Value = Choices<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of choices")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let first = list.next_element()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Choices { first })
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Choices::default())
    }
}
