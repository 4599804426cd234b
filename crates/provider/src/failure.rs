//! Why a call failed, in words for clients and for the operator of the
//! service.

use minichat_core::turn::{TurnErrorCode, Usage};

/// A failed call. It has two texts because clients must not see what
/// identifies anything at the provider (CONT-39), while diagnosis needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// Text for clients, scrubbed, at most 200 characters (TURN-23).
    pub message: String,
    /// Text for `chat_turns.error_detail`: credentials scrubbed, ids kept
    /// (PLAT-117), at most 1000 characters.
    pub detail: String,
    /// Usage that the provider reported with its failure.
    pub usage: Option<Usage>,
    /// The provider's id of the answer, if it gave one.
    pub response_id: Option<String>,
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
}
