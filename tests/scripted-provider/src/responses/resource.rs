//! The response object. It repeats the parameters of the request.

use serde_json::{Value, json};

use crate::writer::{CREATED_AT, Outcome, Request};

/// The response after `outcome`, or while it is being made.
pub(super) fn resource(
    request: Request<'_>,
    outcome: Option<Outcome<'_>>,
    output: &[Value],
    usage: &Value,
) -> Value {
    let Request { body, number } = request;
    let (status, error, details) = match outcome {
        None => ("in_progress", Value::Null, Value::Null),
        Some(Outcome::Completed) => ("completed", Value::Null, Value::Null),
        Some(Outcome::Incomplete { reason }) => {
            ("incomplete", Value::Null, json!({ "reason": reason }))
        }
        Some(Outcome::Failed { code, message } | Outcome::Error { code, message }) => {
            let error = json!({"code": code, "message": message});
            ("failed", error, Value::Null)
        }
    };
    let completed_at = (status == "completed").then_some(CREATED_AT);
    let or = |name: &str, otherwise: Value| match &body[name] {
        Value::Null => otherwise,
        given => given.clone(),
    };
    json!({
        "id": format!("resp_mock_{number}"),
        "object": "response",
        "created_at": CREATED_AT,
        "completed_at": completed_at,
        "status": status,
        "background": false,
        "error": error,
        "frequency_penalty": or("frequency_penalty", 0.0.into()),
        "incomplete_details": details,
        "instructions": body["instructions"],
        "max_output_tokens": body["max_output_tokens"],
        "max_tool_calls": body["max_tool_calls"],
        "metadata": or("metadata", json!({})),
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": or("parallel_tool_calls", true.into()),
        "presence_penalty": or("presence_penalty", 0.0.into()),
        "previous_response_id": body["previous_response_id"],
        "prompt_cache_key": body["prompt_cache_key"],
        "reasoning": reasoning(&body["reasoning"]),
        "safety_identifier": body["safety_identifier"],
        "service_tier": "default",
        "store": or("store", true.into()),
        "temperature": or("temperature", 1.0.into()),
        "text": text(&body["text"]),
        "tool_choice": or("tool_choice", "auto".into()),
        "tools": tools(&body["tools"]),
        "top_logprobs": or("top_logprobs", 0.into()),
        "top_p": or("top_p", 1.0.into()),
        "truncation": or("truncation", "disabled".into()),
        "usage": usage,
        "user": body["user"],
    })
}

fn reasoning(wanted: &Value) -> Value {
    json!({"effort": wanted["effort"], "summary": wanted["summary"]})
}

fn text(wanted: &Value) -> Value {
    let or = |name: &str, otherwise: Value| match &wanted[name] {
        Value::Null => otherwise,
        given => given.clone(),
    };
    json!({
        "format": or("format", json!({"type": "text"})),
        "verbosity": or("verbosity", "medium".into()),
    })
}

/// The tools of the request. A function has each of its members.
fn tools(wanted: &Value) -> Value {
    let Some(tools) = wanted.as_array() else {
        return json!([]);
    };
    let complete = |tool: &Value| {
        let mut tool = tool.clone();
        if tool["type"] == "function" {
            for (name, otherwise) in [
                ("description", Value::Null),
                ("parameters", Value::Null),
                ("strict", true.into()),
            ] {
                if tool[name].is_null() {
                    tool[name] = otherwise;
                }
            }
        }
        tool
    };
    tools.iter().map(complete).collect()
}
