//! `X-Request-Id` (API-22, PLAT-162): identifies one HTTP request in logs. It
//! is unrelated to the `request_id` of a turn.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_LENGTH: usize = 128;

/// The id of one HTTP request, as a header value.
#[derive(Clone, Debug)]
pub(super) struct HttpRequestId(HeaderValue);

impl HttpRequestId {
    /// The caller's id if it matches `^[A-Za-z0-9._-]{1,128}$`, otherwise a new
    /// UUID.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(X_REQUEST_ID) {
            Some(value) if is_valid(value.as_bytes()) => Self(value.clone()),
            _ => Self::random(),
        }
    }

    fn random() -> Self {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().as_hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none")))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn into_header(self) -> HeaderValue {
        self.0
    }
}

fn is_valid(value: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&value.len())
        && value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(value).unwrap());
        HttpRequestId::of(&headers).as_str().to_owned()
    }

    /// API-22
    #[test]
    fn a_well_formed_id_is_kept_and_any_other_replaced_by_a_uuid() {
        let longest = "a".repeat(128);
        for kept in ["abc", "A-9_.z", longest.as_str()] {
            assert_eq!(of(kept), kept);
        }
        let too_long = "a".repeat(129);
        for replaced in ["", "a b", "a/b", "ä", too_long.as_str()] {
            let made = of(replaced);
            assert_eq!(made.parse::<Uuid>().unwrap().get_version_num(), 4);
        }
        assert_ne!(
            HttpRequestId::of(&HeaderMap::new()).as_str(),
            HttpRequestId::of(&HeaderMap::new()).as_str()
        );
    }
}
