//! Turns with a second third-party provider. It counts tokens as the models do,
//! and it has endpoints of three specifications.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_tests::child::installed;
use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::sse::Events;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// The path of the program; `cargo xtask test` installs it.
const PROGRAM: &str = "MINICHAT_TEST_LLMSIM";
const READY_WITHIN: Duration = Duration::from_mins(1);

const CHAT: (&str, &str) = ("OpenAIChatCompletions", "/openai/v1/chat/completions");
const RESPONSES: (&str, &str) = ("OpenAIResponses", "/openai/v1/responses");
const OPEN_RESPONSES: (&str, &str) = ("OpenAIResponses", "/openresponses/v1/responses");

/// The provider. It is killed when dropped.
struct Provider {
    addr: SocketAddr,
    _process: Child,
}

impl Provider {
    async fn start() -> anyhow::Result<Self> {
        let program = installed(PROGRAM, "llmsim")?;
        // It takes a port, but does not say which one it chose.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut process = Command::new(program)
            .args(["serve", "--config", "config.toml", "--host", "127.0.0.1"])
            .args(["--port", &addr.port().to_string()])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("llmsim"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let started = Instant::now();
        while TcpStream::connect(addr).await.is_err() {
            ensure!(process.try_wait()?.is_none(), "the provider ended");
            ensure!(
                started.elapsed() < READY_WITHIN,
                "the provider does not listen"
            );
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self {
            addr,
            _process: process,
        })
    }

    /// A data plane whose tenant has this provider.
    async fn serve(&self, env: &Env, (kind, path): (&str, &str)) -> anyhow::Result<(Stack, Api)> {
        let mut tenant = Tenant::new("acme", self.addr);
        let provider = &mut tenant.spec()["providers"][0];
        provider["kind"] = json!(kind);
        provider["apiPath"] = json!(path);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        Ok((stack, user))
    }
}

/// Sends `message`, whose answer must end with `text`, streamed and stored.
async fn check(user: &Api, message: &str, text: &str) -> anyhow::Result<(String, Events)> {
    let chat = user.create_chat(Some("std")).await?;
    let events = user.say(&chat, message).await?;
    let answer = events.answer();
    ensure!(answer.ends_with(text), "{events:?}");
    let usage = &events.only("done")?["usage"];
    for counted in ["input_tokens", "output_tokens"] {
        ensure!(usage[counted].as_u64() > Some(0), "{usage}");
    }
    let stored = user.messages(&chat).await?;
    ensure!(stored[1]["content"] == answer.as_str(), "{stored:?}");
    Ok((chat, events))
}

async fn check_failed(user: &Api, message: &str, code: &str) -> anyhow::Result<()> {
    let chat = user.create_chat(Some("std")).await?;
    let events = user.say(&chat, message).await?;
    ensure!(events.only("error")?["code"] == code, "{events:?}");
    ensure!(user.messages(&chat).await?.len() == 1);
    Ok(())
}

on_each_database! {
    /// PLAT-113, PLAT-114
    async fn a_text_arrives_from_each_endpoint(env) {
        let provider = Provider::start().await?;
        for endpoint in [CHAT, RESPONSES, OPEN_RESPONSES] {
            let (stack, user) = provider.serve(&env, endpoint).await?;
            for message in ["Hello", "two\n\nlines, \"quoted\"", "Family 👨‍👩‍👧 and 😀😀"] {
                let (chat, events) = check(&user, message, message)
                    .await
                    .with_context(|| format!("{endpoint:?}"))?;
                ensure!(events.answer().starts_with("Echo: "), "{events:?}");
                let second = user.say(&chat, "and now?").await?;
                if endpoint == CHAT {
                    ensure!(second.answer() == "Echo: and now?", "{second:?}");
                } else {
                    // It refuses requests of these with an answer in their
                    // input, in words that are no document.
                    let error = second.only("error")?;
                    ensure!(error["code"] == "provider_error", "{error}");
                    ensure!(!error.to_string().contains("deserialize"), "{error}");
                }
            }
            stack.stop().await?;
        }
    }

    /// PLAT-115, PLAT-116, PLAT-119
    async fn refusals_and_breaks_end_as_the_provider_meant_them(env) {
        let provider = Provider::start().await?;
        let (_stack, user) = provider.serve(&env, CHAT).await?;
        check_failed(&user, "[[llmsim:limit]]", "rate_limited").await?;
        check_failed(&user, "[[llmsim:cut]]", "provider_error").await?;
        check(&user, "[[llmsim:limit-once]]", "The second attempt.").await?;
        let (_, events) = check(&user, "[[llmsim:reason]]", "The answer is 4.").await?;
        ensure!(events.answer() == "The answer is 4.", "{events:?}");
        let reasoning = events.0.iter().filter(|event| event.text("type") == "reasoning");
        ensure!(reasoning.count() > 0, "{events:?}");
    }
}
