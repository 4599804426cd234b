//! Turns that are stopped on request (D3).

use std::time::{Duration, Instant};

use minichat_tests::client::Api;
use minichat_tests::database::Database;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;
use uuid::Uuid;

/// Maximum time from the cancellation until the provider's stream is closed.
const ABORT_LIMIT: Duration = Duration::from_millis(200);

/// How an answer is cancelled.
#[derive(Clone, Copy)]
enum Way<'a> {
    Leave,
    Stop,
    /// Another process receives the stop request.
    StopThere(&'a Api),
}

/// Cancels an answer of model `std` after its tenth delta. Returns how many
/// pieces the provider wrote after that, and how long its stream stayed open.
async fn cancel(scene: &Scene, way: Way<'_>) -> anyhow::Result<(u64, Duration)> {
    let id = Uuid::new_v4();
    let user = scene.stack.caller(&scene.tenant, id)?;
    let chat = user.create_chat(Some("std")).await?;
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    let request = stream
        .expect("stream_started")
        .await?
        .text("request_id")
        .to_owned();
    for _ in 0..10 {
        stream.expect("delta").await?;
    }
    let (before, began) = (scene.provider.stats(), Instant::now());
    let aborted = async {
        let is_aborted = |aborted| aborted > before.answers_aborted;
        let stats = scene
            .provider
            .wait_until(|stats| is_aborted(stats.answers_aborted))
            .await;
        (
            stats.chunks_written - before.chunks_written,
            began.elapsed(),
        )
    };
    let there = match way {
        Way::Leave => {
            drop(stream);
            return Ok(aborted.await);
        }
        Way::Stop => user,
        Way::StopThere(api) => api.acting_as(scene.tenant.id, id)?,
    };
    let (aborted_after, stopped) = tokio::join!(aborted, there.cancel(&chat, &request));
    stopped?.expect(202)?;
    Ok(aborted_after)
}

on_each_database! {
    /// D3, API-153, TURN-48: of a provider that writes a thousand tokens per
    /// second, fewer than 50 are wasted.
    async fn a_cancelled_answer_costs_fewer_than_50_more_tokens(env) {
        const ROUNDS: usize = 50;
        let scene = env.scene_with(|mut tenant| {
            tenant.model("std")["providerModelId"] = json!("paced-ttft1-chunks100000-interval1");
            tenant
        }).await?;
        let other = match env.database {
            // One process owns its file.
            Database::Sqlite(_) => None,
            Database::Postgres(_) => Some(env.serve(&[&scene.tenant]).await?),
        };
        let mut ways = vec![("left", Way::Leave), ("stopped", Way::Stop)];
        ways.extend(other.as_ref().map(|other| ("stopped elsewhere", Way::StopThere(&other.api))));
        for (name, way) in ways {
            let mut tokens = Vec::new();
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let (count, time) = cancel(&scene, way).await?;
                tokens.push(count);
                times.push(time);
            }
            tokens.sort_unstable();
            times.sort_unstable();
            eprintln!(
                "{name}: up to {} more tokens, median {}; the provider was left within {:?}, median {:?}",
                tokens[ROUNDS - 1], tokens[ROUNDS / 2], times[ROUNDS - 1], times[ROUNDS / 2]
            );
            assert!(tokens[ROUNDS - 1] < 50, "{name}: {tokens:?}");
            assert!(times[ROUNDS - 1] < ABORT_LIMIT, "{name}: {times:?}");
        }
    }

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
        // The event comes after the commit.
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

    /// TURN-48, TURN-49: the provider's stream is closed at once, even if the
    /// database fails. The exact time limit does not matter.
    async fn the_provider_is_left_although_nothing_can_be_committed(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for aborted in 1..=50 {
            let chat = user.create_chat(None).await?;
            scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
            let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
            let started = stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            let id = started.text("request_id");
            let lock = env.database.lock_writes().await?;
            let reader = if aborted % 2 == 0 {
                drop(stream);
                None
            } else {
                user.cancel(&chat, id).await?.expect(202)?;
                Some(stream)
            };
            let is_aborted = scene.provider.wait_until(|stats| stats.answers_aborted == aborted);
            tokio::time::timeout(Duration::from_secs(2), is_aborted).await?;
            assert_eq!(user.turn(&chat, id).await?["state"], "running");
            drop(lock);
            if let Some(mut stream) = reader {
                assert_eq!(stream.expect("error").await?.text("code"), "cancelled");
            }
            let cancelled = async || Ok(user.turn(&chat, id).await?["state"] == "cancelled");
            scene.stack.eventually("cancelled", cancelled).await?;
        }
    }

    /// D3: like every operation on a turn.
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
            // One process owns its file.
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
