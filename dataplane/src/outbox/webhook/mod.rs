//! Sends usage and audit events to a tenant's webhook (PLAT-41, PLAT-80,
//! PLAT-43, QUOTA-97): one POST request per event, or per batch. docs/events.md describes
//! the requests for people who write receivers.

mod answer;
mod cloud_event;
mod payload;
mod request;
mod signature;
mod size;

#[cfg(test)]
mod tests;

use minichat_config::tenant::sink::{Webhook, WebhookAuth};
use minichat_core::{TenantId, Timestamp};
use minichat_provider::{Post, ProviderClient};
use tokio::time::Instant;

pub(crate) use answer::Answer;
use payload::Payload;

/// What is sent to one webhook in one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) tenant_id: TenantId,
    pub(crate) webhook: &'a Webhook,
    /// At least one event, in the order of delivery. Without
    /// [`Webhook::batch`], exactly one.
    pub(crate) events: &'a [Event<'a>],
    /// When the request is made.
    pub(crate) now: Timestamp,
    /// When the answer must be known.
    pub(crate) deadline: Instant,
}

/// One event of the outbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    /// Identifies the event; the same at every attempt (PLAT-37).
    pub(crate) key: &'a str,
    /// The JSON object that is stored (PLAT-40, PLAT-81).
    pub(crate) payload: &'a str,
}

/// Sends `delivery`; ends by its deadline or the webhook's time limit, whichever
/// comes first.
pub(crate) async fn deliver(client: &ProviderClient, delivery: &Delivery<'_>) -> Answer {
    let payloads = delivery
        .events
        .iter()
        .map(|event| Payload::read(event.payload));
    let payloads = match payloads.collect::<Result<Vec<_>, _>>() {
        Ok(payloads) => payloads,
        Err(reason) => return Answer::Reject(reason),
    };
    let (headers, body) = match request::build(delivery, &payloads) {
        Ok(request) => request,
        Err(reason) => return Answer::Reject(reason),
    };
    let Webhook { url, auth, .. } = delivery.webhook;
    let secrets = match auth {
        WebhookAuth::Header { name: _, value } => vec![value],
        WebhookAuth::None | WebhookAuth::Signature(_) => Vec::new(),
    };
    let answer = client
        .post(&Post {
            tenant: delivery.tenant_id,
            scheme: url.scheme,
            host: &url.host,
            port: url.port,
            path: &url.path_and_query,
            headers,
            body,
            secrets: &secrets,
            expires_at: delivery
                .deadline
                .min(Instant::now() + delivery.webhook.timeout),
        })
        .await;
    // A receiver may repeat in its answer what it was sent (PLAT-165).
    let may_quote = !payloads.iter().any(Payload::has_content);
    Answer::of(url, answer, may_quote)
}
