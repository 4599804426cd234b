//! Reads the error of a provider in every known shape: an object or a text
//! under `error`; fields beside `code` or `type`; the first element of a list.
//! A code may be a number (PLAT-113, PLAT-116).

use super::json::{elements, is_truthy, members, members_of, text};
use super::text::whole;

/// An error as the provider sent it. Nothing is masked yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportedError {
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    /// The HTTP status that the error contains or implies.
    pub(crate) status: Option<u16>,
    /// The message is everything that the provider sent, not a field of a
    /// document.
    pub(crate) is_plain: bool,
}

/// Codes with which providers say that they have no capacity.
const OVERLOADED: [&str; 3] = ["overloaded", "overloaded_error", "engine_overloaded"];

/// The status of a provider without capacity, and another number that some
/// providers use for it.
const UNAVAILABLE: u16 = 503;
const SITE_OVERLOADED: u16 = 529;

impl ReportedError {
    /// Reads a document that is an error or contains one; `None` if its shape
    /// is unknown.
    pub(crate) fn of_document(json: &str) -> Option<Self> {
        // Some providers begin it with a byte order mark.
        let json = json.trim_start_matches('\u{FEFF}').trim_ascii();
        if json.starts_with('[') {
            return elements(json)
                .first()
                .and_then(|first| Self::of_object(first));
        }
        Self::of_object(json)
    }

    fn of_object(json: &str) -> Option<Self> {
        let [error, code, message] = members(json, ["error", "code", "message"]).ok()?;
        match error {
            Some(error) => Self::of_member(error, json),
            None if code.is_some() || message.is_some() => Some(Self::of_fields(json)),
            None => None,
        }
    }

    /// Reads the member `error` of the object `around`; `None` if it says that
    /// there is no error.
    pub(super) fn of_member(error: &str, around: &str) -> Option<Self> {
        if !is_truthy(error) {
            return None;
        }
        if error.starts_with('{') {
            return Some(Self::of_fields(error));
        }
        let flat = Self::of_fields(around);
        let message = flat.message.or_else(|| {
            let is_text = error.starts_with('"');
            text(error).filter(|_| is_text).map(whole)
        });
        Some(Self { message, ..flat })
    }

    /// The fields of an error object.
    pub(super) fn of_fields(json: &str) -> Self {
        let names = ["code", "type", "message", "status", "status_code"];
        let [code, kind, message, status, status_code] = members_of(Some(json), names);
        let mut numbers = [code, status, status_code].into_iter().flatten();
        let word = |json: Option<&str>| json.and_then(text).map(whole).filter(|it| !it.is_empty());
        let (code, kind) = (word(code), word(kind));
        let is_overloaded = [&code, &kind]
            .into_iter()
            .flatten()
            .any(|word| OVERLOADED.contains(&word.as_str()));
        Self {
            status: numbers.find_map(status_of).map_or_else(
                || is_overloaded.then_some(UNAVAILABLE),
                |status| Some(normal_status(status)),
            ),
            code: code.or(kind),
            message: word(message),
            is_plain: false,
        }
    }

    /// Reads the data of an event or a line called `error`: a document, or
    /// plain text.
    pub(super) fn of_event(data: &str) -> Self {
        Self::of_document(data).unwrap_or_else(|| {
            let words = Some(data.trim());
            let words = words.filter(|it| !it.is_empty() && !it.starts_with(['{', '[', '<']));
            Self {
                message: words.map(str::to_owned),
                is_plain: true,
                ..Self::default()
            }
        })
    }
}

/// Some providers use 529 where the standard has 503.
pub(crate) const fn normal_status(status: u16) -> u16 {
    if status == SITE_OVERLOADED {
        UNAVAILABLE
    } else {
        status
    }
}

/// The status of a failed HTTP call, as a number or as text.
fn status_of(json: &str) -> Option<u16> {
    let status = json.trim_matches('"').parse().ok()?;
    (400..600).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Option<&str>, message: Option<&str>, status: Option<u16>) -> ReportedError {
        ReportedError {
            code: code.map(str::to_owned),
            message: message.map(str::to_owned),
            status,
            is_plain: false,
        }
    }

    /// PLAT-113, PLAT-116, D48
    #[test]
    fn an_error_is_read_in_every_shape() {
        let rows = [
            (
                r#"{"error":{"code":"c","message":"m"}}"#,
                error(Some("c"), Some("m"), None),
            ),
            (
                r#"{"error":{"type":"t","message":"m"}}"#,
                error(Some("t"), Some("m"), None),
            ),
            (
                r#"{"error":{"code":429,"message":"m"}}"#,
                error(Some("429"), Some("m"), Some(429)),
            ),
            (
                r#"{"error":{"code":"502"}}"#,
                error(Some("502"), None, Some(502)),
            ),
            (
                r#"{"error":{"code":529}}"#,
                error(Some("529"), None, Some(503)),
            ),
            (
                r#"{"error":{"type":"overloaded_error","message":"m"}}"#,
                error(Some("overloaded_error"), Some("m"), Some(503)),
            ),
            (r#"{"error":"m"}"#, error(None, Some("m"), None)),
            (
                r#"{"error":"Bad Request","message":"m"}"#,
                error(None, Some("m"), None),
            ),
            (
                r#"{"error":true,"message":"m"}"#,
                error(None, Some("m"), None),
            ),
            (r#"{"error":{"param":null}}"#, error(None, None, None)),
            ("\u{FEFF}{\"error\":\"m\"}", error(None, Some("m"), None)),
            (
                r#"[{"error":{"message":"m"}}]"#,
                error(None, Some("m"), None),
            ),
            (
                r#"{"object":"error","message":"m","code":400}"#,
                error(Some("400"), Some("m"), Some(400)),
            ),
            (r#"{"message":7}"#, error(None, Some("7"), None)),
            (
                r#"{"error":{"message":"a\u0000\ud83d"}}"#,
                error(None, Some("a\u{FFFD}\u{FFFD}"), None),
            ),
            (r#"{"error":{"message":["m"]}}"#, error(None, None, None)),
        ];
        for (json, expected) in rows {
            assert_eq!(ReportedError::of_document(json), Some(expected), "{json}");
        }
        for json in [
            r#"{"error":null}"#,
            r#"{"error":{}}"#,
            r#"{"error":false,"message":"m"}"#,
            r#"{"error":""}"#,
            r#"{"detail":"m"}"#,
            "[]",
            "m",
            "<html>",
            "",
        ] {
            assert_eq!(ReportedError::of_document(json), None, "{json}");
        }
    }
}
