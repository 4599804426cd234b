//! Messages that are sent again.

use minichat_tests::client::Api;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};
use uuid::Uuid;

const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";

/// Everything that a send could leave behind.
async fn traces(scene: &Scene) -> anyhow::Result<Vec<Vec<Vec<Option<String>>>>> {
    let mut traces = Vec::new();
    for sql in [
        "SELECT id, state, updated_at FROM chat_turns ORDER BY id",
        "SELECT id, content FROM messages ORDER BY id",
        "SELECT * FROM quota_usage ORDER BY id",
        "SELECT * FROM outbox_messages ORDER BY id",
    ] {
        traces.push(scene.database().query(sql).await?);
    }
    Ok(traces)
}

fn again(request: &str) -> Value {
    json!({"content": "something else", "request_id": request})
}

async fn said(user: &Api, chat: &str, content: &str) -> anyhow::Result<String> {
    let events = user.say(chat, content).await?;
    let request = events.only("stream_started")?["request_id"].clone();
    Ok(request.as_str().unwrap_or_default().to_owned())
}

/// A turn that was cancelled after `words`.
async fn cancelled(scene: &Scene, user: &Api, words: &[&str]) -> anyhow::Result<(String, String)> {
    scene
        .provider
        .push_scenario(Scenario::deltas(words, Ending::Hang));
    let chat = user.create_chat(None).await?;
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    let started = stream.expect("stream_started").await?;
    for _ in words {
        stream.expect("delta").await?;
    }
    let request = started.text("request_id").to_owned();
    user.cancel(&chat, &request).await?.expect(202)?;
    stream.expect("error").await?;
    Ok((chat, request))
}

