//! What a receiver's answer means for the events (D31).

use http::StatusCode;
use minichat_config::tenant::HttpUrl;
use minichat_provider::{PostAnswer, PostError};

/// How a delivery ended (PLAT-34). The texts are for operators; they contain no
/// credential and nothing of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The receiver has the events.
    Ok,
    /// It may accept them later.
    Retry(String),
    /// It will never accept them as they are.
    Reject(String),
}

impl Answer {
    /// `may_quote`: whether the receiver's own words may be kept.
    pub(super) fn of(
        url: &HttpUrl,
        answer: Result<PostAnswer, PostError>,
        may_quote: bool,
    ) -> Self {
        // Without the path, which may hold a key.
        let receiver = format!("the webhook at {}://{}", url.scheme, url.authority());
        match answer {
            Ok(answer) => Self::of_status(&receiver, &answer, may_quote),
            Err(error) => Self::Retry(format!("{receiver}: {error}")),
        }
    }

    fn of_status(receiver: &str, answer: &PostAnswer, may_quote: bool) -> Self {
        let PostAnswer { status, words } = answer;
        if status.is_success() {
            return Self::Ok;
        }
        let mut text = format!("{receiver} answered {}", status.as_u16());
        if let Some(meaning) = meaning(*status) {
            text.push_str(": ");
            text.push_str(meaning);
        }
        if may_quote && !words.is_empty() {
            text.push_str("; it says: ");
            text.push_str(words);
        }
        match status.as_u16() {
            400 | 410 | 413 | 422 => Self::Reject(text),
            _ => Self::Retry(text),
        }
    }
}

/// What to do about a status, for those who must act.
fn meaning(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        300..=399 => "a redirect, which is not followed; write the address it leads to into url",
        400 | 422 => "it refuses the event",
        401 | 403 => "it does not accept the signature or the credential",
        404 => "it does not know the path",
        408 | 504 => "it took too long",
        410 => "it is gone for good",
        413 => "the event is too large for it",
        429 => "it gets too many events",
        500..=599 => "it has a fault or is down",
        _ => return None,
    })
}
