//! Where a tenant's usage and audit events go (QUOTA-97, PLAT-80). Both sinks are off
//! by default (D31).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use serde::{Deserialize, Serialize};

use super::document::{BatchDocument, TenantDocument, WebhookDocument};
use super::http_url::{self, HttpUrl};
use super::request_line;
use crate::fault::{Fault, Faults};
use crate::secret::{Credentials, Secret};

/// The header of a credential unless another one is configured.
pub const AUTH_HEADER: &str = "Authorization";
/// Time for one request, from connecting to the end of the answer.
pub const DEFAULT_TIMEOUT_SECONDS: u32 = 30;
/// Less than the lease of a delivery, so that an answer is waited for while the lease
/// lasts (PLAT-154).
pub const MAX_TIMEOUT_SECONDS: u32 = 55;
/// Largest batch.
pub const MAX_BATCH_EVENTS: u32 = 100;
/// Longest wait for a batch to become full.
pub const MAX_BATCH_SECONDS: u32 = 60;
/// Headers that a webhook request sets itself, besides those that carry no credential
/// anywhere. `*` at the end stands for any rest.
pub const OWN_HEADERS: &[&str] = &["idempotency-key", "user-agent", "webhook-*"];

const SIGNING_PREFIX: &str = "whsec_";
/// Most signing secrets at a time: one, and the next while receivers change.
const MAX_SIGNING_KEYS: usize = 4;

/// Both sinks of a tenant, ready to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sinks {
    /// Usage events (PLAT-40).
    pub usage: Sink,
    /// Audit events (PLAT-80).
    pub audit: Sink,
    /// Whether audit events contain prompts and answers (PLAT-85).
    pub include_content: bool,
}

/// Where events go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    #[default]
    None,
    /// One line of the process's log per event.
    Log,
    /// One POST request per event or batch.
    Webhook(Arc<Webhook>),
}

/// The kind of a sink, `type` in a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// [`Sink::None`].
    #[default]
    None,
    /// [`Sink::Log`].
    Log,
    /// [`Sink::Webhook`].
    Webhook,
}

/// A receiver of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where to.
    pub url: HttpUrl,
    /// What the body looks like.
    pub format: Format,
    /// How the receiver knows the sender.
    pub auth: WebhookAuth,
    /// For one request, from connecting to the end of the answer; 1 to 55 s.
    pub timeout: Duration,
    /// `None`: one request per event.
    pub batch: Option<Batch>,
}

/// Form of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The event itself.
    #[default]
    Json,
    /// The event as `data` of a `CloudEvent` 1.0 in structured mode.
    CloudEvents,
}

/// How a receiver knows the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookAuth {
    /// It does not.
    None,
    /// By the signatures of Standard Webhooks, one with each key; at least one.
    Signature(Vec<SigningKey>),
    /// By the value of a header, sent as it is.
    Header {
        /// Header name, such as `Authorization`.
        name: String,
        /// Its whole value.
        value: Secret,
    },
}

/// A key of 24 to 64 bytes for HMAC-SHA256. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

/// Events that are sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// 1 to 100.
    pub max_events: u32,
    /// How long an event waits for others, 0 to 60 s.
    pub max_wait: Duration,
}

impl Sink {
    /// The webhook, if the sink is one.
    pub const fn webhook(&self) -> Option<&Arc<Webhook>> {
        match self {
            Self::Webhook(webhook) => Some(webhook),
            Self::None | Self::Log => None,
        }
    }
}