on_each_database! {
    /// TURN-43, TURN-55: however the turn ended, its id is taken.
    async fn an_id_that_names_no_completed_turn_is_a_conflict(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let mut taken = vec![cancelled(&scene, &user, &["part"]).await?];
        taken.push(cancelled(&scene, &user, &[]).await?);
        let failed = user.create_chat(None).await?;
        let request = said(&user, &failed, "ERROR").await?;
        taken.push((failed, request));
        let deleted = user.create_chat(None).await?;
        let request = said(&user, &deleted, "PING").await?;
        user.delete_turn(&deleted, &request).await?.expect(204)?;
        taken.push((deleted, request));
        let replaced = user.create_chat(None).await?;
        let request = said(&user, &replaced, "PING").await?;
        assert_eq!(user.retry(&replaced, &request).await?.status, 200);
        taken.push((replaced, request));
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let running = user.create_chat(None).await?;
        let mut stream = user.open(&running, &json!({"content": "hello"})).await?;
        let request = stream.expect("stream_started").await?.text("request_id").to_owned();
        stream.expect("delta").await?;
        taken.push((running, request));
        assert_eq!(scene.database().number(RUNNING).await?, 1);

        let before = traces(&scene).await?;
        let called = scene.provider.requests().len();
        for (chat, request) in &taken {
            user.refused(chat, &again(request)).await?.problem(409, "request_id_conflict")?;
        }
        assert_eq!(traces(&scene).await?, before);
        assert_eq!(scene.provider.requests().len(), called);
    }

    /// TURN-8: a deleted turn keeps its status.
    async fn a_deleted_turn_is_still_reported(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let request = said(&user, &chat, "PING").await?;
        user.delete_turn(&chat, &request).await?.expect(204)?;
        let turn = user.turn(&chat, &request).await?;
        assert_eq!((&turn["state"], &turn["request_id"]), (&json!("done"), &json!(request)));
    }

    /// TURN-10, TURN-45, TURN-46: it depends neither on another turn nor on
    /// catalog or quota, and nothing is counted or written.
    async fn a_replay_depends_on_nothing_that_has_changed_since(env) {
        let scene = env.scene_with(|tenant| tenant.with_limits((20_000, 20_000), (20_000, 20_000))).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let body = json!({"content": "x".repeat(4000), "request_id": Uuid::new_v4()});
        scene.provider.push_scenario(Scenario {
            usage: Some(minichat_tests::scripted_provider::Tokens { input: 3000, output: 1000 }),
            ..Scenario::default()
        });
        let first = user.open(&chat, &body).await?.collect().await?;
        let spend = "UPDATE quota_usage SET spent_credits_micro = 20000";
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let mut other = user.open(&chat, &json!({"content": "hello"})).await?;
        other.expect("stream_started").await?;
        other.expect("delta").await?;
        scene.database().query(spend).await?;
        let stack = &scene.stack;
        let revision = stack.configz(&scene.tenant).await?["revision"].clone();
        let mut without = scene.tenant.clone();
        without.model("std")["enabled"] = json!(false);
        stack.write_manifest("acme", &without.manifest())?;
        stack.eventually("reloaded", async || {
            Ok(stack.configz(&without).await?["revision"] != revision)
        }).await?;

        let (before, scrape) = (traces(&scene).await?, stack.scrape().await?);
        for _ in 0..3 {
            let replay = user.open(&chat, &body).await?.collect().await?;
            assert_eq!(replay.names(), ["stream_started", "delta", "done"]);
            assert_eq!(replay.answer(), first.answer());
            assert_eq!(replay.only("done")?["usage"], first.only("done")?["usage"]);
        }
        assert_eq!(traces(&scene).await?, before);
        assert_eq!(stack.scrape().await?.increases(&scrape), []);
        assert_eq!(scene.provider.requests().len(), 2);
        drop(other);
        let fresh = user.create_chat(Some("prem")).await?;
        user.refused(&fresh, &json!({"content": "hello"})).await?.problem(429, "quota_exceeded")?;
    }

    /// TURN-44, QUOTA-66: from rows only, which do not contain the reason.
    async fn the_replay_of_a_downgraded_turn_says_from_what(env) {
        let plenty = 1_000_000_000;
        let scene = env.scene_with(|tenant| tenant.with_limits((plenty, plenty), (0, 0))).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        let body = json!({"content": "PING", "request_id": Uuid::new_v4()});
        let first = user.open(&chat, &body).await?.collect().await?;
        let done = first.only("done")?;
        assert_eq!(done["downgrade_reason"], "premium_quota_exhausted");
        let replay = user.open(&chat, &body).await?.collect().await?;
        assert_eq!(replay.only("stream_started")?["is_new_turn"], false);
        assert_eq!(replay.only("stream_started")?["request_id"], body["request_id"]);
        let replayed = replay.only("done")?;
        for member in ["usage", "effective_model", "selected_model", "quota_decision", "downgrade_from"] {
            assert_eq!(replayed[member], done[member], "{member}");
        }
        assert_eq!((&replayed["quota_decision"], &replayed["downgrade_from"]), (&json!("downgrade"), &json!("prem")));
        for absent in ["downgrade_reason", "quota_warnings"] {
            assert!(replayed.get(absent).is_none(), "{replayed}");
        }
    }

    /// TURN-36: an answer without text is stored like any other.
    async fn an_empty_answer_is_stored_and_replayed(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        scene.provider.push_scenario(Scenario::deltas(&[], Ending::Completed));
        let body = json!({"content": "hello", "request_id": Uuid::new_v4()});
        let first = user.open(&chat, &body).await?.collect().await?;
        first.check_grammar()?;
        first.only("done")?;
        let request = body["request_id"].as_str().unwrap_or_default();
        let turn = user.turn(&chat, request).await?;
        assert_eq!(turn["state"], "done");
        let messages = user.messages(&chat).await?;
        assert_eq!((&messages[1]["id"], &messages[1]["content"]), (&turn["assistant_message_id"], &json!("")));
        let replay = user.open(&chat, &body).await?.collect().await?;
        replay.check_grammar()?;
        assert_eq!(replay.only("stream_started")?["message_id"], messages[1]["id"]);
        assert_eq!(replay.answer(), "");
        replay.only("done")?;
    }
}
