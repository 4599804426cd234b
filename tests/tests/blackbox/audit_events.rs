//! The audit events of turns: which there are, what they contain, and their texts.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use minichat_telemetry::Signal;
use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Held, Scene};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};

const AUDIT: &str = "mini-chat.audit";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";

/// A secret of each class of PLAT-86, a word that betrays it, and what it becomes.
const SECRETS: [(&str, &str, &str); 9] = [
    (
        "-----BEGIN RSA PRIVATE KEY-----\r\nMIIEcanary0\r\n-----END RSA PRIVATE KEY-----",
        "canary0",
        "[REDACTED_PRIVATE_KEY]",
    ),
    ("Bearer canary1.token", "canary1", "Bearer [REDACTED]"),
    (
        "eyJhbGciOiJIUzI1NiJ9.canary2.c2lnbmF0dXJl",
        "canary2",
        "[REDACTED_JWT]",
    ),
    ("sk-proj-canary3", "canary3", "[REDACTED_OPENAI_KEY]"),
    (
        "AKIACANARY4567890123",
        "CANARY4",
        "[REDACTED_AWS_ACCESS_KEY_ID]",
    ),
    (
        "api-key: canary5",
        "canary5",
        "api-key: [REDACTED_AZURE_KEY]",
    ),
    (
        r#"{"client_secret":"canary6"}"#,
        "canary6",
        r#"{"client_secret":"[REDACTED]"}"#,
    ),
    ("password = canary7", "canary7", "password = [REDACTED]"),
    // Made longer by `secrets`.
    ("canary8", "canary8", "…[TRUNCATED_LONG_TOKEN]"),
];

/// A text with a secret of each class, and what it becomes.
fn secrets() -> (String, String) {
    let long = format!("canary8{}", "A1b2".repeat(60));
    let texts = SECRETS.map(|(secret, _, _)| secret.replace("canary8", &long));
    let redacted = SECRETS.map(|(_, _, redacted)| redacted);
    (texts.join(" \n"), redacted.join(" \n"))
}

/// A tenant that wants texts in its audit events, which nobody receives.
pub(crate) fn curious(mut tenant: Tenant) -> Tenant {
    tenant.spec()["auditSink"] = json!({
        "type": "Webhook",
        "webhook": {"url": "http://127.0.0.1:1/audit"},
        "includeContent": true,
    });
    tenant
}

async fn ended(scene: &Scene) -> anyhow::Result<()> {
    let database = scene.database();
    let all = async || Ok(database.number(RUNNING).await? == 0);
    scene.stack.eventually("ended", all).await
}

/// The event of the turn with this request id, which has exactly one.
async fn event_of(scene: &Scene, request_id: &str) -> anyhow::Result<Value> {
    let events = scene.database().payloads(AUDIT).await?;
    let mut of_turn = events
        .into_iter()
        .filter(|event| event["type"] == "turn" && event["request_id"] == request_id);
    let event = of_turn.next().context("no event")?;
    ensure!(of_turn.next().is_none(), "two events of one turn");
    Ok(event)
}

fn texts(event: &Value) -> (Option<&str>, Option<&str>) {
    (event["prompt"].as_str(), event["response"].as_str())
}

/// Makes the watchdog end a running turn.
async fn orphan(scene: &Scene) -> anyhow::Result<()> {
    scene.database().age_turns("state = 'running'").await?;
    let report = scene.stack.watchdog().run_once(&Signal::new()).await;
    ensure!(report.finalized == 1, "{report:?}");
    Ok(())
}

