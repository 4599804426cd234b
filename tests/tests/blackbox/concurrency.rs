//! Many streams at once.

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use http_body_util::BodyExt as _;
use minichat_tests::client::Api;
use minichat_tests::harness::Stack;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::json;
use uuid::Uuid;

const TENANTS: usize = 20;
const STREAMS_PER_TENANT: usize = 10;

/// A tenant whose provider path contains its name, so that scenarios can select
/// it.
fn tenant(index: usize, provider: &ScriptedProvider) -> Tenant {
    let name = format!("tenant-{index:02}");
    let mut tenant = Tenant::new(&name, provider.addr);
    tenant.spec()["providers"][0]["apiPath"] = json!(format!("/{name}/v1/responses"));
    tenant
}

/// A text that no other stream gets, with characters that need escaping.
fn answer(tenant: usize, stream: usize) -> Vec<String> {
    (0..20)
        .map(|piece| format!("{tenant}/{stream}/{piece} \"ü\\\n\u{2028}🦀"))
        .collect()
}

/// Runs one turn of the tenant's user. The streamed text must equal the stored
/// one.
async fn one_turn(stack: &Stack, tenant: &Tenant, user: Uuid) -> anyhow::Result<(String, String)> {
    let api = stack.caller(tenant, user)?;
    let chat = api.create_chat(Some("std")).await?;
    let events = api.say(&chat, "hello").await?;
    events.only("done")?;
    let messages = api.messages(&chat).await?;
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[1]["content"], events.answer());
    Ok((chat, events.answer()))
}

on_each_database! {
    /// PLAT-16, PLAT-56, API-14, API-15, TURN-66
    async fn two_hundred_streams_of_twenty_tenants_stay_apart(env) {
        let provider = ScriptedProvider::start().await?;
        let tenants: Vec<Tenant> = (0..TENANTS).map(|index| tenant(index, &provider)).collect();
        let stack = env.serve(&tenants.iter().collect::<Vec<_>>()).await?;
        for (index, tenant) in tenants.iter().enumerate() {
            for stream in 0..STREAMS_PER_TENANT {
                let pieces = answer(index, stream);
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                provider.push_scenario(Scenario {
                    for_path: Some(format!("/{}/", tenant.name)),
                    ..Scenario::deltas(&pieces, Ending::Completed)
                });
            }
        }
        // The same user id in every tenant: only the tenant distinguishes them.
        let user = Uuid::new_v4();
        let turns = (0..TENANTS * STREAMS_PER_TENANT)
            .map(|number| one_turn(&stack, &tenants[number % TENANTS], user));
        let turns = try_join_all(turns).await?;

        for (index, own) in tenants.iter().enumerate() {
            let of_tenant = turns.iter().skip(index).step_by(TENANTS);
            let mut answers: Vec<_> = of_tenant.map(|(_, answer)| answer.clone()).collect();
            let mut expected: Vec<_> = (0..STREAMS_PER_TENANT)
                .map(|stream| answer(index, stream).concat())
                .collect();
            answers.sort();
            expected.sort();
            assert_eq!(answers, expected, "tenant {index}");

            let api = stack.caller(own, user)?;
            let list = api.get("/chats?limit=100").await?.expect(200)?;
            assert_eq!(list["items"].as_array().map(Vec::len), Some(STREAMS_PER_TENANT));
            let (foreign, _) = &turns[(index + 1) % TENANTS];
            api.get(&format!("/chats/{foreign}")).await?.problem(404, "chat_not_found")?;
            let messages = api.get(&format!("/chats/{foreign}/messages")).await?;
            messages.problem(404, "chat_not_found")?;
            let body = json!({"content": "PING"});
            api.refused(foreign, &body).await?.problem(404, "chat_not_found")?;
        }
        check_counters(&stack, turns.len()).await?;
    }

    /// TURN-66, PLAT-56, D1: started = completed + failed, for every kind of
    /// end.
    async fn every_started_stream_is_counted_as_completed_or_failed(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let endings = [
            Ending::Completed,
            Ending::Incomplete { reason: "max_output_tokens".to_owned() },
            Ending::Cut,
            Ending::Missing,
            Ending::Failed { code: "server_error".to_owned(), message: "no".to_owned() },
        ];
        for ending in &endings {
            let chat = user.create_chat(None).await?;
            scene.provider.push_scenario(Scenario::deltas(&["ok"], ending.clone()));
            user.say(&chat, "hello").await?;
        }
        let chat = user.create_chat(None).await?;
        scene.provider.push_scenario(Scenario::deltas(&["ok"], Ending::Hang));
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        drop(stream);
        let stack = &scene.stack;
        stack.eventually("idle", async || {
            Ok(stack.scrape().await?.sum("mini_chat_active_streams", &[]) < 0.5)
        }).await?;
        stack.eventually("balanced", async || {
            let scrape = stack.scrape().await?;
            let sum = |name: &str| scrape.sum(name, &[]);
            let ended = sum("mini_chat_stream_completed_total") + sum("mini_chat_stream_failed_total");
            Ok((sum("mini_chat_stream_started_total") - ended).abs() < 0.5 && ended > 5.5)
        }).await?;
        let scrape = stack.scrape().await?;
        for (code, count) in [("provider_error", 3.0), ("cancelled", 1.0)] {
            let found = scrape.sum("mini_chat_stream_failed_total", &[("error_code", code)]);
            assert!((found - count).abs() < 0.5, "{code}: {found}");
        }
    }

    /// TURN-4, TURN-12, TURN-43, API-68: a hundred rounds, with one request id
    /// and with twenty.
    async fn of_parallel_sends_to_one_chat_exactly_one_streams(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for round in 0..100 {
            for same_id in [false, true] {
                scene.provider.push_scenario(Scenario {
                    hold_before_head: true,
                    ..Scenario::deltas(&["ok"], Ending::Completed)
                });
                let refusal = if same_id { "request_id_conflict" } else { "generation_in_progress" };
                parallel_sends(&user, same_id, refusal)
                    .await
                    .with_context(|| format!("round {round}, same id: {same_id}"))?;
                scene.provider.wait_until(|stats| stats.answers_open == 0).await;
            }
        }
        let running = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
        let stack = &scene.stack;
        stack.eventually("ended", async || Ok(stack.database.number(running).await? == 0)).await?;
        let database = scene.database();
        assert_eq!(database.number("SELECT count(*) FROM chat_turns").await?, 200);
        let reserved = "SELECT CAST(sum(reserved_credits_micro) AS BIGINT) FROM quota_usage";
        assert_eq!(database.number(reserved).await?, 0);
    }
}

