//! The content of a problem document (API-30): the error type of the HTTP
//! layer.
//! Lower layers have their own error types. Only this file turns a `StoreError`
//! into a `Problem`. A provider's `Failure` never becomes one, because it ends
//! inside the stream. The table is in ARCHITECTURE.md, "Errors, layer by
//! layer".

use http::HeaderValue;
use http::header::RETRY_AFTER;
use minichat_core::ErrorCode;
use minichat_store::StoreError;
use schemars::JsonSchema;
use serde::Serialize;

/// Seconds after which a client may retry a request that cannot be served now.
const RETRY_SOON: HeaderValue = HeaderValue::from_static("2");

/// A request that is answered with an error document. Nothing was written.
#[derive(Debug)]
pub struct Problem {
    pub code: ErrorCode,
    /// Text for people, safe to show.
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub context: Option<Box<serde_json::Value>>,
    pub quota_scope: Option<&'static str>,
    /// Additional response headers, such as `Retry-After` or `Allow`.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

/// One violated field.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FieldError {
    /// The member, parameter or `body` that is wrong.
    pub field: String,
    pub message: String,
}

impl Problem {
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            context: None,
            quota_scope: None,
            headers: Vec::new(),
        }
    }

    /// 400 `invalid_request` with the name of the field.
    pub fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut problem = Self::new(ErrorCode::InvalidRequest, format!("{field}: {message}"));
        problem.errors.push(FieldError {
            field: field.to_owned(),
            message,
        });
        problem
    }

    pub fn chat_not_found() -> Self {
        Self::new(ErrorCode::ChatNotFound, "There is no such chat.")
    }

    pub fn turn_not_found() -> Self {
        Self::new(
            ErrorCode::TurnNotFound,
            "The chat has no turn with this request_id.",
        )
    }

    /// 503 for a temporary failure.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, detail).with_header(RETRY_AFTER, RETRY_SOON)
    }

    /// 503 of a tenant that will be served, or may be, once the database or the
    /// API server answers (D43).
    pub fn not_served_yet() -> Self {
        Self::unavailable("The tenant cannot be served at the moment. Try again.")
    }

    /// 500 with a generic text; the caller logs the cause (API-31).
    pub fn internal() -> Self {
        Self::new(
            ErrorCode::InternalError,
            "The request could not be completed. Try again, and report the X-Request-Id if it persists.",
        )
    }

    /// Whether the request was not refused, but failed.
    pub const fn is_fault(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::InternalError | ErrorCode::ServiceUnavailable
        )
    }

    #[must_use]
    pub fn with_header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<StoreError> for Problem {
    /// The one place where a storage failure becomes an answer; logged here. The
    /// request's span says in which `step` it happened.
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            tracing::warn!(%error, "the database cannot serve");
            return Self::unavailable("The request cannot be served at the moment. Try again.");
        }
        tracing::error!(%error, "the database refused an operation");
        Self::internal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-31, API-32, D43: temporary failures are distinguished from faults,
    /// and the answer contains no text of the database.
    #[test]
    fn a_database_that_cannot_be_reached_is_unavailable() {
        let unreachable = Problem::from(StoreError::Connection("10.0.0.1 refused".to_owned()));
        assert_eq!(unreachable.code, ErrorCode::ServiceUnavailable);
        assert!(!unreachable.detail.contains("10.0.0.1"));
        let headers = &unreachable.headers;
        assert_eq!(headers[..], [(RETRY_AFTER, HeaderValue::from_static("2"))]);
        let fault = Problem::from(StoreError::DedupeKey);
        assert_eq!(fault.code, ErrorCode::InternalError);
        assert!(fault.headers.is_empty());
    }
}
