//! Limits on requests: size, number and duration (API-24 to API-26).

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use minichat_tests::client::Answer;
use minichat_tests::harness::Stack;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

/// A request without its body. It waits for its response head until something
/// else ends it.
pub(super) struct Stalled(TcpStream);

impl Stalled {
    pub(super) async fn begin(stack: &Stack, tenant: &Tenant) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(stack.app_addr()).await?;
        let head = format!(
            "POST /mini-chat/v1/chats HTTP/1.1\r\nhost: a\r\nx-tenant-id: {}\r\nx-user-id: {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
            tenant.id,
            Uuid::new_v4()
        );
        socket.write_all(head.as_bytes()).await?;
        Ok(Self(socket))
    }

    /// Whether an answer has begun to arrive.
    async fn is_answered(&self) -> bool {
        let mut byte = [0];
        let peek = self.0.peek(&mut byte);
        tokio::time::timeout(Duration::ZERO, peek).await.is_ok()
    }

    /// Its answer. The connection ends, because the rest of the request is
    /// missing.
    pub(super) async fn answer(mut self) -> anyhow::Result<Answer> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await?;
        let text = String::from_utf8(bytes)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").context("no header")?;
            headers.insert(
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_str(value)?,
            );
        }
        Ok(Answer {
            status: status.context("no status")?.parse::<StatusCode>()?,
            headers,
            body: Bytes::from(body.to_owned()),
        })
    }
}

on_each_database! {
    /// API-24
    async fn a_body_of_one_byte_over_the_limit_is_too_large(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_SERVER_BODY_LIMIT_BYTES=2048";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let user = stack.new_user(&tenant)?;
        let frame = json!({"title": "a", "rest": ""}).to_string().len();
        let body = |bytes: usize| json!({"title": "a", "rest": "x".repeat(bytes - frame)});
        user.post("/chats", &body(2048)).await?.expect(201)?;
        user.post("/chats", &body(2049)).await?.problem(413, "payload_too_large")?;
    }

    /// API-25, D20: a fast caller does not affect the others.
    async fn a_hasty_caller_is_slowed_down_alone(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_SERVER_RATE_LIMIT_PER_SECOND=1\n\
            MINICHAT_SERVER_RATE_LIMIT_BURST=5";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let hasty = stack.new_user(&tenant)?;
        let mut refused = None;
        for _ in 0..20 {
            let answer = hasty.get("/models").await?;
            assert_eq!(answer.header("ratelimit-policy"), "\"burst\";q=5;w=1");
            assert_eq!(answer.header("x-ratelimit-limit"), "5");
            assert!(answer.header("x-ratelimit-remaining").parse::<u32>()? < 5);
            if answer.status != 200 {
                refused = Some(answer);
                break;
            }
        }
        let refused = refused.context("twenty requests at once were let through")?;
        refused.problem(429, "too_many_requests")?;
        assert_eq!(refused.header("x-ratelimit-remaining"), "0");
        assert!(refused.header("retry-after").parse::<u32>()? >= 1);
        hasty.get("/chats").await?.expect(200)?;
        stack.new_user(&tenant)?.get("/models").await?.expect(200)?;
    }

    /// API-25, API-26, D20: a request counts until its response head. A stalled
    /// request gets its response from the deadline.
    async fn requests_beyond_the_bound_are_refused_until_others_are_answered(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_SERVER_RATE_LIMIT_IN_FLIGHT=1\nMINICHAT_SERVER_REQUEST_DEADLINE_SECS=2";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let user = stack.new_user(&tenant)?;
        let stalled = loop {
            let stalled = Stalled::begin(&stack, &tenant).await?;
            // It is refused itself while another one is being answered.
            let is_over = async || {
                Ok(stalled.is_answered().await || user.get("/models").await?.status != 200)
            };
            stack.eventually("counted or refused", is_over).await?;
            if !stalled.is_answered().await {
                break stalled;
            }
        };
        let refused = user.get("/models").await?;
        refused.problem(503, "in_flight_limit")?;
        assert_eq!(refused.header("retry-after"), "1");
        stalled.answer().await?.problem(504, "request_timeout")?;
        user.get("/models").await?.expect(200)?;
    }
}
