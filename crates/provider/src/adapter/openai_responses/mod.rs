//! The Responses API of `OpenAI`, Azure and vLLM (PLAT-107, PLAT-110,
//! PLAT-113).

mod citations;
mod request;
mod tool;

pub(super) use request::RequestJson;

use minichat_core::HostedTool;
use minichat_core::stream::ToolPhase;
use minichat_core::turn::IncompleteReason;

use super::decoded;
use super::final_text::{FinalText, Level};
use super::json::{Wtf8, elements, is_truthy, members, members_of, text};
use super::output::Output;
use super::reported_error::ReportedError;
use super::text::{Decoder, whole};
use super::think::Splitter;
use super::usage::RESPONSES;
use crate::event::{Completion, DeltaKind};
use crate::failure::Failure;
use crate::sse;

/// What is known of the answer so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    text: Decoder,
    reasoning: Decoder,
    final_text: FinalText,
    /// For servers that put the reasoning into the text (TURN-21).
    splitter: Option<Splitter>,
}

/// The events that are read (TURN-20).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    TextDelta,
    ReasoningDelta,
    TextDone,
    PartDone,
    ItemDone,
    Tool(HostedTool, ToolPhase),
    Completed,
    Incomplete,
    Failed,
}

impl Known {
    /// Chooses by the `event` field, or else by `type` inside the data
    /// (TURN-19). An event that has neither but contains an error counts as an
    /// error.
    fn of(name: &[u8], json: &str) -> Option<Self> {
        if !name.is_empty() {
            return Self::from_name(name);
        }
        let [kind, object, error] = members(json, ["type", "object", "error"]).ok()?;
        let is_error = error.is_some_and(is_truthy) || object == Some("\"error\"");
        match kind.and_then(text).and_then(|kind| Self::from_name(&kind)) {
            None if is_error => Some(Self::Failed),
            known => known,
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"response.output_text.delta" | b"response.refusal.delta" => Some(Self::TextDelta),
            b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
                Some(Self::ReasoningDelta)
            }
            b"response.output_text.done" | b"response.refusal.done" => Some(Self::TextDone),
            b"response.content_part.done" => Some(Self::PartDone),
            b"response.output_item.done" => Some(Self::ItemDone),
            b"response.completed" => Some(Self::Completed),
            b"response.incomplete" => Some(Self::Incomplete),
            b"response.failed" | b"error" => Some(Self::Failed),
            _ => tool::of_name(name).map(|(tool, phase)| Self::Tool(tool, phase)),
        }
    }
}

impl Answer {
    /// The answer of a server that puts the reasoning into the text.
    pub(super) fn with_think_tags() -> Self {
        Self {
            splitter: Some(Splitter::default()),
            ..Self::default()
        }
    }

    /// Reads one event.
    pub(super) fn read(&mut self, event: sse::Event<'_>, output: &mut Output) {
        let data = decoded(event.data);
        let json = data.trim_ascii();
        // Some providers send empty events to keep the connection alive.
        if json.is_empty() {
            return;
        }
        let Some(known) = Known::of(event.name, json) else {
            return;
        };
        if let Err(error) = self.read_known(known, json, output) {
            self.release(output);
            output.fail(Failure::unreadable_json(&error));
        }
    }

    fn read_known(
        &mut self,
        known: Known,
        json: &str,
        output: &mut Output,
    ) -> Result<(), serde_json::Error> {
        match known {
            Known::TextDelta | Known::ReasoningDelta => {
                let [delta] = members(json, ["delta"])?;
                if let Some(piece) = delta.and_then(text) {
                    self.give(known, piece, output);
                }
            }
            Known::TextDone | Known::PartDone => {
                let names = [
                    "text",
                    "refusal",
                    "part",
                    "item_id",
                    "output_index",
                    "content_index",
                ];
                let [spoken, refusal, part, item, output_index, content_index] =
                    members(json, names)?;
                let (level, spoken) = match known {
                    Known::PartDone => (Level::Part, part.map(text_of_part)),
                    _ => (Level::Text, spoken.or(refusal).and_then(text).map(whole)),
                };
                let place = output_index
                    .or(item)
                    .map(|item| format!("{item} {}", content_index.unwrap_or_default()));
                self.give_rest(level, place, &spoken.unwrap_or_default(), output);
            }
            Known::ItemDone => {
                let [item, output_index] = members(json, ["item", "output_index"])?;
                let [id] = members_of(item, ["id"]);
                let place = output_index.or(id).map(str::to_owned);
                let spoken = item.map(text_of_item).unwrap_or_default();
                self.give_rest(Level::Item, place, &spoken, output);
            }
            Known::Tool(tool, phase) => {
                output.tool(tool::event(tool, phase, json, output)?);
            }
            Known::Completed | Known::Incomplete => self.end(known, json, output)?,
            Known::Failed => self.fail(json, output),
        }
        Ok(())
    }

