//! Clients that stay connected but do not read: their turns still end for every
//! reason that ends a turn (D44, API-134).

use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::on_each_database;
use minichat_tests::raw_client::{Caller, RawClient};
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};
use uuid::Uuid;

/// How long a turn may continue after the reason to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A turn whose client does not read.
struct Unread {
    user: Api,
    chat: String,
    request: String,
    reader: RawClient,
}

/// A tenant whose provider has these time limits.
async fn scene(env: &Env, timeouts: Value) -> anyhow::Result<Scene> {
    env.scene_with(|mut tenant| {
        tenant.spec()["providers"][0]["timeouts"] = timeouts;
        tenant
    })
    .await
}

/// An answer of 25 MB, more than all buffers between provider and client.
pub(crate) fn flood() -> Scenario {
    let text = "0123456789".repeat(6400);
    let data = json!({"type": "response.output_text.delta", "delta": text});
    let event = format!("event: response.output_text.delta\ndata: {data}\n\n");
    Scenario::raw(event.repeat(400))
}

/// Opens a turn whose provider never ends, and reads up to the first delta.
async fn unread(scene: &Scene) -> anyhow::Result<Unread> {
    let caller = Caller {
        tenant: scene.tenant.id,
        user: Uuid::new_v4(),
    };
    let user = scene.stack.caller(&scene.tenant, caller.user)?;
    let chat = user.create_chat(Some("std")).await?;
    scene.provider.push_scenario(flood());
    let request = Uuid::new_v4().to_string();
    let body = json!({"content": "hello", "request_id": request}).to_string();
    let path = format!("/chats/{chat}/messages:stream");
    let mut reader = RawClient::connect_narrow(scene.stack.app_addr()).await?;
    reader.write(&caller.request("POST", &path, &body)).await?;
    reader.read_to("event: delta").await?;
    stalled(&reader).await?;
    Ok(Unread {
        user,
        chat,
        request,
        reader,
    })
}

/// Returns once the kernel accepts no more data for `reader`.
pub(crate) async fn stalled(reader: &RawClient) -> anyhow::Result<()> {
    let mut queued = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = queued_for(reader.local_port()?)?;
        if now == queued && now > 0 {
            return Ok(());
        }
        queued = now;
    }
}

/// Number of bytes that were sent to the peer at `port` of this machine and not
/// read.
fn queued_for(port: u16) -> anyhow::Result<u64> {
    let peer = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let mut rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(2).is_some_and(|it| it.ends_with(&peer)));
    let queue = row.and_then(|row| row.get(4)?.split(':').next().map(str::to_owned));
    Ok(u64::from_str_radix(
        &queue.context("no such connection")?,
        16,
    )?)
}

impl Unread {
    /// The turn ends and closes the provider's stream although the client does
    /// not read. A client that reads again learns how it ended.
    async fn ends(mut self, scene: &Scene, state: &str, code: &str) -> anyhow::Result<()> {
        let aborted = scene
            .provider
            .wait_until(|stats| stats.answers_aborted == 1);
        tokio::time::timeout(END_WITHIN, aborted).await?;
        let ended = async || {
            let turn = self.user.turn(&self.chat, &self.request).await?;
            Ok(turn["state"] == state)
        };
        scene.stack.eventually(state, ended).await?;
        let idle = async || {
            let active = scene
                .stack
                .scrape()
                .await?
                .sum("mini_chat_active_streams", &[]);
            Ok(active < 0.5)
        };
        scene.stack.eventually("idle", idle).await?;
        let event = format!("event: error\ndata: {{\"code\":\"{code}\"");
        self.reader.read_to(&event).await?;
        self.reader.read_to("\r\n0\r\n\r\n").await
    }
}

on_each_database! {
    /// D28, D44
    async fn the_limit_of_the_whole_answer_holds(env) {
        let scene = scene(&env, json!({"totalSeconds": 4})).await?;
        unread(&scene).await?.ends(&scene, "error", "provider_timeout").await?;
        let scrape = scene.stack.scrape().await?;
        let timeout = [("trigger", "timeout")];
        for name in ["cancel_requested_total", "cancel_effective_total", "time_to_abort_ms_count"] {
            assert_eq!(scrape.count(&format!("mini_chat_{name}"), &timeout)?, 1, "{name}");
        }
        let abort = scrape.sum("mini_chat_time_to_abort_ms_sum", &timeout);
        assert!(abort < 1000.0, "aborted {abort} ms after the limit");
        let usage = scene.database().payloads("mini-chat.usage_snapshot").await?;
        assert_eq!(usage[0]["settlement_method"], "estimated");
        assert_eq!(usage[0]["error_code"], "provider_timeout");
    }

    /// D3
    async fn a_stop_holds(env) {
        let scene = env.scene().await?;
        let unread = unread(&scene).await?;
        unread.user.cancel(&unread.chat, &unread.request).await?.expect(202)?;
        unread.ends(&scene, "cancelled", "cancelled").await?;
    }

    /// K8S-50, TURN-51: the process ends, and with it the connection.
    async fn a_drain_holds(env) {
        let scene = env.scene().await?;
        let unread = unread(&scene).await?;
        let database = scene.database().clone();
        tokio::time::timeout(Duration::from_secs(20), scene.stack.stop()).await??;
        let cancelled = "SELECT count(*) FROM chat_turns WHERE state = 'cancelled'";
        assert_eq!(database.number(cancelled).await?, 1);
        drop(unread);
    }

    /// TURN-42, API-150: a complete answer is stored, whether or not it is
    /// read.
    async fn an_answer_that_is_complete_is_stored(env) {
        let scene = env.scene().await?;
        let caller = Caller { tenant: scene.tenant.id, user: Uuid::new_v4() };
        let user = scene.stack.caller(&scene.tenant, caller.user)?;
        let chat = user.create_chat(Some("std")).await?;
        // More than all buffers except the last frame of the channel.
        let piece = "0123456789".repeat(1000);
        scene.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&[piece.as_str(); 16], Ending::Completed)
        });
        let path = format!("/chats/{chat}/messages:stream");
        let mut reader = RawClient::connect_narrow(scene.stack.app_addr()).await?;
        reader.write(&caller.request("POST", &path, r#"{"content": "hello"}"#)).await?;
        reader.read_to("event: delta").await?;
        scene.provider.release(1);
        let stored = async || Ok(user.messages(&chat).await?.len() == 2);
        scene.stack.eventually("stored", stored).await?;
        reader.read_to("event: done").await?;
    }
}
