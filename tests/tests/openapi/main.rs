//! Compares the OpenAPI document with the answers of a live data plane. A
//! client generates requests from the document: valid ones, invalid ones and
//! sequences.

use std::path::Path;
use std::process::Stdio;

use anyhow::ensure;
use minichat_tests::child::installed;
use minichat_tests::client::Api;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use tokio::process::Command;

/// The path of the program; `cargo xtask test` installs it.
const PROGRAM: &str = "MINICHAT_TEST_SCHEMATHESIS";

/// A chat with one answered message. Returns the ids of the chat, the turn and
/// the answer.
async fn answered(api: &Api) -> anyhow::Result<[String; 3]> {
    let chat = api.create_chat(None).await?;
    let events = api.say(&chat, "PING").await?;
    let started = events.only("stream_started")?;
    let id = |name: &str| started[name].as_str().unwrap_or_default().to_owned();
    Ok([chat, id("request_id"), id("message_id")])
}

/// The client's configuration, the same in every run. It ignores two things
/// that are intended: unknown parameters are ignored (API-2), and everyone is
/// the same user. Ids of turns and messages cannot be guessed, so it gets one
/// of each, and the information that they do not belong to the chats that it
/// creates.
async fn configuration(api: &Api) -> anyhow::Result<String> {
    let [turn_chat, turn, _] = answered(api).await?;
    let [message_chat, _, message] = answered(api).await?;
    Ok(format!(
        r#"
seed = 1
[generation]
deterministic = true
max-examples = 40
allow-extra-parameters = false
with-security-parameters = false
database = "none"
[checks]
ignored_auth.enabled = false
positive_data_acceptance.enabled = false
[[operations]]
include-path-regex = "/turns/"
parameters = {{ "path.id" = "{turn_chat}", "path.request_id" = "{turn}" }}
checks = {{ ensure_resource_availability = {{ enabled = false }} }}
[[operations]]
include-path-regex = "/reaction$"
parameters = {{ "path.id" = "{message_chat}", "path.msg_id" = "{message}" }}
checks = {{ ensure_resource_availability = {{ enabled = false }} }}
"#
    ))
}

/// Makes the requests, and fails with the client's findings.
async fn examine(program: &Path, directory: &Path, document: &str) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(["run", document, "--no-color"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{stdout}{failed}");
    eprintln!("{stdout}");
    Ok(())
}

on_each_database! {
    /// API-27, API-30: status codes, media types, headers, bodies and events
    /// match the document, and requests that it forbids are refused.
    async fn the_api_does_what_its_document_says(env) {
        let program = installed(PROGRAM, "schemathesis")?;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_AUTH_MODE=dev\nMINICHAT_AUTH_ALLOW_DEV=true";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let directory = tempfile::tempdir()?;
        let configuration = configuration(&stack.api).await?;
        std::fs::write(directory.path().join("schemathesis.toml"), configuration)?;
        let document = format!("http://{}/openapi.json", stack.app_addr());
        examine(&program, directory.path(), &document).await?;
    }
}