async fn scene_that(env: &Env, tenant: fn(Tenant) -> Tenant) -> anyhow::Result<(Scene, Api)> {
    let scene = env.scene_with(tenant).await?;
    let user = scene.new_user()?;
    Ok((scene, user))
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

    /// PLAT-83, PLAT-85 to PLAT-87, check 42: what is stored of the texts of turns
    /// that a process ends itself.
    async fn texts_are_stored_redacted_for_a_tenant_that_asks(env) {
        let (scene, user) = scene_that(&env, curious).await?;
        let (text, redacted) = secrets();
        let chat = user.create_chat(Some("std")).await?;
        scene.provider.push_scenario(Scenario::deltas(&["say ", &text], Ending::Completed));
        let first = said(&user, &chat, &text).await?;
        let event = event_of(&scene, &first).await?;
        let answer = format!("say {redacted}");
        assert_eq!(texts(&event), (Some(redacted.as_str()), Some(answer.as_str())));
        // A retry has the text of the turn that it replaces, an edit its own.
        let retried = user.open_retry(&chat, &first).await?.collect().await?;
        let second = retried.only("stream_started")?["request_id"].clone();
        let second = second.as_str().unwrap_or_default();
        assert_eq!(texts(&event_of(&scene, second).await?).0, Some(redacted.as_str()));
        let edited = user.open_edit(&chat, second, "PING").await?.collect().await?;
        let third = edited.only("stream_started")?["request_id"].clone();
        assert_eq!(
            texts(&event_of(&scene, third.as_str().unwrap_or_default()).await?),
            (Some("PING"), Some("PONG"))
        );
        // A failed and a cancelled turn. An answer without a text is left out.
        let chat = user.create_chat(Some("std")).await?;
        let failed = said(&user, &chat, "ERROR").await?;
        assert_eq!(texts(&event_of(&scene, &failed).await?).0, Some("ERROR"));
        let Held { user: other, chat, started, stream } = scene.held_with("std", "my password: p1").await?;
        other.cancel(&chat, started.text("request_id")).await?.expect(202)?;
        drop(stream);
        ended(&scene).await?;
        assert_eq!(
            texts(&event_of(&scene, started.text("request_id")).await?),
            (Some("my password: [REDACTED]"), Some("part"))
        );
        // A long one is cut.
        let chat = user.create_chat(Some("std")).await?;
        let long = said(&user, &chat, &"a word ".repeat(3000)).await?;
        let event = event_of(&scene, &long).await?;
        let prompt = texts(&event).0.unwrap_or_default();
        let kept = prompt.strip_suffix("…[TRUNCATED]").context("not cut")?;
        assert!(kept.len() <= 8192 && kept.len() > 8000, "{}", kept.len());
        let stored = scene.database().query("SELECT payload FROM outbox_messages").await?;
        for (_, word, _) in SECRETS {
            assert!(!format!("{stored:?}").contains(word), "{word}");
        }
    }

    /// PLAT-87: a payload that is too long has no response, then no prompt.
    async fn a_payload_is_bounded(env) {
        let (scene, user) = scene_that(&env, curious).await?;
        // Each character takes six bytes in JSON.
        let bells = "\u{7}".repeat(8192);
        let chat = user.create_chat(Some("std")).await?;
        scene.provider.push_scenario(Scenario::deltas(&[&bells], Ending::Completed));
        let request = said(&user, &chat, &bells).await?;
        let event = event_of(&scene, &request).await?;
        assert_eq!(texts(&event), (Some(bells.as_str()), None));
    }

    /// PLAT-85: the configuration with which a turn began decides, for a watchdog
    /// too, which takes it from the stored policy.
    async fn the_pinned_configuration_decides_about_texts(env) {
        let (scene, _) = scene_that(&env, |tenant| tenant).await?;
        let stack = &scene.stack;
        let plain = &scene.tenant;
        let curious = curious(plain.clone());
        // The second begins with what the first ends with.
        for (after, expected) in [(&curious, None), (plain, Some("x"))] {
            let live = scene.held_with("std", "x").await?;
            let orphaned = scene.held_with("std", "x").await?;
            let revision = stack.configz(plain).await?["revision"].clone();
            stack.write_manifest("acme", &after.manifest())?;
            stack.eventually("reloaded", async || {
                Ok(stack.configz(plain).await?["revision"] != revision)
            }).await?;
            let key = orphaned.started.text("request_id").to_owned();
            scene.database().age_turns(&format!("request_id = '{key}'")).await?;
            let report = stack.watchdog().run_once(&Signal::new()).await;
            ensure!(report.finalized == 1, "{report:?}");
            assert_eq!(texts(&event_of(&scene, &key).await?), (expected, None));
            scene.provider.release(2);
            ended(&scene).await?;
            let event = event_of(&scene, live.started.text("request_id")).await?;
            assert_eq!(texts(&event), (expected, expected.map(|_| "part")));
            scene.provider.reset();
        }
    }
}
