//! Opens the stream of a call: attempts, limits, and answers that are not a
//! stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{Connection, Exchange};
use super::origin::Origin;
use super::pool::Place;
use super::{ProviderClient, head};
use crate::adapter;
use crate::failure::{Failure, FailureKind, TimeoutStage};
use crate::mask::Mask;
use crate::request::ProviderCall;
use crate::stream::{Limits, ProviderStream};

/// Maximum number of bytes of a refusal that are read. The beginning says what
/// is wrong.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

/// Maximum time to wait for the body of a refusal.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);

/// The result of an attempt that gave no stream.
struct Refused {
    failure: Failure,
    /// `Some` if another attempt is allowed after this pause (PLAT-119).
    retry_after: Option<Duration>,
}

impl Refused {
    fn finally(failure: Failure) -> Self {
        Self {
            failure,
            retry_after: None,
        }
    }
}

/// Sends `call`, at most twice.
pub(super) async fn open(
    client: &ProviderClient,
    call: &ProviderCall<'_>,
) -> Result<ProviderStream, Failure> {
    let total_at = Instant::now() + call.provider.timeouts.total;
    let attempts = attempt_twice(client, call, total_at);
    timeout_at(total_at, attempts)
        .await
        .unwrap_or_else(|_| Err(Failure::timed_out(TimeoutStage::Total, total_at)))
}

async fn attempt_twice(
    client: &ProviderClient,
    call: &ProviderCall<'_>,
    total_at: Instant,
) -> Result<ProviderStream, Failure> {
    let body = adapter::body(call.provider, &call.request)
        .map_err(|error| Failure::misconfigured(&error))?;
    let first = client.checkout(call).await;
    let refused = match attempt(client, first, call, body.clone(), total_at).await {
        Ok(stream) => return Ok(stream),
        Err(refused) => refused,
    };
    if refused.failure.kind == FailureKind::RefusedAddress {
        tracing::warn!(
            tenant.id = %call.request.metadata.tenant_id,
            provider.id = call.provider.id,
            cause = refused.failure.detail,
            "a provider has an address that may not be called"
        );
    }
    let Some(pause) = refused.retry_after else {
        return Err(refused.failure);
    };
    tracing::info!(
        provider.id = call.provider.id,
        pause_ms = pause.as_millis(),
        cause = refused.failure.detail,
        "calling the provider once more"
    );
    tokio::time::sleep(pause).await;
    // Other idle connections may have been closed together with the first one.
    let place = Place::here(Origin::of(call.provider));
    let fresh = client.establish(place, call).await;
    attempt(client, fresh, call, body, total_at)
        .await
        .map_err(|refused| refused.failure)
}

async fn attempt(
    client: &ProviderClient,
    connection: Result<Connection, Failure>,
    call: &ProviderCall<'_>,
    body: Bytes,
    total_at: Instant,
) -> Result<ProviderStream, Refused> {
    let mut connection = connection.map_err(|failure| Refused {
        retry_after: (failure.kind == FailureKind::Connect).then_some(Duration::ZERO),
        failure,
    })?;
    let request = head::request(call, body).map_err(Refused::finally)?;
    let limits = &call.provider.timeouts;
    let first_byte_at = Instant::now() + limits.first_byte;
    let response = timeout_at(first_byte_at, connection.exchange(request))
        .await
        .map_err(|_| Refused::finally(Failure::timed_out(TimeoutStage::FirstByte, first_byte_at)))?
        .map_err(|error| Refused {
            failure: Failure::broken(&error),
            retry_after: Some(Duration::ZERO),
        })?;
    let (head, body) = response.into_parts();
    let exchange = Exchange::new(connection, body);
    if head.status.is_success() && is_event_stream(&head.headers) {
        let limits = Limits::new(client.inner.sizes, limits.idle, total_at);
        let pool = Arc::clone(&client.inner.pool);
        Ok(ProviderStream::new(
            call.provider.kind,
            Mask::new(call.provider, call.credential),
            exchange,
            limits,
            pool,
        ))
    } else {
        Err(refusal(client, call, &head, exchange).await)
    }
}

/// Reads an answer that is not a stream (TURN-23). The flag is set before the
/// body is read, because the status alone shows that the call was refused
/// (D54).
async fn refusal(
    client: &ProviderClient,
    call: &ProviderCall<'_>,
    head: &Parts,
    mut exchange: Exchange,
) -> Refused {
    if head.status.as_u16() >= 400 {
        call.started.set_refused();
    }
    let mut text = Vec::new();
    let read = exchange.read_start(MAX_REFUSAL_BYTES, &mut text);
    if timeout(REFUSAL_LIMIT, read).await.is_ok() {
        client.inner.pool.put_after_drain(exchange, usize::MAX);
    }
    let mask = Mask::new(call.provider, call.credential);
    let failure = Failure::of_status(head.status.as_u16(), &text, call.provider.kind, &mask);
    if !failure.is_refusal() {
        call.started.set();
    }
    Refused {
        failure,
        retry_after: retry_after(head, client.inner.retry_after_cap),
    }
}

/// The pause that a 429 requests, if it is short enough. Dates are ignored,
/// because they would need a clock that agrees with the provider's.
fn retry_after(head: &Parts, cap: Duration) -> Option<Duration> {
    if head.status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = head.headers.get(RETRY_AFTER)?.to_str().ok()?;
    let pause = Duration::from_secs(seconds.trim().parse().ok()?);
    (pause <= cap).then_some(pause)
}

/// Whether the content type is that of a stream. Some proxies append a second
/// type, so the header may be a list.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let types = headers.get_all(CONTENT_TYPE).into_iter();
    types
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|element| element.split(';').next())
        .any(|mime| mime.trim().eq_ignore_ascii_case("text/event-stream"))
}