impl Sinks {
    /// The sinks with the names of their fields in a document.
    pub fn by_field(&self) -> [(&'static str, &Sink); 2] {
        [("usage_sink", &self.usage), ("audit_sink", &self.audit)]
    }
}

impl SigningKey {
    /// Wraps the bytes of a key.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the one place that signs.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Reads the value of a signing secret: one to four `whsec_<base64>`, separated by
    /// white space. The error says what is wrong, without a word of the value.
    pub fn read_all(text: &str) -> Result<Vec<Self>, String> {
        let keys: Vec<_> = text.split_whitespace().map(Self::read).collect();
        let why = match keys.len() {
            0 => "is empty",
            1..=MAX_SIGNING_KEYS => match keys.into_iter().collect() {
                Ok(keys) => return Ok(keys),
                Err(why) => why,
            },
            _ => "has more than 4 signing secrets",
        };
        Err(format!(
            "{why}; write whsec_ and the base64 of 24 to 64 random bytes, such as whsec_$(openssl rand -base64 32), and while receivers change from one to the next both of them with a space between"
        ))
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let encoded = text
            .strip_prefix(SIGNING_PREFIX)
            .ok_or("has a signing secret that does not begin with whsec_")?;
        let engine = GeneralPurpose::new(
            &STANDARD,
            PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let bytes = engine
            .decode(encoded)
            .map_err(|_| "has a signing secret that is not base64 after whsec_")?;
        match bytes.len() {
            24..=64 => Ok(Self(bytes)),
            ..24 => Err("has a signing secret of fewer than 24 bytes"),
            _ => Err("has a signing secret of more than 64 bytes"),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// Whether the header `name` may carry the credential of a webhook (D48).
pub fn may_carry_credential(name: &str) -> bool {
    request_line::may_carry_credential(name) && !request_line::is_listed(name, OWN_HEADERS)
}

/// One sink of a document.
struct Raw<'a> {
    path: &'static str,
    kind: SinkKind,
    webhook: Option<&'a WebhookDocument>,
}

fn raw(document: &TenantDocument) -> [Raw<'_>; 2] {
    let usage = document.usage_sink.as_ref();
    let audit = document.audit_sink.as_ref();
    [
        Raw {
            path: "usage_sink",
            kind: usage.map_or(SinkKind::None, |sink| sink.kind),
            webhook: usage.and_then(|sink| sink.webhook.as_ref()),
        },
        Raw {
            path: "audit_sink",
            kind: audit.map_or(SinkKind::None, |sink| sink.kind),
            webhook: audit.and_then(|sink| sink.webhook.as_ref()),
        },
    ]
}

/// Everything but the credentials.
pub(super) fn check(document: &TenantDocument, faults: &mut Faults) {
    for Raw {
        path,
        kind,
        webhook,
    } in raw(document)
    {
        let path = format!("{path}.webhook");
        match (kind, webhook) {
            (SinkKind::Webhook, Some(webhook)) => check_webhook(&path, webhook, faults),
            (SinkKind::Webhook, None) => {
                faults.add(path, "is required when the type is `webhook`");
            }
            (SinkKind::None | SinkKind::Log, Some(_)) => {
                faults.add(path, "is allowed only when the type is `webhook`");
            }
            (SinkKind::None | SinkKind::Log, None) => {}
        }
    }
}

fn check_webhook(path: &str, document: &WebhookDocument, faults: &mut Faults) {
    let WebhookDocument {
        url,
        format: _,
        signing_secret_ref,
        auth_header,
        secret_ref,
        timeout_seconds,
        batch,
    } = document;
    faults.require(
        HttpUrl::parse(url).is_some(),
        format!("{path}.url"),
        http_url::WRITE,
    );
    faults.require(
        signing_secret_ref.is_none() || secret_ref.is_none(),
        format!("{path}.signing_secret_ref"),
        "excludes secret_ref; a request is signed, or it carries a credential",
    );
    for (key, name) in [
        ("signing_secret_ref", signing_secret_ref),
        ("secret_ref", secret_ref),
    ] {
        faults.require(
            name.as_deref() != Some(""),
            format!("{path}.{key}"),
            "must name a credential",
        );
    }
    if let Some(header) = auth_header {
        check_header(&format!("{path}.auth_header"), header, faults);
        faults.require(
            secret_ref.is_some(),
            format!("{path}.auth_header"),
            "is allowed only with secret_ref",
        );
    }
    faults.require(
        timeout_seconds.is_none_or(|it| (1..=MAX_TIMEOUT_SECONDS).contains(&it)),
        format!("{path}.timeout_seconds"),
        format!("must be 1 to {MAX_TIMEOUT_SECONDS}"),
    );
    if let Some(BatchDocument {
        max_events,
        max_seconds,
    }) = batch
    {
        faults.require(
            (1..=MAX_BATCH_EVENTS).contains(max_events),
            format!("{path}.batch.max_events"),
            format!("must be 1 to {MAX_BATCH_EVENTS}"),
        );
        faults.require(
            *max_seconds <= MAX_BATCH_SECONDS,
            format!("{path}.batch.max_seconds"),
            format!("must be 0 to {MAX_BATCH_SECONDS}"),
        );
    }
}

fn check_header(path: &str, header: &str, faults: &mut Faults) {
    faults.require(
        request_line::is_header_name(header),
        path,
        "must be a header name such as `Authorization`",
    );
    faults.require(
        may_carry_credential(header),
        path,
        "is a header of the connection, of framing, of routing or of webhooks, which carries no credential; write one such as `Authorization` or `X-Api-Key`",
    );
}

/// The sinks of a document that [`check`] accepts.
pub(super) fn resolve(
    document: &TenantDocument,
    credentials: &Credentials,
) -> Result<Sinks, Faults> {
    let mut faults = Faults::default();
    let [usage, audit] = raw(document).map(|one| sink(&one, credentials, &mut faults));
    faults.into_result(Sinks {
        usage,
        audit,
        include_content: document
            .audit_sink
            .as_ref()
            .is_some_and(|sink| sink.include_content),
    })
}

fn sink(raw: &Raw<'_>, credentials: &Credentials, faults: &mut Faults) -> Sink {
    let document = match (raw.kind, raw.webhook) {
        (SinkKind::Webhook, Some(document)) => document,
        (SinkKind::Log, _) => return Sink::Log,
        (SinkKind::None | SinkKind::Webhook, _) => return Sink::None,
    };
    let path = format!("{}.webhook", raw.path);
    let auth = auth(&path, document, credentials);
    let url = HttpUrl::parse(&document.url).ok_or_else(|| Fault {
        path: format!("{path}.url"),
        message: http_url::WRITE.to_owned(),
    });
    match (url, auth) {
        (Ok(url), Ok(auth)) => Sink::Webhook(Arc::new(webhook(document, url, auth))),
        (url, auth) => {
            faults.0.extend(url.err());
            faults.0.extend(auth.err());
            Sink::None
        }
    }
}

fn webhook(document: &WebhookDocument, url: HttpUrl, auth: WebhookAuth) -> Webhook {
    let seconds = document.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    Webhook {
        url,
        format: document.format,
        auth,
        timeout: Duration::from_secs(seconds.into()),
        batch: document.batch.map(|batch| Batch {
            max_events: batch.max_events,
            max_wait: Duration::from_secs(batch.max_seconds.into()),
        }),
    }
}

fn auth(
    path: &str,
    document: &WebhookDocument,
    credentials: &Credentials,
) -> Result<WebhookAuth, Fault> {
    let fault = |key: &str, message: String| Fault {
        path: format!("{path}.{key}"),
        message,
    };
    let get = |key: &str, reference: &str| {
        let missing = || fault(key, format!("there is no credential called {reference}"));
        credentials.get(reference).ok_or_else(missing)
    };
    if let Some(reference) = &document.signing_secret_ref {
        let key = "signing_secret_ref";
        let keys = SigningKey::read_all(get(key, reference)?.expose());
        let keys = keys.map_err(|why| fault(key, format!("the value of {reference} {why}")))?;
        return Ok(WebhookAuth::Signature(keys));
    }
    let Some(reference) = &document.secret_ref else {
        return Ok(WebhookAuth::None);
    };
    let value = get("secret_ref", reference)?;
    if !value.is_header_value() {
        let message = format!("the value of {reference} is none that a header may carry");
        return Err(fault("secret_ref", message));
    }
    let name = document.auth_header.as_deref().unwrap_or(AUTH_HEADER);
    Ok(WebhookAuth::Header {
        name: name.to_owned(),
        value: value.clone(),
    })
}

#[cfg(test)]
mod tests;
