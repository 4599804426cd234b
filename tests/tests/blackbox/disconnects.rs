//! Clients that leave.

use std::time::{Duration, Instant};

use minichat_tests::client::Api;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};

/// Longest time from a client's leaving to the end of the provider's stream.
const ABORT_LIMIT: Duration = Duration::from_millis(200);

/// The turn once it is no longer running.
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

on_each_database! {
    /// API-153, TURN-49, PLAT-56: partial text stays, the estimate is charged.
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
        let left = Instant::now();
        drop(stream);
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
        assert!(left.elapsed() < ABORT_LIMIT, "{:?}", left.elapsed());

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

    /// API-153, TURN-47: also before the provider has answered at all.
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
        let left = Instant::now();
        drop(stream);
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
        assert!(left.elapsed() < ABORT_LIMIT, "{:?}", left.elapsed());

        let turn = ended(&scene, &user, &chat, started.text("request_id")).await?;
        assert_eq!(turn["state"], "cancelled");
        assert!(turn.get("assistant_message_id").is_none());
        assert_eq!(user.messages(&chat).await?.len(), 1);
        let stage = [("stage", "before_first_token")];
        check_counted_once(&scene, &[("mini_chat_stream_disconnected_total", &stage)]).await?;
    }

    /// API-66, TURN-13: whenever the client leaves, the turn ends by itself.
    async fn no_turn_stays_running_whenever_its_client_leaves(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for round in 0..50 {
            let chat = user.create_chat(Some("std")).await?;
            let body = json!({"content": "hello"});
            let send = user.open(&chat, &body);
            let patience = Duration::from_micros(200 * round);
            drop(tokio::time::timeout(patience, send).await);
        }
        let database = scene.database();
        scene.stack.eventually("settled", async || {
            let running = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
            let reserved = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro > 0";
            Ok(database.number(running).await? == 0 && database.number(reserved).await? == 0)
        }).await?;
        let turns = database.number("SELECT count(*) FROM chat_turns").await?;
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
        let left = "SELECT count(*) FROM chat_turns WHERE state = 'cancelled'";
        assert_eq!(database.number(left).await?, 1);
    }
}
