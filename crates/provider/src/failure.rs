//! Why a call failed, in words for clients and in words for operators.

use std::fmt;

use minichat_config::outbound::Refusal;
use minichat_config::tenant::ProviderKind;
use minichat_core::scrub::{scrub, scrub_credentials};
use minichat_core::turn::{TurnErrorCode, Usage};

use tokio::time::Instant;

use crate::adapter::{self, ReportedError, normal_status};
use crate::event::{ResponseId, first_chars};
use crate::mask::Mask;

/// A failed call. It has two texts: clients must not see identifiers of the
/// provider (CONT-39), but diagnosis needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// Text for clients, scrubbed, at most 1000 characters (CONT-39).
    pub message: Box<str>,
    /// Text for `chat_turns.error_detail`: credentials scrubbed, ids kept
    /// (PLAT-117), at most 1000 characters.
    pub detail: Box<str>,
    /// Usage that the provider reported with the failure.
    pub usage: Option<Usage>,
    /// The provider's id of the answer, if it gave one.
    pub response_id: Option<ResponseId>,
    /// The HTTP status that the provider reported in the stream before it sent
    /// any part of the answer.
    pub reported_status: Option<u16>,
    /// When the time limit passed.
    pub expired_at: Option<Instant>,
}

/// What happened to a failed call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// A time limit passed; cancel trigger `timeout` (TURN-50).
    TimedOut(TimeoutStage),
    /// The provider sent this HTTP status instead of a stream.
    Status(u16),
    /// No connection: name resolution, TCP or TLS.
    Connect,
    /// The address may not be called (D48); nothing was sent to it.
    RefusedAddress,
    /// The connection broke, or the body ended without a terminal event
    /// (PLAT-115).
    Broken,
    /// The answer cannot be read or is too long.
    Unreadable,
    /// The provider reported a failure inside the stream.
    Reported,
    /// The request could not be built from the configuration: an impossible
    /// header value or path. Nothing was sent.
    Misconfigured,
}

/// Which time limit passed (D28).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeoutStage {
    /// Opening the connection.
    Connect,
    /// From sending the request to the response head.
    FirstByte,
    /// Between two events.
    Idle,
    /// The whole call.
    Total,
}

impl TimeoutStage {
    const fn what(self) -> &'static str {
        match self {
            Self::Connect => "connecting to the provider",
            Self::FirstByte => "waiting for the provider's answer",
            Self::Idle => "waiting for the provider's next event",
            Self::Total => "the provider's answer as a whole",
        }
    }
}

impl FailureKind {
    /// The code of PLAT-116 and TURN-23.
    pub const fn error_code(self) -> TurnErrorCode {
        match self {
            Self::Status(429) => TurnErrorCode::RateLimited,
            Self::TimedOut(_) | Self::Status(408 | 504) => TurnErrorCode::ProviderTimeout,
            Self::Status(_)
            | Self::Connect
            | Self::RefusedAddress
            | Self::Broken
            | Self::Unreadable
            | Self::Reported => TurnErrorCode::ProviderError,
            Self::Misconfigured => TurnErrorCode::InternalError,
        }
    }
}

impl Failure {
    /// The code of `chat_turns.error_code` and of the client's `error` event.
    pub const fn error_code(&self) -> TurnErrorCode {
        self.kind.error_code()
    }

    /// Whether the provider refused the call: it answered with a status of 400
    /// or more and reported no usage. Such a call costs nothing (D54).
    pub fn is_refusal(&self) -> bool {
        let is_used = self.usage.and_then(Usage::known).is_some();
        let status = match self.kind {
            FailureKind::Status(status) => Some(status),
            FailureKind::Reported => self.reported_status,
            _ => None,
        };
        !is_used && status.is_some_and(|status| status >= 400)
    }
}

/// Maximum number of characters kept of a plain-text error, and of an
/// unreadable body in `detail`.
const RAW_CHARS: usize = 200;

/// Maximum number of characters kept of any provider text.
const MAX_CHARS: usize = 1000;

impl Failure {
    /// A failure in minichat's own words; `detail` is for diagnosis only.
    fn new(kind: FailureKind, message: &str, detail: &str) -> Self {
        Self {
            kind,
            message: message.into(),
            detail: first_chars(detail, MAX_CHARS).into(),
            usage: None,
            response_id: None,
            reported_status: None,
            expired_at: None,
        }
    }

