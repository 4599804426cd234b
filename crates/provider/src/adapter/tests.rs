//! Frames that the scripted provider does not send.

use minichat_config::tenant::ProviderKind;
use minichat_core::HostedTool;
use minichat_core::stream::ToolEvent;
use minichat_core::turn::{IncompleteReason, Usage};
use proptest::prelude::*;

use super::Translator;
use crate::event::{Citation, Completion, ProviderEvent, ResponseId, Terminal};
use crate::failure::FailureKind;
use crate::sse::Event;

const KINDS: [ProviderKind; 3] = [
    ProviderKind::OpenAiResponses,
    ProviderKind::OpenAiChatCompletions,
    ProviderKind::VllmResponses,
];

/// Text and end of a stream of `(name, data)`.
fn translate(kind: ProviderKind, events: &[(&str, &str)]) -> (String, Option<Terminal>) {
    let mut translator = Translator::new(kind);
    let (mut text, mut end) = (String::new(), None);
    for (name, data) in events {
        translator.feed(Event {
            name: name.as_bytes(),
            data: data.as_bytes(),
        });
        while let Some(event) = translator.take() {
            match event {
                ProviderEvent::Delta { text: piece, .. } => text.push_str(piece),
                ProviderEvent::TextWasReasoning => text.clear(),
                ProviderEvent::Progress | ProviderEvent::Tool(_) => {}
                ProviderEvent::Terminal(terminal) => end = Some(terminal),
            }
        }
    }
    (text, end)
}

/// The same for the unnamed frames of chat completions.
fn chat(frames: &[&str]) -> (String, Option<Terminal>) {
    let events: Vec<(&str, &str)> = frames.iter().map(|frame| ("", *frame)).collect();
    translate(ProviderKind::OpenAiChatCompletions, &events)
}

fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage {
        input_tokens,
        output_tokens,
        ..Usage::default()
    }
}

fn completed(response_id: Option<&str>, usage: Option<Usage>) -> Terminal {
    Terminal::Completed(Completion {
        usage,
        response_id: response_id.and_then(ResponseId::new),
        citations: Vec::new(),
    })
}

/// TURN-22: content, finish reason and usage of one frame, in that order.
#[test]
fn one_chat_frame_may_hold_everything() {
    let frame = r#"{"id":"c1","choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":9,"completion_tokens":1,
            "prompt_tokens_details":{"cached_tokens":4},
            "completion_tokens_details":{"reasoning_tokens":1}}}"#;
    let expected = Usage {
        cache_read_input_tokens: 4,
        reasoning_tokens: 1,
        ..usage(9, 1)
    };
    let (text, end) = chat(&[frame]);
    assert_eq!(text, "Hi");
    assert_eq!(end, Some(completed(Some("c1"), Some(expected))));
}

/// PLAT-114: `[DONE]` with a finish reason and no usage.
#[test]
fn done_ends_a_chat_answer_only_after_a_finish_reason() {
    let delta = r#"{"id":"c1","choices":[{"delta":{"content":"Hi"}}]}"#;
    let finish = r#"{"id":"c2","choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}"#;
    assert_eq!(chat(&[delta, "[DONE]"]).1, None);
    assert_eq!(
        chat(&[delta, finish, " [DONE] "]).1,
        Some(completed(Some("c1"), None))
    );
}

/// PLAT-114: a content filter's report before the answer has neither choices
/// nor usage.
#[test]
fn a_chat_frame_without_choices_and_usage_is_a_sign_of_life() {
    let filter = r#"{"id":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#;
    let null = r#"{"id":"c1","choices":null}"#;
    assert_eq!(chat(&[filter, null]), (String::new(), None));
}

