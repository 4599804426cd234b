//! The answers that the last user text selects (the table of PLAT-122), and
//! what a scenario changes about them.

use std::time::Duration;

use serde_json::{Value, json};

use super::call::Call;
use super::scenario::{Ending, Scenario, Tokens};
use super::writer::Usage;

/// Pause between the pieces of a `Write…` answer.
const WRITING_PAUSE: Duration = Duration::from_millis(300);

/// What an answer says, in any protocol.
pub(super) struct Script {
    pub(super) reasoning: Vec<String>,
    pub(super) pieces: Vec<Piece>,
    /// Between two pieces.
    pub(super) pause: Duration,
    pub(super) ending: Ending,
    pub(super) annotations: Vec<Value>,
    pub(super) usage: Option<Usage>,
    /// Base of the usage.
    tokens: Tokens,
}

pub(super) enum Piece {
    Text(String),
    /// A call begins.
    Begin(Call),
    /// The call that began ends.
    End,
}

impl Script {
    /// The answer to `body`, as `scenario` changes it.
    pub(super) fn new(body: &Value, scenario: &Scenario) -> Self {
        let mut script = Self::of(body);
        let wants_summary = !body["reasoning"]["summary"].is_null();
        script.reasoning = match &scenario.reasoning {
            Some(pieces) => pieces.clone(),
            None if wants_summary => vec!["Thinking ".to_owned(), "it over.".to_owned()],
            None => Vec::new(),
        };
        script.usage = (!scenario.without_usage).then(|| script.usage(body, scenario));
        script.pieces = changed_pieces(script.pieces, scenario);
        if scenario.interval_ms > 0 {
            script.pause = Duration::from_millis(scenario.interval_ms);
        }
        if scenario.ending != Ending::Trigger {
            script.ending = scenario.ending.clone();
        }
        if let Some(annotations) = &scenario.annotations {
            script.annotations.clone_from(annotations);
        }
        script
    }

    fn usage(&self, body: &Value, scenario: &Scenario) -> Usage {
        let Tokens { input, output } = scenario.usage.unwrap_or(Tokens {
            input: self.tokens.input.max(50 * input_length(body)),
            output: self.tokens.output,
        });
        let details = scenario.usage_details;
        let thought = if self.reasoning.is_empty() {
            0
        } else {
            output / 2
        };
        Usage {
            input,
            cached: details.cached,
            output,
            reasoning: details.reasoning.unwrap_or(thought),
        }
    }

    fn of(body: &Value) -> Self {
        if let Some(call) = demanded_function(body) {
            return Self::calling(call);
        }
        let text = last_user_text(body);
        if body["metadata"]["request_type"] == "summary" {
            return Self::summary(text);
        }
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
            reasoning: Vec::new(),
            pieces: pieces.iter().map(|piece| text(piece)).collect(),
            pause: Duration::ZERO,
            ending: Ending::Completed,
            annotations: Vec::new(),
            usage: None,
            tokens: Tokens { input, output },
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
        let search = Call::WebSearch {
            query: "found".to_owned(),
        };
        let pieces = vec![
            text("Searching"),
            Piece::Begin(search),
            text("...found"),
            Piece::End,
            text(" results"),
        ];
        let citation = json!({
            "type": "url_citation", "url": "https://example.com/found", "title": "Found",
            "start_index": 0, "end_index": 9,
        });
        Self {
            pieces: with_tools(has_tool, pieces),
            annotations: vec![citation],
            ..Self::saying(&[], 80, 15)
        }
    }

    fn file_search(has_tool: bool) -> Self {
        let result = json!({
            "file_id": "file-mock-000000000000", "filename": "notes.txt", "score": 0.9,
            "text": "found", "attributes": {},
        });
        let search = Call::FileSearch {
            queries: vec!["found".to_owned()],
            results: vec![result],
        };
        let citation = json!({
            "type": "file_citation", "file_id": "file-mock-000000000000",
            "filename": "notes.txt", "index": 0,
        });
        let pieces = vec![Piece::Begin(search), Piece::End, text("Based on docs")];
        Self {
            pieces: with_tools(has_tool, pieces),
            annotations: vec![citation],
            ..Self::saying(&[], 200, 10)
        }
    }

    fn code(has_tool: bool) -> Self {
        let run = Call::CodeInterpreter {
            code: "print(6 * 7)".to_owned(),
            logs: "42\n".to_owned(),
        };
        let pieces = vec![
            Piece::Begin(run),
            Piece::End,
            text("The "),
            text("answer "),
            text("is 42."),
        ];
        Self {
            pieces: with_tools(has_tool, pieces),
            ..Self::saying(&[], 300, 20)
        }
    }

    /// Keeps every word of the conversation that begins with `fact-`.
    fn summary(conversation: &str) -> Self {
        let mut facts: Vec<&str> = Vec::new();
        for word in conversation.split_whitespace() {
            if word.starts_with("fact-") && !facts.contains(&word) {
                facts.push(word);
            }
        }
        let text = format!("<summary>Facts: {}</summary>", facts.join(" "));
        Self::saying(&[&text], 100, 20)
    }

    fn calling(call: Call) -> Self {
        Self {
            pieces: vec![Piece::Begin(call), Piece::End],
            ..Self::saying(&[], 60, 18)
        }
    }
}

/// The pieces of `triggered`, unless the scenario has others.
fn changed_pieces(triggered: Vec<Piece>, scenario: &Scenario) -> Vec<Piece> {
    if scenario.calls.is_none() && scenario.deltas.is_none() {
        return triggered;
    }
    let calls = scenario.calls.iter().flatten();
    let calls = calls.flat_map(|call| [Piece::Begin(call.clone()), Piece::End]);
    let texts: Vec<Piece> = match &scenario.deltas {
        Some(deltas) => deltas.iter().map(|delta| text(delta)).collect(),
        None => with_tools(false, triggered),
    };
    calls.chain(texts).collect()
}

fn text(piece: &str) -> Piece {
    Piece::Text(piece.to_owned())
}

/// Calls are left out if the request does not offer the tool.
fn with_tools(has_tool: bool, mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.retain(|piece| has_tool || matches!(piece, Piece::Text(_)));
    pieces
}

/// A call of the function that the request demands with `tool_choice`.
fn demanded_function(body: &Value) -> Option<Call> {
    let choice = &body["tool_choice"];
    let wanted = [&choice["name"], &choice["function"]["name"]]
        .into_iter()
        .find_map(Value::as_str);
    if choice != "required" && wanted.is_none() {
        return None;
    }
    let functions = body["tools"].as_array()?.iter();
    functions
        .filter(|tool| tool["type"] == "function")
        // Chat completions have its members in a member of its own.
        .map(|tool| {
            if tool["function"].is_null() {
                tool
            } else {
                &tool["function"]
            }
        })
        .filter_map(|function| Some((function["name"].as_str()?, &function["parameters"])))
        .find(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
        .map(|(name, parameters)| Call::Function {
            name: name.to_owned(),
            arguments: arguments_for(parameters).to_string(),
        })
}

/// Arguments with the members that a JSON schema requires.
fn arguments_for(schema: &Value) -> Value {
    let required = schema["required"].as_array().into_iter().flatten();
    required
        .filter_map(Value::as_str)
        .map(|name| {
            let value = match schema["properties"][name]["type"].as_str() {
                Some("integer" | "number") => 1.into(),
                Some("boolean") => true.into(),
                Some("array") => json!([]),
                Some("object") => json!({}),
                _ => "scripted".into(),
            };
            (name.to_owned(), value)
        })
        .collect()
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
