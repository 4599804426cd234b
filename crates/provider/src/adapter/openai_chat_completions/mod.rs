//! The chat completions API (PLAT-111, PLAT-114).

mod request;

pub(super) use request::RequestJson;

use minichat_core::turn::{IncompleteReason, Usage};

use super::decoded;
use super::json::{Wtf8, elements, first_element, members, members_of, text};
use super::output::Output;
use super::reported_error::ReportedError;
use super::text::Decoder;
use super::usage::CHAT_COMPLETIONS;
use crate::event::{Completion, DeltaKind, ResponseId};
use crate::failure::Failure;
use crate::sse;

/// What is known of the answer so far. The end of the text and the usage come
/// in different frames, in either order.
#[derive(Debug, Default)]
pub(super) struct Answer {
    text: Decoder,
    reasoning: Decoder,
    response_id: Option<ResponseId>,
    finish: Option<Finish>,
    /// The last report. A report before the end may be a placeholder.
    usage: Option<Usage>,
}

/// What a finish reason stands for.
#[derive(Clone, Copy, Debug)]
enum Finish {
    Complete,
    Incomplete(IncompleteReason),
    Failed,
}

/// Finish reasons that name a failure of the provider.
const FAILURES: [&str; 4] = [
    "error",
    "abort",
    "network_error",
    "insufficient_system_resource",
];

impl Answer {
    /// Reads one frame.
    pub(super) fn read(&mut self, event: sse::Event<'_>, output: &mut Output) {
        let data = decoded(event.data);
        if event.name == b"error" {
            return self.fail(&ReportedError::of_event(&data), output);
        }
        match data.trim_ascii() {
            // Some providers send empty events to keep the connection alive.
            "" => {}
            "[DONE]" => {
                self.end_if_finished(output);
            }
            json => self.read_chunk(json, output),
        }
    }

    /// The body has ended properly. Returns whether the answer was complete.
    pub(super) fn end_if_finished(&mut self, output: &mut Output) -> bool {
        let finish = self.finish.take();
        if let Some(finish) = finish {
            self.end(finish, output);
        }
        finish.is_some()
    }

    /// Reads content, finish reason and usage of one frame, in this order
    /// (TURN-22).
    fn read_chunk(&mut self, json: &str, output: &mut Output) {
        let [id, choices, usage, error] = match members(json, ["id", "choices", "usage", "error"]) {
            Ok(found) => found,
            Err(error) => return output.fail(Failure::unreadable_json(&error)),
        };
        if self.response_id.is_none() {
            self.response_id = output.response_id(id);
        }
        if let Some(usage) = usage {
            self.usage = CHAT_COMPLETIONS.read(usage);
        }
        let choice = choices.and_then(first_element);
        let [delta, message, reason, choice_error] =
            members_of(choice, ["delta", "message", "finish_reason", "error"]);
        let error = match (error, choice_error, choices) {
            (Some(error), ..) => ReportedError::of_member(error, json),
            (None, Some(error), _) => ReportedError::of_member(error, choice.unwrap_or_default()),
            (None, None, None) => flat_error(json),
            (None, None, Some(_)) => None,
        };
        if let Some(error) = error {
            return self.fail(&error, output);
        }
        self.read_delta(delta, output);
        if !output.has_given() {
            // A server that converts a whole answer into a stream may send it
            // as a message.
            self.read_delta(message, output);
        }
        if let Some(reason) = reason.and_then(text).filter(|reason| !reason.is_empty()) {
            self.finish = Some(Finish::from_reason(&String::from_utf8_lossy(&reason)));
        }
        // Zeros are a placeholder; the real usage may still come.
        if usage.is_some() && self.usage.and_then(Usage::known).is_some() {
            self.end_if_finished(output);
        }
    }

    /// Reasoning comes before the text that follows from it. There are two
    /// names for it, and some servers send both.
    fn read_delta(&mut self, delta: Option<&str>, output: &mut Output) {
        let names = ["reasoning", "reasoning_content", "content", "refusal"];
        let [reasoning, reasoning_content, content, refusal] = members_of(delta, names);
        let mut reasonings = [reasoning, reasoning_content].into_iter().flatten();
        if let Some(piece) = reasonings.find_map(|it| text(it).filter(|piece| !piece.is_empty())) {
            self.give(DeltaKind::Reasoning, piece, output);
        }
        for piece in [content, refusal].into_iter().flatten() {
            self.read_content(piece, output);
        }
    }

    /// The content is a text, or a list of parts that contain one.
    fn read_content(&mut self, content: &str, output: &mut Output) {
        if let Some(piece) = text(content) {
            return self.give(DeltaKind::Text, piece, output);
        }
        for part in elements(content) {
            let [piece] = members_of(Some(part), ["text"]);
            if let Some(piece) = text(part).or_else(|| text(piece?)) {
                self.give(DeltaKind::Text, piece, output);
            }
        }
    }

    fn give(&mut self, kind: DeltaKind, piece: Wtf8<'_>, output: &mut Output) {
        let decoder = match kind {
            DeltaKind::Text => &mut self.text,
            DeltaKind::Reasoning => &mut self.reasoning,
        };
        output.delta(kind, &decoder.decode(piece));
    }

    /// Gives the surrogates that no second half completed.
    pub(super) fn release(&mut self, output: &mut Output) {
        output.delta(DeltaKind::Reasoning, self.reasoning.finish());
        output.delta(DeltaKind::Text, self.text.finish());
    }

    fn end(&mut self, finish: Finish, output: &mut Output) {
        let early = match finish {
            Finish::Complete => None,
            Finish::Incomplete(reason) => Some(reason),
            Finish::Failed => return self.fail(&ReportedError::default(), output),
        };
        self.release(output);
        let completion = Completion {
            usage: self.usage,
            response_id: self.response_id.take(),
            citations: Vec::new(),
        };
        match early {
            None => output.complete(completion),
            Some(reason) => output.incomplete(reason, completion),
        }
    }

    fn fail(&mut self, error: &ReportedError, output: &mut Output) {
        self.release(output);
        output.report(error, self.usage, self.response_id.take());
    }
}

impl Finish {
    fn from_reason(reason: &str) -> Self {
        if FAILURES.contains(&reason) {
            return Self::Failed;
        }
        match IncompleteReason::from_provider(reason) {
            IncompleteReason::Other => Self::Complete,
            early => Self::Incomplete(early),
        }
    }
}

/// A frame without choices that is itself an error, because it has a message.
fn flat_error(json: &str) -> Option<ReportedError> {
    let error = ReportedError::of_document(json)?;
    error.message.is_some().then_some(error)
}
