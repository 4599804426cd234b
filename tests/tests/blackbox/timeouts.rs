//! The time limits of providers (TURN-50, D28).

use minichat_tests::harness::{Env, Scene};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};

/// An answer with a pause before each word.
fn slowly(words: usize, interval_ms: u64) -> Scenario {
    Scenario {
        interval_ms,
        ..Scenario::deltas(&vec!["word "; words], Ending::Completed)
    }
}

async fn scene(env: &Env, timeouts: &Value) -> anyhow::Result<Scene> {
    env.scene_with(|mut tenant| {
        tenant.spec()["providers"][0]["timeouts"] = timeouts.clone();
        tenant
    })
    .await
}

/// The turn must end by a time limit. Returns how it was settled.
async fn timed_out(scene: &Scene) -> anyhow::Result<String> {
    let user = scene.new_user()?;
    let chat = user.create_chat(Some("std")).await?;
    let before = scene.stack.scrape().await?;
    let events = user.say(&chat, "hello").await?;
    assert_eq!(events.only("error")?["code"], "provider_timeout");
    let request = &events.only("stream_started")?["request_id"];
    let turn = user
        .turn(&chat, request.as_str().unwrap_or_default())
        .await?;
    assert_eq!(turn["state"], "error");
    assert_eq!(turn["error_code"], "provider_timeout");
    assert_eq!(user.messages(&chat).await?.len(), 1);
    let scrape = scene.stack.scrape().await?;
    let timeout = [("trigger", "timeout")];
    for (name, labels) in [
        ("cancel_requested_total", &timeout),
        ("cancel_effective_total", &timeout),
        ("time_to_abort_ms_count", &timeout),
        ("stream_failed_total", &[("error_code", "provider_timeout")]),
    ] {
        let name = format!("mini_chat_{name}");
        let counted = scrape.count(&name, labels)? - before.count(&name, labels)?;
        assert_eq!(counted, 1, "{name}");
    }
    let spent = |scrape: &minichat_tests::exposition::Scrape| {
        scrape.sum("mini_chat_time_to_abort_ms_sum", &timeout)
    };
    let abort = spent(&scrape) - spent(&before);
    assert!(
        abort > 0.0 && abort < 1000.0,
        "aborted {abort} ms after the limit"
    );
    assert!(scrape.sum("mini_chat_streams_aborted_total", &[]) < 0.5);
    let usage = scene
        .database()
        .payloads("mini-chat.usage_snapshot")
        .await?;
    let method = usage.last().map(|event| event["settlement_method"].clone());
    Ok(method
        .and_then(|method| Some(method.as_str()?.to_owned()))
        .unwrap_or_default())
}

on_each_database! {
    /// TURN-50, TURN-65, D28, PLAT-118
    async fn a_provider_that_does_not_begin_to_answer_times_out(env) {
        let scene = scene(&env, &json!({"firstByteSeconds": 1})).await?;
        scene.provider.push_scenario(Scenario { hold_before_head: true, ..Scenario::default() });
        assert_eq!(timed_out(&scene).await?, "estimated");
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
    }

    /// D28: only events count as progress.
    async fn comments_do_not_keep_a_stream_alive(env) {
        let scene = scene(&env, &json!({"firstByteSeconds": 1, "idleSeconds": 1})).await?;
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Comments { every_ms: 50 }));
        assert_eq!(timed_out(&scene).await?, "estimated");
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
    }

    /// D28: the limit applies to the gap between events, not to the whole
    /// answer.
    async fn a_provider_that_goes_on_is_not_silent(env) {
        let scene = scene(&env, &json!({"firstByteSeconds": 1, "idleSeconds": 1})).await?;
        scene.provider.push_scenario(slowly(8, 400));
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let events = user.say(&chat, "hello").await?;
        events.only("done")?;
        assert_eq!(events.answer(), "word ".repeat(8));
    }

    /// D28: even if events keep coming.
    async fn an_answer_that_takes_too_long_as_a_whole_times_out(env) {
        let scene = scene(&env, &json!({"totalSeconds": 1})).await?;
        scene.provider.push_scenario(slowly(100, 50));
        assert_eq!(timed_out(&scene).await?, "estimated");
        scene.provider.wait_until(|stats| stats.answers_aborted == 1).await;
    }

    /// D28, QUOTA-60: if no connection is made, the provider was not called, so
    /// nothing is charged.
    async fn a_provider_that_takes_no_connection_times_out(env) {
        // Its accept queue is full, and nothing empties it.
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let full = socket.listen(1)?;
        let addr = full.local_addr()?;
        let mut waiting = Vec::new();
        let patience = std::time::Duration::from_millis(500);
        while let Ok(taken) = tokio::time::timeout(patience, TcpStream::connect(addr)).await {
            waiting.push(taken?);
        }
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["providers"][0]["baseUrl"] = json!(format!("http://{addr}"));
            tenant.spec()["providers"][0]["timeouts"] = json!({"connectSeconds": 1});
            tenant
        }).await?;
        assert_eq!(timed_out(&scene).await?, "released");
        let spent = "SELECT count(*) FROM quota_usage WHERE spent_credits_micro <> 0";
        assert_eq!(scene.database().number(spent).await?, 0);
        drop((full, waiting));
    }
}
