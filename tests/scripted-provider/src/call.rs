//! Calls of tools that an answer contains: their events and their items.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::writer::Request;

/// A call that the model makes while it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// A search of the web by the provider.
    WebSearch {
        /// What is searched for.
        query: String,
    },
    /// A search of vector stores by the provider.
    FileSearch {
        /// What is searched for.
        queries: Vec<String>,
        /// What is found, as the API writes it: `file_id`, `filename`, `score`,
        /// `text`.
        results: Vec<Value>,
    },
    /// A program that the provider runs.
    CodeInterpreter {
        /// Its text.
        code: String,
        /// What it prints.
        logs: String,
    },
    /// A function that the client is to run.
    Function {
        /// The function's name.
        name: String,
        /// A JSON object, as text.
        arguments: String,
    },
}

/// Name and data of an event.
pub(super) type Event = (&'static str, Value);

impl Call {
    /// The beginning of the ids of its items.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Self::WebSearch { .. } => "ws",
            Self::FileSearch { .. } => "fs",
            Self::CodeInterpreter { .. } => "ci",
            Self::Function { .. } => "fc",
        }
    }

    /// The events up to its work, without the members that every event has.
    pub(super) fn beginning(&self) -> Vec<Event> {
        match self {
            Self::WebSearch { .. } => vec![
                ("response.web_search_call.in_progress", json!({})),
                ("response.web_search_call.searching", json!({})),
            ],
            Self::FileSearch { .. } => vec![
                ("response.file_search_call.in_progress", json!({})),
                ("response.file_search_call.searching", json!({})),
            ],
            Self::CodeInterpreter { code, .. } => vec![
                ("response.code_interpreter_call.in_progress", json!({})),
                (
                    "response.code_interpreter_call_code.delta",
                    json!({"delta": code}),
                ),
                (
                    "response.code_interpreter_call_code.done",
                    json!({"code": code}),
                ),
                ("response.code_interpreter_call.interpreting", json!({})),
            ],
            Self::Function { arguments, .. } => halves(arguments)
                .map(|delta| {
                    (
                        "response.function_call_arguments.delta",
                        json!({"delta": delta}),
                    )
                })
                .into(),
        }
    }

    /// The event that ends its work. Results and outputs are in it for clients
    /// that do not read items.
    pub(super) fn ending(&self) -> Event {
        match self {
            Self::WebSearch { .. } => ("response.web_search_call.completed", json!({})),
            Self::FileSearch { results, .. } => (
                "response.file_search_call.completed",
                json!({"results": results}),
            ),
            Self::CodeInterpreter { logs, .. } => (
                "response.code_interpreter_call.completed",
                json!({"outputs": outputs(logs)}),
            ),
            Self::Function { name, arguments } => (
                "response.function_call_arguments.done",
                json!({"name": name, "arguments": arguments}),
            ),
        }
    }

    /// Its item when it begins.
    pub(super) fn begun_item(&self, id: &str) -> Value {
        let kind = self.item_type();
        let mut item = json!({"id": id, "type": kind, "status": "in_progress"});
        match self {
            Self::WebSearch { .. } => {}
            Self::FileSearch { .. } => {
                item["queries"] = json!([]);
                item["results"] = Value::Null;
            }
            Self::CodeInterpreter { .. } => {
                item["code"] = "".into();
                item["container_id"] = container_of(id).into();
                item["outputs"] = Value::Null;
            }
            Self::Function { name, .. } => {
                item["call_id"] = call_id_of(id).into();
                item["name"] = name.as_str().into();
                item["arguments"] = "".into();
            }
        }
        item
    }

    /// Its item when it has ended, with the results and outputs that `request`
    /// asks for.
    pub(super) fn done_item(&self, id: &str, request: Request<'_>) -> Value {
        let mut item = self.begun_item(id);
        item["status"] = "completed".into();
        match self {
            Self::WebSearch { query } => {
                item["action"] = json!({"type": "search", "query": query});
            }
            Self::FileSearch { queries, results } => {
                item["queries"] = json!(queries);
                if request.includes("file_search_call.results") {
                    item["results"] = json!(results);
                }
            }
            Self::CodeInterpreter { code, logs } => {
                item["code"] = code.as_str().into();
                if request.includes("code_interpreter_call.outputs") {
                    item["outputs"] = outputs(logs);
                }
            }
            Self::Function { arguments, .. } => item["arguments"] = arguments.as_str().into(),
        }
        item
    }

    fn item_type(&self) -> &'static str {
        match self {
            Self::WebSearch { .. } => "web_search_call",
            Self::FileSearch { .. } => "file_search_call",
            Self::CodeInterpreter { .. } => "code_interpreter_call",
            Self::Function { .. } => "function_call",
        }
    }
}

/// Arguments arrive in pieces.
pub(super) fn halves(text: &str) -> [&str; 2] {
    let middle = text.floor_char_boundary(text.len() / 2);
    let (first, second) = text.split_at(middle);
    [first, second]
}

fn outputs(logs: &str) -> Value {
    json!([{"type": "logs", "logs": logs}])
}

fn container_of(id: &str) -> String {
    format!("cntr_{id}")
}

fn call_id_of(id: &str) -> String {
    format!("call_{id}")
}
