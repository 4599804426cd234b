//! Databases that cannot serve, and the answers of every route (D43).

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use http::{Method, StatusCode};
use minichat_tests::books::check_balanced;
use minichat_tests::client::{Answer, Api};
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Scene, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::postgres;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::json;

use crate::every_route::{Call, Things, calls};

/// Time limits that are short enough for a test.
const IMPATIENT: &str = "MINICHAT_DATABASE_JOB_TIMEOUT_SECS=2\n\
    MINICHAT_DATABASE_STATEMENT_TIMEOUT_SECS=1\n\
    MINICHAT_DATABASE_LOCK_TIMEOUT_SECS=1\n\
    MINICHAT_DATABASE_CONNECT_TIMEOUT_SECS=1\n\
    MINICHAT_DATABASE_MAX_CONNS=3";

/// Routes that read only the configuration.
const WITHOUT_DATABASE: [&str; 2] = ["/models", "/models/{model_id}"];

/// Calls every route at once, each as another user with a chat and a turn.
async fn call_every_route(users: &[(Api, Things)]) -> anyhow::Result<Vec<(Call, Answer)>> {
    let answers = users
        .iter()
        .enumerate()
        .map(async |(number, (user, things))| {
            let call = calls(things).swap_remove(number);
            let answer = call.by(user).await.with_context(|| format!("{call:?}"))?;
            anyhow::Ok((call, answer))
        });
    try_join_all(answers).await
}

/// One user for each route.
async fn users(scene: &Scene) -> anyhow::Result<Vec<(Api, Things)>> {
    let mut users = Vec::new();
    for _ in minichat_dataplane::http::routes() {
        let user = scene.new_user()?;
        let things = Things::create(&user).await?;
        users.push((user, things));
    }
    Ok(users)
}

/// 503 with a `Retry-After`.
pub(crate) fn check_unavailable(call: &Call, answer: &Answer) -> anyhow::Result<()> {
    let problem = answer.problem(503, "service_unavailable");
    problem.with_context(|| format!("{call:?}"))?;
    let seconds: u32 = answer
        .header("retry-after")
        .parse()
        .with_context(|| format!("Retry-After of {call:?}"))?;
    ensure!((1..=60).contains(&seconds), "{call:?}: {seconds}");
    Ok(())
}

/// Every route answers 503, readiness agrees for one of `reasons`, and the provider is
/// not called.
async fn check_nothing_is_served(
    scene: &Scene,
    users: &[(Api, Things)],
    reasons: &[&str],
) -> anyhow::Result<()> {
    let called = scene.provider.requests().len();
    for (call, answer) in call_every_route(users).await? {
        if WITHOUT_DATABASE.contains(&call.template) {
            ensure!(answer.status == 200, "{call:?}: {answer:?}");
        } else {
            check_unavailable(&call, &answer)?;
        }
    }
    let ready = scene.stack.admin.get_absolute("/readyz").await?;
    ensure!(ready.status == 503, "{ready:?}");
    // Words of our own, none of a driver or a server.
    let told = ready.json()?["reasons"].clone();
    let is_told = |reason: &&str| told == json!([format!("the database cannot serve: {reason}")]);
    ensure!(reasons.iter().any(is_told), "{told}");
    ensure!(
        scene.provider.requests().len() == called,
        "the provider was called"
    );
    Ok(())
}

/// Every route answers as before the outage, and the books balance. They are called
/// one after the other, so that each would meet a dead connection if one was left.
async fn check_all_is_served(scene: &Scene, users: &[(Api, Things)]) -> anyhow::Result<()> {
    let is_ready = async || Ok(scene.stack.admin.get_absolute("/readyz").await?.status == 200);
    scene.stack.eventually("ready", is_ready).await?;
    for (number, (user, things)) in users.iter().enumerate() {
        let call = calls(things).swap_remove(number);
        let answer = call.by(user).await?;
        ensure!(answer.status.is_success(), "{call:?}: {answer:?}");
    }
    check_balanced(scene.database()).await
}

/// A server that refuses connections.
#[test]
fn every_route_is_unavailable_while_the_database_is_away() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene(IMPATIENT).await?;
        let users = users(&scene).await?;
        proxy.set_down(true);
        check_nothing_is_served(&scene, &users, &["it cannot be reached"]).await?;
        proxy.set_down(false);
        check_all_is_served(&scene, &users).await
    })
}

