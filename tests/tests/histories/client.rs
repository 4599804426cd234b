//! A client of the data plane: one request, and everything that it has
//! received.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use http::Method;
use http_body_util::BodyExt as _;
use minichat_provider::sse::Parser;
use minichat_telemetry::PeerAddr;
use serde_json::Value;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;
use uuid::Uuid;

/// The caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) tenant: Uuid,
    pub(crate) user: Uuid,
}

/// A request, with its path below the base path.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

/// What has been received so far.
#[derive(Clone, Default, Debug)]
pub(crate) struct Seen {
    pub(crate) status: Option<u16>,
    /// The body of an answer that is not a stream.
    pub(crate) body: Option<Value>,
    pub(crate) is_stream: bool,
    /// Names and data, without pings.
    pub(crate) events: Vec<(String, Value)>,
    pub(crate) has_ended: bool,
}

/// A request in progress.
pub(crate) struct Client {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Sends `request` with the request id `name`, and reads the answer.
    pub(crate) fn send(router: Router, who: Identity, name: &str, request: &Request) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let request = http_request(who, name, request);
        let task = tokio::spawn(read(router, request, Arc::clone(&seen)));
        Self { seen, task }
    }

    pub(crate) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Closes the connection.
    pub(crate) fn leave(&self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn http_request(who: Identity, name: &str, request: &Request) -> Option<http::Request<Body>> {
    let body = match &request.body {
        Some(value) => Body::from(value.to_string()),
        None => Body::empty(),
    };
    let peer: std::net::SocketAddr = ([127, 0, 0, 1], 4711).into();
    http::Request::builder()
        .method(request.method.clone())
        .uri(format!("/mini-chat/v1{}", request.path))
        .header("host", "minichat")
        .header("x-tenant-id", who.tenant.to_string())
        .header("x-user-id", who.user.to_string())
        .header("x-request-id", name)
        .header("content-type", "application/json")
        .extension(PeerAddr(peer))
        .body(body)
        .ok()
}

async fn read(router: Router, request: Option<http::Request<Body>>, seen: Arc<Mutex<Seen>>) {
    let Some(request) = request else { return };
    let Ok(response) = router.oneshot(request).await;
    let (head, mut body) = response.into_parts();
    let is_stream = head
        .headers
        .get("content-type")
        .is_some_and(|value| value == "text/event-stream");
    if is_stream {
        {
            let mut seen = lock(&seen);
            seen.status = Some(head.status.as_u16());
            seen.is_stream = true;
        }
        let mut parser = Parser::default();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            parser.push(&bytes);
            take_events(&mut parser, &mut lock(&seen));
        }
        lock(&seen).has_ended = true;
    } else {
        let bytes = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let mut seen = lock(&seen);
        seen.status = Some(head.status.as_u16());
        seen.body = bytes
            .ok()
            .map(|bytes| serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        seen.has_ended = true;
    }
}

fn take_events(parser: &mut Parser, seen: &mut Seen) {
    while let Ok(Some(event)) = parser.next_event() {
        let name = String::from_utf8_lossy(event.name).into_owned();
        if name != "ping" {
            let data = serde_json::from_slice(event.data).unwrap_or(Value::Null);
            seen.events.push((name, data));
        }
    }
}
