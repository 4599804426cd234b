//! The whole order of events of the Responses API:
//!
//! ```text
//! created, in_progress
//!   output_item.added            of each item
//!     …_call.…                   of a call
//!     content_part.added         of a message
//!       output_text.delta …, annotation.added …, output_text.done
//!     content_part.done
//!   output_item.done
//! completed
//! ```
//!
//! Every event has a `sequence_number`, from 0 without gaps.

mod resource;

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::Step;
use super::call::Call;
use super::scenario::Scenario;
use super::usage;
use super::writer::{End, Outcome, Request, Writer, data, named_event};

/// Writes one answer.
#[derive(Debug)]
pub(super) struct Full<'r> {
    request: Request<'r>,
    without_created: bool,
    without_event_names: bool,
    next_sequence: u64,
    /// The items so far, in their last state.
    output: Vec<Value>,
    message: Option<Message>,
    /// The call that runs, and the index of its item.
    call: Option<(usize, Call)>,
}

/// The message of an answer has one part.
#[derive(Debug)]
struct Message {
    index: usize,
    text: String,
}

impl<'r> Full<'r> {
    pub(super) fn new(request: Request<'r>, scenario: &Scenario) -> Self {
        Self {
            request,
            without_created: scenario.without_created,
            without_event_names: scenario.without_event_names,
            next_sequence: 0,
            output: Vec::new(),
            message: None,
            call: None,
        }
    }

    fn event(&mut self, name: &str, mut payload: Value) -> Bytes {
        payload["type"] = name.into();
        payload["sequence_number"] = self.next_sequence.into();
        self.next_sequence += 1;
        if self.without_event_names {
            data(&payload)
        } else {
            named_event(name, &payload)
        }
    }

    /// An event of the item at `index`.
    fn item_event(&mut self, name: &str, index: usize, mut payload: Value) -> Step {
        payload["item_id"] = self.output[index]["id"].clone();
        payload["output_index"] = index.into();
        Step::Bytes(self.event(name, payload))
    }

    /// An event of the message's part.
    fn part_event(&mut self, name: &str, index: usize, mut payload: Value) -> Step {
        payload["content_index"] = 0.into();
        self.item_event(name, index, payload)
    }

    fn id(&self, prefix: &str) -> String {
        format!(
            "{prefix}_mock_{}_{}",
            self.request.number,
            self.output.len()
        )
    }

    /// Adds an item and returns its index.
    fn add(&mut self, item: Value, steps: &mut Vec<Step>) -> usize {
        let index = self.output.len();
        let payload = json!({"output_index": index, "item": item});
        self.output.push(item);
        steps.push(Step::Bytes(
            self.event("response.output_item.added", payload),
        ));
        index
    }

    fn done(&mut self, index: usize, item: Value, steps: &mut Vec<Step>) {
        let payload = json!({"output_index": index, "item": item});
        self.output[index] = item;
        steps.push(Step::Bytes(
            self.event("response.output_item.done", payload),
        ));
    }

    fn open_message(&mut self, steps: &mut Vec<Step>) {
        if self.message.is_some() {
            return;
        }
        let id = self.id("msg");
        let index = self.add(message_item(&id, "in_progress", &[]), steps);
        let part = json!({"part": text_part("", &[])});
        steps.push(self.part_event("response.content_part.added", index, part));
        self.message = Some(Message {
            index,
            text: String::new(),
        });
    }

    fn close_message(&mut self, status: &str, annotations: &[Value], steps: &mut Vec<Step>) {
        let Some(Message { index, text }) = self.message.take() else {
            return;
        };
        for (annotation_index, annotation) in annotations.iter().enumerate() {
            let payload = json!({"annotation_index": annotation_index, "annotation": annotation});
            steps.push(self.part_event("response.output_text.annotation.added", index, payload));
        }
        let whole = json!({"text": text, "logprobs": []});
        steps.push(self.part_event("response.output_text.done", index, whole));
        let part = text_part(&text, annotations);
        let payload = json!({ "part": part });
        steps.push(self.part_event("response.content_part.done", index, payload));
        let id = self.output[index]["id"].as_str().unwrap_or_default();
        let item = message_item(id, status, &[part]);
        self.done(index, item, steps);
    }

    fn resource(&self, outcome: Option<Outcome<'_>>, usage: &Value) -> Value {
        resource::resource(self.request, outcome, &self.output, usage)
    }

