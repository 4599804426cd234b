//! Headers and body of a request.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use minichat_config::tenant::sink::{Format, Webhook, WebhookAuth};
use minichat_telemetry::traces::{TRACEPARENT, TraceContext};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::cloud_event::{self, CloudEvent};
use super::payload::Payload;
use super::{Delivery, signature};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("minichat/", env!("CARGO_PKG_VERSION")));

/// The request that delivers `payloads`, those of the delivery's events. An error
/// is permanent.
pub(super) fn build(
    delivery: &Delivery<'_>,
    payloads: &[Payload<'_>],
) -> Result<(HeaderMap, Bytes), String> {
    let Webhook {
        format,
        auth,
        batch,
        ..
    } = delivery.webhook;
    let is_batch = batch.is_some();
    let key = key(delivery, is_batch);
    let traces: Vec<_> = payloads.iter().map(traceparent).collect();
    let (content_type, body) = match format {
        Format::Json if is_batch => ("application/json", plain_batch(payloads)?),
        Format::Json => ("application/json", one(payloads)?.text.to_string()),
        Format::CloudEvents => cloud_events(delivery, payloads, &traces, is_batch)?,
    };
    let seconds = delivery.now.as_micros().div_euclid(1_000_000);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(USER_AGENT, AGENT);
    headers.insert(IDEMPOTENCY_KEY, value(&key)?);
    headers.insert(WEBHOOK_ID, value(&key)?);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(seconds));
    // The events of a batch belong to several traces.
    if !is_batch && let [Some(trace)] = traces.as_slice() {
        headers.insert(TRACEPARENT, value(trace)?);
    }
    match auth {
        WebhookAuth::None => {}
        WebhookAuth::Signature(keys) => {
            let signature = signature::header(keys, &key, seconds, body.as_bytes());
            headers.insert(WEBHOOK_SIGNATURE, value(&signature)?);
        }
        WebhookAuth::Header {
            name,
            value: secret,
        } => {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|error| error.to_string())?;
            let mut secret = value(secret.expose())?;
            secret.set_sensitive(true);
            headers.insert(name, secret);
        }
    }
    Ok((headers, Bytes::from(body)))
}

/// What identifies the request at every attempt: the key of its event, or the
/// hash of all keys.
fn key(delivery: &Delivery<'_>, is_batch: bool) -> String {
    let keys: Vec<&str> = delivery.events.iter().map(|event| event.key).collect();
    match keys.as_slice() {
        [key] if !is_batch => (*key).to_owned(),
        keys => {
            format!("{:x}", Sha256::digest(keys.join("\n")))
        }
    }
}

fn one<'p, 'a>(payloads: &'p [Payload<'a>]) -> Result<&'p Payload<'a>, String> {
    match payloads {
        [payload] => Ok(payload),
        _ => Err("the webhook takes one event per request".to_owned()),
    }
}

fn plain_batch(payloads: &[Payload<'_>]) -> Result<String, String> {
    let events = payloads.iter().map(Payload::raw);
    json(&events.collect::<Result<Vec<&RawValue>, _>>()?)
}

fn cloud_events(
    delivery: &Delivery<'_>,
    payloads: &[Payload<'_>],
    traces: &[Option<String>],
    is_batch: bool,
) -> Result<(&'static str, String), String> {
    let events = delivery.events.iter().zip(payloads).zip(traces);
    let events: Vec<_> = events
        .map(|((event, payload), trace)| {
            CloudEvent::new(delivery.tenant_id, event.key, trace.as_deref(), payload)
        })
        .collect::<Result<_, _>>()?;
    if is_batch {
        return Ok((cloud_event::BATCH, json(&events)?));
    }
    match events.as_slice() {
        [event] => Ok((cloud_event::ONE, json(event)?)),
        _ => Err("the webhook takes one event per request".to_owned()),
    }
}

/// A new span in the trace of the request that caused the event (PLAT-166).
fn traceparent(payload: &Payload<'_>) -> Option<String> {
    let trace_id = payload.members.trace_id.as_deref()?;
    TraceContext::in_trace(trace_id).map(TraceContext::traceparent)
}

fn json(document: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string(document).map_err(|error| error.to_string())
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "a header cannot be written".to_owned())
}
