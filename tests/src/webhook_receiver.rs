//! A receiver of events whose answers a test scripts, down to bytes that no
//! HTTP library would send. It records every request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long [`WebhookReceiver::deliveries_at_least`] waits.
const LIMIT: Duration = Duration::from_secs(90);

/// Pause between the bytes of [`Reply::Drip`].
const DRIP: Duration = Duration::from_millis(100);

/// What the receiver does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer without a body.
    Status(u16),
    /// An answer with further header lines (`name: value`) and a body.
    Answer {
        status: u16,
        headers: Vec<String>,
        body: Vec<u8>,
    },
    /// Exactly these bytes, then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, one at a time and slowly.
    Drip(Vec<u8>),
    /// The head with this status and a part of the body, and nothing more.
    HungBody(u16),
    /// The head with this status, and a body without an end.
    EndlessBody(u16),
    /// A status line, and header lines without an end.
    EndlessHead,
    /// No answer. The connection stays open until the client closes it.
    Hang,
    /// The connection is closed without an answer.
    Close,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// When it was complete.
    pub at: Instant,
    /// Number of the connection, from 0.
    pub connection: usize,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Chooses the answer when no answer is queued.
type Choose = Box<dyn Fn(&Delivery) -> Reply + Send>;

/// A receiver on the loopback interface. It answers with 200 unless told
/// otherwise, and stops when dropped.
pub struct WebhookReceiver {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    replies: Mutex<VecDeque<Reply>>,
    choose: Mutex<Choose>,
    deliveries: Mutex<Vec<Delivery>>,
    count: watch::Sender<usize>,
    connections: AtomicUsize,
}

impl WebhookReceiver {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            replies: Mutex::default(),
            choose: Mutex::new(Box::new(|_| Reply::Status(200))),
            deliveries: Mutex::default(),
            count: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            // Connections end with the receiver.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&of_task)));
            }
        });
        Ok(Self { addr, shared, task })
    }

    /// The URL of `path`, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Answers the next request that has no answer yet with `reply`.
    pub fn push(&self, reply: Reply) {
        lock(&self.shared.replies).push_back(reply);
    }

    /// Answers with the result of `choose` whenever no answer is queued.
    pub fn otherwise(&self, choose: impl Fn(&Delivery) -> Reply + Send + 'static) {
        *lock(&self.shared.choose) = Box::new(choose);
    }

    /// All requests so far, in the order of their arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.shared.deliveries).clone()
    }

    /// The same for requests of `path`.
    pub fn deliveries_at(&self, path: &str) -> Vec<Delivery> {
        let mut deliveries = self.deliveries();
        deliveries.retain(|delivery| delivery.path == path);
        deliveries
    }

    /// Waits until there are `count` requests or more, and returns all.
    pub async fn deliveries_at_least(&self, count: usize) -> anyhow::Result<Vec<Delivery>> {
        self.wait(|all| all.len() >= count)
            .await
            .with_context(|| format!("fewer than {count} deliveries"))
    }

    /// Waits until `is_complete` holds for the requests so far.
    pub async fn wait(
        &self,
        is_complete: impl Fn(&[Delivery]) -> bool,
    ) -> anyhow::Result<Vec<Delivery>> {
        let mut count = self.shared.count.subscribe();
        let waiting = count.wait_for(|_| is_complete(&lock(&self.shared.deliveries)));
        let waited = tokio::time::timeout(LIMIT, waiting).await;
        let waited = waited.with_context(|| {
            let seen = self.deliveries();
            let seen = seen.iter().map(|it| (&it.path, it.header("webhook-id")));
            format!("after {LIMIT:?}: {:?}", seen.collect::<Vec<_>>())
        })?;
        waited.map(drop)?;
        Ok(self.deliveries())
    }

    /// Number of connections that were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Delivery {
    /// The value of a header; empty if there is none. `name` in lower case.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> anyhow::Result<Value> {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        serde_json::from_slice(&self.body).with_context(text)
    }

    /// The events of the body: the elements of an array, or the one object.
    pub fn events(&self) -> anyhow::Result<Vec<Value>> {
        Ok(match self.json()? {
            Value::Array(events) => events,
            event => vec![event],
        })
    }

    /// How many signatures of the request were made with `secret`
    /// (`whsec_<base64>`).
    pub fn signatures_of(&self, secret: &str) -> anyhow::Result<usize> {
        let key = secret.strip_prefix("whsec_").context("no whsec_")?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(key)?);
        let mut signed = format!(
            "{}.{}.",
            self.header("webhook-id"),
            self.header("webhook-timestamp")
        )
        .into_bytes();
        signed.extend_from_slice(&self.body);
        let mut count = 0;
        for signature in self.header("webhook-signature").split(' ') {
            let signature = signature.strip_prefix("v1,").context("no v1")?;
            let signature = BASE64_STANDARD.decode(signature)?;
            count += usize::from(hmac::verify(&key, &signed, &signature).is_ok());
        }
        Ok(count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
    let mut read = Vec::new();
    while let Some(delivery) = read_request(&mut stream, &mut read, connection).await {
        let queued = lock(&shared.replies).pop_front();
        let reply = queued.unwrap_or_else(|| lock(&shared.choose)(&delivery));
        let count = {
            let mut deliveries = lock(&shared.deliveries);
            deliveries.push(delivery);
            deliveries.len()
        };
        shared.count.send_replace(count);
        if !answer(&mut stream, reply).await {
            return;
        }
    }
}

