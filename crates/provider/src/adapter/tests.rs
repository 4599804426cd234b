//! Frames that the scripted provider does not send.

use minichat_config::tenant::ProviderKind;
use minichat_core::turn::{IncompleteReason, Usage};
use proptest::prelude::*;

use super::Translator;
use crate::event::{Completion, ProviderEvent, ResponseId, Terminal};
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
