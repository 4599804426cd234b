//! A refusal: what a problem document says (API-30).

use minichat_core::ErrorCode;
use minichat_store::StoreError;
use schemars::JsonSchema;
use serde::Serialize;

/// A request that is answered with an error document. Nothing was written.
#[derive(Debug)]
pub struct Problem {
    pub code: ErrorCode,
    /// Human text that is safe to show.
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub context: Option<Box<serde_json::Value>>,
    pub quota_scope: Option<&'static str>,
    /// Extra response headers, such as `Retry-After` or `Allow`.
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

    /// 400 `invalid_request` that names the field.
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

    /// 500 with a generic text; the caller logs the cause (API-31).
    pub fn internal() -> Self {
        Self::new(
            ErrorCode::InternalError,
            "The request could not be completed. Try again, and report the X-Request-Id if it persists.",
        )
    }

    #[must_use]
    pub fn with_header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<StoreError> for Problem {
    /// The one place where a storage failure becomes an answer; logged here.
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, "the database refused an operation");
        match error {
            StoreError::AcquireTimeout | StoreError::Pool(_) | StoreError::Closed => Self::new(
                ErrorCode::ServiceUnavailable,
                "The request cannot be served at the moment. Try again.",
            ),
            _ => Self::internal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-31, API-32: what passes by itself is told apart from faults, and
    /// neither is told by its own words.
    #[test]
    fn a_database_that_cannot_be_reached_is_unavailable() {
        let unreachable = Problem::from(StoreError::Pool("10.0.0.1 refused".to_owned()));
        assert_eq!(unreachable.code, ErrorCode::ServiceUnavailable);
        assert!(!unreachable.detail.contains("10.0.0.1"));
        let busy = Problem::from(StoreError::AcquireTimeout);
        assert_eq!(busy.code, ErrorCode::ServiceUnavailable);
        let fault = Problem::from(StoreError::Check);
        assert_eq!(fault.code, ErrorCode::InternalError);
    }
}