    /// A failure in the provider's words if they came in the error fields of
    /// its protocol, otherwise in the words `own` (D48). Texts are masked
    /// before they are cut, so that a cut cannot hide a part of the credential
    /// from the mask.
    fn in_words(
        kind: FailureKind,
        words: Option<&str>,
        own: &str,
        detail: &str,
        mask: &Mask,
    ) -> Self {
        let words = words.map(|words| scrub(&mask.all_in(mask.bounded(words))).into_owned());
        let message = words
            .as_deref()
            .map_or(own, |words| first_chars(words, MAX_CHARS));
        Self::new(kind, message, &for_diagnosis(detail, mask))
    }

    /// [`in_words`](Self::in_words) for words that are everything the provider
    /// sent.
    fn in_plain_words(kind: FailureKind, words: &str, mask: &Mask) -> Self {
        let failure = Self::in_words(kind, Some(words), "", words, mask);
        Self {
            message: first_chars(&failure.message, RAW_CHARS).into(),
            detail: first_chars(&failure.detail, RAW_CHARS).into(),
            ..failure
        }
    }

    /// A failure in minichat's own words; `cause` is for diagnosis only.
    pub(crate) fn of_cause(kind: FailureKind, message: &str, cause: &dyn fmt::Display) -> Self {
        let detail = format!("{message} ({cause})");
        Self::new(kind, message, &scrub_credentials(&detail))
    }

    /// The limit of `stage` passed at `expired_at`.
    pub(crate) fn timed_out(stage: TimeoutStage, expired_at: Instant) -> Self {
        let message = format!("Timed out {}.", stage.what());
        Self {
            expired_at: Some(expired_at),
            ..Self::new(FailureKind::TimedOut(stage), &message, &message)
        }
    }

    /// The limit of the whole call passed at `total_at` while nothing read the
    /// answer.
    pub fn out_of_time(total_at: Instant) -> Self {
        Self::timed_out(TimeoutStage::Total, total_at)
    }

    pub(crate) fn connect(cause: &dyn fmt::Display) -> Self {
        let message = "The provider could not be reached.";
        Self::of_cause(FailureKind::Connect, message, cause)
    }

    /// The message says that the provider is not at fault. It contains no
    /// address.
    pub(crate) fn refused_address(refusal: &Refusal) -> Self {
        let message = "The provider's address may not be called from here.";
        Self::of_cause(FailureKind::RefusedAddress, message, refusal)
    }

    pub(crate) fn broken(cause: &dyn fmt::Display) -> Self {
        let message = "The connection to the provider broke.";
        Self::of_cause(FailureKind::Broken, message, cause)
    }

    /// An event that cannot be read.
    pub(crate) fn unreadable(cause: &dyn fmt::Display) -> Self {
        let message = "The provider's answer could not be read.";
        Self::of_cause(FailureKind::Unreadable, message, cause)
    }

    /// An event whose JSON cannot be read. The parser's message is dropped,
    /// because it quotes the event.
    pub(crate) fn unreadable_json(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let cause = format!(
            "{:?} error at line {line} column {column}",
            error.classify()
        );
        Self::unreadable(&cause)
    }

    /// The answer exceeds the size limit.
    pub(crate) fn too_long() -> Self {
        let message = "The provider's answer is too long.";
        let cause = "it exceeds provider_http.max_answer_bytes";
        Self::of_cause(FailureKind::Unreadable, message, &cause)
    }

    pub(crate) fn misconfigured(cause: &dyn fmt::Display) -> Self {
        let message = "The provider is not configured correctly.";
        Self::of_cause(FailureKind::Misconfigured, message, cause)
    }

    /// A failure that the provider reported inside the stream.
    pub(crate) fn reported(error: &ReportedError, mask: &Mask) -> Self {
        let own = "The provider reported a failure.";
        let message = error.message.as_deref();
        if let Some(words) = message.filter(|_| error.is_plain) {
            return Self::in_plain_words(FailureKind::Reported, words, mask);
        }
        let said = message.unwrap_or(own);
        let detail = error.code.as_deref().map(|code| format!("{code}: {said}"));
        let detail = detail.as_deref().unwrap_or(said);
        Self::in_words(FailureKind::Reported, message, own, detail, mask)
    }

