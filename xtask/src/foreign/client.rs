//! The API calls that the cases need.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use ureq::Agent;

const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// A client of one data plane on loopback.
pub(super) struct Client {
    agent: Agent,
    base: String,
    admin: String,
}

/// The result of a stream.
pub(super) struct Answer {
    pub(super) text: String,
    /// Name and data of the last event.
    pub(super) end: String,
    pub(super) data: Value,
}

impl Client {
    pub(super) fn new(port: u16, admin_port: u16) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WITHIN))
            .build()
            .new_agent();
        Self {
            agent,
            base: format!("http://127.0.0.1:{port}/mini-chat/v1"),
            admin: format!("http://127.0.0.1:{admin_port}"),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        let answer = self.agent.get(format!("{}/readyz", self.admin)).call();
        answer.is_ok_and(|response| response.status() == 200)
    }

    /// The new chat's id.
    pub(super) fn create_chat(&self, model: &str) -> anyhow::Result<String> {
        let body = json!({ "model": model }).to_string();
        let request = self.agent.post(format!("{}/chats", self.base));
        let mut response = request.content_type("application/json").send(body)?;
        let text = response.body_mut().read_to_string()?;
        ensure!(response.status() == 201, "no chat: {text}");
        let chat: Value = serde_json::from_str(&text)?;
        Ok(chat["id"]
            .as_str()
            .context("a chat without an id")?
            .to_owned())
    }

    /// Sends `message` and reads the stream to its end.
    pub(super) fn say(&self, chat: &str, message: &str) -> anyhow::Result<Answer> {
        let url = format!("{}/chats/{chat}/messages:stream", self.base);
        let request = self.agent.post(url).content_type("application/json");
        let mut response = request.send(json!({ "content": message }).to_string())?;
        if response.status() != 200 {
            anyhow::bail!("refused: {}", response.body_mut().read_to_string()?);
        }
        let mut answer = Answer {
            text: String::new(),
            end: String::new(),
            data: Value::Null,
        };
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            answer.read(&line?)?;
        }
        Ok(answer)
    }

    /// The stored answers of `chat`, oldest first.
    pub(super) fn answers(&self, chat: &str) -> anyhow::Result<Vec<String>> {
        let page = self.get(&format!("/chats/{chat}/messages"))?;
        let messages = page["items"].as_array().context("no messages")?;
        let answers = messages
            .iter()
            .filter(|message| message["role"] == "assistant");
        Ok(answers
            .map(|message| message["content"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut response = self.agent.get(format!("{}{path}", self.base)).call()?;
        let text = response.body_mut().read_to_string()?;
        ensure!(response.status() == 200, "{path}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

impl Answer {
    fn read(&mut self, line: &str) -> anyhow::Result<()> {
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut self.end);
        }
        if let Some(data) = line.strip_prefix("data: ") {
            self.data = serde_json::from_str(data)?;
            if self.end == "delta" && self.data["type"] == "text" {
                self.text
                    .push_str(self.data["content"].as_str().unwrap_or_default());
            }
        }
        Ok(())
    }
}
