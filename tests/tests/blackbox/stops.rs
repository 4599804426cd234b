//! Turns that are stopped on request (D3).

use std::time::Duration;

use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;
use uuid::Uuid;

on_each_database! {
    /// D1, D3, D22, TURN-36, TURN-48, TURN-52
    async fn a_stopped_turn_keeps_its_text_and_tells_its_client(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        scene.provider.push_scenario(Scenario::deltas(&["part ", "of it"], Ending::Hang));
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?;
        let id = started.text("request_id");
        stream.expect("delta").await?;
        stream.expect("delta").await?;

        let running = user.cancel(&chat, id).await?.expect(202)?;
        assert_eq!(running["request_id"], id);
        assert_eq!(running["state"], "running");
        let error = stream.expect("error").await?;
        assert_eq!(error.text("code"), "cancelled");
        assert!(stream.next().await?.is_none());
        // The event follows the commit.
        let ended = user.cancel(&chat, id).await?.expect(200)?;
        assert_eq!(ended, user.turn(&chat, id).await?);
        assert_eq!(ended["state"], "cancelled");
        assert!(ended.get("error_code").is_none());
        assert_eq!(ended["assistant_message_id"], started.data["message_id"]);
        assert_eq!(user.messages(&chat).await?[1]["content"], "part of it");
        let coded = "SELECT count(*) FROM chat_turns WHERE error_code IS NOT NULL";
        assert_eq!(scene.database().number(coded).await?, 0);
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;

        let scrape = scene.stack.scrape().await?;
        let user_stop = [("trigger", "user_stop")];
        for (name, labels) in [
            ("mini_chat_cancel_requested_total", &user_stop),
            ("mini_chat_cancel_effective_total", &user_stop),
            ("mini_chat_time_to_abort_ms_count", &user_stop),
            ("mini_chat_streams_aborted_total", &[("trigger", "client_disconnect")]),
            ("mini_chat_stream_failed_total", &[("error_code", "cancelled")]),
        ] {
            assert_eq!(scrape.count(name, labels)?, 1, "{name}");
        }
        assert_eq!(scrape.count("mini_chat_stream_disconnected_total", &[])?, 0);
    }

    /// TURN-48, TURN-49: whatever the database does, the provider is left at
    /// once. The bound is of no interest but that it is one.
    async fn the_provider_is_left_although_nothing_can_be_committed(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for left in 1..=50 {
            let chat = user.create_chat(None).await?;
            scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
            let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
            let started = stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            let id = started.text("request_id");
            let lock = env.database.lock_writes().await?;
            let reader = if left % 2 == 0 {
                drop(stream);
                None
            } else {
                user.cancel(&chat, id).await?.expect(202)?;
                Some(stream)
            };
            let is_left = scene.provider.wait_until(|stats| stats.answers_aborted == left);
            tokio::time::timeout(Duration::from_secs(2), is_left).await?;
            assert_eq!(user.turn(&chat, id).await?["state"], "running");
            drop(lock);
            if let Some(mut stream) = reader {
                assert_eq!(stream.expect("error").await?.text("code"), "cancelled");
            }
            let cancelled = async || Ok(user.turn(&chat, id).await?["state"] == "cancelled");
            scene.stack.eventually("cancelled", cancelled).await?;
        }
    }

    /// D3: as every operation on a turn.
    async fn what_is_not_there_cannot_be_stopped(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let nothing = Uuid::new_v4().to_string();
        user.cancel(&chat, &nothing).await?.problem(404, "turn_not_found")?;
        user.cancel(&nothing, &nothing).await?.problem(404, "chat_not_found")?;
        let reader = user.with_header("x-scopes", "ai:mini_chat:read")?;
        reader.cancel(&chat, &nothing).await?.problem(403, "insufficient_permissions")?;
        let events = user.say(&chat, "PING").await?;
        let id = events.only("stream_started")?["request_id"].clone();
        let id = id.as_str().unwrap_or_default();
        let stranger = scene.new_user()?;
        stranger.cancel(&chat, id).await?.problem(404, "chat_not_found")?;
        assert_eq!(user.cancel(&chat, id).await?.expect(200)?["state"], "done");
    }

    /// D3: whichever process runs the turn.
    async fn any_process_can_stop_a_turn(env) {
        let scene = env.scene().await?;
        if matches!(env.database, minichat_tests::database::Database::Sqlite(_)) {
            // Its file has one process.
            return Ok(());
        }
        let other = env.serve(&[&scene.tenant]).await?;
        let user_id = Uuid::new_v4();
        let here = scene.stack.caller(&scene.tenant, user_id)?;
        let there = other.caller(&scene.tenant, user_id)?;
        let chat = here.create_chat(None).await?;
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let mut stream = here.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        there.cancel(&chat, started.text("request_id")).await?.expect(202)?;
        assert_eq!(stream.expect("error").await?.text("code"), "cancelled");
        let ended = there.cancel(&chat, started.text("request_id")).await?.expect(200)?;
        assert_eq!(ended["state"], "cancelled");
        let effective = "mini_chat_cancel_effective_total";
        assert_eq!(scene.stack.scrape().await?.count(effective, &[("trigger", "user_stop")])?, 1);
        assert_eq!(other.scrape().await?.count(effective, &[])?, 0);
    }
}
