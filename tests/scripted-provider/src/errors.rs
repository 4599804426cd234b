//! Errors in the shape of the API.

use serde_json::{Value, json};

/// The document of a request that the client must change.
pub(super) fn invalid_request(message: &str, param: Option<&str>, code: Option<&str>) -> Value {
    document(message, "invalid_request_error", param, code)
}

/// The document of a failure of the provider.
pub(super) fn failure(message: &str, code: &str) -> Value {
    document(message, "server_error", None, Some(code))
}

fn document(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}
