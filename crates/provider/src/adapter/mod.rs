//! The protocols of providers: how a request is written, and what each event of
//! the answer means. There is one file per provider kind. Data flows
//! `sse::Event -> Translator -> Output -> ProviderEvent`.

mod final_text;
mod json;
mod openai_chat_completions;
mod openai_responses;
mod output;
mod reported_error;
mod sampling;
mod text;
mod think;
mod usage;
mod vllm_responses;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use minichat_config::tenant::{Provider, ProviderKind};
use minichat_core::turn::Usage;

use output::Output;
pub(crate) use output::Step;

use crate::event::ProviderEvent;
use crate::failure::Failure;
use crate::mask::Mask;
use crate::request::TurnRequest;
use crate::sse;

pub(crate) use reported_error::{ReportedError, normal_status};

/// The JSON body of `request` in the provider's protocol.
pub(crate) fn body(
    provider: &Provider,
    request: &TurnRequest<'_>,
) -> Result<Bytes, serde_json::Error> {
    let body = match provider.kind {
        ProviderKind::OpenAiResponses => {
            serde_json::to_vec(&openai_responses::RequestJson::new(provider, request))
        }
        ProviderKind::OpenAiChatCompletions => serde_json::to_vec(
            &openai_chat_completions::RequestJson::new(provider, request),
        ),
        ProviderKind::VllmResponses => {
            serde_json::to_vec(&vllm_responses::request(provider, request))
        }
    };
    body.map(Bytes::from)
}

/// The usage in a document that is not a stream (D54); `None` if it reports
/// none.
pub(crate) fn usage_of_document(kind: ProviderKind, json: &str) -> Option<Usage> {
    let vocabulary = match kind {
        ProviderKind::OpenAiChatCompletions => usage::CHAT_COMPLETIONS,
        ProviderKind::OpenAiResponses | ProviderKind::VllmResponses => usage::RESPONSES,
    };
    let [usage] = json::members_of(Some(json), ["usage"]);
    vocabulary.read(usage?)
}

/// `bytes` as text. Bytes that are not UTF-8 become U+FFFD (D27).
pub(crate) fn decoded(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Turns the events of one stream into [`ProviderEvent`]s. It gives nothing
/// more after a terminal event, whatever it is fed.
#[derive(Debug)]
pub struct Translator {
    protocol: Protocol,
    output: Output,
}

#[derive(Debug)]
enum Protocol {
    Responses(openai_responses::Answer),
    ChatCompletions(openai_chat_completions::Answer),
}

impl Translator {
    /// A translator at the start of a stream.
    pub fn new(kind: ProviderKind) -> Self {
        Self::bounded(kind, Mask::default(), usize::MAX)
    }

    /// The same. `mask` is applied to everything that is given. At most
    /// `max_bytes` of text and reasoning together are given.
    pub(crate) fn bounded(kind: ProviderKind, mask: Mask, max_bytes: usize) -> Self {
        let protocol = match kind {
            ProviderKind::OpenAiResponses => {
                Protocol::Responses(openai_responses::Answer::default())
            }
            ProviderKind::OpenAiChatCompletions => {
                Protocol::ChatCompletions(openai_chat_completions::Answer::default())
            }
            ProviderKind::VllmResponses => Protocol::Responses(vllm_responses::answer()),
        };
        Self {
            protocol,
            output: Output::new(mask, max_bytes),
        }
    }

    /// Reads one event. The caller must have taken everything that the previous
    /// event gave.
    pub fn feed(&mut self, event: sse::Event<'_>) {
        if !self.output.begin() {
            return;
        }
        match &mut self.protocol {
            Protocol::Responses(answer) => answer.read(event, &mut self.output),
            Protocol::ChatCompletions(answer) => answer.read(event, &mut self.output),
        }
        self.output.end_if_too_long();
    }

    /// Gives the text that was held back, because nothing more has arrived.
    /// Returns whether there is something to take.
    pub(crate) fn settle(&mut self) -> bool {
        if let Protocol::Responses(answer) = &mut self.protocol
            && let Some(splitter) = answer.waiting()
            && self.output.begin()
        {
            splitter.settle(&mut self.output);
            self.output.end_if_too_long();
            return true;
        }
        false
    }

    /// Reads the document that is the answer to a call without a stream.
    pub(crate) fn feed_document(&mut self, body: &[u8]) {
        let body = decoded(body);
        let json = body.trim_ascii();
        let name: &[u8] = match &self.protocol {
            Protocol::Responses(_) => openai_responses::event_of_document(json),
            // A chunk may contain a whole answer.
            Protocol::ChatCompletions(_) => b"",
        };
        self.feed(sse::Event {
            name,
            data: json.as_bytes(),
        });
    }

    /// The body has ended properly. This ends an answer that gave its finish
    /// reason; any other answer is broken off (PLAT-115).
    pub fn end_of_body(&mut self) {
        if !self.output.begin() {
            return;
        }
        if let Protocol::ChatCompletions(answer) = &mut self.protocol
            && answer.end_if_finished(&mut self.output)
        {
            return;
        }
        self.fail(Failure::broken(&"no terminal event"));
    }

    /// Ends the stream with a failure of the connection.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if !self.output.begin() {
            return;
        }
        match &mut self.protocol {
            Protocol::Responses(answer) => answer.release(&mut self.output),
            Protocol::ChatCompletions(answer) => answer.release(&mut self.output),
        }
        self.output.fail(failure);
    }

    /// The next thing that the event gave; `None` when all of it was taken.
    pub fn take(&mut self) -> Option<ProviderEvent<'_>> {
        let step = self.take_step()?;
        Some(self.event(step))
    }

    pub(crate) fn take_step(&mut self) -> Option<Step> {
        self.output.take()
    }

    /// The event for `step`, which was just taken.
    pub(crate) fn event(&self, step: Step) -> ProviderEvent<'_> {
        self.output.event(step)
    }

    /// Whether the provider exceeded the size limit. It may still be sending.
    pub(crate) const fn is_too_long(&self) -> bool {
        self.output.is_too_long()
    }

    /// Whether the terminal event was given.
    pub(crate) fn is_finished(&self) -> bool {
        self.output.is_finished()
    }
}