    fn give(&mut self, known: Known, piece: Wtf8<'_>, output: &mut Output) {
        if known == Known::ReasoningDelta {
            let piece = self.reasoning.decode(piece);
            return output.delta(DeltaKind::Reasoning, &piece);
        }
        let piece = self.text.decode(piece);
        self.final_text.give(&piece);
        show(&mut self.splitter, &piece, output);
    }

    /// Gives the part of the whole text `spoken` that no delta has given.
    fn give_rest(
        &mut self,
        level: Level,
        place: Option<String>,
        spoken: &str,
        output: &mut Output,
    ) {
        self.release_half(output);
        let rest = self.final_text.rest(level, place, spoken);
        show(&mut self.splitter, rest, output);
    }

    /// Gives a surrogate that no second half completed.
    fn release_half(&mut self, output: &mut Output) {
        let half = self.text.finish();
        self.final_text.give(half);
        show(&mut self.splitter, half, output);
    }

    /// The splitter that holds text back until more arrives, if it holds any.
    pub(super) fn waiting(&mut self) -> Option<&mut Splitter> {
        self.splitter
            .as_mut()
            .filter(|splitter| splitter.is_waiting())
    }

    /// Gives everything that was held back.
    pub(super) fn release(&mut self, output: &mut Output) {
        output.delta(DeltaKind::Reasoning, self.reasoning.finish());
        self.release_half(output);
        if let Some(splitter) = &mut self.splitter {
            splitter.finish(output);
        }
    }

    /// Reads the end of an answer.
    fn end(
        &mut self,
        known: Known,
        json: &str,
        output: &mut Output,
    ) -> Result<(), serde_json::Error> {
        let [nested] = members(json, ["response"])?;
        let names = ["id", "usage", "incomplete_details", "output"];
        let [id, usage, details, items] = members(nested.unwrap_or(json), names)?;
        let items = items.map(elements).unwrap_or_default();
        let spoken: String = items.iter().copied().map(text_of_item).collect();
        self.give_rest(Level::Response, None, &spoken, output);
        self.release(output);
        let citations = match known {
            Known::Completed => citations::of_items(&items, output),
            _ => Vec::new(),
        };
        let completion = Completion {
            usage: usage.and_then(|usage| RESPONSES.read(usage)),
            response_id: output.response_id(id),
            citations,
        };
        if known == Known::Completed {
            output.complete(completion);
        } else {
            let [reason] = members_of(details, ["reason"]);
            let reason = reason.and_then(text).map(whole).unwrap_or_default();
            output.incomplete(IncompleteReason::from_provider(&reason), completion);
        }
        Ok(())
    }

    /// Reads a failure. The error and the usage are in the response object or
    /// at the top level.
    fn fail(&mut self, json: &str, output: &mut Output) {
        self.release(output);
        let [nested, usage] = members_of(Some(json), ["response", "usage"]);
        let [nested_id, nested_usage] = members_of(nested, ["id", "usage"]);
        let error = nested
            .and_then(ReportedError::of_document)
            .unwrap_or_else(|| ReportedError::of_event(json));
        let usage = nested_usage
            .or(usage)
            .and_then(|usage| RESPONSES.read(usage));
        let id = output.response_id(nested_id);
        output.report(&error, usage, id);
    }
}

/// The event at the end of a stream that says the same as a whole response.
pub(super) fn event_of_document(json: &str) -> &'static [u8] {
    let [status, error] = members_of(Some(json), ["status", "error"]);
    match status {
        Some("\"incomplete\"") => b"response.incomplete",
        Some("\"failed\" | \"cancelled\"") => b"response.failed",
        _ if error.is_some_and(is_truthy) => b"response.failed",
        _ => b"response.completed",
    }
}

fn show(splitter: &mut Option<Splitter>, text: &str, output: &mut Output) {
    match splitter {
        Some(splitter) => splitter.split(text, output),
        None => output.delta(DeltaKind::Text, text),
    }
}

/// The text of an item that is a message.
fn text_of_item(item: &str) -> String {
    let [kind, content] = members_of(Some(item), ["type", "content"]);
    if kind.is_some_and(|kind| kind != "\"message\"") {
        return String::new();
    }
    let parts = content.map(elements).unwrap_or_default();
    parts.into_iter().map(text_of_part).collect()
}

/// The text of a part that is text or a refusal.
fn text_of_part(part: &str) -> String {
    let [kind, spoken, refusal] = members_of(Some(part), ["type", "text", "refusal"]);
    let is_shown =
        kind.is_none_or(|kind| ["\"output_text\"", "\"text\"", "\"refusal\""].contains(&kind));
    let spoken = spoken.or(refusal).filter(|_| is_shown);
    spoken.and_then(text).map(whole).unwrap_or_default()
}
