//! Sends events to the receivers of tenants: one POST over a pooled connection.
//! Redirects are not followed.

use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Request, StatusCode};
use minichat_config::Secret;
use minichat_config::outbound::Refusal;
use minichat_config::tenant::Scheme;
use minichat_core::TenantId;
use minichat_core::scrub::scrub_credentials;
use tokio::time::{Duration, Instant, timeout_at};

use super::ProviderClient;
use super::body::RequestBody;
use super::connection::{Connection, Exchange};
use super::connector::{ChosenBy, ConnectError};
use super::origin::Origin;
use super::pool::Place;
use crate::adapter;
use crate::mask::Mask;
use crate::request::StartedFlag;

/// Maximum number of bytes of an answer's body that are read.
const MAX_ANSWER_BYTES: usize = 4 * 1024;

/// Maximum number of bytes of an answer's body that are looked through for
/// credentials; less than what is read, so that a cut is seen.
const MASKED_BYTES: usize = 2 * 1024;

/// Maximum number of bytes of an answer's words that are kept.
const MAX_WORDS: usize = 512;

/// Maximum time to wait for the body of an answer that is no success. Its
/// status has been read.
const WORDS_LIMIT: Duration = Duration::from_secs(2);

/// One POST to an address that a tenant chose.
#[derive(Debug)]
pub struct Post<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// Plain or encrypted.
    pub scheme: Scheme,
    /// Host name or address; an IPv6 address is in brackets.
    pub host: &'a str,
    /// TCP port.
    pub port: u16,
    /// Path and query.
    pub path: &'a str,
    /// All headers but `Host` and those of framing.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Header values that must not come back in [`PostAnswer::words`].
    pub secrets: &'a [&'a Secret],
    /// When the head of the answer must be there.
    pub expires_at: Instant,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostAnswer {
    /// Its status.
    pub status: StatusCode,
    /// What the receiver says about a status that is no success: at most 512
    /// bytes of plain text or JSON in one line, without credentials. Empty if
    /// there is nothing of this kind.
    pub words: String,
}

/// Why there is no answer. Contains nothing of what the receiver sent.
#[derive(Debug)]
pub enum PostError {
    /// The address may not be called (D48); nothing was sent to it.
    Refused(Refusal),
    /// No connection: name resolution, TCP, TLS or the proxy.
    Connect(String),
    /// There was no connection in time.
    ConnectTimedOut,
    /// The connection broke, or what came is not HTTP.
    Broken(String),
    /// There was no answer in time.
    TimedOut,
    /// The request cannot be written.
    Misconfigured(String),
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Connect(cause) => write!(f, "it cannot be reached: {cause}"),
            Self::ConnectTimedOut => f.write_str("it cannot be reached in time"),
            Self::Broken(cause) => write!(f, "there was no proper answer: {cause}"),
            Self::TimedOut => f.write_str("it did not answer in time"),
            Self::Misconfigured(cause) => write!(f, "the request cannot be sent: {cause}"),
        }
    }
}

impl std::error::Error for PostError {}

impl Post<'_> {
    fn origin(&self) -> Origin {
        Origin {
            is_tls: self.scheme == Scheme::Https,
            host: self.host.to_owned(),
            port: self.port,
        }
    }

    fn request(&self) -> Result<Request<RequestBody>, PostError> {
        let host = if self.port == self.scheme.default_port() {
            self.host.to_owned()
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let body = RequestBody::whole(self.body.clone(), StartedFlag::default());
        let mut request = Request::post(self.path)
            .header(HOST, host)
            .body(body)
            .map_err(|error| PostError::Misconfigured(error.to_string()))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    fn mask(&self) -> Mask {
        Mask::of_headers(self.secrets, Vec::new())
    }
}

impl ProviderClient {
    /// Sends `post` and waits for the head of its answer. If a kept connection
    /// turns out to be closed, a new one is tried, so the receiver may get the
    /// request twice. Dropping the future closes the connection at once.
    pub async fn post(&self, post: &Post<'_>) -> Result<PostAnswer, PostError> {
        let place = Place::here(post.origin());
        if let Some(kept) = self.inner.pool.take(&place) {
            match self.send(kept, post).await {
                Err(PostError::Broken(_)) => {}
                answer => return answer,
            }
        }
        let chosen_by = ChosenBy::Tenant(post.tenant);
        let connection = self.connect_by(post.expires_at, place, chosen_by);
        let connection = connection.await.map_err(|error| match error {
            ConnectError::TimedOut => PostError::ConnectTimedOut,
            ConnectError::Refused(refusal) => PostError::Refused(refusal),
            other => PostError::Connect(other.to_string()),
        })?;
        self.send(connection, post).await
    }

    async fn send(
        &self,
        mut connection: Connection,
        post: &Post<'_>,
    ) -> Result<PostAnswer, PostError> {
        let request = post.request()?;
        let response = timeout_at(post.expires_at, connection.exchange(request))
            .await
            .map_err(|_| PostError::TimedOut)?
            .map_err(|error| PostError::Broken(error.to_string()))?;
        let (head, body) = response.into_parts();
        let mut exchange = Exchange::new(connection, body);
        let mut text = Vec::new();
        let mut is_whole = true;
        if !head.status.is_success() {
            let until = post.expires_at.min(Instant::now() + WORDS_LIMIT);
            let reading = exchange.read_start(MAX_ANSWER_BYTES, &mut text);
            is_whole = timeout_at(until, reading).await.unwrap_or(false);
        }
        if is_whole {
            let left = MAX_ANSWER_BYTES.saturating_sub(text.len());
            self.inner.pool.put_after_drain(exchange, left);
        } else {
            // Its last word may be a part of a credential.
            text.clear();
        }
        Ok(PostAnswer {
            status: head.status,
            words: words(&head.headers, &text, &post.mask()),
        })
    }
}

/// The beginning of an answer that people can read, in one line.
fn words(headers: &HeaderMap, body: &[u8], mask: &Mask) -> String {
    if !is_text(headers) {
        return String::new();
    }
    let text = adapter::decoded(body);
    let text = mask.credential_in(mask.cut(&text, MASKED_BYTES));
    let text = scrub_credentials(&text);
    let is_gap = |c: char| c.is_whitespace() || c.is_control();
    let parts: Vec<&str> = text.split(is_gap).filter(|it| !it.is_empty()).collect();
    let mut words = parts.join(" ");
    words.truncate(words.floor_char_boundary(MAX_WORDS));
    words
}

/// Whether the content type is plain text or JSON of any kind.
fn is_text(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let mime = value.split(';').next().unwrap_or_default().trim();
    let mime = mime.to_ascii_lowercase();
    mime == "text/plain" || mime == "application/json" || mime.ends_with("+json")
}
