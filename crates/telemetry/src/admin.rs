//! The admin listener's routes: health, readiness and metrics (PLAT-51,
//! PLAT-161). They are unauthenticated and never on the public listener.

use std::future::Future;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use crate::listen::check_host;
use crate::metrics::Exposition;

/// Whether a process should get requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessStatus {
    Ok,
    /// The process serves requests, but something is wrong.
    Degraded,
    NotReady,
}

/// The body of `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Readiness {
    pub status: ReadinessStatus,
    /// What is wrong, for people; empty when all is well. Holds no secrets:
    /// the listener is unauthenticated.
    pub reasons: Vec<String>,
}

impl Readiness {
    pub const fn ok() -> Self {
        Self {
            status: ReadinessStatus::Ok,
            reasons: Vec::new(),
        }
    }

    /// Adds a reason why the process is degraded.
    #[must_use]
    pub fn degraded(mut self, reason: impl Into<String>) -> Self {
        if self.status == ReadinessStatus::Ok {
            self.status = ReadinessStatus::Degraded;
        }
        self.reasons.push(reason.into());
        self
    }

    /// Adds a reason why the process is not ready.
    #[must_use]
    pub fn not_ready(mut self, reason: impl Into<String>) -> Self {
        self.status = ReadinessStatus::NotReady;
        self.reasons.push(reason.into());
        self
    }

    const fn http_status(&self) -> StatusCode {
        match self.status {
            ReadinessStatus::Ok | ReadinessStatus::Degraded => StatusCode::OK,
            ReadinessStatus::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        (self.http_status(), axum::Json(self)).into_response()
    }
}

/// `/healthz`, `/readyz` and `/metrics`, and the routes of `more`. Every request to
/// `/readyz` calls `readiness`.
pub fn router<F, R>(exposition: Exposition, readiness: F, more: Router) -> Router
where
    F: Fn() -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Readiness> + Send + 'static,
{
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(move || async move { metrics(&exposition) }))
        .merge(more)
        .layer(from_fn(with_one_host))
}

async fn with_one_host(request: Request, next: Next) -> Response {
    match check_host(request.version(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => (StatusCode::BAD_REQUEST, format!("Host: {error}\n")).into_response(),
    }
}

fn metrics(exposition: &Exposition) -> Response {
    let content_type = [(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)];
    (content_type, exposition.render()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::metrics::{self, MetricsSettings};

    async fn fetch(path: &str, readiness: Readiness) -> (StatusCode, Option<String>, String) {
        let settings = MetricsSettings {
            prefix: "",
            max_label_values: 3,
        };
        let (_metrics, exposition) = metrics::start(settings).unwrap();
        let readiness = move || {
            let readiness = readiness.clone();
            async move { readiness }
        };
        let app = router(exposition, readiness, Router::new());
        let request = Request::get(path).header("host", "a");
        let request = request.body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.map(|v| v.to_str().unwrap().to_owned());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            content_type,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    /// PLAT-161
    #[tokio::test]
    async fn readyz_tells_status_and_reasons() {
        let (status, _, body) = fetch("/readyz", Readiness::ok()).await;
        assert_eq!(
            (status.as_u16(), body.as_str()),
            (200, r#"{"status":"ok","reasons":[]}"#)
        );

        let degraded = Readiness::ok().degraded("tenant refused");
        let (status, _, body) = fetch("/readyz", degraded.clone()).await;
        assert_eq!(status, 200);
        assert_eq!(
            body,
            r#"{"status":"degraded","reasons":["tenant refused"]}"#
        );

        let not_ready = degraded.not_ready("draining").degraded("slow");
        let (status, _, body) = fetch("/readyz", not_ready).await;
        assert_eq!(status, 503);
        assert_eq!(
            body,
            r#"{"status":"not_ready","reasons":["tenant refused","draining","slow"]}"#
        );
    }

    /// K8S-50
    #[tokio::test]
    async fn healthz_does_not_depend_on_readiness() {
        let (status, _, _) = fetch("/healthz", Readiness::ok().not_ready("draining")).await;
        assert_eq!(status, 200);
    }

    /// PLAT-51
    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let (status, content_type, body) = fetch("/metrics", Readiness::ok()).await;
        assert_eq!(status, 200);
        assert_eq!(content_type.as_deref(), Some("text/plain; version=0.0.4"));
        assert!(body.contains("\nmini_chat_active_streams 0\n"), "{body}");
    }
}
