//! The answers that the last user text selects (the table of PLAT-122).

use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Step;
use super::frames::{Frames, Protocol};
use super::scenario::{Ending, Scenario, Tokens};

/// Pause between the pieces of a `Write…` answer.
const WRITING_PAUSE: Duration = Duration::from_millis(300);

/// The selected answer, before a scenario changes it.
struct Script {
    pieces: Vec<Piece>,
    ending: Ending,
    annotations: Value,
    tokens: Tokens,
    pause: Duration,
}

enum Piece {
    Text(String),
    /// An event of a hosted tool.
    Tool(&'static str, Value),
}

/// The steps of the answer to `body`.
pub(super) fn steps(frames: &Frames, body: &Value, scenario: &Scenario) -> Vec<Step> {
    if let Some(steps) = raw_steps(scenario) {
        return steps;
    }
    let script = Script::of(body);
    let mut steps = Vec::new();
    if !scenario.without_created {
        steps.extend(frames.created().map(Step::Bytes));
    }
    let pieces = match &scenario.deltas {
        Some(deltas) => deltas.iter().cloned().map(Piece::Text).collect(),
        None => script.pieces,
    };
    let pause = match scenario.interval_ms {
        0 => script.pause,
        interval => Duration::from_millis(interval),
    };
    let mut text = String::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        if index > 0 && !pause.is_zero() {
            steps.push(Step::Wait(pause));
        }
        match piece {
            Piece::Text(piece) => {
                text.push_str(&piece);
                steps.push(Step::Chunk(frames.delta(&piece)));
            }
            Piece::Tool(name, payload) => steps.push(Step::Bytes(frames.event(name, payload))),
        }
    }
    let ending = match &scenario.ending {
        Ending::Trigger => &script.ending,
        scripted => scripted,
    };
    let usage = (!scenario.without_usage).then(|| {
        scenario.usage.unwrap_or(Tokens {
            input: script.tokens.input.max(50 * input_length(body)),
            output: script.tokens.output,
        })
    });
    let end = end_steps(frames, ending, &text, &script.annotations, usage);
    with_ending(steps, end, scenario)
}

/// The steps of an answer that the scenario has byte for byte.
pub(super) fn raw_steps(scenario: &Scenario) -> Option<Vec<Step>> {
    let raw = scenario.raw.clone()?;
    let steps = vec![Step::Bytes(raw.into())];
    Some(with_ending(steps, Vec::new(), scenario))
}

fn with_ending(mut steps: Vec<Step>, end: Vec<Step>, scenario: &Scenario) -> Vec<Step> {
    if scenario.hold_before_end {
        steps.push(Step::Hold);
    }
    let end = match (&scenario.raw, &scenario.ending) {
        (Some(_), Ending::Cut) => vec![Step::Flush, Step::Cut],
        (Some(_), Ending::Hang) => vec![Step::Hang],
        _ => end,
    };
    steps.extend(end);
    steps
}

fn end_steps(
    frames: &Frames,
    ending: &Ending,
    text: &str,
    annotations: &Value,
    usage: Option<Tokens>,
) -> Vec<Step> {
    let bytes = match ending {
        Ending::Trigger | Ending::Completed => frames.completed(text, annotations, usage, false),
        Ending::CompletedFlat => frames.completed(text, annotations, usage, true),
        Ending::Incomplete { reason } => frames.incomplete(reason, usage, false),
        Ending::IncompleteFlat { reason } => frames.incomplete(reason, usage, true),
        Ending::Failed { code, message } => frames.failed(code, message, usage, false),
        Ending::FailedFlat { code, message } => frames.failed(code, message, usage, true),
        Ending::Error { code, message } => frames.error(code, message, false),
        Ending::ErrorFlat { code, message } => frames.error(code, message, true),
        Ending::Missing => return Vec::new(),
        Ending::Cut => return vec![Step::Flush, Step::Cut],
        Ending::Hang => return vec![Step::Hang],
        Ending::Comments { every_ms } => {
            return vec![Step::Comments(Duration::from_millis(*every_ms))];
        }
    };
    vec![Step::Bytes(bytes)]
}

impl Script {
    fn of(body: &Value) -> Self {
        let text = last_user_text(body);
        let has_tool = |name: &str| {
            body["tools"]
                .as_array()
                .is_some_and(|tools| tools.iter().any(|tool| tool["type"] == name))
        };
        match text {
            "PING" => Self::saying(&["PONG"], 30, 2),
            "ERROR" => Self::failing(),
            "TRUNCATE" => Self::truncated(),
            text if text.starts_with("SEARCH:") => Self::web_search(has_tool("web_search")),
            text if text.starts_with("FILESEARCH:") => Self::file_search(has_tool("file_search")),
            text if text.starts_with("CODEINTERP:") => Self::code(has_tool("code_interpreter")),
            text if text.starts_with("Write") => Self::writing(),
            _ => Self::saying(&["Hello! ", "How can I help?"], 50, 12),
        }
    }

