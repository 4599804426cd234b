//! Restarts on `SQLite` (D50): one process owns the file, and the next one waits for it.

use std::time::Instant;

use minichat_tests::books::check_balanced;
use minichat_tests::child::{Process, Starting};
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Env, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::json;
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const WAITING: &str = "waiting until it is free";

async fn tenant(env: &Env) -> anyhow::Result<(ScriptedProvider, Tenant)> {
    let provider = ScriptedProvider::start().await?;
    let tenant = Tenant::new("acme", provider.addr);
    env.write_manifest(&tenant.name, &tenant.manifest())?;
    Ok((provider, tenant))
}

async fn the_next_process_serves_when_the_draining_one_has_ended(env: Env) -> anyhow::Result<()> {
    let (provider, tenant) = tenant(&env).await?;
    let first = Process::serve(BINARY, &env, "MINICHAT_DRAIN_MAX_SECS=600").await?;
    provider.push_scenario(Scenario {
        hold_before_end: true,
        ..Scenario::deltas(&["part"], Ending::Completed)
    });
    let id = Uuid::new_v4();
    let user = first.api.acting_as(tenant.id, id)?;
    let chat = user.create_chat(None).await?;
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    first.terminate()?;

    let mut second = Starting::new(BINARY, &env, "MINICHAT_DRAIN_MAX_SECS=600")?;
    let line = second.says(WAITING).await?;
    let holder = format!("process {} ", first.id()?);
    assert!(
        line.contains(&holder) && line.contains(&env.database.url()[9..]),
        "{line}"
    );
    // The long answer is complete nevertheless.
    provider.release(1);
    stream.expect("done").await?;
    assert!(first.ended().await?.success());
    let ended = Instant::now();
    let second = second.served().await?;
    let user = second.api.acting_as(tenant.id, id)?;
    let messages = user.messages(&chat).await?;
    eprintln!("served {} ms after the end", ended.elapsed().as_millis());
    assert_eq!(messages.len(), 2, "{messages:?}");
    check_balanced(&env.database).await
}

async fn a_process_that_waits_ends_at_once_when_it_is_told_to(env: Env) -> anyhow::Result<()> {
    let (_provider, tenant) = tenant(&env).await?;
    let first = Process::serve(BINARY, &env, "").await?;
    let mut second = Starting::new(BINARY, &env, "MINICHAT_DRAIN_MAX_SECS=600")?;
    second.says(WAITING).await?;
    assert!(second.terminated().await?.success());
    let user = first.api.acting_as(tenant.id, Uuid::new_v4())?;
    user.create_chat(None).await?;
    Ok(())
}

mod on_sqlite {
    use super::*;

    /// D50, K8S-50
    #[test]
    fn the_next_process_serves_when_the_draining_one_has_ended() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::the_next_process_serves_when_the_draining_one_has_ended,
        )
    }

    /// D50
    #[test]
    fn a_process_that_waits_ends_at_once_when_it_is_told_to() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::a_process_that_waits_ends_at_once_when_it_is_told_to,
        )
    }
}