/// Sends twenty messages to a new chat at once: one streams, and the others are
/// refused with `refusal`.
async fn parallel_sends(user: &Api, same_id: bool, refusal: &str) -> anyhow::Result<()> {
    let chat = user.create_chat(None).await?;
    let id = Uuid::new_v4();
    let path = format!("/mini-chat/v1/chats/{chat}/messages:stream");
    let sends = (0..20).map(|_| {
        let id = if same_id { id } else { Uuid::new_v4() };
        let body = json!({"content": "hello", "request_id": id.to_string()});
        let path = &path;
        async move {
            let json = [("content-type", "application/json")];
            user.send(http::Method::POST, path, &json, body.to_string().into())
                .await
        }
    });
    let mut streams = 0;
    let mut refusals = 0;
    for answer in try_join_all(sends).await? {
        let status = answer.status().as_u16();
        if status == 200 {
            streams += 1;
            continue;
        }
        let problem = answer.into_body().collect().await?.to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&problem)?;
        ensure!(
            status == 409 && problem["code"] == refusal,
            "{status} {problem}"
        );
        refusals += 1;
    }
    ensure!((streams, refusals) == (1, 19), "{streams} streams");
    Ok(())
}

async fn check_counters(stack: &Stack, turns: usize) -> anyhow::Result<()> {
    let scrape = stack.scrape().await?;
    for (name, expected) in [
        ("mini_chat_stream_started_total", turns),
        ("mini_chat_stream_completed_total", turns),
        ("mini_chat_stream_failed_total", 0),
        ("mini_chat_active_streams", 0),
    ] {
        assert_eq!(scrape.count(name, &[])?, expected, "{name}");
    }
    Ok(())
}