    /// An HTTP answer that is not a stream (PLAT-116).
    pub(crate) fn of_status(status: u16, body: &[u8], provider: ProviderKind, mask: &Mask) -> Self {
        let body = adapter::decoded(body);
        let error = ReportedError::of_document(&body).unwrap_or_default();
        let raw = for_diagnosis(body.trim(), mask);
        let raw = first_chars(&raw, RAW_CHARS);
        let said = error.message.as_deref().unwrap_or(raw);
        let code = error.code.as_deref().unwrap_or("no code");
        let detail = format!("HTTP {status}, {code}: {said}");
        // A provider that reports an overload did not refuse the request
        // itself, whatever the status is.
        let kind = match (status, error.status) {
            (400.., Some(503)) => FailureKind::Status(503),
            _ => FailureKind::Status(normal_status(status)),
        };
        Self {
            usage: adapter::usage_of_document(provider, &body),
            ..Self::in_words(
                kind,
                error.message.as_deref(),
                &own_words(status),
                &detail,
                mask,
            )
        }
    }
}

/// `text` without credentials.
fn for_diagnosis(text: &str, mask: &Mask) -> String {
    scrub_credentials(&mask.credential_in(mask.bounded(text))).into_owned()
}

/// The meaning of a status, for a person who may have to act on it.
fn own_words(status: u16) -> String {
    let meaning = match status {
        200..=299 => "The provider's answer is not a stream of events",
        300..=399 => "The provider redirects to another address, which is not followed",
        401 => "The provider does not accept the credential",
        403 => "The provider does not allow the call",
        404 => "The provider does not know the model or the path",
        408 | 504 => "The provider took too long",
        413 => "The conversation is too long for the provider",
        429 => "The provider's rate limit is reached",
        503 | 529 => "The provider is overloaded or down",
        500..=599 => "The provider has an internal fault",
        _ => "The provider refused the request",
    };
    format!("{meaning} (HTTP {status}).")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use minichat_config::Secret;
    use minichat_config::tenant::{Provider, ProviderAuth, ProviderTimeouts, Scheme};

    use super::*;

    const KEY: &str = "staple-battery-horse-correct";

    fn mask() -> Mask {
        let kind = ProviderKind::OpenAiResponses;
        let provider = Provider {
            id: "provider".to_owned(),
            kind,
            scheme: Scheme::Https,
            host: "provider.example".to_owned(),
            port: 443,
            api_path: kind.default_api_path().to_owned(),
            auth: Some(ProviderAuth {
                header: "Authorization".to_owned(),
                prefix: "Bearer ".to_owned(),
                secret_ref: "provider/key".to_owned(),
            }),
            timeouts: ProviderTimeouts {
                connect: Duration::from_secs(1),
                first_byte: Duration::from_secs(1),
                idle: Duration::from_secs(1),
                total: Duration::from_secs(1),
            },
            send_penalties: false,
            send_metadata: false,
            storage: None,
        };
        Mask::new(&provider, Some(&Secret::new(KEY)))
    }

    /// PLAT-102: at every position of the cut.
    #[test]
    fn texts_are_masked_before_they_are_cut() {
        for before in RAW_CHARS - KEY.len()..RAW_CHARS {
            let words = format!("{}{KEY} is wrong", " ".repeat(before - 1) + "x");
            let words = words.replace(' ', "-");
            let plain = ReportedError {
                message: Some(words.clone()),
                is_plain: true,
                ..ReportedError::default()
            };
            let reported = Failure::reported(&plain, &mask());
            let kind = ProviderKind::OpenAiResponses;
            let status = Failure::of_status(500, words.as_bytes(), kind, &mask());
            for text in [&reported.message, &reported.detail, &status.detail] {
                assert!(!text.contains("st"), "{text}");
                assert!(text.chars().count() <= RAW_CHARS + "HTTP 500, no code: ".len());
            }
        }
    }

    #[test]
    fn what_a_parser_quotes_is_not_kept() {
        let json = format!("\"the key is {KEY}\"");
        let error = serde_json::from_str::<u8>(&json).unwrap_err();
        assert!(error.to_string().contains(KEY));
        let failure = Failure::unreadable_json(&error);
        assert!(!failure.detail.contains("key"), "{}", failure.detail);
        assert!(failure.detail.contains("line 1"), "{}", failure.detail);
    }
}
