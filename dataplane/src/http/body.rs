//! JSON request bodies (API-23, API-24), without a content coding, with or
//! without a byte order mark. Unknown members are ignored (API-2).
//! Request types declare required members as optional, so that [`required`] can
//! report a missing one by name.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use minichat_core::ErrorCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::app::App;
use crate::problem::Problem;

/// It has no meaning before a JSON text (RFC 8259 section 8.1).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A JSON body of type `T`.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let limit = app.config.server.body_limit_bytes;
        let (parts, body) = request.into_parts();
        if declared_length(&parts.headers).is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        check_media_type(&parts.headers)?;
        parse(&read(body, limit).await?).map(Self)
    }
}

/// The value of a required member, or 400 with its name. An explicit `null`
/// counts as missing (API-4).
pub(super) fn required<T>(value: Option<T>, field: &str) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::invalid_field(field, "is required"))
}

/// The text of a message. It must not be blank, and is kept unchanged (API-62,
/// API-72).
pub(super) fn message(content: Option<String>) -> Result<String, Problem> {
    let content = required(content, "content")?;
    if content.trim().is_empty() {
        return Err(Problem::invalid_field("content", "must not be blank"));
    }
    storable(&content, "content")?;
    Ok(content)
}

/// Refuses text that the database cannot store.
pub(super) fn storable(text: &str, field: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid_field(field, "must not contain U+0000"));
    }
    Ok(())
}

/// A `T` that must be a JSON object. By default, serde also reads a struct from
/// an array.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(_broken) => Err(Problem::invalid_field(
            "body",
            "ended before it was complete",
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body" } else { &path };
        Problem::invalid_field(field, error.inner().to_string())
    })?;
    json.end()
        .map_err(|error| Problem::invalid_field("body", error.to_string()))?;
    Ok(value)
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// RFC 9110 section 15.5.16: the answer lists what would be accepted.
fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    if !is_json(headers) {
        let problem = Problem::new(
            ErrorCode::UnsupportedContentType,
            "The body must be sent as Content-Type: application/json.",
        );
        let accepted = HeaderValue::from_static("application/json");
        return Err(problem.with_header(ACCEPT, accepted));
    }
    check_encoding(headers)
}

/// A body must be sent as it is.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    if is_encoded(headers) {
        let problem = Problem::new(
            ErrorCode::UnsupportedContentType,
            "The body must be sent as it is, without Content-Encoding.",
        );
        let accepted = HeaderValue::from_static("identity");
        return Err(problem.with_header(ACCEPT_ENCODING, accepted));
    }
    Ok(())
}

/// Whether a coding other than `identity` was applied.
fn is_encoded(headers: &HeaderMap) -> bool {
    let is_none = |coding: &str| {
        let coding = coding.trim();
        coding.is_empty() || coding.eq_ignore_ascii_case("identity")
    };
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    values.any(|value| {
        value
            .to_str()
            .map_or(true, |codings| !codings.split(',').all(is_none))
    })
}

/// `application/json` or `application/*+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    kind.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json") || has_json_suffix(subtype))
}

fn has_json_suffix(subtype: &str) -> bool {
    subtype
        .rsplit_once('+')
        .is_some_and(|(name, suffix)| !name.is_empty() && suffix.eq_ignore_ascii_case("json"))
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        ErrorCode::PayloadTooLarge,
        format!("The body is larger than {limit} bytes."),
    )
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    struct Sample {
        content: Option<String>,
        web_search: Option<Object<Nested>>,
    }

    #[derive(Deserialize, Debug)]
    struct Nested {
        #[expect(dead_code, reason = "only its type matters")]
        enabled: Option<bool>,
    }

    /// API-23
    #[test]
    fn json_media_types_are_accepted_and_no_others() {
        for (value, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("application/+json", false),
            ("text/plain", false),
            ("text/json", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_json(&headers), accepted, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    /// API-23
    #[test]
    fn a_fault_names_the_member_it_is_in() {
        for (text, field) in [
            (r#"{"content":5}"#, "content"),
            (r#"{"web_search":{"enabled":"yes"}}"#, "web_search.enabled"),
            (r#"{"web_search":true}"#, "web_search"),
            (r#"{"web_search":[true]}"#, "web_search"),
            (r"[]", "body"),
            (r"[null,null]", "body"),
            ("", "body"),
            (r"{} {}", "body"),
        ] {
            let problem = parse::<Sample>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.code, ErrorCode::InvalidRequest);
            assert_eq!(problem.errors[0].field, field, "{text}");
        }
        let truncated = parse::<Sample>(br#"{"content":"a"#).unwrap_err();
        assert_eq!(truncated.code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn one_byte_order_mark_is_skipped() {
        let sample: Sample = parse("\u{feff}{\"content\":\"a\"}".as_bytes()).unwrap();
        assert_eq!(sample.content.as_deref(), Some("a"));
        assert!(parse::<Sample>("\u{feff}\u{feff}{}".as_bytes()).is_err());
    }

    /// API-23
    #[test]
    fn an_encoded_body_is_refused_with_what_is_accepted() {
        for (coding, accepted) in [
            ("identity", true),
            ("Identity, identity", true),
            ("", true),
            ("gzip", false),
            ("identity, br", false),
            ("x-unknown", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            let checked = check_media_type(&headers);
            assert_eq!(checked.is_ok(), accepted, "{coding}");
            if let Err(problem) = checked {
                let identity = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                assert_eq!(problem.headers, [identity]);
            }
        }
    }

    /// API-2, API-4
    #[test]
    fn unknown_members_are_ignored_and_null_is_absence() {
        let sample: Sample = parse(br#"{"content":null,"more":[1,2]}"#).unwrap();
        assert!(sample.content.is_none() && sample.web_search.is_none());
        let problem = required(sample.content, "content").unwrap_err();
        assert_eq!(problem.errors[0].field, "content");
    }

    /// API-24
    #[tokio::test]
    async fn a_body_of_one_byte_too_many_is_too_large() {
        assert_eq!(read(Body::from("12345"), 5).await.unwrap().len(), 5);
        let problem = read(Body::from("123456"), 5).await.unwrap_err();
        assert_eq!(problem.code, ErrorCode::PayloadTooLarge);
    }
}