    fn saying(pieces: &[&str], input: u64, output: u64) -> Self {
        Self {
            pieces: pieces.iter().map(|piece| text(piece)).collect(),
            ending: Ending::Completed,
            annotations: json!([]),
            tokens: Tokens { input, output },
            pause: Duration::ZERO,
        }
    }

    fn failing() -> Self {
        Self {
            ending: Ending::Failed {
                code: "server_error".to_owned(),
                message: "The server had an error while processing your request".to_owned(),
            },
            ..Self::saying(&["Partial"], 0, 0)
        }
    }

    fn truncated() -> Self {
        Self {
            ending: Ending::Incomplete {
                reason: "max_output_tokens".to_owned(),
            },
            ..Self::saying(&["This answer is cut"], 50, 100)
        }
    }

    fn writing() -> Self {
        let words = [
            "Once ", "upon ", "a ", "time ", "there ", "was ", "a story.",
        ];
        Self {
            pause: WRITING_PAUSE,
            ..Self::saying(&words, 100, 50)
        }
    }

    fn web_search(has_tool: bool) -> Self {
        let start = tool(
            "response.web_search_call.searching",
            json!({"item_id": "ws_mock"}),
        );
        let done = tool(
            "response.web_search_call.completed",
            json!({"item_id": "ws_mock"}),
        );
        let citation = json!([{
            "type": "url_citation", "url": "https://example.com/found", "title": "Found",
            "start_index": 0, "end_index": 9,
        }]);
        Self {
            pieces: with_tools(
                has_tool,
                vec![
                    text("Searching"),
                    start,
                    text("...found"),
                    done,
                    text(" results"),
                ],
            ),
            annotations: citation,
            ..Self::saying(&[], 80, 15)
        }
    }

    fn file_search(has_tool: bool) -> Self {
        let start = tool(
            "response.file_search_call.searching",
            json!({"item_id": "fs_mock"}),
        );
        let results = json!({"item_id": "fs_mock", "results": [
            {"file_id": "file-mock-000000000000", "filename": "notes.txt", "score": 0.9, "text": "found"},
        ]});
        let done = tool("response.file_search_call.completed", results);
        let citation = json!([{
            "type": "file_citation", "file_id": "file-mock-000000000000",
            "filename": "notes.txt", "index": 0,
        }]);
        Self {
            pieces: with_tools(has_tool, vec![start, done, text("Based on docs")]),
            annotations: citation,
            ..Self::saying(&[], 200, 10)
        }
    }

    fn code(has_tool: bool) -> Self {
        let item = || json!({"item_id": "ci_mock"});
        let outputs = json!({"item_id": "ci_mock", "outputs": [{"type": "logs", "logs": "42\n"}]});
        Self {
            pieces: with_tools(
                has_tool,
                vec![
                    tool("response.code_interpreter_call.in_progress", item()),
                    tool("response.code_interpreter_call.interpreting", item()),
                    tool("response.code_interpreter_call.completed", outputs),
                    text("The "),
                    text("answer "),
                    text("is 42."),
                ],
            ),
            ..Self::saying(&[], 300, 20)
        }
    }
}

fn text(piece: &str) -> Piece {
    Piece::Text(piece.to_owned())
}

fn tool(name: &'static str, payload: Value) -> Piece {
    Piece::Tool(name, payload)
}

/// Tool events are left out if the request does not offer the tool.
fn with_tools(has_tool: bool, mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.retain(|piece| has_tool || matches!(piece, Piece::Text(_)));
    pieces
}

/// The conversation of a request: `input` or `messages`.
fn conversation(body: &Value) -> &Value {
    if body["input"].is_null() {
        &body["messages"]
    } else {
        &body["input"]
    }
}

/// The text that selects the answer: a string `input`, or the last entry with
/// role user: its string content or its first text part.
fn last_user_text(body: &Value) -> &str {
    let conversation = conversation(body);
    if let Some(text) = conversation.as_str() {
        return text;
    }
    let last = conversation
        .as_array()
        .and_then(|entries| entries.iter().rev().find(|entry| entry["role"] == "user"));
    let Some(content) = last.map(|entry| &entry["content"]) else {
        return "";
    };
    content.as_str().unwrap_or_else(|| {
        content
            .as_array()
            .and_then(|parts| parts.iter().find_map(|part| part["text"].as_str()))
            .unwrap_or_default()
    })
}

fn input_length(body: &Value) -> u64 {
    conversation(body)
        .as_array()
        .map_or(1, |entries| entries.len() as u64)
}

/// A whole answer without a stream, for requests that do not want one.
pub(super) fn whole_answer(frames: &Frames, body: &Value) -> Value {
    let script = Script::of(body);
    let text: String = script
        .pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Tool(..) => None,
        })
        .collect();
    let Tokens { input, output } = script.tokens;
    match frames.protocol {
        Protocol::Responses => json!({
            "id": frames.response_id, "object": "response", "status": "completed",
            "output": [{"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": text, "annotations": script.annotations},
            ]}],
            "usage": {"input_tokens": input, "output_tokens": output},
        }),
        Protocol::ChatCompletions => json!({
            "id": frames.response_id, "object": "chat.completion",
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": input, "completion_tokens": output},
        }),
    }
}
