//! The streams and documents of both protocols (PLAT-122).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::answer::Step;
use crate::script::Script;
use crate::writer::{Protocol, Request, writer};
use crate::{Call, Ending, Scenario, Tokens, UsageDetails, steps};

const RESPONSES: Protocol = Protocol::Responses;
const CHAT: Protocol = Protocol::ChatCompletions;

/// The last user text of a request, and what else it asks for.
fn request(protocol: Protocol, text: &str, more: Value) -> Value {
    let messages = json!([{"role": "user", "content": text}]);
    let mut body = match protocol {
        Protocol::Responses => json!({"model": "m", "input": messages}),
        Protocol::ChatCompletions => json!({"model": "m", "messages": messages}),
    };
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

/// Every event: its name, which may be empty, and its data.
fn events(protocol: Protocol, body: &Value, scenario: &Scenario) -> Vec<(String, Value)> {
    let script = Script::new(body, scenario);
    let mut writer = writer(protocol, Request { body, number: 1 }, scenario);
    let steps = steps::stream(writer.as_mut(), &script, scenario.hold_before_end);
    let mut bytes = Vec::new();
    for step in steps {
        if let Step::Chunk(piece) | Step::Bytes(piece) = step {
            bytes.extend_from_slice(&piece);
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let frames = text.split_terminator("\n\n");
    frames
        .filter(|frame| *frame != "data: [DONE]")
        .map(|frame| {
            let (name, data) = match frame.strip_prefix("event: ") {
                Some(named) => named.split_once('\n').unwrap(),
                None => ("", frame),
            };
            let data = data.strip_prefix("data: ").unwrap();
            (name.to_owned(), serde_json::from_str(data).unwrap())
        })
        .collect()
}

fn document(protocol: Protocol, body: &Value, scenario: &Scenario) -> (u16, Value) {
    let script = Script::new(body, scenario);
    let mut writer = writer(protocol, Request { body, number: 1 }, scenario);
    let (status, steps) = steps::document(writer.as_mut(), &script, false);
    let [Step::Bytes(bytes)] = &steps[..] else {
        panic!("{steps:?}");
    };
    (status.as_u16(), serde_json::from_slice(bytes).unwrap())
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    let names = events.iter().map(|(name, _)| name.as_str());
    names
        .map(|name| name.strip_prefix("response.").unwrap_or(name))
        .collect()
}

fn text_of(events: &[(String, Value)]) -> String {
    let deltas = events
        .iter()
        .filter_map(|(name, data)| match name.as_str() {
            "response.output_text.delta" => data["delta"].as_str(),
            "" => data["choices"][0]["delta"]["content"].as_str(),
            _ => None,
        });
    deltas.collect()
}

fn search() -> Call {
    Call::WebSearch {
        query: "weather".to_owned(),
    }
}

fn function() -> Call {
    Call::Function {
        name: "f".to_owned(),
        arguments: r#"{"x":"ä"}"#.to_owned(),
    }
}

#[test]
fn a_message_has_every_event_of_its_life_in_order() {
    let body = request(RESPONSES, "hello", json!({}));
    let events = events(RESPONSES, &body, &Scenario::default());
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ];
    assert_eq!(names(&events), expected);
    for (index, (name, data)) in events.iter().enumerate() {
        assert_eq!(data["sequence_number"], index, "{name}");
        assert_eq!(data["type"], name.as_str());
    }
    let text = "Hello! How can I help?";
    assert_eq!(text_of(&events), text);
    let item = &events[8].1["item"];
    assert_eq!(events[6].1["text"], text);
    assert_eq!(events[7].1["part"], item["content"][0]);
    assert_eq!(events[9].1["response"]["output"], json!([item]));
    assert_eq!(item["content"][0]["text"], text);
    for (_, data) in &events[3..8] {
        assert_eq!(data["item_id"], item["id"]);
        assert_eq!(
            (&data["output_index"], &data["content_index"]),
            (&json!(0), &json!(0))
        );
    }
}

#[test]
fn the_short_order_has_the_text_and_both_ends() {
    let body = request(RESPONSES, "hello", json!({}));
    let scenario = Scenario {
        short_order: true,
        ..Scenario::default()
    };
    let short = events(RESPONSES, &body, &scenario);
    let expected = [
        "created",
        "output_text.delta",
        "output_text.delta",
        "completed",
    ];
    assert_eq!(names(&short), expected);
    assert_eq!(text_of(&short), "Hello! How can I help?");
    assert!(
        short
            .iter()
            .all(|(_, data)| data["sequence_number"].is_null())
    );

    let body = request(CHAT, "hello", json!({}));
    let short = events(CHAT, &body, &scenario);
    assert_eq!(short.len(), 4);
    assert_eq!(text_of(&short), "Hello! How can I help?");
    assert_eq!(short[3].1["usage"]["total_tokens"], 62);
}

#[test]
fn every_trigger_has_its_text_its_calls_and_its_usage() {
    let offered = json!({"tools": [
        {"type": "web_search"}, {"type": "file_search"}, {"type": "code_interpreter"},
    ]});
    for (trigger, text, call, counts) in [
        ("PING", "PONG", None, (50, 2)),
        (
            "SEARCH: x",
            "Searching...found results",
            Some("web_search_call"),
            (80, 15),
        ),
        (
            "FILESEARCH: x",
            "Based on docs",
            Some("file_search_call"),
            (200, 10),
        ),
        (
            "CODEINTERP: x",
            "The answer is 42.",
            Some("code_interpreter_call"),
            (300, 20),
        ),
        (
            "Write it",
            "Once upon a time there was a story.",
            None,
            (100, 50),
        ),
        ("anything", "Hello! How can I help?", None, (50, 12)),
    ] {
        for scenario in [false, true].map(|short_order| Scenario {
            short_order,
            ..Scenario::default()
        }) {
            let body = request(RESPONSES, trigger, offered.clone());
            let given = events(RESPONSES, &body, &scenario);
            assert_eq!(text_of(&given), text, "{trigger}");
            let response = &given.last().unwrap().1["response"];
            let usage = &response["usage"];
            assert_eq!(usage["input_tokens"], counts.0, "{trigger}");
            assert_eq!(usage["output_tokens"], counts.1, "{trigger}");
            let ends = given
                .iter()
                .filter(|(name, _)| name.ends_with("_call.completed"));
            let ends: Vec<&str> = ends.map(|(name, _)| name.as_str()).collect();
            let expected: Vec<String> = call
                .iter()
                .map(|call| format!("response.{call}.completed"))
                .collect();
            assert_eq!(ends, expected, "{trigger}");
        }
        let plain = request(RESPONSES, trigger, json!({}));
        let given = events(RESPONSES, &plain, &Scenario::default());
        assert!(
            !given.iter().any(|(name, _)| name.contains("_call")),
            "{trigger}"
        );
    }
}

#[test]
fn failed_and_truncated_answers_end_as_the_trigger_says() {
    let default = Scenario::default();
    let failed = events(RESPONSES, &request(RESPONSES, "ERROR", json!({})), &default);
    let (name, data) = failed.last().unwrap();
    assert_eq!(
        (name.as_str(), text_of(&failed).as_str()),
        ("response.failed", "Partial")
    );
    assert_eq!(data["response"]["error"]["code"], "server_error");
    let cut = events(
        RESPONSES,
        &request(RESPONSES, "TRUNCATE", json!({})),
        &default,
    );
    let (name, data) = cut.last().unwrap();
    assert_eq!(name, "response.incomplete");
    assert_eq!(
        data["response"]["incomplete_details"]["reason"],
        "max_output_tokens"
    );
    assert_eq!(data["response"]["output"][0]["status"], "incomplete");
    let cut = events(CHAT, &request(CHAT, "TRUNCATE", json!({})), &default);
    assert_eq!(
        cut.last().unwrap().1["choices"][0]["finish_reason"],
        "length"
    );
    let failed = events(CHAT, &request(CHAT, "ERROR", json!({})), &default);
    let error = &failed.last().unwrap().1["error"];
    assert_eq!(error["type"], "server_error");
    assert!(error["message"].is_string() && error["param"].is_null());
}

#[test]
fn scripted_calls_come_before_the_text_as_items_of_their_own() {
    let results = json!([{"file_id": "file-1", "filename": "a.txt", "score": 0.5, "text": "t"}]);
    let scenario = Scenario::calls(vec![
        search(),
        Call::FileSearch {
            queries: vec!["q".to_owned()],
            results: results.as_array().unwrap().clone(),
        },
        Call::CodeInterpreter {
            code: "1 + 1".to_owned(),
            logs: "2\n".to_owned(),
        },
        function(),
    ]);
    let body = request(RESPONSES, "PING", json!({}));
    let given = events(RESPONSES, &body, &scenario);
    let response = &given.last().unwrap().1["response"];
    let output = response["output"].as_array().unwrap();
    let types: Vec<&str> = output
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    let expected = [
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "function_call",
        "message",
    ];
    assert_eq!(types, expected);
    assert!(output.iter().all(|item| item["status"] == "completed"));
    assert_eq!(output[0]["action"]["query"], "weather");
    assert_eq!(output[1]["results"], Value::Null, "they were not asked for");
    assert_eq!(output[3]["arguments"], r#"{"x":"ä"}"#);
    let pieces = given
        .iter()
        .filter(|(name, _)| name.ends_with("arguments.delta"));
    let pieces: String = pieces
        .map(|(_, data)| data["delta"].as_str().unwrap())
        .collect();
    assert_eq!(pieces, r#"{"x":"ä"}"#);
    let searched = |name: &str| given.iter().find(|(it, _)| it == name).unwrap().1.clone();
    assert_eq!(
        searched("response.file_search_call.completed")["results"],
        results
    );
    let outputs = &searched("response.code_interpreter_call.completed")["outputs"];
    assert_eq!(outputs[0], json!({"type": "logs", "logs": "2\n"}));

    let asking = json!({"include": ["file_search_call.results", "code_interpreter_call.outputs"]});
    let body = request(RESPONSES, "PING", asking);
    let (_, response) = document(RESPONSES, &body, &scenario);
    assert_eq!(response["output"][1]["results"], results);
    assert_eq!(response["output"][2]["outputs"], *outputs);
}

/// An item begins once, ends once, and every event between names it.
#[test]
fn every_event_belongs_to_an_open_item() {
    let tools = json!({"tools": [{"type": "web_search"}], "reasoning": {"summary": "auto"}});
    for trigger in ["SEARCH: x", "PING"] {
        let body = request(RESPONSES, trigger, tools.clone());
        let given = events(RESPONSES, &body, &Scenario::default());
        let mut open = BTreeMap::new();
        for (name, data) in &given {
            let index = data["output_index"].as_u64();
            match name.as_str() {
                "response.output_item.added" => {
                    assert_eq!(open.insert(index, data["item"]["id"].clone()), None);
                }
                "response.output_item.done" => {
                    assert_eq!(open.remove(&index), Some(data["item"]["id"].clone()));
                }
                _ if index.is_some() => assert_eq!(open[&index], data["item_id"], "{name}"),
                _ => {}
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn a_function_that_the_request_demands_is_called() {
    let parameters = json!({
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {}},
        "required": ["a", "b"],
    });
    let arguments = json!({"a": "scripted", "b": 1});
    let flat = json!({"type": "function", "name": "f", "parameters": parameters});
    for choice in [json!("required"), json!({"type": "function", "name": "f"})] {
        let body = request(
            RESPONSES,
            "hello",
            json!({"tools": [flat], "tool_choice": choice}),
        );
        let (_, response) = document(RESPONSES, &body, &Scenario::default());
        let call = &response["output"][0];
        assert_eq!(
            (&call["type"], &call["name"]),
            (&json!("function_call"), &json!("f"))
        );
        assert_eq!(call["arguments"], arguments.to_string());
    }
    let nested = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
    let body = request(
        CHAT,
        "hello",
        json!({"tools": [nested], "tool_choice": "required"}),
    );
    let (_, completion) = document(CHAT, &body, &Scenario::default());
    let choice = &completion["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let called = choice["message"]["tool_calls"][0].clone();
    assert_eq!(called["function"]["arguments"], arguments.to_string());
    let streamed = events(CHAT, &body, &Scenario::default());
    let calls = streamed
        .iter()
        .map(|(_, data)| &data["choices"][0]["delta"]["tool_calls"][0]);
    let calls: Vec<&Value> = calls.filter(|call| !call.is_null()).collect();
    assert_eq!(calls[0]["id"], called["id"]);
    let pieces = calls
        .iter()
        .map(|call| call["function"]["arguments"].as_str().unwrap());
    assert_eq!(pieces.collect::<String>(), arguments.to_string());
}

#[test]
fn annotations_and_parts_of_the_usage_are_scripted() {
    let web = json!({"type": "url_citation", "url": "https://example.com/a", "title": "A",
        "start_index": 0, "end_index": 4});
    let file =
        json!({"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": 4});
    let scenario = Scenario {
        annotations: Some(vec![web.clone(), file.clone()]),
        usage: Some(Tokens {
            input: 9,
            output: 8,
        }),
        usage_details: UsageDetails {
            cached: 7,
            reasoning: Some(6),
        },
        ..Scenario::default()
    };
    let given = events(RESPONSES, &request(RESPONSES, "PING", json!({})), &scenario);
    let added = given
        .iter()
        .filter(|(name, _)| name.ends_with("annotation.added"));
    let added: Vec<&Value> = added.map(|(_, data)| &data["annotation"]).collect();
    assert_eq!(added, [&web, &file]);
    let response = &given.last().unwrap().1["response"];
    assert_eq!(
        response["output"][0]["content"][0]["annotations"],
        json!([web, file])
    );
    assert_eq!(
        response["usage"],
        json!({
            "input_tokens": 9, "input_tokens_details": {"cached_tokens": 7},
            "output_tokens": 8, "output_tokens_details": {"reasoning_tokens": 6}, "total_tokens": 17,
        })
    );
    let body = request(
        CHAT,
        "PING",
        json!({"stream_options": {"include_usage": true}}),
    );
    let (_, completion) = document(CHAT, &body, &scenario);
    let cited = &completion["choices"][0]["message"]["annotations"];
    assert_eq!(cited[0]["url_citation"]["url"], "https://example.com/a");
    assert_eq!(
        cited.as_array().unwrap().len(),
        1,
        "the protocol has no citations of files"
    );
    let usage = &completion["usage"];
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 7);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 6);
    let streamed = events(CHAT, &body, &scenario);
    assert_eq!(streamed.last().unwrap().1["usage"], *usage);
    let unasked = events(CHAT, &request(CHAT, "PING", json!({})), &scenario);
    assert!(unasked.iter().all(|(_, data)| data["usage"].is_null()));
}

#[test]
fn a_document_says_what_the_stream_says() {
    let scenario = Scenario::calls(vec![search()]);
    let body = request(
        RESPONSES,
        "SEARCH: x",
        json!({"metadata": {"k": "v"}, "top_p": 0.5}),
    );
    let streamed = events(RESPONSES, &body, &scenario);
    let (status, response) = document(RESPONSES, &body, &scenario);
    assert_eq!(
        (status, &response),
        (200, &streamed.last().unwrap().1["response"])
    );
    assert_eq!(response["metadata"], json!({"k": "v"}));
    assert_eq!(response["top_p"], 0.5);

    let (status, completion) = document(
        CHAT,
        &request(CHAT, "PING", json!({})),
        &Scenario::default(),
    );
    assert_eq!(
        (status, &completion["object"]),
        (200, &json!("chat.completion"))
    );
    assert_eq!(completion["choices"][0]["message"]["content"], "PONG");

    for protocol in [RESPONSES, CHAT] {
        let (status, error) = document(
            protocol,
            &request(protocol, "ERROR", json!({})),
            &Scenario::default(),
        );
        assert_eq!(
            (status, &error["error"]["code"]),
            (500, &json!("server_error"))
        );
        let cut = Scenario::deltas(
            &["a"],
            Ending::Incomplete {
                reason: "max_output_tokens".to_owned(),
            },
        );
        assert_eq!(
            document(protocol, &request(protocol, "x", json!({})), &cut).0,
            200
        );
    }
}
