//! What every way to write an answer has in common.

use bytes::Bytes;
use serde_json::Value;

use super::answer::Step;
use super::call::Call;
use super::scenario::Scenario;
use super::{chat_completions, responses, short};

/// When every answer and model was made, in seconds since 1970, so that the
/// same calls always get the same bytes.
pub(super) const CREATED_AT: u64 = 1_767_225_600;

/// The API that a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Responses,
    ChatCompletions,
}

impl Protocol {
    /// The protocol of a generation call; `None` for other paths.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let without_query = path.split('?').next().unwrap_or_default();
        if path.contains("chat/completions") {
            Some(Self::ChatCompletions)
        } else if path.contains("responses") && !without_query.ends_with("/compact") {
            Some(Self::Responses)
        } else {
            None
        }
    }
}

/// The request that is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'r> {
    pub(super) body: &'r Value,
    /// Counts the answers of the provider. Ids are made from it.
    pub(super) number: u64,
}

/// Writes one answer, as events or as one document. Events are appended to
/// `steps`; a piece of text is one [`Step::Chunk`].
pub(super) trait Writer {
    fn open(&mut self, steps: &mut Vec<Step>);
    /// A summary of the reasoning.
    fn reasoning(&mut self, pieces: &[String], steps: &mut Vec<Step>);
    fn text(&mut self, piece: &str, steps: &mut Vec<Step>);
    /// A call begins. The text may go on before it ends.
    fn begin(&mut self, call: &Call, steps: &mut Vec<Step>);
    /// The last call that began ends.
    fn end(&mut self, steps: &mut Vec<Step>);
    fn finish(&mut self, end: &End<'_>, steps: &mut Vec<Step>);
    /// The answer as a document, instead of `finish`.
    fn document(&mut self, end: &End<'_>) -> Value;
}

/// How an answer ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'e> {
    pub(super) outcome: Outcome<'e>,
    /// The fields of the response are at the top level of the last event.
    pub(super) is_flat: bool,
    pub(super) annotations: &'e [Value],
    pub(super) usage: Option<Usage>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'e> {
    Completed,
    Incomplete {
        reason: &'e str,
    },
    /// The answer failed.
    Failed {
        code: &'e str,
        message: &'e str,
    },
    /// An error outside any answer.
    Error {
        code: &'e str,
        message: &'e str,
    },
}

/// Token counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) input: u64,
    /// Of the input.
    pub(super) cached: u64,
    pub(super) output: u64,
    /// Of the output.
    pub(super) reasoning: u64,
}

/// The writer of a protocol, in the order of the scenario.
pub(super) fn writer<'r>(
    protocol: Protocol,
    request: Request<'r>,
    scenario: &Scenario,
) -> Box<dyn Writer + 'r> {
    match (scenario.short_order, protocol) {
        (true, _) => Box::new(short::Short::new(protocol, request, scenario)),
        (false, Protocol::Responses) => Box::new(responses::Full::new(request, scenario)),
        (false, Protocol::ChatCompletions) => Box::new(chat_completions::Full::new(request)),
    }
}

impl Request<'_> {
    /// Whether the request asks for `what` in the member `include`.
    pub(super) fn includes(&self, what: &str) -> bool {
        let wanted = self.body["include"].as_array();
        wanted.is_some_and(|wanted| wanted.iter().any(|it| it == what))
    }
}

/// Ends a stream of chat completions.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// An event with a name (the HTML standard, "Server-sent events").
pub(super) fn named_event(name: &str, payload: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {payload}\n\n"))
}

/// An event without a name.
pub(super) fn data(payload: &Value) -> Bytes {
    Bytes::from(format!("data: {payload}\n\n"))
}
