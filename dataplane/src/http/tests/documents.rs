//! The OpenAPI document, and its agreement with the routes (API-6, API-27).

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::harness::{Answer, BASE, Call, Harness};

const DOCS_ON: &str = "server:\n  docs_enabled: true";

/// Every method that a route could have.
const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

async fn document(harness: &Harness) -> Answer {
    let call = Call::get("").absolute("/openapi.json");
    harness.send(call.without("x-tenant-id")).await.ok()
}

/// API-6, API-27: a handler answers every method in the document; any other
/// method is 405, and `Allow` lists the documented ones.
#[tokio::test]
async fn routes_and_operations_are_the_same() {
    let harness = Harness::with(DOCS_ON).await;
    let document = document(&harness).await.body;
    for (template, described) in document["paths"].as_object().unwrap() {
        let path = template
            .replace("{id}", &Uuid::new_v4().to_string())
            .replace("{request_id}", &Uuid::new_v4().to_string())
            .replace("{msg_id}", &Uuid::new_v4().to_string());
        for method in METHODS {
            let answer = harness.send(Call::new(method.clone(), &path, "")).await;
            let name = method.as_str().to_ascii_lowercase();
            if described.get(&name).is_some() {
                let code = answer.body["code"].as_str();
                assert_ne!(code, Some("not_found"), "{method} {template}");
                assert_ne!(code, Some("method_not_allowed"), "{method} {template}");
            } else {
                let answer = answer.problem(405, "method_not_allowed");
                let allowed = answer.headers["allow"].to_str().unwrap().to_lowercase();
                let allowed: BTreeSet<_> = allowed.split(',').filter(|it| *it != "head").collect();
                let described: BTreeSet<_> = described
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(String::as_str)
                    .collect();
                assert_eq!(allowed, described, "{template}");
            }
        }
    }
}

/// API-6: ids that clients generate code from.
#[tokio::test]
async fn the_document_lists_the_operations_by_their_ids() {
    let harness = Harness::with(DOCS_ON).await;
    let answer = document(&harness).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.body["servers"][0]["url"], BASE);
    let paths = answer.body["paths"].as_object().unwrap();
    let mut ids: Vec<&str> = paths
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    let expected = [
        "cancel_turn",
        "create_chat",
        "delete_attachment",
        "delete_chat",
        "delete_reaction",
        "delete_turn",
        "edit_turn",
        "erase_me",
        "export_me",
        "get_attachment",
        "get_chat",
        "get_model",
        "get_quota_status",
        "get_turn",
        "list_chats",
        "list_messages",
        "list_models",
        "put_reaction",
        "retry_turn",
        "stream_message",
        "update_chat",
        "upload_attachment",
    ]
    .map(|name| format!("mini_chat.{name}"));
    assert_eq!(ids, expected);
}

/// API-27
#[tokio::test]
async fn documents_need_no_identity_and_move_with_the_root() {
    let yaml = "server:\n  docs_enabled: true\n  root_prefix: /cf";
    let harness = Harness::with(yaml).await;
    let call = |path: &str| Call::get("").absolute(path).without("x-tenant-id");
    let answer = harness.send(call("/cf/openapi.json")).await.ok();
    assert_eq!(answer.body["servers"][0]["url"], "/cf/mini-chat/v1");
    assert!(answer.headers.contains_key("x-request-id"));
    let viewer = harness.send(call("/cf/docs")).await;
    assert_eq!(viewer.status, StatusCode::OK);
    assert_eq!(viewer.headers["content-type"], "text/html; charset=utf-8");
    assert!(!viewer.text.contains("http://") && !viewer.text.contains("https://"));
    harness
        .send(call("/openapi.json"))
        .await
        .problem(401, "unauthenticated");
}

/// API-27, D21: off is the default.
#[tokio::test]
async fn documents_are_served_only_when_they_are_wanted() {
    let harness = Harness::new().await;
    for path in ["/openapi.json", "/docs"] {
        let call = || Call::get("").absolute(path);
        harness.send(call()).await.problem(404, "not_found");
        let stranger = call().without("x-tenant-id");
        harness.send(stranger).await.problem(401, "unauthenticated");
    }
}

/// API-32: clients decide by `code`, so each operation names its own.
#[tokio::test]
async fn every_operation_names_its_codes() {
    let harness = Harness::with(DOCS_ON).await;
    let document = document(&harness).await.body;
    let codes = |path: &str, method: &str, status: &str| -> Vec<Value> {
        let responses = &document["paths"][path][method]["responses"];
        let content = &responses[status]["content"]["application/problem+json"];
        let codes = &content["schema"]["properties"]["code"]["enum"];
        codes.as_array().cloned().unwrap_or_default()
    };
    let stream = "/chats/{id}/messages:stream";
    assert_eq!(
        codes(stream, "post", "409"),
        ["generation_in_progress", "request_id_conflict"]
    );
    assert_eq!(codes(stream, "post", "404"), ["chat_not_found"]);
    assert_eq!(
        codes("/chats", "get", "422"),
        [
            "invalid_cursor",
            "invalid_filter",
            "invalid_limit",
            "invalid_orderby"
        ]
    );
    assert_eq!(codes("/models", "get", "400"), Vec::<Value>::new());
}
