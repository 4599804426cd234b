//! Where usage and audit events go.

use minichat_config::tenant::request_line::REFUSED_HEADERS;
use minichat_config::tenant::sink::OWN_HEADERS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::provider::{SecretKeyRef, none_of};

/// Where usage events go: one for each turn that was charged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = webhook_rules()))]
pub struct UsageSink {
    /// Kind of the sink.
    #[serde(rename = "type")]
    pub kind: SinkType,
    /// The receiver of a sink of type `Webhook`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Where audit events go: turns, edits, retries and deletions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = webhook_rules()))]
pub struct AuditSink {
    /// Kind of the sink.
    #[serde(rename = "type")]
    pub kind: SinkType,
    /// The receiver of a sink of type `Webhook`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Whether events contain prompts and answers, with secrets masked as far as they
    /// are recognized. Only a webhook gets them.
    pub include_content: bool,
}

/// The rules of every kind of sink: `webhook` goes with its type.
fn webhook_rules() -> serde_json::Value {
    serde_json::json!([
        {
            "rule": "self.type != 'Webhook' || has(self.webhook)",
            "message": "a sink of type Webhook needs webhook; add it with the url of the receiver",
            "fieldPath": ".webhook"
        },
        {
            "rule": "self.type == 'Webhook' || !has(self.webhook)",
            "message": "webhook is only for a sink of type Webhook; write type: Webhook or remove it",
            "fieldPath": ".webhook"
        }
    ])
}

/// Kind of a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SinkType {
    /// Events are dropped.
    #[default]
    None,
    /// One line per event in the log of the process.
    Log,
    /// One POST request per event or batch.
    Webhook,
}

/// A receiver of events. It must take an event again that it has already: the header
/// `Idempotency-Key` is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.signingSecretRef) || !has(self.secretRef)",
        "message": "requests are signed (signingSecretRef) or carry a credential (secretRef), not both; remove one of the two",
        "fieldPath": ".secretRef"
    },
    {
        "rule": "!has(self.authHeader) || has(self.secretRef)",
        "message": "authHeader names the header of the credential in secretRef; add secretRef or remove authHeader",
        "fieldPath": ".authHeader"
    }
]))]
pub struct Webhook {
    /// Address of the receiver, with path and query. It is no secret; a key belongs
    /// into `secretRef` or `signingSecretRef`. Plain `http://`, and addresses of the
    /// cluster or of a private network, work only if the process allows them
    /// (`provider_http.allow_http`, `outbound.allow_private`).
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [{
        "rule": URL_RULE,
        "message": "must be a URL such as https://billing.example.com/minichat, with neither a user name nor a fragment; write other characters as %20"
    }]))]
    pub url: String,

    /// Form of the body.
    #[serde(default)]
    pub format: WebhookFormat,

    /// The Secret, in the same namespace and with the label
    /// `minichat.dev/credentials: "true"`, and its key with the signing secret: `whsec_`
    /// and the base64 of 24 to 64 bytes. Requests are signed as Standard Webhooks says.
    /// If it has several, separated by white space, each one signs, so that receivers
    /// can change from one to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret_ref: Option<SecretKeyRef>,

    /// Header of the credential in `secretRef`. Default: `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), extend("x-kubernetes-validations" = [
        {
            "rule": r#"self.matches("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")"#,
            "message": "must be a header name such as Authorization or X-Api-Key"
        },
        {
            "rule": none_of(&[REFUSED_HEADERS, OWN_HEADERS]),
            "message": "is a header of the connection, of framing, of routing or of webhooks, which carries no credential; write one such as Authorization or X-Api-Key"
        }
    ]))]
    pub auth_header: Option<String>,

    /// The Secret, in the same namespace and with the label
    /// `minichat.dev/credentials: "true"`, and its key with the whole value of the header,
    /// such as `Bearer` and a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,

    /// Seconds for one request, from connecting to the end of the answer.
    #[serde(default = "timeout_seconds")]
    #[schemars(range(min = 1, max = 55))]
    pub timeout_seconds: u32,

    /// Sends events together, in a JSON array. Without it, each event is one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// Scheme, host, port, path and query.
const URL_RULE: &str = r"self.matches('^https?://(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/([A-Za-z0-9._~!$&()*+,;=:@%?-][A-Za-z0-9._~!$&()*+,;=:@%?/-]*)?|[?][A-Za-z0-9._~!$&()*+,;=:@%?/-]*)?$')";

/// Form of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WebhookFormat {
    /// The event itself.
    #[default]
    Json,
    /// The event as `data` of a `CloudEvent` 1.0.
    CloudEvents,
}

/// Events that are sent together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Batch {
    /// Most events of one request.
    #[schemars(range(min = 1, max = 100))]
    pub max_events: u32,
    /// How many seconds an event waits for others.
    #[schemars(range(min = 0, max = 60))]
    pub max_seconds: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_events: 100,
            max_seconds: 1,
        }
    }
}

const fn timeout_seconds() -> u32 {
    minichat_config::tenant::sink::DEFAULT_TIMEOUT_SECONDS
}