/// A server that has vanished silently, with all its connections. No request
/// waits longer than a job may take, and no dead connection is used again.
#[test]
fn every_route_is_unavailable_while_the_database_is_silent() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene(IMPATIENT).await?;
        let users = users(&scene).await?;
        proxy.set_silent(true);
        let reasons = ["it cannot be reached", "it did not answer in time"];
        check_nothing_is_served(&scene, &users, &reasons).await?;
        proxy.set_silent(false);
        check_all_is_served(&scene, &users).await
    })
}

/// A server with read-only sessions, as after a failover.
#[test]
fn every_route_is_unavailable_while_the_database_is_read_only() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, _proxy) = env.proxied_scene(IMPATIENT).await?;
        let users = users(&scene).await?;
        let url = env.database.url();
        let (server, name) = url.rsplit_once('/').context("a URL without a database")?;
        let set = async |value: &str| {
            let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
            postgres::query(&format!("{server}/postgres"), &sql).await
        };
        set("on").await?;
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        postgres::query(&format!("{server}/postgres"), &end).await?;
        check_nothing_is_served(&scene, &users, &["it can only be read"]).await?;
        set("off").await?;
        check_all_is_served(&scene, &users).await
    })
}

/// What `/readyz` answers.
async fn readiness(scene: &Scene) -> anyhow::Result<StatusCode> {
    Ok(scene.stack.admin.get_absolute("/readyz").await?.status)
}

/// PLAT-161: after a refused request, readiness fails too, even if it succeeded
/// a moment before.
async fn check_readiness_follows(
    scene: &Scene,
    break_it: impl FnOnce(),
    mend: impl FnOnce(),
) -> anyhow::Result<()> {
    let user = scene.new_user()?;
    ensure!(readiness(scene).await? == StatusCode::OK);
    break_it();
    loop {
        let before = readiness(scene).await?;
        let answer = user.post("/chats", &json!({})).await?;
        if answer.status == StatusCode::CREATED {
            continue;
        }
        answer.problem(503, "service_unavailable")?;
        let after = readiness(scene).await?;
        ensure!(
            after == StatusCode::SERVICE_UNAVAILABLE,
            "{before}, then {after}"
        );
        break;
    }
    mend();
    let is_ready = async || Ok(readiness(scene).await? == StatusCode::OK);
    scene.stack.eventually("ready", is_ready).await?;
    user.create_chat(None).await?;
    Ok(())
}

#[test]
fn readiness_knows_at_once_what_a_request_met_on_postgres() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene(IMPATIENT).await?;
        check_readiness_follows(&scene, || proxy.set_down(true), || proxy.set_down(false)).await
    })
}

#[test]
fn readiness_knows_at_once_what_a_request_met_on_sqlite() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let scene = env.scene().await?;
        let writer = scene.stack.watchdog().store.writer();
        let writer = writer.context("SQLite without a writer")?;
        let fail = |fail| writer.fail_checkpoints(fail);
        check_readiness_follows(&scene, || fail(true), || fail(false)).await
    })
}

/// Another process has the file's lock: requests that only read are still
/// served.
#[test]
fn every_route_that_writes_is_unavailable_while_the_file_is_locked() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve_with(&[&tenant], IMPATIENT).await?;
        let scene = Scene {
            provider,
            tenant,
            stack,
        };
        let users = users(&scene).await?;
        let called = scene.provider.requests().len();
        let lock = env.database.lock_writes().await?;
        for (call, answer) in call_every_route(&users).await? {
            // A turn that has ended is read, not stopped.
            let reads = call.method == Method::GET || call.template.ends_with("/cancel");
            if reads {
                ensure!(answer.status == 200, "{call:?}: {answer:?}");
            } else {
                check_unavailable(&call, &answer)?;
            }
        }
        let ready = scene.stack.admin.get_absolute("/readyz").await?;
        ensure!(ready.status == 503, "{ready:?}");
        ensure!(
            scene.provider.requests().len() == called,
            "the provider was called"
        );
        drop(lock);
        check_all_is_served(&scene, &users).await
    })
}
