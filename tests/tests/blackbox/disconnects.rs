//! Clients that disconnect.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use minichat_tests::child::Process;
use minichat_tests::client::Api;
use minichat_tests::harness::Scene;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::raw_client::{Caller, RawClient};
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

/// Maximum time from the client's disconnect until the provider's stream is
/// closed.
const ABORT_LIMIT: Duration = Duration::from_millis(200);

/// Waits until the turn is no longer running.
async fn ended(scene: &Scene, user: &Api, chat: &str, request: &str) -> anyhow::Result<Value> {
    let is_over = async || Ok(user.turn(chat, request).await?["state"] != "running");
    scene.stack.eventually("ended", is_over).await?;
    user.turn(chat, request).await
}

/// Waits until each of `series` has counted once.
async fn check_counted_once(
    scene: &Scene,
    series: &[(&str, &[(&str, &str)])],
) -> anyhow::Result<()> {
    let stack = &scene.stack;
    for (name, labels) in series {
        let counted = async || {
            let count = stack.scrape().await?.sum(name, labels);
            Ok((count - 1.0).abs() < 0.5)
        };
        stack.eventually(name, counted).await?;
    }
    Ok(())
}

/// A client with a small buffer that reads a stream up to its first delta and
/// then stops.
async fn stop_reading(
    process: &Process,
    tenant: &Tenant,
    user: Uuid,
    chat: &str,
) -> anyhow::Result<RawClient> {
    let caller = Caller {
        tenant: tenant.id,
        user,
    };
    let path = format!("/chats/{chat}/messages:stream");
    let body = json!({"content": "hello"}).to_string();
    let mut reader = RawClient::connect_narrow(process.app_addr).await?;
    reader.write(&caller.request("POST", &path, &body)).await?;
    reader.read_to("event: delta").await?;
    Ok(reader)
}

/// The number of pieces that the provider has written when it has stopped.
async fn stalled(provider: &ScriptedProvider) -> u64 {
    let mut written = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = provider.stats().chunks_written;
        if now == written && now > 0 {
            return written;
        }
        written = now;
    }
}

