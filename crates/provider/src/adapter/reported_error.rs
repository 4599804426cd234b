//! The error object of a provider, in the shapes that occur: nested under
//! `error`, under `response.error`, or flat (PLAT-113); a code may be a number,
//! an error may be a plain text.

use minichat_core::turn::Usage;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, FailureKind};

/// What a provider says about its failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportedError {
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    error: Option<Value>,
    code: Option<Value>,
    message: Option<Value>,
}

impl ReportedError {
    /// Reads the body of an HTTP failure; `None` when it is not of a known
    /// shape.
    pub(crate) fn from_body(body: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(body).ok()?;
        Self::from_parts(document.error, document.code, document.message)
    }

    /// The nested error, or else the flat one.
    pub(super) fn from_parts(
        error: Option<Value>,
        code: Option<Value>,
        message: Option<Value>,
    ) -> Option<Self> {
        match error {
            Some(Value::Object(mut fields)) => Some(Self {
                code: fields.remove("code").and_then(scalar),
                message: fields.remove("message").and_then(scalar),
            }),
            Some(Value::String(message)) => Some(Self {
                code: code.and_then(scalar),
                message: Some(message),
            }),
            _ if code.is_some() || message.is_some() => Some(Self {
                code: code.and_then(scalar),
                message: message.and_then(scalar),
            }),
            _ => None,
        }
    }

    /// The failure of a stream that reported this.
    pub(super) fn into_failure(self, usage: Option<Usage>, response_id: Option<String>) -> Failure {
        let message = self
            .message
            .as_deref()
            .unwrap_or("The provider reported a failure.");
        let detail = self
            .code
            .as_deref()
            .map(|code| format!("{code}: {message}"));
        Failure {
            usage,
            response_id: response_id.map(Into::into),
            ..Failure::of_foreign_text(
                FailureKind::Reported,
                message,
                detail.as_deref().unwrap_or(message),
            )
        }
    }
}

/// The text of a string or number.
fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
