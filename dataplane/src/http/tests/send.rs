//! Messages that `messages:stream` refuses before a turn begins (API-23,
//! API-62).

use http::Method;
use minichat_core::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::harness::{ALICE, Call, Harness};

/// API-23, API-62
#[tokio::test]
async fn a_message_that_cannot_be_is_refused_by_field() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    let path = format!("/chats/{chat}/messages:stream");
    let twenty_one: Vec<_> = (0..21).map(|_| Uuid::new_v4()).collect();
    for (body, field) in [
        (json!({}), "content"),
        (json!({"content": null}), "content"),
        (json!({"content": 5}), "content"),
        (json!({"content": " \n\t"}), "content"),
        (json!({"content": "a\u{0}b"}), "content"),
        (json!({"content": "a", "request_id": "x"}), "request_id"),
        (
            json!({"content": "a", "attachment_ids": ["x"]}),
            "attachment_ids[0]",
        ),
        (
            json!({"content": "a", "attachment_ids": twenty_one}),
            "attachment_ids",
        ),
        (json!({"content": "a", "web_search": true}), "web_search"),
        (
            json!({"content": "a", "web_search": {"enabled": 1}}),
            "web_search.enabled",
        ),
    ] {
        let call = Call::post(&path, &body).header("accept", "text/event-stream");
        let answer = harness.send(call).await.problem(400, "invalid_request");
        assert_eq!(answer.body["errors"][0]["field"], field, "{body}");
    }
    for text in ["", "{\"content\": \"a"] {
        let call = Call::new(Method::POST, &path, text).header("content-type", "application/json");
        harness.send(call).await.problem(400, "invalid_request");
    }
}

/// API-23, API-32
#[tokio::test]
async fn other_refusals_have_their_codes() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    let path = format!("/chats/{chat}/messages:stream");
    let untyped = Call::new(Method::POST, &path, "{}");
    harness
        .send(untyped)
        .await
        .problem(415, "unsupported_content_type");
    let attached = json!({"content": "a", "attachment_ids": [Uuid::new_v4()]});
    let answer = harness.send(Call::post(&path, &attached)).await;
    answer.problem(400, "invalid_attachment");
    let nowhere = format!("/chats/{}/messages:stream", Uuid::new_v4());
    let answer = harness
        .send(Call::post(&nowhere, &json!({"content": "a"})))
        .await;
    answer.problem(404, "chat_not_found");
    harness
        .send(Call::get(&path))
        .await
        .problem(405, "method_not_allowed");
}

/// API-33, API-54, API-61, API-130: no provider listens, and only the stream
/// reports it.
#[tokio::test]
async fn a_message_is_answered_by_a_stream_that_nothing_may_hold_back() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    let created = harness.app.clock.now();
    harness.clock.advance_seconds(60);
    let request_id = Uuid::new_v4();
    let body = json!({"content": " hi ", "request_id": request_id, "web_search": {}});
    let call =
        Call::post(&format!("/chats/{chat}/messages:stream"), &body).header("x-request-id", "abc");
    let answer = harness.send(call).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("connection", "keep-alive"),
        ("x-request-id", "abc"),
    ] {
        assert_eq!(answer.headers[name], value, "{name}");
    }
    assert!(!answer.headers.contains_key("content-length"));
    assert!(
        answer.text.starts_with("event: stream_started\ndata: "),
        "{}",
        answer.text
    );
    assert!(answer.text.contains("event: error\n"), "{}", answer.text);

    let turn = harness
        .send(Call::get(&format!("/chats/{chat}/turns/{request_id}")))
        .await
        .ok();
    assert_eq!(turn.body["state"], "error");
    assert_eq!(turn.body["error_code"], "provider_error");
    let messages = harness
        .send(Call::get(&format!("/chats/{chat}/messages")))
        .await
        .ok();
    let message = &messages.body["items"][0];
    assert_eq!(
        *message,
        json!({
            "id": message["id"], "request_id": request_id, "role": "user", "content": " hi ",
            "attachments": [], "my_reaction": null, "created_at": message["created_at"],
        })
    );
    let chat = harness
        .send(Call::get(&format!("/chats/{chat}")))
        .await
        .ok();
    assert_eq!(chat.body["message_count"], 1);
    let active: Timestamp = chat.body["updated_at"].as_str().unwrap().parse().unwrap();
    assert!(active >= created.plus_seconds(60));
}
