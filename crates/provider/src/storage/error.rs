//! Why a call of the storage failed.

use std::time::Duration;

use http::StatusCode;
use minichat_config::outbound::Refusal;
use minichat_core::scrub::scrub;
use thiserror::Error;

use crate::adapter::{self, ReportedError};
use crate::client::{BodyError, SmallAnswer, SmallError};
use crate::event::first_chars;
use crate::mask::Mask;

/// Maximum number of characters kept of a cause or of a provider's words.
const MAX_CHARS: usize = 300;

/// Why a call of the storage failed. Its text is for logs and for
/// `last_cleanup_error`: at most 400 characters and those of a [`BodyError`],
/// without credentials, addresses and ids of the provider.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The provider's configuration has no storage; nothing was sent.
    #[error("the provider is configured without a storage for files")]
    NoStorage,
    /// The credential is missing, or the request cannot be written; nothing
    /// was sent.
    #[error("the call cannot be made: {0}")]
    Misconfigured(Box<str>),
    /// The address may not be called (D48); nothing was sent to it.
    #[error("the provider's address may not be called from here ({})", .0.reason.class())]
    Refused(Refusal),
    /// No answer in time, or the provider answered 408 or 504.
    #[error("the provider did not answer in time")]
    Timeout,
    /// The provider answered 429.
    #[error("the provider's rate limit is reached")]
    RateLimited {
        /// When it wants to be called again.
        retry_after: Option<Duration>,
    },
    /// The provider answered another status from 500 on.
    #[error("{}", said(*status, words))]
    Status5xx {
        /// The status.
        status: u16,
        /// The provider's words, scrubbed; may be empty.
        words: Box<str>,
    },
    /// The provider answered another status below 500 that is no success.
    #[error("{}", said(*status, words))]
    Status4xx {
        /// The status.
        status: u16,
        /// The provider's words, scrubbed; may be empty.
        words: Box<str>,
    },
    /// There was no connection, or it broke.
    #[error("the connection to the provider failed: {0}")]
    Transport(Box<str>),
    /// The answer is too long, is no JSON, contains no id, or came before the
    /// file was sent.
    #[error("the provider's answer cannot be read: {0}")]
    Unreadable(&'static str),
    /// The body of the upload ended with this error. The connection was closed,
    /// so that the provider sees an incomplete request.
    #[error("the file broke off: {0}")]
    Body(BodyError),
}

fn said(status: u16, words: &str) -> String {
    if words.is_empty() {
        format!("the provider answered {status}")
    } else {
        format!("the provider answered {status}: {words}")
    }
}

impl StorageError {
    /// The label `reason` of a failed deletion (CONT-167).
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoStorage | Self::Misconfigured(_) | Self::Refused(_) => "config",
            Self::Timeout => "timeout",
            Self::RateLimited { .. } => "rate_limited",
            Self::Status5xx { .. } => "provider_5xx",
            Self::Status4xx { .. } => "provider_4xx",
            Self::Transport(_) | Self::Unreadable(_) | Self::Body(_) => "transport",
        }
    }

    pub(super) fn of_call(error: SmallError, mask: &Mask) -> Self {
        match error {
            SmallError::Refused(refusal) => Self::Refused(refusal),
            SmallError::Misconfigured(cause) => Self::Misconfigured(cleaned(&cause, mask)),
            SmallError::TimedOut => Self::Timeout,
            SmallError::Broken(cause) => Self::Transport(cleaned(&cause, mask)),
            SmallError::Body(error) => Self::Body(error),
            SmallError::Early => Self::Unreadable("it came before the file was sent"),
        }
    }

    /// The failure that an answer with a status other than 2xx is.
    pub(super) fn of_answer(answer: &SmallAnswer, mask: &Mask) -> Self {
        let status = answer.status.as_u16();
        match answer.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Self::Timeout,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited {
                retry_after: answer.retry_after,
            },
            _ => {
                let body = answer.body.as_deref().unwrap_or_default();
                let error = ReportedError::of_document(&adapter::decoded(body));
                let words = error.and_then(|error| error.message).unwrap_or_default();
                let words = cleaned(&words, mask);
                if status >= 500 {
                    Self::Status5xx { status, words }
                } else {
                    Self::Status4xx { status, words }
                }
            }
        }
    }
}

/// The start of `text` in one line, masked and scrubbed before it is cut.
fn cleaned(text: &str, mask: &Mask) -> Box<str> {
    let text = mask.all_in(mask.bounded(text));
    let text = scrub(&text);
    let is_gap = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<&str> = text.split(is_gap).filter(|it| !it.is_empty()).collect();
    first_chars(&words.join(" "), MAX_CHARS).into()
}
