//! Byte-exact answers of providers from public bug reports. Whatever they
//! contain, the turn ends, client and database have the same text, the quota is
//! settled, and the chat continues (D42).

mod credential;
mod errors;
mod files;
mod frames;

use anyhow::{Context as _, ensure};
use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::raw_provider::{RawProvider, chat_stream, responses_stream};
use minichat_tests::sse::Events;
use serde_json::{Value, json};

const CHAT: &str = "OpenAIChatCompletions";
const RESPONSES: &str = "OpenAIResponses";
const VLLM: &str = "VllmResponses";

/// A data plane with one tenant, whose provider of the protocol `kind` sends
/// scripted bytes.
struct Place {
    kind: &'static str,
    provider: RawProvider,
    stack: Stack,
    tenant: Tenant,
}

/// The expected end of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// `done`, with these counts or with unknown usage.
    Done(Option<(u64, u64)>),
    /// `error` with this code, settled by this method.
    Failed(&'static str, &'static str),
}

const UNKNOWN: End = End::Done(None);
const USUAL: End = End::Done(Some((9, 3)));

impl Place {
    async fn new(env: &Env, kind: &'static str) -> anyhow::Result<Self> {
        Self::with(env, kind, "", |_| ()).await
    }

    /// The same with further settings, and with the tenant changed by `change`.
    async fn with(
        env: &Env,
        kind: &'static str,
        settings: &str,
        change: impl FnOnce(&mut Tenant),
    ) -> anyhow::Result<Self> {
        let provider = RawProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        tenant.spec()["providers"][0]["kind"] = json!(kind);
        change(&mut tenant);
        let stack = env.serve_with(&[&tenant], settings).await?;
        Ok(Self {
            kind,
            provider,
            stack,
            tenant,
        })
    }

    fn new_user(&self) -> anyhow::Result<Api> {
        self.stack.new_user(&self.tenant)
    }

    /// Sends a message that is answered with `bytes`, and another one with a
    /// correct answer. Returns the events of the first.
    async fn check(
        &self,
        name: &str,
        bytes: Vec<u8>,
        text: &str,
        end: End,
    ) -> anyhow::Result<Events> {
        self.provider.push(bytes);
        self.check_next(text, end)
            .await
            .with_context(|| format!("{name}, {}", self.kind))
    }

    /// The same for an answer that was pushed already.
    async fn check_next(&self, text: &str, end: End) -> anyhow::Result<Events> {
        let user = self.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let events = user.say(&chat, "hello").await?;
        let shown = events.answer();
        ensure!(
            shown == text,
            "{shown:?} was streamed instead of {text:?}: {events:?}"
        );
        let stored = user.messages(&chat).await?;
        match end {
            End::Done(usage) => check_done(&events, &stored, usage, text)?,
            End::Failed(code, method) => self.check_failed(&events, &stored, code, method).await?,
        }
        let reserved =
            "SELECT CAST(coalesce(sum(reserved_credits_micro), 0) AS BIGINT) FROM quota_usage";
        ensure!(
            self.stack.database.number(reserved).await? == 0,
            "a reserve is left"
        );

        self.provider.push(good(self.kind));
        let events_after = user.say(&chat, "and now?").await?;
        ensure!(events_after.answer() == "Hello world", "{events_after:?}");
        events_after.only("done")?;
        Ok(events)
    }

    async fn check_failed(
        &self,
        events: &Events,
        stored: &[Value],
        code: &str,
        method: &str,
    ) -> anyhow::Result<()> {
        let error = events.only("error")?;
        ensure!(error["code"] == code, "{error}");
        ensure!(stored.len() == 1, "{stored:?}");
        let last = "SELECT payload FROM outbox_messages \
            WHERE queue = 'mini-chat.usage_snapshot' ORDER BY id DESC LIMIT 1";
        let rows = self.stack.database.query(last).await?;
        let event: Value = serde_json::from_str(rows[0][0].as_deref().unwrap_or_default())?;
        ensure!(event["settlement_method"] == method, "{event}");
        let is_free = event["committed_credits_micro"] == 0;
        ensure!(is_free == (method == "released"), "{event}");
        Ok(())
    }
}

fn check_done(
    events: &Events,
    stored: &[Value],
    usage: Option<(u64, u64)>,
    text: &str,
) -> anyhow::Result<()> {
    let done = events.only("done").with_context(|| format!("{events:?}"))?;
    let [_, answer] = stored else {
        anyhow::bail!("{stored:?}");
    };
    ensure!(
        answer["content"] == text,
        "{answer} is stored instead of {text:?}"
    );
    for (counted, which) in [("input_tokens", 0), ("output_tokens", 1)] {
        let expected = usage.map_or(Value::Null, |(input, output)| [input, output][which].into());
        ensure!(done["usage"][counted] == expected, "{done}");
        ensure!(answer[counted] == expected, "{answer}");
    }
    ensure!(done["usage"].is_null() == usage.is_none(), "{done}");
    Ok(())
}

/// A correct answer.
fn good(kind: &str) -> Vec<u8> {
    if kind == CHAT {
        return chat_stream(&[
            r#"{"id":"c","choices":[{"delta":{"content":"Hello world"}}]}"#,
            r#"{"id":"c","choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
        ]);
    }
    responses_stream(&[
        ("response.output_text.delta", r#"{"delta":"Hello world"}"#),
        (
            "response.completed",
            r#"{"response":{"id":"r","usage":{"input_tokens":9,"output_tokens":3}}}"#,
        ),
    ])
}
