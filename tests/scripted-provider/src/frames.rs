//! The bytes of events in each protocol.

use bytes::Bytes;
use serde_json::{Value, json};

use super::scenario::Tokens;

/// The API that a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Responses,
    ChatCompletions,
}

impl Protocol {
    /// The protocol of a generation call; `None` for other paths.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        if path.contains("chat/completions") {
            Some(Self::ChatCompletions)
        } else if path.contains("responses") {
            Some(Self::Responses)
        } else {
            None
        }
    }
}

/// Writes the events of one answer.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) protocol: Protocol,
    pub(super) response_id: String,
    pub(super) model: String,
    pub(super) without_event_names: bool,
}

impl Frames {
    /// The event that opens the stream; `None` in protocols without one.
    pub(super) fn created(&self) -> Option<Bytes> {
        (self.protocol == Protocol::Responses).then(|| {
            let response = json!({"id": self.response_id, "status": "in_progress"});
            self.event("response.created", json!({"response": response}))
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

    /// An event of the Responses API; empty in other protocols.
    pub(super) fn event(&self, name: &str, mut payload: Value) -> Bytes {
        payload["type"] = name.into();
        let line = if self.without_event_names {
            String::new()
        } else {
            format!("event: {name}\n")
        };
        Bytes::from(format!("{line}data: {payload}\n\n"))
    }

    /// The end of a complete answer, with its whole text.
    pub(super) fn completed(
        &self,
        text: &str,
        annotations: &Value,
        usage: Option<Tokens>,
        flat: bool,
    ) -> Bytes {
        if self.protocol == Protocol::ChatCompletions {
            return self.finished("stop", usage);
        }
        let response = json!({
            "id": self.response_id,
            "status": "completed",
            "output": [{"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": text, "annotations": annotations},
            ]}],
            "usage": responses_usage(usage),
        });
        self.ending("response.completed", response, flat)
    }

    /// The end of an answer that stopped early.
    pub(super) fn incomplete(&self, reason: &str, usage: Option<Tokens>, flat: bool) -> Bytes {
        if self.protocol == Protocol::ChatCompletions {
            return self.finished(reason, usage);
        }
        let response = json!({
            "id": self.response_id,
            "status": "incomplete",
            "incomplete_details": {"reason": reason},
            "usage": responses_usage(usage),
        });
        self.ending("response.incomplete", response, flat)
    }

    /// A failure of the answer.
    pub(super) fn failed(
        &self,
        code: &str,
        message: &str,
        usage: Option<Tokens>,
        flat: bool,
    ) -> Bytes {
        if self.protocol == Protocol::ChatCompletions {
            return self.error(code, message, flat);
        }
        let response = json!({
            "id": self.response_id,
            "status": "failed",
            "error": {"code": code, "message": message},
            "usage": responses_usage(usage),
        });
        self.ending("response.failed", response, flat)
    }

    /// An error outside any answer.
    pub(super) fn error(&self, code: &str, message: &str, flat: bool) -> Bytes {
        let error = json!({"code": code, "message": message});
        match (self.protocol, flat) {
            (Protocol::Responses, true) => self.event("error", error),
            (Protocol::Responses, false) => self.event("error", json!({"error": error})),
            (Protocol::ChatCompletions, _) => data(&json!({"error": error})),
        }
    }

    fn ending(&self, name: &str, response: Value, flat: bool) -> Bytes {
        if flat {
            self.event(name, response)
        } else {
            self.event(name, json!({"response": response}))
        }
    }

    /// Finish reason, usage and `[DONE]` of chat completions.
    fn finished(&self, reason: &str, usage: Option<Tokens>) -> Bytes {
        let mut bytes = Vec::new();
        let choices = json!([{"index": 0, "delta": {}, "finish_reason": reason}]);
        bytes.extend_from_slice(&self.chunk(&choices, &Value::Null));
        if let Some(usage) = usage {
            let usage = json!({
                "prompt_tokens": usage.input,
                "completion_tokens": usage.output,
                "total_tokens": usage.input + usage.output,
            });
            bytes.extend_from_slice(&self.chunk(&json!([]), &usage));
        }
        bytes.extend_from_slice(b"data: [DONE]\n\n");
        Bytes::from(bytes)
    }

    fn chunk(&self, choices: &Value, usage: &Value) -> Bytes {
        data(&json!({
            "id": self.response_id,
            "object": "chat.completion.chunk",
            "model": self.model,
            "choices": choices,
            "usage": usage,
        }))
    }
}

fn data(payload: &Value) -> Bytes {
    Bytes::from(format!("data: {payload}\n\n"))
}

fn responses_usage(usage: Option<Tokens>) -> Value {
    usage.map_or(Value::Null, |usage| {
        json!({
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
        })
    })
}
