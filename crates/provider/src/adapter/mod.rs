//! The protocols: how a question is written, and what each event of the answer
//! means. One file per provider kind; data flows
//! `sse::Event -> Translator -> Output -> ProviderEvent`.

mod openai_chat_completions;
mod openai_responses;
mod output;
mod reported_error;
mod sampling;
mod think;
mod vllm_responses;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use minichat_config::tenant::{Provider, ProviderKind};

use output::Output;
pub(crate) use output::Step;

use crate::event::ProviderEvent;
use crate::failure::Failure;
use crate::request::TurnRequest;
use crate::sse;

pub(crate) use reported_error::ReportedError;

/// The JSON body of `request` in the provider's protocol, streaming.
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
            serde_json::to_vec(&vllm_responses::RequestJson::new(provider, request))
        }
    };
    body.map(Bytes::from)
}

/// Turns the events of one stream into [`ProviderEvent`]s. After a terminal
/// event it gives nothing more, whatever it is fed.
#[derive(Debug)]
pub struct Translator {
    protocol: Protocol,
    output: Output,
}

#[derive(Debug)]
enum Protocol {
    OpenAiResponses,
    OpenAiChatCompletions(openai_chat_completions::Answer),
    VllmResponses(think::Splitter),
}

impl Translator {
    /// A translator at the start of a stream.
    pub fn new(kind: ProviderKind) -> Self {
        let protocol = match kind {
            ProviderKind::OpenAiResponses => Protocol::OpenAiResponses,
            ProviderKind::OpenAiChatCompletions => {
                Protocol::OpenAiChatCompletions(openai_chat_completions::Answer::default())
            }
            ProviderKind::VllmResponses => Protocol::VllmResponses(think::Splitter::default()),
        };
        Self {
            protocol,
            output: Output::default(),
        }
    }

    /// Reads one event. What the event before it gave must have been taken.
    pub fn feed(&mut self, event: sse::Event<'_>) {
        if !self.output.begin() {
            return;
        }
        match &mut self.protocol {
            Protocol::OpenAiResponses => openai_responses::read(event, &mut self.output),
            Protocol::OpenAiChatCompletions(answer) => answer.read(event, &mut self.output),
            Protocol::VllmResponses(splitter) => {
                vllm_responses::read(event, splitter, &mut self.output);
            }
        }
    }

    /// Ends the stream with a failure of the connection.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if !self.output.begin() {
            return;
        }
        if let Protocol::VllmResponses(splitter) = &mut self.protocol {
            splitter.finish(&mut self.output);
        }
        self.output.fail(failure);
    }

    /// The next thing that the event gave, `None` when all was taken.
    pub fn take(&mut self) -> Option<ProviderEvent<'_>> {
        let step = self.take_step()?;
        Some(self.event(step))
    }

    pub(crate) fn take_step(&mut self) -> Option<Step> {
        self.output.take()
    }

    /// The event that `step`, just taken, stands for.
    pub(crate) fn event(&self, step: Step) -> ProviderEvent<'_> {
        self.output.event(step)
    }

    /// Whether the terminal event was given.
    pub(crate) fn is_finished(&self) -> bool {
        self.output.is_finished()
    }
}
