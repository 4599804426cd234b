//! A client of the HTTP API over real sockets with kept-alive connections.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::sse::{EventStream, Events};

/// The base path with the default prefixes (API-1).
pub const BASE: &str = "/mini-chat/v1";

/// One caller. Clones share connections.
#[derive(Clone, Debug)]
pub struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    origin: String,
    headers: HeaderMap,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }

    /// The body, if the response has `status`.
    pub fn expect(&self, status: u16) -> anyhow::Result<Value> {
        ensure!(
            self.status.as_u16() == status,
            "expected {status}, got {}: {:?}",
            self.status,
            self.body
        );
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        self.json()
    }

    /// The problem document, if the response is one with `status` and `code`
    /// and has every required member (API-30).
    pub fn problem(&self, status: u16, code: &str) -> anyhow::Result<Value> {
        let body = self.expect(status)?;
        let media_type = self.header("content-type");
        ensure!(media_type == "application/problem+json", "{media_type}");
        ensure!(body["type"] == "about:blank", "{body}");
        ensure!(body["title"] == code && body["code"] == code, "{body}");
        ensure!(body["status"] == status, "{body}");
        ensure!(
            body["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{body}"
        );
        ensure!(
            body["instance"]
                .as_str()
                .is_some_and(|path| path.starts_with('/')),
            "{body}"
        );
        ensure!(
            body.get("quota_scope").is_some() == (code == "quota_exceeded"),
            "{body}"
        );
        ensure!(
            !self.header("x-request-id").is_empty(),
            "{:?}",
            self.headers
        );
        Ok(body)
    }

    /// The header's value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl Api {
    /// A caller without an identity.
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            http: Client::builder(TokioExecutor::new()).build(connector),
            origin: format!("http://{address}"),
            headers: HeaderMap::new(),
        }
    }

    /// Scheme and authority of the server.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The same client with a header on every request.
    pub fn with_header(&self, name: &'static str, value: &str) -> anyhow::Result<Self> {
        let mut api = self.clone();
        api.headers.insert(name, value.parse()?);
        Ok(api)
    }

    /// The same client as `user` of `tenant` (PLAT-133).
    pub fn acting_as(&self, tenant: Uuid, user: Uuid) -> anyhow::Result<Self> {
        self.with_header("x-tenant-id", &tenant.to_string())?
            .with_header("x-user-id", &user.to_string())
    }

    /// Sends the request and waits for the response head. `path` begins with
    /// `/`.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(self.http.request(request.body(Full::new(body))?).await?)
    }

    /// Sends a request to the API and reads the whole response. `path` is
    /// relative to the base path.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let path = format!("{BASE}{path}");
        whole(self.send(method, &path, headers, body).await?).await
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.exchange(Method::GET, path, &[], Bytes::new()).await
    }

    /// Like [`Self::get`], with a path that is not below the base path.
    pub async fn get_absolute(&self, path: &str) -> anyhow::Result<Answer> {
        whole(self.send(Method::GET, path, &[], Bytes::new()).await?).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send_json(Method::POST, path, body).await
    }

    /// Sends a JSON body and reads the whole response.
    pub async fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Answer> {
        let json = [("content-type", "application/json")];
        let body = Bytes::from(body.to_string());
        self.exchange(method, path, &json, body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send_json(Method::PUT, path, body).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send_json(Method::PATCH, path, body).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.exchange(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// Creates a chat on the tenant's default model, or on `model`.
    pub async fn create_chat(&self, model: Option<&str>) -> anyhow::Result<String> {
        let chat = self
            .post("/chats", &json!({ "model": model }))
            .await?
            .expect(201)?;
        let id = chat["id"].as_str().context("a chat without an id")?;
        Ok(id.to_owned())
    }

    /// Opens a stream; a refusal is an error.
    pub async fn open(&self, chat: &str, body: &Value) -> anyhow::Result<EventStream> {
        let path = format!("/chats/{chat}/messages:stream");
        self.open_at(Method::POST, &path, body).await
    }

    /// Opens a stream, or returns the refusal.
    pub async fn try_open(
        &self,
        chat: &str,
        body: &Value,
    ) -> anyhow::Result<Result<EventStream, StatusCode>> {
        let path = format!("{BASE}/chats/{chat}/messages:stream");
        let json = [("content-type", "application/json")];
        let body = Bytes::from(body.to_string());
        let response = self.send(Method::POST, &path, &json, body).await?;
        let (head, body) = response.into_parts();
        Ok(match head.status {
            StatusCode::OK => Ok(EventStream::new(head.headers, body)),
            refused => Err(refused),
        })
    }

    /// Opens the stream of a retry; a refusal is an error.
    pub async fn open_retry(&self, chat: &str, request_id: &str) -> anyhow::Result<EventStream> {
        let path = format!("/chats/{chat}/turns/{request_id}/retry");
        self.open_at(Method::POST, &path, &Value::Null).await
    }

    /// Opens the stream of an edit; a refusal is an error.
    pub async fn open_edit(
        &self,
        chat: &str,
        request_id: &str,
        content: &str,
    ) -> anyhow::Result<EventStream> {
        let path = format!("/chats/{chat}/turns/{request_id}");
        let body = json!({ "content": content });
        self.open_at(Method::PATCH, &path, &body).await
    }

    async fn open_at(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<EventStream> {
        let path = format!("{BASE}{path}");
        let json = [("content-type", "application/json")];
        let body = Bytes::from(body.to_string());
        let response = self.send(method, &path, &json, body).await?;
        if response.status() != StatusCode::OK {
            let answer = whole(response).await?;
            anyhow::bail!("refused with {}: {:?}", answer.status, answer.body);
        }
        let (head, body) = response.into_parts();
        Ok(EventStream::new(head.headers, body))
    }

    /// Sends `content` and reads the stream to its end.
    pub async fn say(&self, chat: &str, content: &str) -> anyhow::Result<Events> {
        let stream = self.open(chat, &json!({ "content": content })).await?;
        let events = stream.collect().await?;
        events.check_grammar()?;
        Ok(events)
    }

    /// Sends `body`, which must be refused before a stream opens.
    pub async fn refused(&self, chat: &str, body: &Value) -> anyhow::Result<Answer> {
        self.post(&format!("/chats/{chat}/messages:stream"), body)
            .await
    }

    /// The turn with `request_id` (API-70).
    pub async fn turn(&self, chat: &str, request_id: &str) -> anyhow::Result<Value> {
        self.get(&format!("/chats/{chat}/turns/{request_id}"))
            .await?
            .expect(200)
    }

    /// Retries a turn and reads the whole response, stream or refusal.
    pub async fn retry(&self, chat: &str, request_id: &str) -> anyhow::Result<Answer> {
        let path = format!("/chats/{chat}/turns/{request_id}/retry");
        self.exchange(Method::POST, &path, &[], Bytes::new()).await
    }

    /// Edits a turn's message and reads the whole response.
    pub async fn edit(
        &self,
        chat: &str,
        request_id: &str,
        content: &str,
    ) -> anyhow::Result<Answer> {
        let path = format!("/chats/{chat}/turns/{request_id}");
        let json = [("content-type", "application/json")];
        let body = Bytes::from(json!({ "content": content }).to_string());
        self.exchange(Method::PATCH, &path, &json, body).await
    }

    /// Sends a request to stop a turn.
    pub async fn cancel(&self, chat: &str, request_id: &str) -> anyhow::Result<Answer> {
        let path = format!("/chats/{chat}/turns/{request_id}/cancel");
        self.exchange(Method::POST, &path, &[], Bytes::new()).await
    }

    /// Deletes a turn.
    pub async fn delete_turn(&self, chat: &str, request_id: &str) -> anyhow::Result<Answer> {
        let path = format!("/chats/{chat}/turns/{request_id}");
        self.exchange(Method::DELETE, &path, &[], Bytes::new())
            .await
    }

    /// The messages of `chat`, oldest first.
    pub async fn messages(&self, chat: &str) -> anyhow::Result<Vec<Value>> {
        let page = self
            .get(&format!("/chats/{chat}/messages?limit=100"))
            .await?
            .expect(200)?;
        Ok(page["items"].as_array().cloned().unwrap_or_default())
    }
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}
