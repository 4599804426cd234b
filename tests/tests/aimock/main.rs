//! Turns with a third-party provider in all its protocols. It cuts every text
//! after each UTF-16 unit, which no other server does.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use minichat_tests::child::installed;
use minichat_tests::client::Api;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The path of the program; `cargo xtask test` installs it.
const PROGRAM: &str = "MINICHAT_TEST_AIMOCK";

/// The provider. It is killed when dropped.
struct Provider {
    addr: SocketAddr,
    _process: Child,
}

impl Provider {
    async fn start() -> anyhow::Result<Self> {
        let program = installed(PROGRAM, "llmock of aimock")?;
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("aimock/fixtures.json");
        let mut process = Command::new(program)
            .args(["--port", "0", "--chunk-size", "1", "--fixtures"])
            .arg(fixtures)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((_, addr)) = line.split_once("listening on http://") {
                // Keeps reading, so that the program can keep writing.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self {
                    addr: addr.trim().parse()?,
                    _process: process,
                });
            }
        }
        anyhow::bail!("the provider ended before it listened")
    }
}

/// A message and the expected result.
struct Turn {
    message: &'static str,
    text: &'static str,
    /// `None`: `done`; otherwise the code of the error and its message.
    error: Option<(&'static str, &'static str)>,
}

const fn done(message: &'static str, text: &'static str) -> Turn {
    Turn {
        message,
        text,
        error: None,
    }
}

const fn fails(message: &'static str, code: &'static str, words: &'static str) -> Turn {
    Turn {
        message,
        text: "",
        error: Some((code, words)),
    }
}

const TURNS: [Turn; 8] = [
    done("plain", "Hello from a server that nobody here wrote."),
    done("reason", "The answer is 4."),
    done("tool", ""),
    done("both", "Let me look."),
    done("length", "cut"),
    done("emoji", "Family 👨‍👩‍👧 and 😀😀"),
    fails("limit", "rate_limited", "Rate limited by mock"),
    fails("fault", "provider_error", "Broken by mock"),
];

/// `is_counted`: whether the provider reports tokens.
async fn check(user: &Api, turn: &Turn, is_counted: bool) -> anyhow::Result<()> {
    let chat = user.create_chat(Some("std")).await?;
    let events = user.say(&chat, turn.message).await?;
    let stored = user.messages(&chat).await?;
    ensure!(events.answer() == turn.text, "{events:?}");
    if let Some((code, words)) = turn.error {
        let error = events.only("error")?;
        ensure!(
            error["code"] == code && error["message"] == words,
            "{error}"
        );
        return Ok(());
    }
    let done = events.only("done")?;
    ensure!(done["usage"].is_object() == is_counted, "{done}");
    ensure!(stored[1]["content"] == turn.text, "{stored:?}");
    let reasoning: String = events
        .0
        .iter()
        .filter(|event| event.name == "delta" && event.text("type") == "reasoning")
        .map(|event| event.text("content"))
        .collect();
    let has_reasoning = reasoning == "two plus two";
    ensure!(has_reasoning == (turn.message == "reason"), "{reasoning:?}");
    Ok(())
}

on_each_database! {
    /// TURN-20, TURN-22, D42
    async fn every_turn_ends_as_the_provider_meant_it(env) {
        let provider = Provider::start().await?;
        for kind in ["OpenAIChatCompletions", "OpenAIResponses", "VllmResponses"] {
            let mut tenant = Tenant::new("acme", provider.addr);
            tenant.spec()["providers"][0]["kind"] = json!(kind);
            let stack = env.serve(&[&tenant]).await?;
            let user = stack.new_user(&tenant)?;
            for turn in &TURNS {
                // It reports that answers of the Responses API used no tokens.
                let is_counted = kind == "OpenAIChatCompletions";
                check(&user, turn, is_counted).await.with_context(|| format!("{kind}: {}", turn.message))?;
            }
            let chat = user.create_chat(Some("std")).await?;
            let events = user.say(&chat, "break").await?;
            ensure!(events.only("error")?["code"] == "provider_error", "{events:?}");
            stack.stop().await?;
        }
    }
}
