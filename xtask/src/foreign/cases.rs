//! The test cases: a message, and the expected result.

use anyhow::{Context as _, ensure};

use super::client::{Answer, Client};
use super::page::{one_cell, shortened};

/// One message to one model.
pub(super) struct Case {
    pub(super) protocol: &'static str,
    /// The model's name at the proxy.
    pub(super) model: &'static str,
    pub(super) message: &'static str,
    /// `Ok`: the stream ends with `done`, and its text begins with this. `Err`: it ends with `error` and one of these
    /// codes.
    must: Result<&'static str, &'static [&'static str]>,
}

const CHAT: &str = "chat completions";
const RESPONSES: &str = "Responses";

/// Models that every provider of the proxy has.
pub(super) const MODELS: [&str; 6] = ["canned", "rate", "fault", "context", "through", "vllm"];

/// Kinds of `ChatTenant` providers for the protocols.
pub(super) const PROTOCOLS: [(&str, &str); 2] = [
    (CHAT, "OpenAIChatCompletions"),
    (RESPONSES, "OpenAIResponses"),
];

const fn done(
    protocol: &'static str,
    model: &'static str,
    message: &'static str,
    text: &'static str,
) -> Case {
    Case {
        protocol,
        model,
        message,
        must: Ok(text),
    }
}

const fn fails(
    protocol: &'static str,
    model: &'static str,
    message: &'static str,
    codes: &'static [&'static str],
) -> Case {
    Case {
        protocol,
        model,
        message,
        must: Err(codes),
    }
}

const LIMIT: &[&str] = &["rate_limited", "provider_error"];
const ERROR: &[&str] = &["provider_error"];

pub(super) const CASES: &[Case] = &[
    done(CHAT, "canned", "hello", "Hello from litellm"),
    fails(CHAT, "rate", "hello", LIMIT),
    fails(CHAT, "fault", "hello", ERROR),
    fails(CHAT, "context", "hello", ERROR),
    done(CHAT, "through", "PING", "PONG"),
    done(CHAT, "through", "TRUNCATE", ""),
    fails(CHAT, "through", "ERROR", ERROR),
    done(CHAT, "vllm", "PING", "PONG"),
    fails(CHAT, "vllm", "ERROR", ERROR),
    fails(RESPONSES, "rate", "hello", LIMIT),
    fails(RESPONSES, "fault", "hello", ERROR),
    fails(RESPONSES, "context", "hello", ERROR),
    done(RESPONSES, "through", "PING", "PONG"),
    done(RESPONSES, "through", "TRUNCATE", ""),
    fails(RESPONSES, "through", "ERROR", ERROR),
    done(RESPONSES, "vllm", "PING", "PONG"),
    fails(RESPONSES, "vllm", "ERROR", ERROR),
];

impl Case {
    /// The id of its model in the tenant's catalog.
    fn model_id(&self) -> String {
        model_id(self.protocol, self.model)
    }

    /// Runs the case and describes the result.
    pub(super) fn play(&self, client: &Client) -> anyhow::Result<String> {
        let chat = client.create_chat(&self.model_id())?;
        let answer = client.say(&chat, self.message)?;
        let stored = client.answers(&chat)?;
        let row = self.judge(&answer, &stored)?;
        // However the turn ended, the chat must accept another message.
        client
            .say(&chat, self.message)
            .context("the chat refuses another message")?;
        Ok(row)
    }

    fn judge(&self, answer: &Answer, stored: &[String]) -> anyhow::Result<String> {
        match (&self.must, answer.end.as_str()) {
            (Ok(text), "done") => {
                ensure!(
                    answer.text.starts_with(text),
                    "the text is {:?}",
                    answer.text
                );
                ensure!(
                    stored == [answer.text.clone()],
                    "{stored:?} is stored instead of {:?}",
                    answer.text
                );
                let usage = &answer.data["usage"];
                let tokens = match (
                    usage["input_tokens"].as_u64(),
                    usage["output_tokens"].as_u64(),
                ) {
                    (Some(input), Some(output)) => format!("{input} + {output} tokens"),
                    _ => "usage unknown".to_owned(),
                };
                Ok(format!(
                    "`done`, {} characters, {tokens}",
                    answer.text.chars().count()
                ))
            }
            (Err(codes), "error") => {
                let member = |name: &str| answer.data[name].as_str().unwrap_or_default().to_owned();
                let code = member("code");
                ensure!(codes.contains(&code.as_str()), "the code is {code}");
                ensure!(stored.is_empty(), "{stored:?} is stored");
                Ok(format!(
                    "`{code}`: {}",
                    one_cell(&shortened(&member("message"), 100))
                ))
            }
            _ => anyhow::bail!("it ended with {} {}", answer.end, answer.data),
        }
    }
}

pub(super) fn model_id(protocol: &str, model: &str) -> String {
    format!("{model}-{}", protocol.replace(' ', "-").to_lowercase())
}