/// Reads one request. `read` has bytes of the connection that were read before.
async fn read_request(
    stream: &mut TcpStream,
    read: &mut Vec<u8>,
    connection: usize,
) -> Option<Delivery> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let mut lines = head.lines();
            let mut first = lines.next()?.split(' ');
            let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length = length.map_or(Some(0), |(_, value)| value.parse().ok())?;
            let body_at = end + 4;
            if read.len() >= body_at + length {
                let body = read[body_at..body_at + length].to_vec();
                read.drain(..body_at + length);
                return Some(Delivery {
                    at: Instant::now(),
                    connection,
                    method,
                    path,
                    headers,
                    body,
                });
            }
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

/// Answers; the result is whether the connection can serve another request.
async fn answer(stream: &mut TcpStream, reply: Reply) -> bool {
    let (bytes, is_kept) = match reply {
        Reply::Status(status) => (head(status, &[], 0), true),
        Reply::Answer {
            status,
            headers,
            body,
        } => {
            let mut bytes = head(status, &headers, body.len());
            bytes.extend_from_slice(&body);
            (bytes, true)
        }
        Reply::Bytes(bytes) => (bytes, false),
        Reply::Drip(bytes) => {
            for byte in bytes {
                tokio::time::sleep(DRIP).await;
                if stream.write_all(&[byte]).await.is_err() {
                    return false;
                }
            }
            return true;
        }
        Reply::HungBody(status) => {
            let mut bytes = head(status, &[], 1000);
            bytes.extend_from_slice(b"part");
            // The client may be gone.
            let _ = stream.write_all(&bytes).await;
            wait_for_end(stream).await;
            return false;
        }
        Reply::EndlessBody(status) => {
            let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
            return repeat(stream, head.as_bytes(), b"5\r\nagain\r\n").await;
        }
        Reply::EndlessHead => {
            return repeat(stream, b"HTTP/1.1 200 OK\r\n", b"X-Again: and again\r\n").await;
        }
        Reply::Hang => {
            wait_for_end(stream).await;
            return false;
        }
        Reply::Close => return false,
    };
    let is_written = stream.write_all(&bytes).await.is_ok();
    if !is_kept {
        let _ = stream.shutdown().await;
        // Waits until the client has read everything, because a reset would
        // lose bytes.
        wait_for_end(stream).await;
    }
    is_written && is_kept
}

fn head(status: u16, headers: &[String], length: usize) -> Vec<u8> {
    let lines = headers.iter().map(|line| [line.as_str(), "\r\n"].concat());
    let headers: String = lines.collect();
    let framing = if status == 204 || status == 304 {
        String::new()
    } else {
        format!("Content-Length: {length}\r\n")
    };
    format!("HTTP/1.1 {status} X\r\n{headers}{framing}\r\n").into_bytes()
}

async fn wait_for_end(stream: &mut TcpStream) {
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}

async fn repeat(stream: &mut TcpStream, first: &[u8], again: &[u8]) -> bool {
    if stream.write_all(first).await.is_err() {
        return false;
    }
    while stream.write_all(again).await.is_ok() {
        tokio::task::yield_now().await;
    }
    false
}
