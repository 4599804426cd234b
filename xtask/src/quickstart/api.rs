//! The API calls that the quickstart needs.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body, BodyReader};

use super::exposition;

/// Time limit of a call. A model may take long before its first token.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);

/// A client of one data plane on loopback.
pub(crate) struct Api {
    agent: Agent,
    /// Base path of the API.
    pub base: String,
    /// The page that shows the API.
    pub docs: String,
    /// The admin listener.
    pub admin: String,
}

/// The body of a stream, read as it arrives.
pub(super) type Stream = BufReader<BodyReader<'static>>;

impl Api {
    pub(crate) fn new(port: u16, admin_port: u16) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_recv_response(Some(ANSWER_WITHIN))
            .build()
            .new_agent();
        let base = format!("http://127.0.0.1:{port}/mini-chat/v1");
        Self {
            agent,
            base,
            docs: format!("http://127.0.0.1:{port}/docs"),
            admin: format!("http://127.0.0.1:{admin_port}"),
        }
    }

    /// `GET /readyz` on the admin listener: whether the data plane takes traffic.
    pub(super) fn is_ready(&self) -> bool {
        let answer = self.agent.get(format!("{}/readyz", self.admin)).call();
        answer.is_ok_and(|response| response.status() == 200)
    }

    /// `GET /models`.
    pub(super) fn models(&self) -> anyhow::Result<Value> {
        self.get("/models")
    }

    /// `POST /chats`; returns the chat's id.
    pub(super) fn create_chat(&self) -> anyhow::Result<String> {
        let mut response = self.post("/chats", &json!({}))?;
        let chat: Value = serde_json::from_str(&response.body_mut().read_to_string()?)?;
        Ok(chat["id"]
            .as_str()
            .context("the created chat has no id")?
            .to_owned())
    }

    /// `POST /chats/{id}/messages:stream`.
    pub(super) fn send(&self, chat: &str, message: &str) -> anyhow::Result<Stream> {
        let response = self.post(
            &format!("/chats/{chat}/messages:stream"),
            &json!({ "content": message }),
        )?;
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    /// `GET /chats/{id}/turns/{request_id}`.
    pub(super) fn turn(&self, chat: &str, request_id: &str) -> anyhow::Result<Value> {
        self.get(&format!("/chats/{chat}/turns/{request_id}"))
    }

    /// `GET /quota/status`.
    pub(super) fn quota(&self) -> anyhow::Result<Value> {
        self.get("/quota/status")
    }

    /// `GET /metrics` on the admin listener: value by series.
    pub(crate) fn metrics(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let mut response = self.agent.get(format!("{}/metrics", self.admin)).call()?;
        Ok(exposition::series(&response.body_mut().read_to_string()?))
    }

    fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        let mut response = accepted(path, response.with_context(|| format!("GET {path}"))?)?;
        Ok(serde_json::from_str(
            &response.body_mut().read_to_string()?,
        )?)
    }

    fn post(&self, path: &str, body: &Value) -> anyhow::Result<Response<Body>> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .content_type("application/json");
        accepted(
            path,
            request
                .send(body.to_string())
                .with_context(|| format!("POST {path}"))?,
        )
    }
}

/// Fails with the problem document, if the answer is one.
fn accepted(path: &str, mut response: Response<Body>) -> anyhow::Result<Response<Body>> {
    if !response.status().is_success() {
        let problem = response.body_mut().read_to_string().unwrap_or_default();
        bail!("{path}: {}\n{problem}", response.status());
    }
    Ok(response)
}
