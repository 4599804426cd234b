//! The events of a stream, their order and their timing.

use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use minichat_tests::sse::Events;
use serde_json::json;
use uuid::Uuid;

/// The members of an event's data, sorted.
fn members(events: &Events, name: &str) -> anyhow::Result<Vec<String>> {
    let data = events.only(name)?.as_object();
    Ok(data
        .into_iter()
        .flatten()
        .map(|(member, _)| member.clone())
        .collect())
}

on_each_database! {
    /// API-131, API-133, API-140, API-145, API-146, D3: nothing follows the
    /// one terminal event.
    async fn whatever_its_end_a_stream_keeps_to_the_grammar(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let body = json!({"content": "PING", "request_id": Uuid::new_v4()});
        let completed = user.open(&chat, &body).await?.collect().await?;
        completed.check_grammar()?;
        assert_eq!(members(&completed, "stream_started")?, ["is_new_turn", "message_id", "request_id"]);
        assert_eq!(
            members(&completed, "done")?,
            ["effective_model", "quota_decision", "quota_warnings", "selected_model", "usage"]
        );

        let failed = user.say(&chat, "ERROR").await?;
        assert_eq!(failed.names().last(), Some(&"error"));
        assert_eq!(members(&failed, "error")?, ["code", "message"]);

        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?;
        let delta = stream.expect("delta").await?;
        user.cancel(&chat, started.text("request_id")).await?.expect(202)?;
        let rest = stream.collect().await?;
        let stopped = Events([vec![started, delta], rest.0].concat());
        stopped.check_grammar()?;
        assert_eq!(stopped.only("error")?["code"], "cancelled");

        let replayed = user.open(&chat, &body).await?.collect().await?;
        replayed.check_grammar()?;
        assert_eq!(
            members(&replayed, "done")?,
            ["effective_model", "quota_decision", "selected_model", "usage"]
        );
    }

    /// API-67, QUOTA-44: a replay is served from stored rows, whatever else happens.
    async fn a_replay_needs_neither_an_idle_chat_nor_its_model(env) {
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("prem")).await?;
        let body = json!({"content": "PING", "request_id": Uuid::new_v4()});
        let first = user.open(&chat, &body).await?.collect().await?;
        provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let mut other = user.open(&chat, &json!({"content": "hello"})).await?;
        other.expect("stream_started").await?;
        other.expect("delta").await?;

        let revision = stack.configz(&tenant).await?["revision"].clone();
        tenant.model("prem")["enabled"] = json!(false);
        tenant.spec()["killSwitches"] = json!({"disableWebSearch": true});
        stack.write_manifest("acme", &tenant.manifest())?;
        stack.eventually("reloaded", async || {
            Ok(stack.configz(&tenant).await?["revision"] != revision)
        }).await?;
        let called = provider.requests().len();
        let changed = json!({
            "content": "something else",
            "request_id": body["request_id"],
            "web_search": {"enabled": true},
        });
        let replayed = user.open(&chat, &changed).await?.collect().await?;
        assert_eq!(replayed.names(), ["stream_started", "delta", "done"]);
        assert_eq!(replayed.answer(), first.answer());
        assert_eq!(replayed.only("done")?["effective_model"], "prem");
        assert_eq!(provider.requests().len(), called);
    }

    /// API-141, TURN-25: pings until the first content, none after it.
    async fn silence_before_the_answer_is_filled_with_pings(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_STREAMING_SSE_PING_INTERVAL_SECONDS=5";
        let stack = env.serve_with(&[&tenant], settings).await?;
        provider.push_scenario(Scenario {
            hold_before_head: true,
            hold_before_end: true,
            ..Scenario::deltas(&["a", "b"], Ending::Completed)
        });
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?.at;
        for number in 1..=2 {
            let ping = stream.expect("ping").await?;
            assert_eq!(ping.data, json!({}));
            assert!((ping.at - started).as_secs() >= number * 5 - 2, "{number}");
        }
        provider.release(1);
        stream.expect("delta").await?;
        stream.expect("delta").await?;
        provider.release(1);
        stream.expect("done").await?;
        assert!(stream.next().await?.is_none());
    }

    /// API-62, API-63: the message is stored as it was sent.
    async fn a_message_is_stored_untrimmed_under_the_ids_that_were_announced(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        // A request id may be a UUID of any version.
        let request: Uuid = "018f6d0e-7c1a-7b11-9d00-0a54b1d2c3e4".parse()?;
        let body = json!({
            "content": " hi \n",
            "request_id": request.to_string().to_uppercase(),
            "web_search": {},
            "attachment_ids": null,
        });
        let events = user.open(&chat, &body).await?.collect().await?;
        let started = events.only("stream_started")?;
        assert_eq!(started["request_id"], request.to_string());
        let messages = user.messages(&chat).await?;
        assert_eq!(messages[0]["content"], " hi \n");
        assert_eq!(messages[1]["id"], started["message_id"]);
        assert!(messages.iter().all(|message| message["request_id"] == started["request_id"]));
        let searching = "SELECT count(*) FROM chat_turns WHERE web_search_enabled";
        assert_eq!(scene.database().number(searching).await?, 0);
    }
}
