//! Receivers of webhooks, one path per tenant and sink. Some are sick until they are healed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use minichat_core::{Clock as _, SystemClock};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How long a slow receiver takes.
const SLOW: Duration = Duration::from_secs(3);

/// What is wrong with a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sickness {
    /// Nothing listens.
    Down,
    Slow,
    /// Answers with this status.
    Status(u16),
    /// Sends what is not HTTP.
    Garbage,
    /// Reads the request and never answers.
    Hangs,
}

impl Sickness {
    /// The kinds, in the order in which the sick tenants get them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Down,
        Self::Slow,
        Self::Status(500),
        Self::Status(410),
        Self::Garbage,
        Self::Hangs,
    ];
}

/// One event that a receiver has accepted.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) key: String,
    /// Microseconds since 1970.
    pub(crate) at: i64,
}

/// All receivers.
pub(crate) struct Receivers {
    shared: Arc<Shared>,
    healthy: SocketAddr,
    garbage: SocketAddr,
    down: SocketAddr,
    /// Bound, so that nothing else takes the port, but not listening.
    closed: Option<TcpSocket>,
}

struct Shared {
    sick: bool,
    healed: AtomicBool,
    received: Mutex<Vec<Received>>,
}

impl Receivers {
    pub(crate) async fn start(sick: bool) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            sick,
            healed: AtomicBool::new(false),
            received: Mutex::default(),
        });
        let healthy = TcpListener::bind("127.0.0.1:0").await?;
        let garbage = TcpListener::bind("127.0.0.1:0").await?;
        let closed = TcpSocket::new_v4()?;
        closed.bind(([127, 0, 0, 1], 0).into())?;
        let receivers = Self {
            shared: Arc::clone(&shared),
            healthy: healthy.local_addr()?,
            garbage: garbage.local_addr()?,
            down: closed.local_addr()?,
            closed: Some(closed),
        };
        tokio::spawn(accept(healthy, Arc::clone(&shared), false));
        tokio::spawn(accept(garbage, shared, true));
        Ok(receivers)
    }

    /// What is wrong with the receivers of the tenant at this place: those of every fifth are sick.
    pub(crate) fn sickness(&self, tenant: usize) -> Option<Sickness> {
        let kind = Sickness::ALL[(tenant / 5) % Sickness::ALL.len()];
        (self.shared.sick && tenant.is_multiple_of(5)).then_some(kind)
    }

    /// Where the tenant at this place wants its events.
    pub(crate) fn url(&self, tenant: usize, sink: &str) -> String {
        let (address, path) = match self.sickness(tenant) {
            None => (self.healthy, "healthy".to_owned()),
            Some(Sickness::Down) => (self.down, "down".to_owned()),
            Some(Sickness::Garbage) => (self.garbage, "garbage".to_owned()),
            Some(Sickness::Slow) => (self.healthy, "slow".to_owned()),
            Some(Sickness::Hangs) => (self.healthy, "hangs".to_owned()),
            Some(Sickness::Status(status)) => (self.healthy, status.to_string()),
        };
        format!("http://{address}/{path}/{tenant}/{sink}")
    }

    /// Makes every receiver healthy.
    pub(crate) fn heal(&mut self) -> anyhow::Result<()> {
        self.shared.healed.store(true, Ordering::SeqCst);
        let closed = self.closed.take().context("healed twice")?;
        let listener = closed.listen(1024)?;
        tokio::spawn(accept(listener, Arc::clone(&self.shared), false));
        Ok(())
    }

    /// Everything received so far, in the order of its arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        let received = self.shared.received.lock();
        received.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, garbage: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if garbage && !shared.healed.load(Ordering::SeqCst) {
                send_garbage(stream).await;
                return;
            }
            let _ = stream.set_nodelay(true);
            let answer = service_fn(move |request| answer(Arc::clone(&shared), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // A sender that was killed is no fault.
            let _ = connection
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn send_garbage(mut stream: TcpStream) {
    let _ = stream.write_all(b"\0\x01SSH-2.0-nonsense\r\n\r\n").await;
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let header = |name: &str| {
        let value = request.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let key = header("idempotency-key").unwrap_or_default();
    let is_batch = header("content-type").is_some_and(|it| it.contains("batch"));
    // A body that broke off was sent by a process that was killed meanwhile.
    let Ok(body) = request.into_body().collect().await else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let healed = shared.healed.load(Ordering::SeqCst);
    match path.split('/').nth(1) {
        Some("slow") if !healed => tokio::time::sleep(SLOW).await,
        Some("hangs") if !healed => std::future::pending().await,
        Some(code) if !healed && let Ok(code) = code.parse::<u16>() => {
            return Ok(status(StatusCode::from_u16(code).unwrap_or_default()));
        }
        _ => {}
    }
    let at = now();
    let body = body.to_bytes();
    let keys = if is_batch { keys(&body) } else { vec![key] };
    let received = keys.into_iter().map(|key| Received { key, at });
    let mut log = shared
        .received
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    log.extend(received);
    Ok(status(StatusCode::NO_CONTENT))
}

/// The ids of a batch of `CloudEvents`.
fn keys(body: &[u8]) -> Vec<String> {
    let events: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    let ids = events.iter().filter_map(|event| event["id"].as_str());
    ids.map(str::to_owned).collect()
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn now() -> i64 {
    SystemClock.now().as_micros()
}
