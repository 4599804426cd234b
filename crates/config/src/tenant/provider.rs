//! Where a model's requests go (PLAT-100 to PLAT-104, PLAT-118).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::storage::Storage;

/// One provider of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The id that catalog entries name.
    pub id: String,
    /// Which protocol the endpoint speaks.
    pub kind: ProviderKind,
    /// Plain or encrypted.
    pub scheme: Scheme,
    /// Host name or address; an IPv6 address is in brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
    /// Path and optional query of the generation call; `{model}` stands for
    /// the path-escaped `provider_model_id` (PLAT-101).
    pub api_path: String,
    /// The header that carries the credential; `None` = no header.
    pub auth: Option<ProviderAuth>,
    /// Time limits of a call.
    pub timeouts: ProviderTimeouts,
    /// Whether penalties and `stop` are sent (PLAT-108, D9).
    pub send_penalties: bool,
    /// Whether `metadata` is sent (PLAT-109).
    pub send_metadata: bool,
    /// Where files are stored; `None` = nowhere.
    pub storage: Option<Storage>,
}

impl Provider {
    /// `host:port`, the port left out where the scheme implies it: the `Host`
    /// header and the authority of the URL.
    pub fn authority(&self) -> String {
        self.scheme.authority(&self.host, self.port)
    }
}

/// Protocol of a provider's endpoint (PLAT-100).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// The Responses API of `OpenAI` and of Azure.
    #[serde(rename = "openai_responses")]
    OpenAiResponses,
    /// The chat completions API.
    #[serde(rename = "openai_chat_completions")]
    OpenAiChatCompletions,
    /// The Responses API as vLLM serves it.
    VllmResponses,
}

impl ProviderKind {
    /// The value in a rendered document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiResponses => "openai_responses",
            Self::OpenAiChatCompletions => "openai_chat_completions",
            Self::VllmResponses => "vllm_responses",
        }
    }

    /// Path when the provider names none.
    pub const fn default_api_path(self) -> &'static str {
        match self {
            Self::OpenAiResponses | Self::VllmResponses => "/v1/responses",
            Self::OpenAiChatCompletions => "/v1/chat/completions",
        }
    }

    /// Whether the provider can be asked to run tools (CONT-37).
    pub const fn runs_tools(self) -> bool {
        matches!(self, Self::OpenAiResponses)
    }

    /// Whether penalties and `stop` are sent if the configuration does not say so. The
    /// public Responses API does not support them (PLAT-108).
    pub const fn sends_penalties(self) -> bool {
        !matches!(self, Self::OpenAiResponses)
    }
}

/// How a provider is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP; a process must allow it (`provider_http.allow_http`).
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The port a URL of this scheme implies.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `host:port`, or `host` alone if the port is the default one.
    pub(super) fn authority(self, host: &str, port: u16) -> String {
        if port == self.default_port() {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// `header`: `prefix` + the credential (PLAT-102).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderAuth {
    /// Header name, such as `Authorization`.
    pub header: String,
    /// What precedes the credential, such as `Bearer `; may be empty.
    pub prefix: String,
    /// Name of the credential in [`crate::Credentials`].
    pub secret_ref: String,
}

/// Time limits of one streamed call (D13, D28). When one is exceeded, the call ends
/// with `provider_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderTimeouts {
    /// Until the connection is open, including TLS; 1 to 60 s, default 10 s.
    pub connect: Duration,
    /// From sending the request to the status line; 1 s to `idle`, default 60 s.
    pub first_byte: Duration,
    /// Between two events; bytes that are not an event do not count (D28). 1 to 240 s,
    /// default 240 s. A live process ends the call to a silent provider before the
    /// orphan watchdog may end the turn (TURN-1).
    pub idle: Duration,
    /// The whole call; default 600 s.
    pub total: Duration,
}

impl Default for ProviderTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_mins(1),
            idle: Duration::from_mins(4),
            total: Duration::from_mins(10),
        }
    }
}
