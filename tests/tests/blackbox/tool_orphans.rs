//! Turns whose process is killed after the provider has run tools.

use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::books::check_balanced;
use minichat_tests::child::{Process, job, job_run};
use minichat_tests::form::{FormFile, beginning};
use minichat_tests::harness::Env;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Call, Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const COUNTS: &str =
    "SELECT web_search_completed_count, code_interpreter_completed_count FROM chat_turns";

/// 4,000 bytes cost 1,210 tokens, the offer of a web search 500 and that of the code
/// interpreter 1,000. An input token costs 1 micro-credit, and an output token 3, of
/// which 50 are charged.
const CHARGED: i64 = 1210 + 500 + 1000 + 3 * 50;

/// Serves a tenant until one turn has ended a search and a call of code, and kills the
/// process while the next search runs.
async fn killed_between_calls(env: &Env) -> anyhow::Result<ScriptedProvider> {
    let provider = ScriptedProvider::start().await?;
    let mut tenant = Tenant::new("acme", provider.addr);
    tenant.model("std")["toolSupport"] = json!({"webSearch": true, "codeInterpreter": true});
    tenant.spec()["context"] = json!({"webSearchGuard": "", "fileSearchGuard": ""});
    env.write_manifest(&tenant.name, &tenant.manifest())?;
    let process = Process::serve(BINARY, env, "").await?;
    let user = process.api.acting_as(tenant.id, Uuid::new_v4())?;
    let chat = user.create_chat(Some("std")).await?;
    let sheet = FormFile::new("a.xlsx", XLSX, beginning(b"PK\x03\x04", 64));
    user.upload(&chat, &sheet).await?.expect(201)?;

    provider.push_scenario(Scenario {
        ending: Ending::Hang,
        ..Scenario::calls(vec![
            Call::WebSearch {
                query: "a".to_owned(),
            },
            Call::CodeInterpreter {
                code: "print(1)".to_owned(),
                logs: "1".to_owned(),
            },
        ])
    });
    let body = json!({"content": "x".repeat(4000), "web_search": {"enabled": true}});
    let mut stream = user.open(&chat, &body).await?;
    stream.expect("stream_started").await?;
    let mut ended = 0;
    while ended < 2 {
        let event = stream.next().await?.context("the stream ended")?;
        ended += u32::from(event.name == "tool" && event.data["phase"] == "done");
    }
    let stored = async {
        let expected = [["1", "1"].map(|count| Some(count.to_owned())).to_vec()];
        while env.database.query(COUNTS).await? != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), stored)
        .await
        .context("the calls are not stored")??;
    process.kill().await?;
    Ok(provider)
}

async fn watchdog(env: &Env) -> anyhow::Result<()> {
    env.database.age_turns("state = 'running'").await?;
    let run = job_run(job(BINARY, &["watchdog", "--once"], &env.database.url())?).await?;
    anyhow::ensure!(run.status.success(), "{run:?}");
    assert_eq!(run.reports[0]["finalized"], 1, "{run:?}");
    Ok(())
}

/// The turn has `calls` of searches and of code, and was charged with its surcharges.
async fn check_settled(env: &Env, calls: [i64; 2]) -> anyhow::Result<()> {
    let database = &env.database;
    let failed = "SELECT count(*) FROM chat_turns WHERE state = 'failed' \
        AND error_code = 'orphan_timeout'";
    assert_eq!(database.number(failed).await?, 1);
    let [searches, programs] = calls;
    let charged = format!(
        "SELECT count(*) FROM quota_usage WHERE bucket = 'total' AND calls = 1 \
         AND spent_credits_micro = {CHARGED} AND reserved_credits_micro = 0 \
         AND web_search_calls = {searches} AND code_interpreter_calls = {programs} \
         AND file_search_calls = 0"
    );
    let all =
        "SELECT spent_credits_micro, web_search_calls, code_interpreter_calls FROM quota_usage";
    let all = database.query(all).await?;
    assert_eq!(database.number(&charged).await?, 2, "{all:?}");
    let usage = database.payloads("mini-chat.usage_snapshot").await?;
    let [event] = usage.as_slice() else {
        anyhow::bail!("{usage:?}");
    };
    for (member, expected) in [
        ("billing_outcome", json!("aborted")),
        ("settlement_method", json!("estimated")),
        ("actual_credits_micro", json!(CHARGED)),
        ("usage", Value::Null),
        ("web_search_calls", json!(searches)),
        ("code_interpreter_calls", json!(programs)),
        ("file_search_calls", json!(0)),
    ] {
        assert_eq!(event[member], expected, "{member} in {event}");
    }
    let audit = database.payloads("mini-chat.audit").await?;
    let failed = audit
        .iter()
        .find(|event| event["event_type"] == "turn_failed");
    let told = &failed.context("no audit event")?["tool_calls"];
    assert_eq!(told["web_search_calls"], searches, "{told}");
    assert_eq!(told["code_interpreter_calls"], programs, "{told}");
    check_balanced(database).await
}

on_each_database! {
    /// QUOTA-34, QUOTA-38, QUOTA-59, QUOTA-67, QUOTA-71, TURN-29, TURN-60; check 27 of chapter 03
    async fn a_watchdog_settles_the_calls_that_are_stored(env) {
        let _provider = killed_between_calls(&env).await?;
        watchdog(&env).await?;
        check_settled(&env, [1, 1]).await?;
    }

    /// QUOTA-71, TURN-63: so does a process that takes over the file of another one; on a
    /// server, which others share, a new process leaves the turn to the watchdog.
    async fn a_start_settles_the_calls_that_are_stored(env) {
        let _provider = killed_between_calls(&env).await?;
        let process = Process::serve(BINARY, &env, "").await?;
        if !env.database.url().starts_with("sqlite") {
            watchdog(&env).await?;
        }
        check_settled(&env, [1, 1]).await?;
        process.kill().await?;
    }

    /// TURN-29: a count that was spoilt is no credit.
    async fn a_negative_count_is_none(env) {
        let _provider = killed_between_calls(&env).await?;
        let spoil = "UPDATE chat_turns SET web_search_completed_count = -3";
        env.database.query(spoil).await?;
        watchdog(&env).await?;
        check_settled(&env, [0, 1]).await?;
    }
}
