//! `codex`, a command line client of the Responses API, asks the scripted provider.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::page::{Page, one_cell};
use super::servers::{self, Provider};
use crate::node_tool::NodeTool;
use crate::process;

const CODEX: NodeTool = NodeTool {
    directory: "codex",
    program: "codex",
    source: "tests/codex",
};

/// Prompts, and what it must print.
const PROMPTS: [(&str, &str); 3] = [
    ("PING", "PONG"),
    ("hello", "Hello! How can I help?"),
    // It offers the tool, so that the answer contains a call.
    ("SEARCH: anything", "Searching...found results"),
];

/// Nobody listens there: it must not need any other server.
const NOWHERE: &str = "http://127.0.0.1:9";

pub(super) fn run(page: &mut Page) -> anyhow::Result<()> {
    let program = CODEX.ensure()?;
    let provider = Provider::start("codex")?;
    let home = servers::directory("codex-home")?;
    fs::write(home.join("config.toml"), config(&provider))?;
    let work = servers::directory("codex-work")?;
    let words = format!(
        "`{}` asks the scripted provider. It reads the whole order of events: of the short order, it shows nothing.\n",
        version(&program)?
    );
    page.section(
        "A client of the scripted provider",
        &words,
        &["Prompt", "It prints"],
    );
    for (prompt, expected) in PROMPTS {
        let shown = ask(&program, &home, &work, prompt);
        let cell = format!("`{prompt}`");
        page.row(&[&cell], shown.and_then(|shown| judge(&shown, expected)));
    }
    Ok(())
}

/// JSON strings are TOML strings.
fn config(provider: &Provider) -> String {
    format!(
        r#"model = "gpt-5"
model_provider = "scripted"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.scripted]
name = "scripted"
base_url = {:?}
env_key = "SCRIPTED_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"#,
        provider.base_url()
    )
}

fn version(program: &Path) -> anyhow::Result<String> {
    let log = servers::place().join("codex-version.log");
    let output = process::output("codex", Command::new(program).arg("--version"), &log)?;
    ensure!(
        output.status.success(),
        "codex --version: {}",
        output.status
    );
    Ok(output.text.trim().to_owned())
}

/// What it prints as the answer to `prompt`.
fn ask(program: &Path, home: &Path, work: &Path, prompt: &str) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command
        .args([
            "exec",
            "--ephemeral",
            "--skip-git-repo-check",
            "--sandbox",
            "read-only",
        ])
        .arg(prompt)
        .current_dir(work)
        .env("CODEX_HOME", home)
        .env("SCRIPTED_KEY", "none")
        .env("HTTP_PROXY", NOWHERE)
        .env("HTTPS_PROXY", NOWHERE)
        .env("NO_PROXY", "127.0.0.1");
    let log = servers::place().join("codex.log");
    let output = process::output("codex", &mut command, &log)?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    Ok(output.text.trim().to_owned())
}

fn judge(shown: &str, expected: &str) -> anyhow::Result<String> {
    ensure!(
        shown == expected,
        "it prints {shown:?} instead of {expected:?}"
    );
    Ok(one_cell(&format!("`{shown}`")))
}
