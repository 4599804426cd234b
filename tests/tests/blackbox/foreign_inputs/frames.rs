//! The same kinds of fault in other fields and frames.

use minichat_tests::on_each_database;
use minichat_tests::raw_provider::{answer, chat_stream, responses_stream, stream};
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;

use super::{CHAT, End, Place, RESPONSES, UNKNOWN, USUAL, VLLM};

const FAILED: End = End::Failed("provider_error", "estimated");

/// A stream with this first chat frame, then a finish reason and usage.
fn chat_with(first: &str) -> Vec<u8> {
    chat_stream(&[
        first,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
    ])
}

/// A completed response with this id and usage.
fn completed_with(id: &str, usage: &str) -> Vec<u8> {
    let end = format!(r#"{{"response":{{"id":{id},"usage":{usage}}}}}"#);
    responses_stream(&[
        ("response.output_text.delta", r#"{"delta":"Hi"}"#),
        ("response.completed", &end),
    ])
}

/// Ids that fit no column, as JSON.
fn odd_ids() -> Vec<String> {
    vec![
        format!("\"{}\"", "é".repeat(129)),
        format!("\"{}\"", "😀".repeat(200)),
        "\"a\\u0000b\"".to_owned(),
        "\"\\ud83d\"".to_owned(),
        "12345678901234567890123".to_owned(),
        "{}".to_owned(),
        "\"\"".to_owned(),
    ]
}

/// Invalid counts, as JSON.
const ODD_COUNTS: [&str; 9] = [
    "-1",
    "1099511627777",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e400",
    "2.5",
    "\"9\"",
    "[]",
];

on_each_database! {
    /// D42: ids of chat completions, in every frame.
    async fn no_id_decides_whether_a_turn_ends(env) {
        let place = Place::new(&env, CHAT).await?;
        for id in odd_ids() {
            let frame = format!(r#"{{"id":{id},"choices":[{{"delta":{{"content":"Hi"}}}}]}}"#);
            place.check(&id, chat_with(&frame), "Hi", USUAL).await?;
            let failed = format!(r#"{{"id":{id},"error":{{"message":"no"}}}}"#);
            place.check(&id, chat_stream(&[&failed]), "", FAILED).await?;
        }
    }

    /// D42: ids of the Responses API, at every kind of end.
    async fn no_id_of_a_response_decides_whether_a_turn_ends(env) {
        for kind in [RESPONSES, VLLM] {
            let place = Place::new(&env, kind).await?;
            for id in odd_ids() {
                let usage = r#"{"input_tokens":9,"output_tokens":3}"#;
                place.check(&id, completed_with(&id, usage), "Hi", USUAL).await?;
                let failed = format!(r#"{{"response":{{"id":{id},"error":{{"message":"no"}}}}}}"#);
                let failed = responses_stream(&[("response.failed", &failed)]);
                place.check(&id, failed, "", FAILED).await?;
            }
            place.stack.stop().await?;
        }
    }

    /// D42, D26: a count out of bounds makes the usage unknown.
    async fn no_count_decides_whether_a_turn_ends(env) {
        let place = Place::new(&env, CHAT).await?;
        for count in ODD_COUNTS {
            for usage in [
                format!(r#"{{"prompt_tokens":{count},"completion_tokens":3}}"#),
                format!(r#"{{"prompt_tokens":9,"completion_tokens":{count}}}"#),
                format!(r#"{{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{{"cached_tokens":{count}}}}}"#),
                format!(r#"{{"prompt_tokens":9,"completion_tokens":3,"completion_tokens_details":{{"reasoning_tokens":{count}}}}}"#),
            ] {
                let frames = [
                    r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#.to_owned(),
                    format!(r#"{{"choices":[],"usage":{usage}}}"#),
                ];
                let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
                place.check(&usage, chat_stream(&frames), "Hi", UNKNOWN).await?;
            }
        }
    }

    /// D42, D26: the same for the Responses API, also if it fails.
    async fn no_count_of_a_response_decides_whether_a_turn_ends(env) {
        let place = Place::new(&env, RESPONSES).await?;
        for count in ODD_COUNTS {
            for usage in [
                format!(r#"{{"input_tokens":{count},"output_tokens":3}}"#),
                format!(r#"{{"input_tokens":9,"output_tokens":{count}}}"#),
                format!(r#"{{"input_tokens":9,"output_tokens_details":{{"reasoning_tokens":{count}}}}}"#),
            ] {
                place.check(&usage, completed_with("\"r\"", &usage), "Hi", UNKNOWN).await?;
                let failed = format!(r#"{{"response":{{"error":{{"message":"no"}},"usage":{usage}}}}}"#);
                let failed = responses_stream(&[("response.failed", &failed)]);
                place.check(&usage, failed, "", FAILED).await?;
            }
        }
        let most = r#"{"input_tokens":1,"output_tokens":1099511627776}"#;
        place.provider.push(completed_with("\"r\"", most));
        let user = place.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let events = user.say(&chat, "hello").await?;
        assert_eq!(events.only("done")?["usage"]["output_tokens"], 1_u64 << 40);
    }

    /// Content that is not a plain text, repeated keys, and every name for
    /// reasoning.
    async fn chat_frames_of_other_shapes_are_read(env) {
        let place = Place::new(&env, CHAT).await?;
        for (frame, text) in [
            (r#"{"choices":[{"delta":{"content":3.50}}]}"#, "3.50"),
            (r#"{"choices":[{"delta":{"content":true}}]}"#, "true"),
            (r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a"},"b",{"text":1}]}}]}"#, "ab1"),
            (r#"{"choices":[{"delta":{"content":{"a":1}}}]}"#, ""),
            (r#"{"choices":[{"delta":{"content":"a","content":"b"}}],"choices":null}"#, "b"),
            (r#"{"id":"a","id":"b","choices":[{"delta":{"content":"a"}}]}"#, "a"),
            (r#"{"choices":[{"delta":{"content":"a","refusal":"b"}}]}"#, "ab"),
            (r#"{"choices":[{"message":{"content":"whole"}}]}"#, "whole"),
            (r#"{"choices":[{"delta":{"content":"a"},"message":{"content":"a"}}]}"#, "a"),
            (r#"{"choices":[{"delta":{"content":"a\u0000b\ud83dc"}}]}"#, "a\u{FFFD}b\u{FFFD}c"),
            (r#"{"choices":[{"delta":{"reasoning":"why","content":"so"}}]}"#, "so"),
            (r#"{"choices":[{"delta":{"reasoning_content":"why","reasoning":"why","content":"so"}}]}"#, "so"),
            (r#"{"choices":[{"delta":{"reasoning_content":"\u0000"}}]}"#, ""),
            (r#"{"choices":[],"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}"#, "a"),
        ] {
            let events = place.check(frame, chat_with(frame), text, USUAL).await?;
            let reasoning: Vec<&str> = events.0.iter()
                .filter(|event| event.name == "delta" && event.text("type") == "reasoning")
                .map(|event| event.text("content"))
                .collect();
            let expected: &[&str] = match frame {
                _ if frame.contains("why") => &["why"],
                _ if frame.contains("reasoning") => &["\u{FFFD}"],
                _ => &[],
            };
            assert_eq!(reasoning, expected, "{frame}");
        }
    }

    /// TURN-22: usage may be in any frame, and one frame may contain
    /// everything.
    async fn usage_is_what_was_reported_last(env) {
        let place = Place::new(&env, CHAT).await?;
        let hi = r#"{"choices":[{"delta":{"content":"Hi"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
        let stop = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        let zeros = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        let everything = r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        for frames in [
            &[everything][..],
            &[hi, stop, usage],
            &[hi, zeros, usage],
            &[hi, usage, stop],
            &[usage, r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, stop],
        ] {
            place.check(&frames.concat(), chat_stream(frames), "Hi", USUAL).await?;
        }
        let early = End::Done(Some((9, 1)));
        place.check("only beside the text", chat_stream(&[hi, stop]), "Hi", early).await?;
        place.check("without finish reason", chat_stream(&[hi, usage]), "Hi", FAILED).await?;
    }

    /// TURN-20: a text that a delta, a part, an item and the response repeat is
    /// given once.
    async fn a_text_of_several_parts_is_given_once(env) {
        for kind in [RESPONSES, VLLM] {
            let place = Place::new(&env, kind).await?;
            let usage = r#""usage":{"input_tokens":9,"output_tokens":3}"#;
            let message = |text: &str| format!(
                r#"{{"type":"message","content":[{{"type":"output_text","text":"{text}"}}]}}"#);
            let end = |items: &[String]| format!(
                r#"{{"response":{{"output":[{}],{usage}}}}}"#, items.join(","));
            let reasoning = r#"{"type":"reasoning","content":[{"type":"reasoning_text","text":"why"}]}"#.to_owned();
            let both = end(&[reasoning, message("one "), message("two")]);
            let part = |index: u8, text: &str| format!(
                r#"{{"output_index":{index},"content_index":0,"part":{{"type":"output_text","text":"{text}"}}}}"#);
            let delta = ("response.output_text.delta", r#"{"output_index":1,"delta":"one "}"#);
            let (first, second) = (part(1, "one "), part(2, "two"));
            for events in [
                &[("response.completed", both.as_str())][..],
                &[delta, ("response.completed", both.as_str())],
                &[delta, ("response.content_part.done", &first), ("response.content_part.done", &first),
                    ("response.content_part.done", &second), ("response.completed", both.as_str())],
                &[("response.content_part.done", &first), ("response.content_part.done", &second),
                    ("response.completed", &end(&[]))],
                &[("response.reasoning_text.delta", r#"{"delta":"why"}"#), delta, ("response.incomplete", both.as_str())],
            ] {
                place.check("parts", responses_stream(events), "one two", USUAL).await?;
            }
            place.stack.stop().await?;
        }
    }

    /// TURN-21: reasoning that began with the answer is not stored.
    async fn a_closing_tag_alone_ends_reasoning(env) {
        let place = Place::new(&env, VLLM).await?;
        let end = r#"{"response":{"usage":{"input_tokens":9,"output_tokens":3}}}"#;
        let one = [
            ("response.output_text.delta", r#"{"delta":"why</think>so"}"#),
            ("response.completed", end),
        ];
        place.check("in one delta", responses_stream(&one), "so", USUAL).await?;
        let cut = [
            ("response.output_text.delta", r#"{"delta":"why"}"#),
            ("response.output_text.delta", r#"{"delta":"</thi"}"#),
            ("response.output_text.delta", r#"{"delta":"nk>so"}"#),
            ("response.completed", end),
        ];
        place.check("cut", responses_stream(&cut), "so", USUAL).await?;
    }

    /// TURN-21: the same if its beginning was streamed before the tag arrived.
    /// Only the text after the tag is stored.
    async fn reasoning_that_was_shown_as_text_is_not_stored(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["providers"][0]["kind"] = json!(VLLM);
            tenant
        }).await?;
        let mut shown = Vec::new();
        // On a busy machine both pieces may arrive together.
        while !shown.contains(&"whyso".to_owned()) && shown.len() < 20 {
            scene.provider.push_scenario(Scenario {
                interval_ms: 50,
                ..Scenario::deltas(&["why", "</think>so"], Ending::Completed)
            });
            let user = scene.new_user()?;
            let chat = user.create_chat(Some("std")).await?;
            let events = user.say(&chat, "hello").await?;
            events.only("done")?;
            assert_eq!(user.messages(&chat).await?[1]["content"], "so");
            shown.push(events.answer());
        }
        assert!(shown.contains(&"whyso".to_owned()), "{shown:?}");
    }

    /// D11, D42: an endless answer is cut off and settled.
    async fn an_answer_that_is_too_long_ends_the_turn(env) {
        let piece = "x".repeat(16 * 1024);
        let delta = json!({"delta": piece}).to_string();
        let usage = json!({"input_tokens": 9, "output_tokens": 3});
        let whole = json!({"response": {"usage": usage, "output": [{"type": "message",
            "content": [{"type": "output_text", "text": piece.repeat(5)}]}]}}).to_string();
        let (text, thought) = (piece.repeat(4), String::new());
        let known = End::Failed("provider_error", "actual");
        for kind in [CHAT, RESPONSES, VLLM] {
            let settings = "MINICHAT_PROVIDER_HTTP_MAX_ANSWER_BYTES=65536";
            let place = Place::with(&env, kind, settings, |_| ()).await?;
            let frames = |field: &str| {
                let frame = json!({"choices": [{"delta": {field: piece}}]}).to_string();
                chat_stream(&[frame.as_str(); 6])
            };
            let answers = if kind == CHAT {
                vec![(frames("content"), &text, FAILED), (frames("reasoning"), &thought, FAILED)]
            } else {
                let deltas = vec![("response.output_text.delta", delta.as_str()); 6];
                let reasoning = vec![("response.reasoning_text.delta", delta.as_str()); 6];
                vec![
                    (responses_stream(&deltas), &text, FAILED),
                    (responses_stream(&reasoning), &thought, FAILED),
                    (responses_stream(&[("response.completed", &whole)]), &thought, known),
                ]
            };
            for (bytes, text, end) in answers {
                let events = place.check("too long", bytes, text, end).await?;
                let error = events.only("error")?;
                assert_eq!(error["message"], "The provider's answer is too long.");
            }
            place.stack.stop().await?;
        }
    }

    /// D42: what is neither text nor reasoning is bounded by its bytes, not by
    /// time alone. Text between makes it start anew.
    async fn a_provider_that_goes_on_without_saying_anything_is_cut_off(env) {
        let settings = "MINICHAT_PROVIDER_HTTP_MAX_EVENT_BYTES=65536";
        for kind in [CHAT, RESPONSES, VLLM] {
            let place = Place::with(&env, kind, settings, |_| ()).await?;
            let (empty, word, end) = if kind == CHAT {
                (
                    "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n",
                    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
                    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\
                        \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n",
                )
            } else {
                (
                    "event: response.output_text.delta\ndata: {\"delta\":\"\"}\n\n",
                    "event: response.output_text.delta\ndata: {\"delta\":\"a\"}\n\n",
                    "event: response.completed\n\
                        data: {\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}}\n\n",
                )
            };
            let times = |bytes: usize, text: &str| text.repeat(bytes / text.len());
            for idle in [empty, ": keep-alive\n\n", "event: response.in_progress\ndata: {}\n\n"] {
                let endless = stream(&format!("{word}{}{word}{end}", times(20 * 65536, idle)));
                place.check("endless", endless, "a", FAILED).await?;
                let paused = format!("{word}{0}{word}{0}{end}", times(7 * 65536, idle));
                place.check("paused", stream(&paused), "aa", USUAL).await?;
            }
            place.stack.stop().await?;
        }
    }

    /// Other response heads, and lines that are not in the standard.
    async fn streams_of_other_shapes_are_read(env) {
        let place = Place::new(&env, CHAT).await?;
        let body = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}],\
            \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n";
        for content_type in [
            "text/event-stream, text/event-stream",
            "application/json, text/event-stream; charset=utf-8",
            "TEXT/EVENT-STREAM;charset=utf-8",
            "application/json\r\nContent-Type: text/event-stream",
        ] {
            place.check(content_type, answer(200, content_type, body), "Hi", USUAL).await?;
        }
        let odd = format!("\u{FEFF}: ping\r\n\r\ndata\r\n\r\nid: 1\r\ndata:\r\n\r\n{body}");
        place.check("keep-alives", stream(&odd), "Hi", USUAL).await?;
    }
}