    fn lifecycle(&mut self, name: &str) -> Step {
        let response = self.resource(None, &Value::Null);
        Step::Bytes(self.event(name, json!({ "response": response })))
    }
}

impl Writer for Full<'_> {
    fn open(&mut self, steps: &mut Vec<Step>) {
        if !self.without_created {
            steps.push(self.lifecycle("response.created"));
        }
        steps.push(self.lifecycle("response.in_progress"));
    }

    fn reasoning(&mut self, pieces: &[String], steps: &mut Vec<Step>) {
        let id = self.id("rs");
        let index = self.add(reasoning_item(&id, &[]), steps);
        let place = || json!({"summary_index": 0});
        let mut added = place();
        added["part"] = summary_part("");
        steps.push(self.item_event("response.reasoning_summary_part.added", index, added));
        for piece in pieces {
            let mut delta = place();
            delta["delta"] = piece.as_str().into();
            steps.push(self.item_event("response.reasoning_summary_text.delta", index, delta));
        }
        let whole = pieces.concat();
        let mut text_done = place();
        text_done["text"] = whole.as_str().into();
        steps.push(self.item_event("response.reasoning_summary_text.done", index, text_done));
        let mut part_done = place();
        part_done["part"] = summary_part(&whole);
        steps.push(self.item_event("response.reasoning_summary_part.done", index, part_done));
        let mut item = reasoning_item(&id, &[summary_part(&whole)]);
        if self.request.includes("reasoning.encrypted_content") {
            item["encrypted_content"] = "c2NyaXB0ZWQ=".into();
        }
        self.done(index, item, steps);
    }

    fn text(&mut self, piece: &str, steps: &mut Vec<Step>) {
        self.open_message(steps);
        let Some(message) = &mut self.message else {
            return;
        };
        message.text.push_str(piece);
        let index = message.index;
        let payload = json!({
            "item_id": self.output[index]["id"],
            "output_index": index,
            "content_index": 0,
            "delta": piece,
            "logprobs": [],
        });
        steps.push(Step::Chunk(
            self.event("response.output_text.delta", payload),
        ));
    }

    fn begin(&mut self, call: &Call, steps: &mut Vec<Step>) {
        let id = self.id(call.prefix());
        let index = self.add(call.begun_item(&id), steps);
        for (name, payload) in call.beginning() {
            steps.push(self.item_event(name, index, payload));
        }
        self.call = Some((index, call.clone()));
    }

    fn end(&mut self, steps: &mut Vec<Step>) {
        let Some((index, call)) = self.call.take() else {
            return;
        };
        let (name, payload) = call.ending();
        steps.push(self.item_event(name, index, payload));
        let id = self.output[index]["id"].as_str().unwrap_or_default();
        let item = call.done_item(id, self.request);
        self.done(index, item, steps);
    }

    fn finish(&mut self, end: &End<'_>, steps: &mut Vec<Step>) {
        let name = match end.outcome {
            Outcome::Completed => {
                self.close_message("completed", end.annotations, steps);
                "response.completed"
            }
            Outcome::Incomplete { .. } => {
                self.close_message("incomplete", end.annotations, steps);
                "response.incomplete"
            }
            Outcome::Failed { .. } => "response.failed",
            Outcome::Error { code, message } => {
                let error = json!({"type": "server_error", "code": code, "message": message, "param": null});
                let payload = if end.is_flat {
                    error
                } else {
                    json!({ "error": error })
                };
                return steps.push(Step::Bytes(self.event("error", payload)));
            }
        };
        let response = self.resource(Some(end.outcome), &usage::responses(end.usage));
        let payload = if end.is_flat {
            response
        } else {
            json!({ "response": response })
        };
        steps.push(Step::Bytes(self.event(name, payload)));
    }

    fn document(&mut self, end: &End<'_>) -> Value {
        let status = match end.outcome {
            Outcome::Completed => "completed",
            _ => "incomplete",
        };
        self.close_message(status, end.annotations, &mut Vec::new());
        self.resource(Some(end.outcome), &usage::responses(end.usage))
    }
}

fn message_item(id: &str, status: &str, content: &[Value]) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

fn text_part(text: &str, annotations: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": annotations, "logprobs": []})
}

fn reasoning_item(id: &str, summary: &[Value]) -> Value {
    json!({"id": id, "type": "reasoning", "summary": summary})
}

fn summary_part(text: &str) -> Value {
    json!({"type": "summary_text", "text": text})
}
