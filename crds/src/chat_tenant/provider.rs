//! Providers of models, and how calls to them are authenticated.

use minichat_config::tenant::request_line::REFUSED_HEADERS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::yes;

/// One endpoint that serves models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    /// Name that models refer to.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Protocol of the endpoint.
    pub kind: ProviderKind,

    /// Scheme, host and port, such as `https://api.openai.com`. Plain `http://`,
    /// and addresses of the cluster or of a private network, work only if the
    /// process allows them (`provider_http.allow_http`, `outbound.allow_private`).
    #[schemars(length(max = 300), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^https?://(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?$')",
        "message": "must be http:// or https:// with a host and no path, such as https://api.openai.com; write the path into apiPath"
    }]))]
    pub base_url: String,

    /// Path and query of the generation call; `{model}` stands for the model's
    /// name. Default: the usual path of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^/(?:(?:[A-Za-z0-9._~!$&()*+,;=:@%?-]|[{]model[}])(?:[A-Za-z0-9._~!$&()*+,;=:@%?/-]|[{]model[}])*)?$')",
        "message": "must begin with one / and be the path and query of a URL, such as /v1/responses; write other characters as %20"
    }]))]
    pub api_path: Option<String>,

    /// The header with the credential. Without it, no credential is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// Time limits of a call.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// Whether penalties and stop sequences are sent. Default: only to
    /// `OpenAIChatCompletions` and `VllmResponses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_penalties: Option<bool>,

    /// Whether metadata (opaque ids of tenant, user and chat) is sent.
    #[serde(default = "yes")]
    pub send_metadata: bool,

    /// Where files of chats are stored. Default: at the provider, at the paths
    /// of `OpenAI`; nowhere if the kind is `VllmResponses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
}

/// The storage for files at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.kind == 'Azure') == has(self.apiVersion)",
    "message": "apiVersion is required if kind is Azure, and belongs to no other kind",
    "fieldPath": ".apiVersion"
}]))]
pub struct Storage {
    /// The paths of its calls. With `None`, files cannot be uploaded into chats
    /// with models of this provider.
    pub kind: StorageKind,

    /// The `api-version` of calls to Azure, such as `2025-04-01-preview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub api_version: Option<String>,

    /// The label under which stored files remember this provider. Set it to the
    /// old name when you rename the provider. It must neither be the label nor
    /// the name of another provider. Default: the provider's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub backend: Option<String>,

    /// Whether a search of files may be narrowed by filters. Default: only with
    /// the kind `OpenAI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supports_file_search_filters: Option<bool>,
}

/// The paths of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageKind {
    /// `/v1/files` and `/v1/vector_stores`.
    #[serde(rename = "OpenAI")]
    OpenAi,
    /// `/openai/files` and `/openai/vector_stores`, with `api-version`.
    Azure,
    /// No files.
    None,
}

/// Protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProviderKind {
    /// The Responses API of `OpenAI` and of Azure.
    #[serde(rename = "OpenAIResponses")]
    OpenAiResponses,
    /// The chat completions API.
    #[serde(rename = "OpenAIChatCompletions")]
    OpenAiChatCompletions,
    /// The Responses API as vLLM serves it.
    VllmResponses,
}

/// A header that carries a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Name of the header.
    #[serde(default = "authorization")]
    #[schemars(length(max = 128), extend("x-kubernetes-validations" = [
        {
            "rule": r#"self.matches("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")"#,
            "message": "must be a header name such as Authorization or api-key"
        },
        {
            "rule": none_of(&[REFUSED_HEADERS]),
            "message": "is a header of the connection, of framing or of routing, which carries no credential; write one such as Authorization or api-key"
        }
    ]))]
    pub header: String,
    /// Text before the credential.
    #[serde(default = "bearer")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[ -~]*$')",
        "message": "must be printable ASCII such as 'Bearer ', or empty"
    }]))]
    pub prefix: String,
    /// The Secret, in the same namespace and with the label
    /// `minichat.dev/credentials: "true"`, and its key. A value of fewer than 8
    /// bytes is not masked if the text of an answer repeats it.
    pub secret_key_ref: SecretKeyRef,
}

/// The rule that keeps credentials out of headers which decide where a request
/// goes and where it ends.
pub(super) fn none_of(lists: &[&[&str]]) -> String {
    let refused = lists.concat().join("|").replace('*', ".*");
    format!("!self.matches('(?i)^({refused})$')")
}

/// One key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Limits of one call in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.firstByteSeconds <= self.idleSeconds",
    "message": "firstByteSeconds must not exceed idleSeconds; lower it or raise idleSeconds",
    "fieldPath": ".firstByteSeconds"
}]))]
pub struct Timeouts {
    /// Seconds until the connection is open.
    #[schemars(range(min = 1, max = 60))]
    pub connect_seconds: u32,
    /// Seconds until the status line of the answer.
    #[schemars(range(min = 1, max = 240))]
    pub first_byte_seconds: u32,
    /// Seconds between two events of the answer.
    #[schemars(range(min = 1, max = 240))]
    pub idle_seconds: u32,
    /// Seconds for the whole call.
    #[schemars(range(min = 1, max = 86400))]
    pub total_seconds: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_seconds: 10,
            first_byte_seconds: 60,
            idle_seconds: 240,
            total_seconds: 600,
        }
    }
}

fn authorization() -> String {
    "Authorization".to_owned()
}

fn bearer() -> String {
    "Bearer ".to_owned()
}
