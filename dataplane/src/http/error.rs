//! Problem documents (API-30). Only this file writes a failure as bytes.
//! A [`Problem`] knows neither the path nor the trace of its request. So
//! turning it into a response only attaches it, and [`render`] writes the
//! document later, when both are known.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use minichat_core::ErrorCode;
use minichat_core::quota::QuotaScope;
use minichat_telemetry::TraceContext;
use schemars::JsonSchema;
use serde::Serialize;

use crate::problem::{FieldError, Problem};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A problem that [`render`] will write.
#[derive(Clone)]
struct Attached(Arc<Problem>);

/// A problem as it is sent (RFC 9457 and API-30).
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "Problem",
    description = "Why a request was refused. Clients decide by `code`."
)]
pub(super) struct Document<'a> {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "about:blank"))]
    kind: &'static str,
    /// The same as `code`.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// Text for people, safe to show.
    detail: &'a str,
    /// The path of the request.
    instance: &'a str,
    #[schemars(extend("enum" = ErrorCode::ALL.map(ErrorCode::token).to_vec()))]
    code: &'static str,
    #[schemars(pattern("^[0-9a-f]{32}$"))]
    trace_id: &'a str,
    /// What is wrong, field by field.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Further facts, such as `required_tokens` and `available_tokens`.
    context: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The limit that is used up; always and only with `quota_exceeded`.
    #[schemars(extend("enum" = QuotaScope::ALL.map(QuotaScope::as_str)))]
    quota_scope: Option<&'static str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.code);
        response.extensions_mut().insert(Attached(Arc::new(self)));
        response
    }
}

/// Writes the document of an attached problem into `response` and keeps the
/// existing headers (`Allow` comes from the router). Other responses are
/// returned unchanged. `instance` is the request's path.
pub(super) fn render(mut response: Response, instance: &str, trace: TraceContext) -> Response {
    let Some(Attached(problem)) = response.extensions_mut().remove::<Attached>() else {
        return response;
    };
    *response.body_mut() = Body::from(document(&problem, instance, &trace.trace_id()));
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    match problem.code {
        ErrorCode::Unauthenticated => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        ErrorCode::MethodNotAllowed => {}
        _ => {
            headers.remove(ALLOW);
        }
    }
    for (name, value) in &problem.headers {
        headers.insert(name.clone(), value.clone());
    }
    response
}

fn document(problem: &Problem, instance: &str, trace_id: &str) -> Vec<u8> {
    let (code, status) = problem.code.parts();
    let document = Document {
        kind: "about:blank",
        title: code,
        status,
        detail: &problem.detail,
        instance,
        code,
        trace_id,
        errors: &problem.errors,
        context: problem.context.as_deref(),
        quota_scope: problem.quota_scope,
    };
    serde_json::to_vec(&document).unwrap_or_else(|error| {
        tracing::error!(%error, code, "a problem document could not be written");
        Vec::new()
    })
}

fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn trace() -> TraceContext {
        TraceContext::continued("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap()
    }

    async fn rendered(problem: Problem) -> (Response, serde_json::Value) {
        let (parts, body) = render(problem.into_response(), "/v1/chats", trace()).into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap();
        (Response::from_parts(parts, Body::empty()), json)
    }

    /// API-30, API-32
    #[tokio::test]
    async fn every_code_is_a_problem_document_with_its_status_and_title() {
        for code in ErrorCode::ALL {
            let (response, json) = rendered(Problem::new(code, "Why.")).await;
            let (token, status) = code.parts();
            assert_eq!(response.status().as_u16(), status, "{token}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let expected = serde_json::json!({
                "type": "about:blank", "title": token, "status": status,
                "detail": "Why.", "instance": "/v1/chats", "code": token,
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            });
            assert_eq!(json, expected, "{token}");
        }
    }

    /// API-12
    #[tokio::test]
    async fn only_unauthenticated_asks_for_bearer_credentials() {
        for code in ErrorCode::ALL {
            let (response, _) = rendered(Problem::new(code, "Why.")).await;
            assert_eq!(
                response.headers().contains_key(WWW_AUTHENTICATE),
                code == ErrorCode::Unauthenticated
            );
        }
    }

    /// API-30
    #[tokio::test]
    async fn optional_members_appear_when_they_have_a_value() {
        let mut problem = Problem::invalid_field("content", "is required");
        problem.quota_scope = Some("tokens");
        problem.context = Some(Box::new(serde_json::json!({"required_tokens": 2})));
        let (_, json) = rendered(problem).await;
        assert_eq!(json["errors"][0]["field"], "content");
        assert_eq!(json["quota_scope"], "tokens");
        assert_eq!(json["context"]["required_tokens"], 2);
    }

    #[tokio::test]
    async fn a_success_passes_unchanged() {
        let response = render("ok".into_response(), "/v1/chats", trace());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&bytes[..], b"ok");
    }
}
