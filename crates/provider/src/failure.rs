//! Why a call failed, in words for clients and for the operator of the
//! service.

use std::fmt;

use minichat_core::scrub::{scrub, scrub_credentials};
use minichat_core::turn::{TurnErrorCode, Usage};

use tokio::time::Instant;

use crate::adapter::ReportedError;

/// A failed call. It has two texts because clients must not see what
/// identifies anything at the provider (CONT-39), while diagnosis needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// Text for clients, scrubbed, at most 1000 characters (CONT-39).
    pub message: Box<str>,
    /// Text for `chat_turns.error_detail`: credentials scrubbed, ids kept
    /// (PLAT-117), at most 1000 characters.
    pub detail: Box<str>,
    /// Usage that the provider reported with its failure.
    pub usage: Option<Usage>,
    /// The provider's id of the answer, if it gave one.
    pub response_id: Option<Box<str>>,
    /// When the limit passed after which we gave up waiting.
    pub expired_at: Option<Instant>,
}

/// What happened to a failed call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// We gave up waiting; cancel trigger `timeout` (TURN-50).
    TimedOut(TimeoutStage),
    /// The provider answered with this HTTP status instead of a stream.
    Status(u16),
    /// No connection: name resolution, TCP or TLS.
    Connect,
    /// The connection broke, or the body ended without a terminal event
    /// (PLAT-115).
    Broken,
    /// An answer we cannot read.
    Unreadable,
    /// The provider reported a failure inside the stream.
    Reported,
    /// The request could not be built from the configuration: an impossible
    /// header value or path. Nothing was sent.
    Misconfigured,
}

/// Which limit passed (D28).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeoutStage {
    /// Until the connection stood.
    Connect,
    /// From the sent request to the response head.
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
            Self::Status(_) | Self::Connect | Self::Broken | Self::Unreadable | Self::Reported => {
                TurnErrorCode::ProviderError
            }
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
        matches!(self.kind, FailureKind::Status(400..)) && !is_used
    }
}

/// Characters of an unparseable body that reach a client (TURN-23).
const RAW_CHARS: usize = 200;

/// Characters of any foreign text that are kept.
const MAX_CHARS: usize = 1000;

impl Failure {
    /// A failure in words of the provider: `message` for clients, `detail` for
    /// diagnosis. Both are scrubbed here, before they are cut, so that no cut
    /// hides a credential from the scrubber.
    pub(crate) fn of_foreign_text(kind: FailureKind, message: &str, detail: &str) -> Self {
        Self {
            kind,
            message: first_chars(&scrub(message), MAX_CHARS).into(),
            detail: first_chars(&scrub_credentials(detail), MAX_CHARS).into(),
            usage: None,
            response_id: None,
            expired_at: None,
        }
    }

    /// A failure in our own words; `cause` is for diagnosis only.
    pub(crate) fn of_cause(kind: FailureKind, message: &str, cause: &dyn fmt::Display) -> Self {
        Self::of_foreign_text(kind, message, &format!("{message} ({cause})"))
    }

    /// The limit of `stage`, which passed at `expired_at`.
    pub(crate) fn timed_out(stage: TimeoutStage, expired_at: Instant) -> Self {
        let message = format!("Timed out {}.", stage.what());
        Self {
            expired_at: Some(expired_at),
            ..Self::of_foreign_text(FailureKind::TimedOut(stage), &message, &message)
        }
    }

    /// The limit of the whole call, which passed at `total_at` while its answer
    /// was not being read.
    pub fn out_of_time(total_at: Instant) -> Self {
        Self::timed_out(TimeoutStage::Total, total_at)
    }

    pub(crate) fn connect(cause: &dyn fmt::Display) -> Self {
        let message = "The provider could not be reached.";
        Self::of_cause(FailureKind::Connect, message, cause)
    }

    pub(crate) fn broken(cause: &dyn fmt::Display) -> Self {
        let message = "The connection to the provider broke.";
        Self::of_cause(FailureKind::Broken, message, cause)
    }

    /// An event that is not what it should be.
    pub(crate) fn unreadable(cause: &dyn fmt::Display) -> Self {
        let message = "The provider's answer could not be read.";
        Self::of_cause(FailureKind::Unreadable, message, cause)
    }

    pub(crate) fn misconfigured(cause: &dyn fmt::Display) -> Self {
        let message = "The provider is not configured correctly.";
        Self::of_cause(FailureKind::Misconfigured, message, cause)
    }

    /// An HTTP answer that is not a stream: the provider's own words if it has
    /// any (PLAT-116).
    pub(crate) fn of_status(status: u16, body: &[u8]) -> Self {
        let error = ReportedError::from_body(body).unwrap_or_default();
        let message = error.message.unwrap_or_else(|| {
            let raw = String::from_utf8_lossy(body);
            first_chars(&scrub(raw.trim()), RAW_CHARS).to_owned()
        });
        let message = if message.is_empty() {
            "The provider refused the request.".to_owned()
        } else {
            message
        };
        let code = error.code.as_deref().unwrap_or("no code");
        let detail = format!("HTTP {status}, {code}: {message}");
        Self::of_foreign_text(FailureKind::Status(status), &message, &detail)
    }
}

fn first_chars(text: &str, count: usize) -> &str {
    match text.char_indices().nth(count) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