/// TURN-22
#[test]
fn early_ends_of_chat_answers_keep_their_reason() {
    for (reason, expected) in [
        ("length", IncompleteReason::MaxTokens),
        ("content_filter", IncompleteReason::ContentFilter),
    ] {
        let finish = format!(r#"{{"choices":[{{"finish_reason":"{reason}"}}]}}"#);
        let spent = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
        let end = chat(&[&finish, spent]).1;
        let Some(Terminal::Incomplete { reason, completion }) = end else {
            panic!("{end:?}");
        };
        assert_eq!(reason, expected);
        assert_eq!(completion.usage, Some(usage(1, 2)));
    }
}

/// TURN-19
#[test]
fn an_error_may_be_a_text_or_carry_a_number_as_code() {
    for (frame, message, detail) in [
        (r#"{"error":"overloaded"}"#, "overloaded", "overloaded"),
        (
            r#"{"error":{"code":500,"message":"boom"}}"#,
            "boom",
            "500: boom",
        ),
    ] {
        let Some(Terminal::Failed(failure)) = chat(&[frame]).1 else {
            panic!("{frame}");
        };
        assert_eq!(failure.kind, FailureKind::Reported);
        assert_eq!((&*failure.message, &*failure.detail), (message, detail));
    }
}

/// TURN-20: the payload of an ending may lie at top level.
#[test]
fn a_flat_completion_is_read_like_a_nested_one() {
    let object = r#"{"id":"resp_1","error":null,"usage":{"input_tokens":5}}"#;
    let nested = format!(r#"{{"response":{object}}}"#);
    for data in [object, nested.as_str()] {
        let events = [("response.completed", data)];
        let end = translate(ProviderKind::OpenAiResponses, &events).1;
        let expected = completed(Some("resp_1"), Some(usage(5, 0)));
        assert_eq!(end, Some(expected), "{data}");
    }
}

#[test]
fn nothing_follows_a_terminal_event() {
    let events = [
        ("response.completed", "{}"),
        ("response.output_text.delta", r#"{"delta":"late"}"#),
        ("response.failed", "{}"),
    ];
    let (text, end) = translate(ProviderKind::OpenAiResponses, &events);
    assert_eq!((text.as_str(), end), ("", Some(completed(None, None))));
}

/// Data that is almost valid.
fn data() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(r#"{"delta":"a<think>b"}"#.to_owned()),
        Just(r#"{"delta":7}"#.to_owned()),
        Just(r#"{"type":"response.completed","response":{}}"#.to_owned()),
        Just(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"},{}]}"#.to_owned()),
        Just(r#"{"choices":[],"usage":{}}"#.to_owned()),
        Just("[DONE]".to_owned()),
        r#"[{}\[\]":,a0-]{0,12}"#,
    ]
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just("response.output_text.delta"),
        Just("response.completed"),
        Just("response.incomplete"),
        Just("response.failed"),
        Just("error"),
        Just("response.future"),
    ]
}

proptest! {
    #[test]
    fn every_event_is_progress_text_or_the_one_end(
        events in proptest::collection::vec((name(), data()), 0..12),
    ) {
        for kind in KINDS {
            let mut translator = Translator::new(kind);
            let mut has_ended = false;
            for (name, data) in &events {
                translator.feed(Event { name: name.as_bytes(), data: data.as_bytes() });
                let mut gave = 0;
                while let Some(event) = translator.take() {
                    gave += 1;
                    prop_assert!(!has_ended, "{event:?} after the end");
                    has_ended = matches!(event, ProviderEvent::Terminal(_));
                    if let ProviderEvent::Delta { text, .. } = event {
                        prop_assert!(!text.is_empty());
                    }
                }
                prop_assert!(gave > 0 || has_ended);
                prop_assert_eq!(has_ended, translator.is_finished());
            }
        }
    }
}

/// The calls of tools in a stream, and its sources.
fn tools_and_sources(events: &[(&str, &str)]) -> (Vec<ToolEvent>, Vec<Citation>) {
    let mut translator = Translator::new(ProviderKind::OpenAiResponses);
    let (mut tools, mut sources) = (Vec::new(), Vec::new());
    for (name, data) in events {
        translator.feed(Event {
            name: name.as_bytes(),
            data: data.as_bytes(),
        });
        while let Some(event) = translator.take() {
            match event {
                ProviderEvent::Tool(tool) => tools.push(tool),
                ProviderEvent::Terminal(Terminal::Completed(completion)) => {
                    sources = completion.citations;
                }
                _ => {}
            }
        }
    }
    (tools, sources)
}

/// CONT-105: what the event has not says nothing about the call.
#[test]
fn a_call_counts_whatever_its_data_are() {
    let done = "response.code_interpreter_call.completed";
    let outputs =
        r#"{"outputs":[{"type":"logs","logs":"a"},{"type":"image"},7,{"type":"logs","logs":"b"}]}"#;
    let in_item = r#"{"item":{"outputs":[{"type":"logs","logs":"c"}]}}"#;
    let (tools, _) = tools_and_sources(&[
        (done, outputs),
        (done, in_item),
        (done, r#"{"outputs":"none"}"#),
        ("response.file_search_call.completed", "{}"),
        ("response.web_search_call.searching", "{}"),
        ("", r#"{"type":"response.web_search_call.completed"}"#),
    ]);
    let printed: Vec<_> = tools
        .iter()
        .map(|it| it.details.output.as_deref())
        .collect();
    assert_eq!(
        printed,
        [Some("a\nb"), Some("c"), Some(""), None, None, None]
    );
    assert_eq!(tools[3].details.files_searched, Some(0));
    assert_eq!(tools[4], ToolEvent::start(HostedTool::WebSearch));
    assert_eq!(tools[5].name, HostedTool::WebSearch);
}

/// CONT-108: spans count the characters of the whole answer.
#[test]
fn a_span_goes_over_all_parts_and_a_wrong_one_is_none() {
    let page = |start: &str, end: &str| {
        format!(r#"{{"type":"url_citation","url":"u","start_index":{start},"end_index":{end}}}"#)
    };
    let part = |text: &str, annotations: &[String]| {
        let annotations = annotations.join(",");
        format!(r#"{{"type":"output_text","text":"{text}","annotations":[{annotations}]}}"#)
    };
    let first = part(
        "äöü",
        &[
            page("1", "3"),
            page("2", "1"),
            page("0", "4"),
            page("1.5", "2"),
        ],
    );
    let second = part("xyz", &[page("0", "3"), page("3", "3"), page("-1", "2")]);
    let data = format!(
        r#"{{"response":{{"output":[{{"type":"reasoning"}},
            {{"type":"message","content":[{first}]}},{{"type":"message","content":[{second}]}}]}}}}"#
    );
    let (_, sources) = tools_and_sources(&[("response.completed", &data)]);
    let found: Vec<_> = sources
        .iter()
        .map(|it| {
            (
                it.span.map(|span| (span.start, span.end)),
                it.snippet.as_str(),
            )
        })
        .collect();
    let expected = [
        (Some((1, 3)), "öü"),
        (None, ""),
        (None, ""),
        (None, ""),
        (Some((3, 6)), "xyz"),
        (Some((6, 6)), ""),
        (None, ""),
    ];
    assert_eq!(found, expected);
}

/// What a provider may make clients read is bounded.
#[test]
fn sources_are_bounded() {
    let long = "é".repeat(5_000);
    let annotation =
        format!(r#"{{"type":"url_citation","url":"{long}","title":"{long}","text":"{long}"}}"#);
    let annotations = vec![annotation; 300].join(",");
    let data = format!(
        r#"{{"response":{{"output":[{{"content":[{{"text":"a","annotations":[{annotations}]}}]}}]}}}}"#
    );
    let (_, sources) = tools_and_sources(&[("response.completed", &data)]);
    assert_eq!(sources.len(), 256);
    for source in sources {
        assert_eq!(source.url, None);
        assert_eq!(
            [source.title, source.snippet].map(|it| it.chars().count()),
            [1024; 2]
        );
    }
}

/// PLAT-113: also the data of a call must be an object.
#[test]
fn a_call_that_cannot_be_read_ends_the_stream() {
    let events = [("response.web_search_call.completed", "{\"x")];
    let (_, end) = translate(ProviderKind::OpenAiResponses, &events);
    assert!(matches!(end, Some(Terminal::Failed(_))), "{end:?}");
}

/// D54: a provider that has run a tool has not refused the call.
#[test]
fn a_status_after_a_call_is_no_refusal() {
    let error = ("error", r#"{"code":"429","message":"slow down"}"#);
    let call = ("response.web_search_call.searching", "{}");
    for (events, is_refusal) in [(vec![error], true), (vec![call, error], false)] {
        let (_, end) = translate(ProviderKind::OpenAiResponses, &events);
        let Some(Terminal::Failed(failure)) = end else {
            panic!("{end:?}");
        };
        assert_eq!(failure.is_refusal(), is_refusal, "{events:?}");
    }
}
