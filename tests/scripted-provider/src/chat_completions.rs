//! The whole order of chunks of chat completions: the role, the text, the calls
//! of functions, the finish reason, and the usage if the request asks for it.

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::Step;
use super::call::{Call, halves};
use super::usage;
use super::writer::{CREATED_AT, End, Outcome, Request, Writer, data};
use super::{errors, writer};

/// Writes one answer. Hosted tools are no part of the protocol, so their calls
/// are left out.
#[derive(Debug)]
pub(super) struct Full<'r> {
    request: Request<'r>,
    text: String,
    tool_calls: Vec<Value>,
}

impl<'r> Full<'r> {
    pub(super) fn new(request: Request<'r>) -> Self {
        Self {
            request,
            text: String::new(),
            tool_calls: Vec::new(),
        }
    }

    fn has_usage(&self) -> bool {
        self.request.body["stream_options"]["include_usage"] == true
    }

    fn object(&self, kind: &str, choices: &Value) -> Value {
        json!({
            "id": format!("chatcmpl-mock-{}", self.request.number),
            "object": kind,
            "created": CREATED_AT,
            "model": self.request.body["model"],
            "service_tier": "default",
            "system_fingerprint": "fp_mock",
            "choices": choices,
        })
    }

    fn chunk(&self, choices: &Value, usage: Option<Value>) -> Bytes {
        let mut chunk = self.object("chat.completion.chunk", choices);
        if self.has_usage() {
            chunk["usage"] = usage.unwrap_or_default();
        }
        data(&chunk)
    }

    fn delta(&self, delta: &Value, finish_reason: Option<&str>) -> Bytes {
        let choice = json!({
            "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason,
        });
        self.chunk(&json!([choice]), None)
    }

    fn finish_reason<'e>(&self, outcome: Outcome<'e>) -> &'e str {
        match outcome {
            Outcome::Incomplete { reason } => reason_of(reason),
            _ if self.tool_calls.is_empty() => "stop",
            _ => "tool_calls",
        }
    }
}

impl Writer for Full<'_> {
    fn open(&mut self, steps: &mut Vec<Step>) {
        let role = json!({"role": "assistant", "content": "", "refusal": null});
        steps.push(Step::Bytes(self.delta(&role, None)));
    }

    /// Chat completions count reasoning and do not show it.
    fn reasoning(&mut self, _pieces: &[String], _steps: &mut Vec<Step>) {}

    fn text(&mut self, piece: &str, steps: &mut Vec<Step>) {
        self.text.push_str(piece);
        steps.push(Step::Chunk(self.delta(&json!({"content": piece}), None)));
    }

    fn begin(&mut self, call: &Call, steps: &mut Vec<Step>) {
        let Call::Function { name, arguments } = call else {
            return;
        };
        let index = self.tool_calls.len();
        let id = format!("call_mock_{}_{index}", self.request.number);
        let head = json!({
            "index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": ""},
        });
        let pieces = halves(arguments)
            .map(|piece| json!({"index": index, "function": {"arguments": piece}}));
        for piece in std::iter::once(head).chain(pieces) {
            let delta = json!({ "tool_calls": [piece] });
            steps.push(Step::Bytes(self.delta(&delta, None)));
        }
        let function = json!({"name": name, "arguments": arguments});
        self.tool_calls
            .push(json!({"id": id, "type": "function", "function": function}));
    }

    fn end(&mut self, _steps: &mut Vec<Step>) {}

    fn finish(&mut self, end: &End<'_>, steps: &mut Vec<Step>) {
        if let Outcome::Failed { code, message } | Outcome::Error { code, message } = end.outcome {
            return steps.push(Step::Bytes(data(&errors::failure(message, code))));
        }
        let annotations = annotations(end.annotations);
        let mut bytes = Vec::new();
        if !annotations.is_empty() {
            bytes.extend(self.delta(&json!({ "annotations": annotations }), None));
        }
        bytes.extend(self.delta(&json!({}), Some(self.finish_reason(end.outcome))));
        if let Some(usage) = end.usage.filter(|_| self.has_usage()) {
            bytes.extend(self.chunk(&json!([]), Some(usage::chat_completions(usage))));
        }
        bytes.extend_from_slice(writer::DONE);
        steps.push(Step::Bytes(bytes.into()));
    }

    fn document(&mut self, end: &End<'_>) -> Value {
        let mut message = json!({
            "role": "assistant",
            "content": self.text,
            "refusal": null,
            "annotations": annotations(end.annotations),
        });
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = self.tool_calls.clone().into();
            if self.text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": self.finish_reason(end.outcome),
        });
        let mut document = self.object("chat.completion", &json!([choice]));
        if let Some(usage) = end.usage {
            document["usage"] = usage::chat_completions(usage);
        }
        document
    }
}

/// The name of a reason in this protocol.
fn reason_of(reason: &str) -> &str {
    match reason {
        "max_output_tokens" => "length",
        other => other,
    }
}

/// Citations of the web in the shape of this protocol. It has no others.
fn annotations(annotations: &[Value]) -> Vec<Value> {
    let cited = annotations
        .iter()
        .filter(|annotation| annotation["type"] == "url_citation");
    cited
        .map(|annotation| {
            let mut citation = annotation.clone();
            if let Some(members) = citation.as_object_mut() {
                members.remove("type");
            }
            json!({"type": "url_citation", "url_citation": citation})
        })
        .collect()
}
