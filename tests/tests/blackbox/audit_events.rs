//! The audit events of turns: which there are, what they contain, and their texts.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use minichat_telemetry::Signal;
use minichat_tests::client::Api;
use minichat_tests::harness::{Held, Scene};
use minichat_tests::on_each_database;
use serde_json::{Value, json};

const AUDIT: &str = "mini-chat.audit";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";

async fn ended(scene: &Scene) -> anyhow::Result<()> {
    let database = scene.database();
    let all = async || Ok(database.number(RUNNING).await? == 0);
    scene.stack.eventually("ended", all).await
}

/// Makes the watchdog end a running turn.
async fn orphan(scene: &Scene) -> anyhow::Result<()> {
    scene.database().age_turns("state = 'running'").await?;
    let report = scene.stack.watchdog().run_once(&Signal::new()).await;
    ensure!(report.finalized == 1, "{report:?}");
    Ok(())
}

async fn said(user: &Api, chat: &str, content: &str) -> anyhow::Result<String> {
    let events = user.say(chat, content).await?;
    let id = events.only("stream_started")?["request_id"].as_str();
    Ok(id.context("no request_id")?.to_owned())
}

/// Members that every event of its type has (PLAT-82 to PLAT-84).
fn required(event: &Value) -> &'static [&'static str] {
    match event["type"].as_str() {
        Some("turn") => &[
            "event_type",
            "timestamp",
            "tenant_id",
            "requester_type",
            "chat_id",
            "turn_id",
            "user_id",
            "request_id",
            "selected_model",
            "effective_model",
            "policy_version_applied",
            "usage",
            "latency_ms",
            "policy_decisions",
            "tool_calls",
            "terminal_state",
        ],
        Some("mutation") => &[
            "event_type",
            "timestamp",
            "tenant_id",
            "requester_type",
            "trace_id",
            "chat_id",
            "turn_id",
            "actor_user_id",
            "original_request_id",
            "new_request_id",
        ],
        Some("delete") => &[
            "event_type",
            "timestamp",
            "tenant_id",
            "requester_type",
            "trace_id",
            "chat_id",
            "turn_id",
            "actor_user_id",
            "request_id",
        ],
        _ => &[],
    }
}

on_each_database! {
    /// PLAT-81 to PLAT-84, check 40: one event for each end and each change of a
    /// turn, with its members, in the order of the changes; none for a replay and
    /// for what was refused.
    async fn each_change_of_a_turn_has_its_event(env) {
        let scene = env.scene_with(|tenant| tenant.with_limits((20_000, 20_000), (20_000, 20_000))).await?;
        let user = scene.new_user()?;
        let mut expected = vec!["turn_completed", "turn_failed", "turn_failed"];
        let chats = [user.create_chat(Some("std")).await?, user.create_chat(Some("std")).await?];
        let first = said(&user, &chats[0], "PING").await?;
        let failed = said(&user, &chats[1], "ERROR").await?;
        let Held { user: other, chat, started, stream } = scene.held().await?;
        other.cancel(&chat, started.text("request_id")).await?.expect(202)?;
        drop(stream);
        ended(&scene).await?;
        // A replay, a conflict and a refusal for lack of credits.
        let again = json!({"content": "PING", "request_id": first});
        let replay = user.open(&chats[0], &again).await?.collect().await?;
        assert_eq!(replay.only("stream_started")?["is_new_turn"], false);
        user.refused(&chats[1], &json!({"content": "PING", "request_id": failed})).await?.expect(409)?;
        let dear = json!({"content": "y".repeat(100_000)});
        user.refused(&chats[0], &dear).await?.expect(429)?;
        // An orphan.
        let Held { stream: orphaned, .. } = scene.held().await?;
        orphan(&scene).await?;
        expected.push("turn_failed");
        drop(orphaned);
        let mut events = user.open_retry(&chats[0], &first).await?.collect().await?;
        let second = events.only("stream_started")?["request_id"].clone();
        let second = second.as_str().unwrap_or_default();
        events = user.open_edit(&chats[0], second, "PING").await?.collect().await?;
        let third = events.only("stream_started")?["request_id"].clone();
        let third = third.as_str().unwrap_or_default();
        user.delete_turn(&chats[0], third).await?.expect(204)?;
        expected.extend(["turn_retry", "turn_completed", "turn_edit", "turn_completed", "turn_delete"]);
        let events = scene.database().payloads(AUDIT).await?;
        let types: Vec<_> = events.iter().filter_map(|event| event["event_type"].as_str()).collect();
        assert_eq!(types, expected);
        let mut turns = BTreeMap::new();
        for event in &events {
            for member in required(event) {
                assert!(!event[*member].is_null(), "{member} of {event}");
            }
            assert!(!event.to_string().contains("null"), "{event}");
            assert!(event.get("prompt").or(event.get("response")).is_none(), "{event}");
            if event["type"] == "turn" {
                *turns.entry(event["turn_id"].as_str()).or_insert(0) += 1;
                let usage = &event["usage"];
                assert!(usage["input_tokens"].is_u64() && usage["output_tokens"].is_u64(), "{event}");
                let calls = json!({"file_search_calls": 0, "web_search_calls": 0, "code_interpreter_calls": 0});
                assert_eq!(event["tool_calls"], calls);
            }
        }
        let count = i64::try_from(turns.len())?;
        assert_eq!(scene.database().number("SELECT count(*) FROM chat_turns").await?, count);
        assert!(turns.values().all(|events| *events == 1), "{turns:?}");
        let license = json!({"feature": "ai_chat", "decision": "allow"});
        assert_eq!(events[0]["policy_decisions"], json!({"license": license, "quota": {"decision": "allow"}}));
        // Only the process that began a turn knows what was decided.
        assert_eq!(events[3]["policy_decisions"], json!({"quota": {"decision": "unknown"}}));
        let [retry, edit, delete] = [&events[4], &events[6], &events[8]];
        assert_eq!((&retry["turn_id"], &retry["original_request_id"]), (&events[0]["turn_id"], &json!(first)));
        assert_eq!((&retry["new_request_id"], &edit["original_request_id"]), (&json!(second), &json!(second)));
        assert_eq!((&edit["new_request_id"], &delete["request_id"]), (&json!(third), &json!(third)));
    }
}
