//! What stands in the log when the database fails a request.

use anyhow::{Context as _, ensure};
use http::Method;
use minichat_tests::child::Process;
use minichat_tests::client::Api;
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Env, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::postgres_proxy::PostgresProxy;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::Value;
use uuid::Uuid;

use crate::database_outages::check_unavailable;
use crate::every_route::{Call, Things, calls};

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

const IMPATIENT: &str = "MINICHAT_DATABASE_CONNECT_TIMEOUT_SECS=1\n\
    MINICHAT_DATABASE_LOCK_TIMEOUT_SECS=1";

/// The step in which a call of a route meets its database first.
fn first_step(call: &Call) -> &'static str {
    match (call.method.as_str(), call.template) {
        ("POST", "/chats") => "create_chat",
        ("GET", "/chats") => "list_chats",
        ("GET", "/chats/{id}") => "get_chat",
        ("PATCH", "/chats/{id}") => "update_chat",
        ("DELETE", "/chats/{id}") => "delete_chat",
        ("GET", "/chats/{id}/messages") => "list_messages",
        ("PUT", "/chats/{id}/messages/{msg_id}/reaction") => "put_reaction",
        ("DELETE", "/chats/{id}/messages/{msg_id}/reaction") => "delete_reaction",
        ("GET", "/chats/{id}/turns/{request_id}") => "get_turn",
        ("DELETE", "/chats/{id}/turns/{request_id}") => "delete_turn",
        ("POST", "/chats/{id}/turns/{request_id}/cancel") => "cancel_turn",
        ("POST", "/chats/{id}/attachments") => "upload_attachment",
        ("GET", "/chats/{id}/attachments/{attachment_id}") => "get_attachment",
        ("DELETE", "/chats/{id}/attachments/{attachment_id}") => "delete_attachment",
        ("GET", "/quota/status") => "get_quota_status",
        ("GET", "/me/export") => "export_me",
        ("DELETE", "/me") => "erase_me",
        (_, "/models" | "/models/{model_id}") => "",
        // What begins a turn.
        _ => "reserve",
    }
}

/// Calls every route that needs the database, of which `is_served` is said
/// whether it works all the same, and reads what is logged.
async fn check(
    process: &mut Process,
    user: &Api,
    things: &Things,
    is_served: impl Fn(&Call) -> bool,
) -> anyhow::Result<usize> {
    let mut checked = 0;
    for call in calls(things) {
        let step = first_step(&call);
        if step.is_empty() || is_served(&call) {
            continue;
        }
        let answer = call.by(user).await?;
        check_unavailable(&call, &answer)?;
        let line = refusal(process, answer.header("x-request-id")).await?;
        ensure!(line["step"] == step, "{call:?}: {line}");
        for id in [
            "trace_id",
            "http_request_id",
            "tenant_id",
            "user_id",
            "error",
        ] {
            ensure!(line[id].is_string(), "{id} of {call:?}: {line}");
        }
        checked += 1;
    }
    Ok(checked)
}

/// The line that says why the request `id` was refused.
async fn refusal(process: &mut Process, id: &str) -> anyhow::Result<Value> {
    loop {
        let text = process.says(id).await?;
        let line: Value = serde_json::from_str(&text).context(text)?;
        // The pool has its say as well.
        if line["message"] == "the database cannot serve" {
            return Ok(line);
        }
    }
}

async fn start(env: &Env, settings: &str) -> anyhow::Result<(ScriptedProvider, Process, Api)> {
    let provider = ScriptedProvider::start().await?;
    let tenant = Tenant::new("acme", provider.addr);
    env.write_manifest("acme", &tenant.manifest())?;
    let process = Process::serve(BINARY, env, &format!("{IMPATIENT}\n{settings}")).await?;
    let user = process.api.acting_as(tenant.id, Uuid::new_v4())?;
    Ok((provider, process, user))
}

/// PLAT-163, D43: whoever is on call reads which step of which request failed.
#[test]
fn a_failure_of_the_database_is_logged_with_its_step_on_postgres() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let proxy = PostgresProxy::start(&env.database.url()).await?;
        let url = format!("MINICHAT_DATABASE_URL={}", proxy.url());
        let (_provider, mut process, user) = start(&env, &url).await?;
        let things = Things::create(&user).await?;
        proxy.set_down(true);
        let checked = check(&mut process, &user, &things, |_| false).await?;
        ensure!(checked == 20, "{checked} routes");
        process.kill().await
    })
}

/// The same on a thread of the database, where jobs of all requests run.
#[test]
fn a_failure_of_the_database_is_logged_with_its_step_on_sqlite() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let (_provider, mut process, user) = start(&env, "").await?;
        let things = Things::create(&user).await?;
        let lock = env.database.lock_writes().await?;
        // A turn that has ended is not stopped but looked at.
        let reads = |call: &Call| call.method == Method::GET || call.template.ends_with("/cancel");
        let checked = check(&mut process, &user, &things, reads).await?;
        ensure!(checked == 12, "{checked} routes");
        drop(lock);
        process.kill().await
    })
}
