//! Chats that are longer than their model can read, and processes that die while they
//! are summarized.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use minichat_tests::books::check_balanced;
use minichat_tests::child::Process;
use minichat_tests::database::Database;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
/// Each is a message and its answer.
const TURNS: usize = 100;
/// By the estimate of CONT-7.
const BYTES_PER_TOKEN: usize = 4;
const KILLS: usize = 50;
const PATIENCE: Duration = Duration::from_mins(1);
const WAITING: &str = "SELECT COUNT(*) FROM outbox_messages \
    WHERE queue = 'mini-chat.thread_summary' AND done_at IS NULL";

/// A tenant whose model `std` reads at most `budget` tokens.
fn with_budget(mut tenant: Tenant, budget: usize) -> Tenant {
    let model = tenant.model("std");
    model["contextWindow"] = json!(budget + 1000);
    model["maxInputTokens"] = json!(budget);
    model["maxOutputTokens"] = json!(500);
    tenant.spec()["context"] = json!({"recentMessagesLimit": 100});
    tenant
}

fn fact(turn: usize) -> String {
    format!("fact-{turn:03}")
}

fn saying(turn: usize) -> String {
    format!("{} {}", fact(turn), "x".repeat(1400))
}

/// The bodies of the calls of a kind, oldest first.
fn calls(provider: &ScriptedProvider, request_type: &str) -> Vec<Value> {
    let bodies = provider.requests().into_iter().map(|it| it.body);
    bodies
        .filter(|body| body["metadata"]["request_type"] == request_type)
        .collect()
}

/// Bytes of all texts that a model reads.
fn length(body: &Value) -> usize {
    let input = body["input"].as_array().into_iter().flatten();
    let parts = input.flat_map(|it| it["content"].as_array().into_iter().flatten());
    let texts = parts.filter_map(|part| part["text"].as_str());
    let instructions = body["instructions"].as_str().unwrap_or_default();
    texts.map(str::len).sum::<usize>() + instructions.len()
}

/// How many of the facts a model was not sent. None is sent twice, in the summary and as
/// a message.
fn unknown(body: &Value, turns: usize) -> usize {
    let sent = body["input"].to_string();
    let mut unknown = 0;
    for turn in 0..turns {
        let count = sent.matches(&fact(turn)).count();
        assert!(count < 2, "{} is sent {count} times: {sent}", fact(turn));
        unknown += usize::from(count == 0);
    }
    unknown
}

const MESSAGES: &str = "SELECT COUNT(*) FROM messages WHERE deleted_at IS NULL";

async fn is_settled(database: &Database) -> anyhow::Result<bool> {
    Ok(database.number(WAITING).await? == 0)
}

async fn settled(database: &Database) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_settled(database).await? {
        ensure!(began.elapsed() < PATIENCE, "the chat is not summarized");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Nobody holds what a killed process held.
async fn expire_leases(database: &Database) -> anyhow::Result<()> {
    for sql in [
        "UPDATE outbox_partitions SET locked_by = NULL, locked_until = NULL",
        "DELETE FROM outbox_parked",
    ] {
        database.query(sql).await?;
    }
    Ok(())
}

/// The ids of the tasks in the usage events of summaries.
async fn summarized(database: &Database) -> anyhow::Result<Vec<String>> {
    let events = database.payloads("mini-chat.usage_snapshot").await?;
    let of_system = events.iter().filter(|it| it["requester_type"] == "system");
    Ok(of_system.map(|it| it["request_id"].to_string()).collect())
}

on_each_database! {
    /// CONT-3, CONT-5, CONT-8, CONT-131, CONT-134: the model knows everything that was
    /// said, but for the turn that asks for a summary because it cannot, and it is never
    /// sent more than it can read.
    async fn a_model_knows_what_was_said_long_ago(env) {
        let scene = env.scene_with(|tenant| with_budget(tenant, 7000)).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for turn in 0..TURNS {
            user.say(&chat, &saying(turn)).await?.only("done")?;
            settled(scene.database()).await?;
        }
        let asked = calls(&scene.provider, "chat");
        assert_eq!(asked.len(), TURNS);
        let summaries = summarized(scene.database()).await?.len();
        let mut forgetful = 0;
        for (turn, body) in asked.iter().enumerate() {
            assert!(length(body) <= 7000 * BYTES_PER_TOKEN, "{turn}: {}", length(body));
            forgetful += usize::from(unknown(body, turn + 1) > 0);
        }
        assert!(summaries >= 3 && forgetful < summaries, "{forgetful} of {summaries}");
        for body in calls(&scene.provider, "summary") {
            assert!(length(&body) <= 7000 * BYTES_PER_TOKEN, "{}", length(&body));
        }
        user.say(&chat, &saying(TURNS)).await?.only("done")?;
        let messages = scene.database().number(MESSAGES).await?;
        assert_eq!(messages, i64::try_from(2 * TURNS + 2)?);
    }

    /// CONT-134, CONT-137, CONT-140: whenever the process is killed that summarizes, each
    /// range is summarized once, and no message is lost or sent twice.
    async fn whoever_dies_while_summarizing_loses_nothing(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = with_budget(Tenant::new("acme", provider.addr), 4000);
        env.write_manifest(&tenant.name, &tenant.manifest())?;
        let user_id = Uuid::new_v4();
        let mut chat = None;
        let (mut turn, mut moment) = (0, 0x9e37_79b9_u64);
        for _ in 0..KILLS {
            let process = Process::serve(BINARY, &env, "").await?;
            expire_leases(&env.database).await?;
            let user = process.api.acting_as(tenant.id, user_id)?;
            let chat = match &chat {
                Some(chat) => chat,
                None => chat.insert(user.create_chat(Some("std")).await?),
            };
            loop {
                user.say(chat, &saying(turn)).await?.only("done")?;
                turn += 1;
                if !is_settled(&env.database).await? {
                    break;
                }
            }
            // A summary takes a few milliseconds.
            moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            tokio::time::sleep(Duration::from_micros((moment >> 33) % 30_000)).await;
            process.kill().await?;
        }
        let process = Process::serve(BINARY, &env, "").await?;
        expire_leases(&env.database).await?;
        settled(&env.database).await?;
        let user = process.api.acting_as(tenant.id, user_id)?;
        let chat = chat.context("no round")?;
        user.say(&chat, &saying(turn)).await?.only("done")?;
        let asked = calls(&provider, "chat");
        asked.iter().enumerate().for_each(|(at, body)| { unknown(body, at + 1); });
        let last = asked.last().context("nothing was asked")?;
        assert_eq!(unknown(last, turn + 1), 0, "{last}");
        let mut events = summarized(&env.database).await?;
        let count = events.len();
        events.sort();
        events.dedup();
        assert!(count >= 2 && events.len() == count, "{events:?}");
        assert_eq!(env.database.number("SELECT COUNT(*) FROM outbox_dead_letters").await?, 0);
        let messages = env.database.number(MESSAGES).await?;
        assert_eq!(messages, i64::try_from(2 * (turn + 1))?);
        check_balanced(&env.database).await?;
        process.kill().await?;
    }
}
