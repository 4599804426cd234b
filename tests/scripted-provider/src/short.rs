//! The short order: the first event, the text, and the last event, with few
//! members. Some servers that imitate the APIs send no more.

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::Step;
use super::call::Call;
use super::scenario::Scenario;
use super::usage;
use super::writer::{DONE, End, Outcome, Protocol, Request, Usage, Writer, data, named_event};

/// Writes one answer in either protocol.
#[derive(Debug)]
pub(super) struct Short {
    protocol: Protocol,
    id: String,
    model: Value,
    without_created: bool,
    without_event_names: bool,
    text: String,
    call: Option<Call>,
}

impl Short {
    pub(super) fn new(protocol: Protocol, request: Request<'_>, scenario: &Scenario) -> Self {
        Self {
            without_created: scenario.without_created,
            without_event_names: scenario.without_event_names,
            ..Self::plain(protocol, request)
        }
    }

    /// Without anything that a scenario changes.
    pub(super) fn plain(protocol: Protocol, request: Request<'_>) -> Self {
        let number = request.number;
        Self {
            protocol,
            id: match protocol {
                Protocol::Responses => format!("resp_mock_{number}"),
                Protocol::ChatCompletions => format!("chatcmpl-mock-{number}"),
            },
            model: request.body["model"].clone(),
            without_created: false,
            without_event_names: false,
            text: String::new(),
            call: None,
        }
    }

    /// The event that opens the stream; `None` in protocols without one.
    pub(super) fn created(&self) -> Option<Bytes> {
        (self.protocol == Protocol::Responses).then(|| {
            let response = json!({"id": self.id, "status": "in_progress"});
            self.event("response.created", json!({ "response": response }))
        })
    }

    /// One piece of text.
    pub(super) fn delta(&self, text: &str) -> Bytes {
        match self.protocol {
            Protocol::Responses => self.event(
                "response.output_text.delta",
                json!({"item_id": "msg_mock", "output_index": 0, "content_index": 0, "delta": text}),
            ),
            Protocol::ChatCompletions => self.chunk(
                &json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]),
                &Value::Null,
            ),
        }
    }

    /// The end of a complete answer that has no text of its own.
    pub(super) fn completed(&self, usage: Usage) -> Bytes {
        self.ended(&End {
            outcome: Outcome::Completed,
            is_flat: false,
            annotations: &[],
            usage: Some(usage),
        })
    }

    fn ended(&self, end: &End<'_>) -> Bytes {
        match self.protocol {
            Protocol::Responses => self.response_ended(end),
            Protocol::ChatCompletions => self.completion_ended(end),
        }
    }

    fn response_ended(&self, end: &End<'_>) -> Bytes {
        let (name, member, payload) = match end.outcome {
            Outcome::Completed => ("response.completed", "response", self.response(end)),
            Outcome::Incomplete { .. } => ("response.incomplete", "response", self.response(end)),
            Outcome::Failed { .. } => ("response.failed", "response", self.response(end)),
            Outcome::Error { code, message } => {
                let error = json!({"code": code, "message": message});
                ("error", "error", error)
            }
        };
        if end.is_flat {
            self.event(name, payload)
        } else {
            self.event(name, json!({ member: payload }))
        }
    }

    fn response(&self, end: &End<'_>) -> Value {
        let mut response = json!({"id": self.id, "usage": usage::responses(end.usage)});
        match end.outcome {
            Outcome::Completed => {
                response["status"] = "completed".into();
                response["output"] = json!([{"type": "message", "role": "assistant", "content": [
                    {"type": "output_text", "text": self.text, "annotations": end.annotations},
                ]}]);
            }
            Outcome::Incomplete { reason } => {
                response["status"] = "incomplete".into();
                response["incomplete_details"] = json!({ "reason": reason });
            }
            Outcome::Failed { code, message } | Outcome::Error { code, message } => {
                response["status"] = "failed".into();
                response["error"] = json!({"code": code, "message": message});
            }
        }
        response
    }

    fn completion_ended(&self, end: &End<'_>) -> Bytes {
        let reason = match end.outcome {
            Outcome::Completed => "stop",
            Outcome::Incomplete { reason } => reason,
            Outcome::Failed { code, message } | Outcome::Error { code, message } => {
                return data(&json!({"error": {"code": code, "message": message}}));
            }
        };
        let choices = json!([{"index": 0, "delta": {}, "finish_reason": reason}]);
        let mut bytes = self.chunk(&choices, &Value::Null).to_vec();
        if let Some(usage) = end.usage {
            bytes.extend(self.chunk(&json!([]), &usage::chat_completions(usage)));
        }
        bytes.extend_from_slice(DONE);
        bytes.into()
    }

    fn event(&self, name: &str, mut payload: Value) -> Bytes {
        payload["type"] = name.into();
        if self.without_event_names {
            data(&payload)
        } else {
            named_event(name, &payload)
        }
    }

    fn call_event(&self, call: &Call, (name, mut payload): (&str, Value)) -> Step {
        payload["item_id"] = format!("{}_mock", call.prefix()).into();
        Step::Bytes(self.event(name, payload))
    }

    fn chunk(&self, choices: &Value, usage: &Value) -> Bytes {
        data(&json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "model": self.model,
            "choices": choices,
            "usage": usage,
        }))
    }
}

impl Writer for Short {
    fn open(&mut self, steps: &mut Vec<Step>) {
        if !self.without_created {
            steps.extend(self.created().map(Step::Bytes));
        }
    }

    fn reasoning(&mut self, _pieces: &[String], _steps: &mut Vec<Step>) {}

    fn text(&mut self, piece: &str, steps: &mut Vec<Step>) {
        self.text.push_str(piece);
        steps.push(Step::Chunk(self.delta(piece)));
    }

    fn begin(&mut self, call: &Call, steps: &mut Vec<Step>) {
        if self.protocol == Protocol::Responses {
            let events = call.beginning().into_iter();
            steps.extend(events.map(|event| self.call_event(call, event)));
            self.call = Some(call.clone());
        }
    }

    fn end(&mut self, steps: &mut Vec<Step>) {
        if let Some(call) = self.call.take() {
            steps.push(self.call_event(&call, call.ending()));
        }
    }

    fn finish(&mut self, end: &End<'_>, steps: &mut Vec<Step>) {
        steps.push(Step::Bytes(self.ended(end)));
    }

    fn document(&mut self, end: &End<'_>) -> Value {
        match self.protocol {
            Protocol::Responses => self.response(end),
            Protocol::ChatCompletions => {
                let reason = match end.outcome {
                    Outcome::Incomplete { reason } => reason,
                    _ => "stop",
                };
                json!({
                    "id": self.id, "object": "chat.completion",
                    "choices": [{"index": 0, "finish_reason": reason,
                        "message": {"role": "assistant", "content": self.text}}],
                    "usage": end.usage.map(usage::chat_completions),
                })
            }
        }
    }
}
