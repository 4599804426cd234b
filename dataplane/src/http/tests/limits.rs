//! Rate limits, deadlines and panics through the API (API-25, API-26, API-29).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use minichat_telemetry::Tracer;
use serde_json::json;
use tokio::sync::Notify;

use super::harness::{ALICE, BOB, Call, Harness};
use crate::http::middleware;
use crate::problem::Problem;

const TIGHT: &str = "server:\n  rate_limit:\n    per_second: 1\n    burst: 2\n";

/// API-25, D20
#[tokio::test]
async fn a_caller_who_asks_too_often_slows_nobody_else() {
    let harness = Harness::with(TIGHT).await;
    for remaining in ["1", "0"] {
        let answer = harness.send(Call::get("/models")).await.ok();
        assert_eq!(answer.headers["ratelimit-policy"], "\"burst\";q=2;w=1");
        assert_eq!(answer.headers["x-ratelimit-limit"], "2");
        assert_eq!(answer.headers["x-ratelimit-remaining"], remaining);
    }
    let refused = harness.send(Call::get("/models")).await;
    let refused = refused.problem(429, "too_many_requests");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["x-ratelimit-remaining"], "0");

    harness.send(Call::get("/models").user(BOB)).await.ok();
    harness.send(Call::get("/models/premium")).await.ok();
    harness.send(Call::get("/chats")).await.ok();
    harness.create_chat(ALICE).await;
}

/// API-25: one bucket per template, not per path.
#[tokio::test]
async fn paths_of_one_template_share_a_bucket() {
    let harness = Harness::with(TIGHT).await;
    for path in ["/nothing", "/nowhere"] {
        harness
            .send(Call::get(path))
            .await
            .problem(404, "not_found");
    }
    harness
        .send(Call::get("/else"))
        .await
        .problem(429, "too_many_requests");
    for model in ["premium", "unknown"] {
        harness.send(Call::get(&format!("/models/{model}"))).await;
    }
    let third = harness.send(Call::get("/models/standard")).await;
    third.problem(429, "too_many_requests");
}

/// API-24
#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_or_without_a_length() {
    let harness = Harness::with("server:\n  body_limit_bytes: 1024\n").await;
    let body = json!({"title": "a".repeat(1024)});
    let call = || Call::post("/chats", &body);
    harness.send(call()).await.problem(413, "payload_too_large");
    let announced = call().header("content-length", "1040");
    harness
        .send(announced)
        .await
        .problem(413, "payload_too_large");
}

/// The harness's application with additional routes that fail.
fn misbehaving(harness: &Harness, release: &Arc<Notify>) -> Router {
    async fn panics() -> Response {
        panic!("secret of a user")
    }
    async fn hangs() -> Result<Response, Problem> {
        std::future::pending().await
    }
    let release = Arc::clone(release);
    let streams = move || {
        let release = Arc::clone(&release);
        let end = futures_util::stream::once(async move {
            release.notified().await;
            Ok::<_, Infallible>("end")
        });
        std::future::ready(Body::from_stream(end).into_response())
    };
    let router = Router::new()
        .route("/mini-chat/v1/streams", get(streams))
        .route("/mini-chat/v1/panics", get(panics))
        .route("/mini-chat/v1/hangs", get(hangs));
    middleware::around(
        router,
        Arc::clone(&harness.app),
        Tracer::without_export(),
        middleware::Paths::default(),
    )
}

/// API-29
#[tokio::test]
async fn a_panic_is_one_callers_500() {
    let mut harness = Harness::new().await;
    harness.router = misbehaving(&harness, &Arc::default());
    let answer = harness.send(Call::get("/panics")).await;
    let answer = answer.problem(500, "internal_error");
    assert!(!answer.text.contains("secret"));
    harness
        .send(Call::get("/panics"))
        .await
        .problem(500, "internal_error");
}

/// API-29
#[tokio::test]
async fn a_panic_leaves_open_streams_alone() {
    let mut harness = Harness::new().await;
    let release = Arc::new(Notify::new());
    harness.router = misbehaving(&harness, &release);
    let mut stream = Box::pin(harness.send(Call::get("/streams")));
    assert!(futures_util::poll!(&mut stream).is_pending());
    harness
        .send(Call::get("/panics"))
        .await
        .problem(500, "internal_error");
    release.notify_one();
    assert_eq!(stream.await.text, "end");
}

/// API-26
#[tokio::test]
async fn a_handler_that_hangs_is_a_504() {
    let mut harness = Harness::new().await;
    harness.router = misbehaving(&harness, &Arc::default());
    tokio::time::pause();
    let sent = tokio::time::Instant::now();
    let answer = harness.send(Call::get("/hangs")).await;
    answer.problem(504, "request_timeout");
    let waited = sent.elapsed();
    assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(31));
}

/// API-25: a request counts until its response head is sent, however it ends.
#[tokio::test]
async fn requests_in_flight_are_bounded_and_given_back() {
    let mut harness = Harness::with("server:\n  rate_limit:\n    in_flight: 1\n").await;
    harness.router = misbehaving(&harness, &Arc::default());
    let mut hanging = Box::pin(harness.send(Call::get("/hangs")));
    assert!(futures_util::poll!(&mut hanging).is_pending());
    let refused = harness.send(Call::get("/panics")).await;
    let refused = refused.problem(503, "in_flight_limit");
    assert_eq!(refused.headers["retry-after"], "1");
    drop(hanging);
    for _ in 0..2 {
        harness
            .send(Call::get("/panics"))
            .await
            .problem(500, "internal_error");
    }
}
