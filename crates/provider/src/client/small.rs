//! Calls whose answer is a small document: those of the storage for files.
//! Redirects are not followed.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use minichat_config::Secret;
use minichat_config::outbound::Refusal;
use minichat_config::tenant::Provider;
use minichat_core::TenantId;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::body::{ArrivingBody, BodyError, Progress, RequestBody, Sent};
use super::connection::{Connection, Exchange};
use super::connector::{ChosenBy, ConnectError};
use super::origin::Origin;
use super::pool::Place;
use super::{ProviderClient, head};
use crate::request::StartedFlag;

/// Maximum number of bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Maximum time to wait for the body of an answer that is no success. Its
/// status has been read.
const WORDS_LIMIT: Duration = Duration::from_secs(2);

/// One call to a provider.
pub(crate) struct SmallCall<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) provider: &'a Provider,
    pub(crate) credential: Option<&'a Secret>,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: &'a str,
    /// When the call must be over.
    pub(crate) expires_at: Instant,
}

/// What a call sends.
pub(crate) enum SmallBody {
    /// Nothing. Such a call may be sent twice: if a kept connection turns out
    /// to be closed, a new one is tried.
    Nothing,
    Json(Bytes),
    /// With its content type.
    Arriving(HeaderValue, ArrivingBody),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct SmallAnswer {
    pub(crate) status: StatusCode,
    /// Seconds of `Retry-After`; dates are ignored.
    pub(crate) retry_after: Option<Duration>,
    /// `None` if it is longer than 64 KiB. Of an answer that is no success, it
    /// may be incomplete.
    pub(crate) body: Option<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SmallError {
    /// The address may not be called (D48); nothing was sent to it.
    Refused(Refusal),
    /// The request cannot be written; nothing was sent.
    Misconfigured(String),
    TimedOut,
    /// No connection, or it broke.
    Broken(String),
    /// The body of the request ended with this error.
    Body(BodyError),
    /// The provider answered before it had the whole body, and not with an
    /// error.
    Early,
}

impl ProviderClient {
    /// Sends the call and reads its answer. Dropping the future closes the
    /// connection at once.
    pub(crate) async fn call_small(
        &self,
        call: &SmallCall<'_>,
        body: SmallBody,
    ) -> Result<SmallAnswer, SmallError> {
        let attempts = self.attempt(call, body);
        timeout_at(call.expires_at, attempts)
            .await
            .unwrap_or(Err(SmallError::TimedOut))
    }

    async fn attempt(
        &self,
        call: &SmallCall<'_>,
        body: SmallBody,
    ) -> Result<SmallAnswer, SmallError> {
        let place = Place::here(Origin::of(call.provider));
        let headers = headers(call)?;
        if matches!(body, SmallBody::Nothing)
            && let Some(kept) = self.inner.pool.take(&place)
        {
            let request = request(call, headers.clone(), SmallBody::Nothing)?;
            match self.exchange(kept, request, call).await {
                Err(SmallError::Broken(_)) => {}
                answer => return answer,
            }
        }
        let request = request(call, headers, body)?;
        let connection = self.connect(place, call).await?;
        self.exchange(connection, request, call).await
    }

    async fn connect(&self, place: Place, call: &SmallCall<'_>) -> Result<Connection, SmallError> {
        let until = Instant::now() + call.provider.timeouts.connect;
        let chosen_by = ChosenBy::Tenant(call.tenant);
        let connection = self.connect_by(until, place, chosen_by);
        connection.await.map_err(|error| match error {
            ConnectError::TimedOut => SmallError::TimedOut,
            ConnectError::Refused(refusal) => SmallError::Refused(refusal),
            other => SmallError::Broken(other.to_string()),
        })
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<RequestBody>,
        call: &SmallCall<'_>,
    ) -> Result<SmallAnswer, SmallError> {
        let limit = call.provider.timeouts.first_byte;
        let sent = match request.body() {
            RequestBody::Arriving(body) => Some(body.sent()),
            RequestBody::Whole(..) => None,
        };
        let (response, is_sent) = match sent {
            Some(sent) => send_arriving(&mut connection, request, sent, limit).await?,
            None => (send_whole(&mut connection, request, limit).await?, true),
        };
        let (head, body) = response.into_parts();
        if head.status.is_success() && !is_sent {
            return Err(SmallError::Early);
        }
        self.read(&head, Exchange::new(connection, body), is_sent, limit)
            .await
    }

    async fn read(
        &self,
        head: &Parts,
        mut exchange: Exchange,
        is_sent: bool,
        limit: Duration,
    ) -> Result<SmallAnswer, SmallError> {
        let is_success = head.status.is_success();
        let limit = if is_success { limit } else { WORDS_LIMIT };
        let mut body = Vec::new();
        let reading = exchange.read_start(MAX_ANSWER_BYTES + 1, &mut body);
        let read = timeout_at(Instant::now() + limit, reading).await;
        match read {
            Err(_) if is_success => return Err(SmallError::TimedOut),
            Ok(false) if is_success => {
                let cause = "the answer broke off";
                return Err(SmallError::Broken(cause.to_owned()));
            }
            // The rest of the request would be sent while the connection is
            // drained.
            Ok(true) if is_sent => self.inner.pool.put_after_drain(exchange, 0),
            _ => {}
        }
        Ok(SmallAnswer {
            status: head.status,
            retry_after: retry_after(&head.headers),
            body: (body.len() <= MAX_ANSWER_BYTES).then_some(body),
        })
    }
}

async fn send_whole(
    connection: &mut Connection,
    request: Request<RequestBody>,
    limit: Duration,
) -> Result<Response<Incoming>, SmallError> {
    timeout_at(Instant::now() + limit, connection.exchange(request))
        .await
        .map_err(|_| SmallError::TimedOut)?
        .map_err(|error| SmallError::Broken(error.to_string()))
}

/// Sends a body while it arrives. While the provider has to take a piece or to
/// answer, `limit` holds. While the body's source has to deliver, only the
/// limit of the whole call does. The result contains whether the whole body
/// was sent.
async fn send_arriving(
    connection: &mut Connection,
    request: Request<RequestBody>,
    mut sent: Sent,
    limit: Duration,
) -> Result<(Response<Incoming>, bool), SmallError> {
    let mut answer = pin!(connection.exchange(request));
    let mut is_changing = true;
    loop {
        let progress = *sent.progress.borrow_and_update();
        let due = Instant::now() + limit;
        tokio::select! {
            biased;
            answer = &mut answer => {
                return match answer {
                    Ok(response) => Ok((response, sent.is_ended())),
                    Err(error) => Err(sent.failure().map_or_else(
                        || SmallError::Broken(error.to_string()),
                        SmallError::Body,
                    )),
                };
            }
            changed = sent.progress.changed(), if is_changing => is_changing = changed.is_ok(),
            () = sleep_until(due), if progress != Progress::Wanted => {
                return Err(SmallError::TimedOut);
            }
        }
    }
}

fn headers(call: &SmallCall<'_>) -> Result<HeaderMap, SmallError> {
    let misconfigured =
        |error: &dyn std::fmt::Display| SmallError::Misconfigured(error.to_string());
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(&call.provider.authority());
    headers.insert(HOST, host.map_err(|error| misconfigured(&error))?);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(auth) = &call.provider.auth {
        let (name, value) = head::credential(auth, call.credential)
            .map_err(|failure| misconfigured(&failure.detail))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn request(
    call: &SmallCall<'_>,
    mut headers: HeaderMap,
    body: SmallBody,
) -> Result<Request<RequestBody>, SmallError> {
    let whole = |bytes| RequestBody::whole(bytes, StartedFlag::default());
    let body = match body {
        SmallBody::Nothing => whole(Bytes::new()),
        SmallBody::Json(json) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            whole(json)
        }
        SmallBody::Arriving(content_type, body) => {
            headers.insert(CONTENT_TYPE, content_type);
            RequestBody::Arriving(body)
        }
    };
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.path)
        .body(body)
        .map_err(|error| SmallError::Misconfigured(error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}
