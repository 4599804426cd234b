//! How a stream reaches its client.

use std::time::{Duration, Instant};

use minichat_tests::harness::Scene;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider, Tokens};
use serde_json::json;

on_each_database! {
    /// API-130, API-22
    async fn a_stream_has_the_headers_that_keep_it_unbuffered(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?
            .with_header("accept-encoding", "gzip")?
            .with_header("x-request-id", "abc-1")?;
        let chat = user.create_chat(None).await?;
        let stream = user.open(&chat, &json!({"content": "PING"})).await?;
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
            ("x-request-id", "abc-1"),
            ("connection", "keep-alive"),
        ] {
            let found = stream.headers.get(name).and_then(|found| found.to_str().ok());
            assert_eq!(found, Some(value), "{name}");
        }
        for absent in ["content-encoding", "content-length"] {
            assert!(!stream.headers.contains_key(absent), "{absent}");
        }
        stream.collect().await?.check_grammar()?;
    }

    /// API-130, TURN-26
    async fn deltas_arrive_while_the_provider_is_still_speaking(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&["first", "second"], Ending::Completed)
        });
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        assert_eq!(stream.expect("delta").await?.text("content"), "first");
        assert_eq!(stream.expect("delta").await?.text("content"), "second");
        assert_eq!(scene.provider.stats().answers_finished, 0);
        scene.provider.release(1);
        stream.expect("done").await?;
        assert!(stream.next().await?.is_none());
    }

    /// API-141, TURN-24, TURN-25: only before the first content; later silence
    /// causes no event.
    async fn silence_before_the_first_content_is_broken_by_pings(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_STREAMING_SSE_PING_INTERVAL_SECONDS=5";
        let stack = env.serve_with(&[&tenant], settings).await?;
        provider.push_scenario(Scenario {
            hold_before_head: true,
            interval_ms: 7000,
            ..Scenario::deltas(&["a", "b"], Ending::Completed)
        });
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let mut last = stream.expect("stream_started").await?.at;
        for _ in 0..2 {
            let ping = stream.expect("ping").await?;
            assert_eq!(ping.data, json!({}));
            let silence = ping.at - last;
            assert!(silence > Duration::from_secs(3), "{silence:?}");
            last = ping.at;
        }
        provider.release(1);
        stream.expect("delta").await?;
        stream.expect("delta").await?;
        stream.expect("done").await?;
        assert!(stream.next().await?.is_none());
    }

    /// TURN-20, PLAT-122: some servers send few of the events of the APIs.
    async fn the_short_order_of_events_is_read_as_well_as_the_whole(env) {
        for kind in ["OpenAIResponses", "VllmResponses", "OpenAIChatCompletions"] {
            let scene = env.scene_with(|mut tenant| {
                tenant.spec()["providers"][0]["kind"] = json!(kind);
                tenant
            }).await?;
            let user = scene.new_user()?;
            for short_order in [false, true] {
                scene.provider.push_scenario(Scenario {
                    short_order,
                    usage: Some(Tokens { input: 9, output: 8 }),
                    ..Scenario::deltas(&["one ", "two"], Ending::Completed)
                });
                let chat = user.create_chat(Some("std")).await?;
                let events = user.say(&chat, "hello").await?;
                let case = format!("{kind}, short: {short_order}");
                assert_eq!(events.answer(), "one two", "{case}");
                let deltas = events.0.iter().filter(|event| event.name == "delta");
                assert_eq!(deltas.count(), 2, "{case}");
                assert_eq!(user.messages(&chat).await?[1]["content"], "one two", "{case}");
                let usage = &events.only("done")?["usage"];
                assert_eq!(*usage, json!({"input_tokens": 9, "output_tokens": 8}), "{case}");
            }
            scene.stack.stop().await?;
        }
    }

    /// TURN-22, TURN-30: providers differ in where they put usage and finish
    /// reason; no content beside them is lost.
    async fn chat_completions_end_in_every_form(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["providers"][0]["kind"] = json!("OpenAIChatCompletions");
            tenant
        }).await?;
        let user = scene.new_user()?;
        let first = json!({"id": "c1", "choices": [{"index": 0, "delta": {"content": "one "}}]});
        let last = |reason: &str| json!({"id": "c1", "choices": [
            {"index": 0, "delta": {"content": "two"}, "finish_reason": reason},
        ]});
        let usage = json!({"prompt_tokens": 30, "completion_tokens": 2});
        let with_usage = |mut frame: serde_json::Value| {
            frame["usage"] = usage.clone();
            frame
        };
        let alone = with_usage(json!({"id": "c1", "choices": []}));
        for (frames, is_known, incomplete) in [
            (vec![with_usage(last("stop"))], true, None),
            (vec![last("stop"), alone.clone()], true, None),
            (vec![last("stop")], false, None),
            (vec![last("length"), alone.clone()], true, Some("max_tokens")),
            (vec![last("content_filter"), alone], true, Some("content_filter")),
        ] {
            let frames = std::iter::once(&first).chain(&frames).map(|frame| format!("data: {frame}\n\n"));
            let raw = frames.collect::<String>() + "data: [DONE]\n\n";
            scene.provider.push_scenario(Scenario::raw(raw));
            let before = scene.stack.scrape().await?;
            let chat = user.create_chat(Some("std")).await?;
            let events = user.say(&chat, "hello").await?;
            assert_eq!(events.answer(), "one two");
            assert_eq!(user.messages(&chat).await?[1]["content"], "one two");
            let done = events.only("done")?;
            let expected = json!({"input_tokens": 30, "output_tokens": 2});
            assert_eq!(done["usage"], if is_known { expected } else { json!(null) }, "{done}");
            let after = scene.stack.scrape().await?;
            let counted = |labels: &[(&str, &str)]| -> anyhow::Result<usize> {
                let name = "mini_chat_stream_incomplete_total";
                Ok(after.count(name, labels)? - before.count(name, labels)?)
            };
            assert_eq!(counted(&[])?, usize::from(incomplete.is_some()));
            if let Some(reason) = incomplete {
                assert_eq!(counted(&[("reason", reason)])?, 1);
            }
        }
        scene.provider.push_scenario(Scenario::raw("data: {\"error\":{\"message\":\"no\"}}\n\n"));
        let chat = user.create_chat(Some("std")).await?;
        assert_eq!(user.say(&chat, "hello").await?.only("error")?["code"], "provider_error");
    }

    /// API-142, TURN-21
    async fn reasoning_is_streamed_and_never_stored(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["providers"][0]["kind"] = json!("VllmResponses");
            tenant
        }).await?;
        let pieces = ["<th", "ink>a</thi", "nk>b"];
        let ending = Ending::Incomplete { reason: "max_output_tokens".to_owned() };
        // This order with this ending does not repeat the text.
        scene.provider.push_scenario(Scenario {
            short_order: true,
            ..Scenario::deltas(&pieces, ending)
        });
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let events = user.say(&chat, "hello").await?;
        let reasoning: String = events
            .0
            .iter()
            .filter(|event| event.text("type") == "reasoning")
            .map(|event| event.text("content"))
            .collect();
        assert_eq!((reasoning.as_str(), events.answer().as_str()), ("a", "b"));
        let messages = user.messages(&chat).await?;
        assert_eq!(messages[1]["content"], "b");
    }

    /// API-150: a client that has read `done` finds a completed turn with its
    /// answer.
    async fn after_done_the_turn_is_done_a_thousand_times_of_a_thousand(env) {
        let scene = env.scene_with(|tenant| {
            let plenty = (1_000_000_000_000, 1_000_000_000_000);
            tenant.with_limits(plenty, plenty)
        }).await?;
        let user = scene.new_user()?;
        for round in 0..10 {
            let chat = user.create_chat(Some("std")).await?;
            for turn in 0..100 {
                let mut stream = user.open(&chat, &json!({"content": "PING"})).await?;
                let started = stream.expect("stream_started").await?;
                stream.expect("delta").await?;
                stream.expect("done").await?;
                let state = user.turn(&chat, started.text("request_id")).await?;
                assert_eq!(state["state"], "done", "turn {turn} of round {round}");
                assert_eq!(state["assistant_message_id"], started.data["message_id"]);
            }
        }
        let stored = "SELECT count(*) FROM messages WHERE role = 'assistant'";
        assert_eq!(scene.database().number(stored).await?, 1000);
    }

    /// Small writes on both sides must not wait for acknowledgements. Nagle's
    /// algorithm with delayed acknowledgements would make every exchange 40 ms
    /// long on a warm connection. On a busy machine some are slow; one fast
    /// exchange is enough.
    async fn the_best_of_many_short_exchanges_takes_less_than_twenty_milliseconds(env) {
        const WARM_UP: usize = 10;
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut best = Duration::MAX;
        for exchange in 0..200 {
            scene.provider.push_scenario(Scenario::deltas(&["ok"], Ending::Completed));
            let begun = Instant::now();
            let events = user.say(&chat, "hello").await?;
            let done = events.0.last().map_or(begun, |event| event.at);
            if exchange >= WARM_UP {
                best = best.min(done.duration_since(begun));
            }
            if best < Duration::from_millis(20) && exchange >= WARM_UP + 20 {
                break;
            }
        }
        assert!(best < Duration::from_millis(20), "the best took {best:?}");
        assert!(scene.provider.stats().connections_total <= 2, "connections are reused");
    }

    /// API-134, PLAT-115: 30 MB that are not read stay with the provider.
    async fn a_client_that_does_not_read_slows_its_provider_and_nobody_else(env) {
        const PIECES: usize = 3000;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        // More than all buffers between provider and client.
        let settings = "MINICHAT_PROVIDER_HTTP_MAX_ANSWER_BYTES=67108864";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let scene = Scene {
            provider,
            tenant,
            stack,
        };
        let piece = "0123456789".repeat(1000);
        let pieces = vec![piece.as_str(); PIECES];
        // This order with this ending does not repeat the text.
        let reason = "max_output_tokens".to_owned();
        let ending = Ending::Incomplete { reason };
        scene.provider.push_scenario(Scenario {
            short_order: true,
            ..Scenario::deltas(&pieces, ending)
        });
        let slow = scene.new_user()?;
        let chat = slow.create_chat(None).await?;
        let mut stream = slow.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        // The provider needs a while to write so much.
        while stream.next().await?.is_some_and(|event| event.name == "ping") {}

        let quick = scene.new_user()?;
        let other = quick.create_chat(None).await?;
        for _ in 0..20 {
            quick.say(&other, "PING").await?;
        }
        let stats = scene.provider.stats();
        assert!(stats.chunks_written < PIECES as u64, "{stats:?}");
        assert_eq!(stats.answers_open, 1);

        let mut received = 1;
        while let Some(event) = stream.next().await? {
            if event.name == "delta" {
                assert_eq!(event.text("content"), piece);
                received += 1;
            } else if event.name != "ping" {
                assert_eq!(event.name, "done", "{}", event.data);
            }
        }
        assert_eq!(received, PIECES);
    }

    /// API-12, PLAT-134
    async fn in_dev_mode_everybody_is_the_configured_user(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_AUTH_MODE=dev\nMINICHAT_AUTH_ALLOW_DEV=true";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let chat = stack.api.create_chat(None).await?;
        let stranger = stack.new_user(&tenant)?;
        assert_eq!(stranger.say(&chat, "PING").await?.answer(), "PONG");
    }
}