on_each_database! {
    /// API-134, TURN-16, TURN-47, TURN-49: 60 MB that are not read stay with
    /// the provider. A full channel costs no memory and does not delay a
    /// cancellation.
    async fn a_reader_that_stops_costs_no_memory_and_cancels_by_leaving(env) {
        const PIECES: u64 = 6000;
        const ROOM: u64 = 24 * 1024 * 1024;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        env.write_manifest(&tenant.name, &tenant.manifest())?;
        let process = Process::serve(BINARY, &env, "").await?;
        let id = Uuid::new_v4();
        let user = process.api.acting_as(tenant.id, id)?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?;
        let before = process.resident_bytes()?;
        let piece = "0123456789".repeat(1000);
        let pieces = vec![piece.as_str(); usize::try_from(PIECES)?];
        provider.push_scenario(Scenario::deltas(&pieces, Ending::Hang));
        let counted = provider.stats().chunks_written;
        let reader = stop_reading(&process, &tenant, id, &chat).await?;
        let written = stalled(&provider).await - counted;
        assert!(written < PIECES / 2, "{written} of {PIECES} pieces");
        let held = process.resident_bytes()?.saturating_sub(before);
        assert!(held < ROOM, "{held} bytes for a reader that reads nothing");
        assert_eq!(stalled(&provider).await - counted, written);

        drop(reader);
        provider.wait_until(|stats| stats.answers_aborted == 1).await;
        let messages = async || user.messages(&chat).await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while messages().await?.len() < 4 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let states = env.database.query("SELECT state FROM chat_turns ORDER BY started_at").await?;
        assert_eq!(states[1][0].as_deref(), Some("cancelled"));
        let stored = messages().await?;
        let text = stored.last().context("no message")?["content"].as_str().unwrap_or_default();
        assert!(!text.is_empty() && text.len() % piece.len() == 0, "{} bytes", text.len());
        let scrape = process.scrape().await?;
        for (name, labels) in [
            ("stream_disconnected_total", [("stage", "mid_stream")]),
            ("cancel_requested_total", [("trigger", "disconnect")]),
            ("cancel_effective_total", [("trigger", "disconnect")]),
            ("time_to_abort_ms_count", [("trigger", "disconnect")]),
            ("stream_failed_total", [("error_code", "cancelled")]),
        ] {
            assert_eq!(scrape.count(&format!("mini_chat_{name}"), &labels)?, 1, "{name}");
        }
    }

    /// TURN-42, TURN-49: a client that disconnects after the provider's end
    /// cancels nothing. The commit is delayed, so that there is time to
    /// disconnect.
    async fn leaving_after_the_providers_end_changes_nothing(env) {
        const STAGE: &str = "mini_chat_stream_disconnected_total";
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let mut left_late = false;
        for round in 1..=100 {
            scene.provider.push_scenario(Scenario {
                hold_before_end: true,
                ..Scenario::deltas(&["part"], Ending::Completed)
            });
            let chat = user.create_chat(Some("std")).await?;
            let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
            let started = stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            let lock = env.database.lock_writes().await?;
            scene.provider.release(1);
            scene.provider.wait_until(|stats| stats.answers_finished == round).await;
            let request = started.text("request_id");
            // After so many scrapes, the end must have reached the data plane.
            for _ in 0..5 {
                assert_eq!(user.turn(&chat, request).await?["state"], "running");
            }
            drop(stream);
            let has_left = async || Ok(scene.stack.scrape().await?.count(STAGE, &[])? as u64 == round);
            scene.stack.eventually("left", has_left).await?;
            drop(lock);
            let turn = ended(&scene, &user, &chat, request).await?;
            // The end of a turn is counted after its commit.
            let is_idle = async || Ok(scene.stack.scrape().await?.sum("mini_chat_active_streams", &[]) < 0.5);
            scene.stack.eventually("idle", is_idle).await?;
            let scrape = scene.stack.scrape().await?;
            let cancelled = scrape.count("mini_chat_cancel_requested_total", &[])?;
            if scrape.count(STAGE, &[("stage", "after_done")])? == 0 {
                // The end had not arrived, so this was a cancellation.
                assert_eq!(turn["state"], "cancelled");
                assert_eq!(cancelled as u64, round);
                continue;
            }
            assert_eq!(turn["state"], "done");
            assert_eq!(user.messages(&chat).await?[1]["content"], "part");
            assert_eq!(cancelled as u64, round - 1);
            assert_eq!(scrape.count("mini_chat_stream_completed_total", &[])?, 1);
            left_late = true;
            break;
        }
        assert!(left_late, "no client left after the end");
    }

    /// TURN-13, TURN-49, QUOTA-60: a client that disconnects while the turn is
    /// opened pays nothing, because the provider was not called.
    async fn leaving_before_the_first_byte_releases_the_reserve(env) {
        let scene = env.scene().await?;
        let id = Uuid::new_v4();
        let user = scene.stack.caller(&scene.tenant, id)?;
        let database = scene.database();
        let (mut opened, mut released) = (0, false);
        for _ in 0..100 {
            scene.provider.reset();
            scene.provider.push_scenario(Scenario { hold_before_head: true, ..Scenario::default() });
            let chat = user.create_chat(Some("std")).await?;
            let request = Uuid::new_v4().to_string();
            let body = json!({"content": "hello", "request_id": request});
            let lock = database.lock_writes().await?;
            {
                let leaving = scene.stack.caller(&scene.tenant, id)?;
                let send = leaving.open(&chat, &body);
                let sending = async {
                    for _ in 0..5 {
                        user.get(&format!("/chats/{chat}/turns/{request}")).await?.expect(404)?;
                    }
                    anyhow::Ok(())
                };
                tokio::select! {
                    answered = send => anyhow::bail!("answered before the commit: {answered:?}"),
                    sent = sending => sent?,
                }
            }
            for _ in 0..5 {
                user.get(&format!("/chats/{chat}")).await?.expect(200)?;
            }
            drop(lock);
            let is_open = async || Ok(user.get(&format!("/chats/{chat}/turns/{request}")).await?.status == 200);
            let arrival = scene.stack.eventually("opened", is_open);
            let Ok(arrived) = tokio::time::timeout(Duration::from_secs(1), arrival).await else {
                // The client disconnected before the request had got this far.
                continue;
            };
            arrived?;
            opened += 1;
            let turn = ended(&scene, &user, &chat, &request).await?;
            assert_eq!(turn["state"], "cancelled");
            assert_eq!(user.messages(&chat).await?.len(), 1);
            let usage = database.payloads("mini-chat.usage_snapshot").await?;
            let usage = usage.last().context("no usage event")?;
            assert_eq!(usage["billing_outcome"], "aborted");
            let stage = [("stage", "before_first_token")];
            let has_left = async || {
                let scrape = scene.stack.scrape().await?;
                Ok(scrape.count("mini_chat_stream_disconnected_total", &stage)? == opened)
            };
            scene.stack.eventually("counted", has_left).await?;
            if usage["settlement_method"] == "released" {
                assert_eq!(usage["committed_credits_micro"], 0);
                assert_eq!(scene.provider.stats().answers_started, 0);
                released = true;
                break;
            }
        }
        assert!(released, "no client left before the provider was called");
    }

    /// API-153, TURN-49, PLAT-56: the partial text is kept, and the estimate is
    /// charged.
    async fn leaving_mid_stream_cancels_the_turn_and_keeps_its_text(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario::deltas(&["part ", "of it"], Ending::Hang));
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        let body = json!({"content": "x".repeat(4000)});
        let mut stream = user.open(&chat, &body).await?;
        let started = stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        stream.expect("delta").await?;
        let left_at = Instant::now();
        drop(stream);
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
        assert!(left_at.elapsed() < ABORT_LIMIT, "{:?}", left_at.elapsed());

        let turn = ended(&scene, &user, &chat, started.text("request_id")).await?;
        assert_eq!(turn["state"], "cancelled");
        assert_eq!(turn["assistant_message_id"], started.data["message_id"]);
        assert!(turn.get("error_code").is_none());
        let messages = user.messages(&chat).await?;
        assert_eq!(messages[1]["id"], started.data["message_id"]);
        assert_eq!(messages[1]["content"], "part of it");

        let cells = "SELECT count(*) FROM quota_usage \
            WHERE spent_credits_micro = 4380 AND reserved_credits_micro = 0";
        assert_eq!(scene.database().number(cells).await?, 4);
        let rows = scene.database().query("SELECT payload FROM outbox_messages \
            WHERE queue = 'mini-chat.usage_snapshot'").await?;
        let event: Value = serde_json::from_str(rows[0][0].as_deref().unwrap_or_default())?;
        assert_eq!(event["billing_outcome"], "aborted");
        assert_eq!(event["settlement_method"], "estimated");
        assert!(event["usage"].is_null());
        check_counted_once(&scene, &[
            ("mini_chat_stream_disconnected_total", &[("stage", "mid_stream")]),
            ("mini_chat_cancel_requested_total", &[("trigger", "disconnect")]),
            ("mini_chat_cancel_effective_total", &[("trigger", "disconnect")]),
            ("mini_chat_streams_aborted_total", &[("trigger", "client_disconnect")]),
            ("mini_chat_stream_failed_total", &[("error_code", "cancelled")]),
            ("mini_chat_time_to_abort_ms_count", &[("trigger", "disconnect")]),
        ]).await?;
        let scrape = scene.stack.scrape().await?;
        assert!(scrape.sum("mini_chat_quota_commit_total", &[]) < 0.5);
        assert!(scrape.sum("mini_chat_time_to_abort_ms_sum", &[]) < 200.0);
    }

    /// API-153, TURN-47: also before the provider has answered.
    async fn leaving_before_the_first_token_stores_no_answer(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            ..Scenario::deltas(&["never"], Ending::Completed)
        });
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?;
        scene.provider.wait_until(|stats| stats.answers_open == 1).await;
        let left_at = Instant::now();
        drop(stream);
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
        assert!(left_at.elapsed() < ABORT_LIMIT, "{:?}", left_at.elapsed());

        let turn = ended(&scene, &user, &chat, started.text("request_id")).await?;
        assert_eq!(turn["state"], "cancelled");
        assert!(turn.get("assistant_message_id").is_none());
        assert_eq!(user.messages(&chat).await?.len(), 1);
        let stage = [("stage", "before_first_token")];
        check_counted_once(&scene, &[("mini_chat_stream_disconnected_total", &stage)]).await?;
    }

    /// API-66, TURN-13: whenever the client disconnects, the turn ends.
    async fn no_turn_stays_running_whenever_its_client_leaves(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        // Only the disconnect ends these.
        scene.provider.push_scenario(Scenario {
            times: 200,
            ..Scenario::deltas(&["part"], Ending::Hang)
        });
        for round in 0..200 {
            let chat = user.create_chat(Some("std")).await?;
            let body = json!({"content": "hello"});
            let send = user.open(&chat, &body);
            let patience = Duration::from_micros(250 * round);
            drop(tokio::time::timeout(patience, send).await);
        }
        let database = scene.database();
        scene.stack.eventually("settled", async || {
            let running = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
            let reserved = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro > 0";
            Ok(database.number(running).await? == 0 && database.number(reserved).await? == 0)
        }).await?;
        let turns = database.number("SELECT count(*) FROM chat_turns").await?;
        assert!(turns > 0, "every client left before its turn was opened");
        let cancelled = "SELECT count(*) FROM chat_turns WHERE state = 'cancelled'";
        assert_eq!(database.number(cancelled).await?, turns);
        let events = "SELECT count(*) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot'";
        assert_eq!(database.number(events).await?, turns);
    }

    /// API-152, K8S-50, TURN-51
    async fn stopping_the_process_finalizes_open_turns_and_tells_their_clients(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        let database = scene.database().clone();
        let stop = scene.stack.stop();
        let (error, stopped) = tokio::join!(stream.expect("error"), stop);
        stopped?;
        assert_eq!(error?.text("code"), "stream_interrupted");
        let cancelled = "SELECT count(*) FROM chat_turns WHERE state = 'cancelled'";
        assert_eq!(database.number(cancelled).await?, 1);
    }
}
