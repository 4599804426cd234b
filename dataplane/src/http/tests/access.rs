//! Access control and the order of its checks (API-10 to API-22).

use http::Method;
use serde_json::json;
use uuid::Uuid;

use super::harness::{
    ALICE, Answer, BOB, Call, Harness, OTHER_TENANT, SUSPENDED_TENANT, TENANT, UNKNOWN_TENANT,
    UNLICENSED_TENANT,
};
use crate::http::operations;

/// A body that every operation accepts.
const BODY: &str = r#"{"content": "hello", "title": "a", "reaction": "like"}"#;

/// Every operation as a valid call that concerns `chat`.
fn calls(chat: &str) -> Vec<(String, Box<dyn Fn() -> Call>)> {
    operations::all()
        .into_iter()
        .map(|operation| {
            let (method, template) = (operation.method, operation.path);
            let path = template
                .replace("{id}", chat)
                .replace("{request_id}", &Uuid::new_v4().to_string())
                .replace("{msg_id}", &Uuid::new_v4().to_string())
                .replace("{attachment_id}", &Uuid::new_v4().to_string())
                .replace("{model_id}", "premium");
            let name = format!("{method} {template}");
            let call = move || match method {
                Method::GET => Call::get(&path),
                _ => Call::new(method.clone(), &path, BODY)
                    .header("content-type", "application/json"),
            };
            (name, Box::new(call) as Box<dyn Fn() -> Call>)
        })
        .collect()
}

/// API-12, API-20
#[tokio::test]
async fn no_operation_answers_a_caller_without_identity() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    for (name, call) in calls(&chat) {
        for unidentified in [
            call().without("x-tenant-id"),
            call().without("x-user-id"),
            call().user("alice"),
            call().peer("192.0.2.1:80"),
        ] {
            let answer = harness
                .send(unidentified)
                .await
                .problem(401, "unauthenticated");
            assert_eq!(answer.headers["www-authenticate"], "Bearer", "{name}");
        }
    }
}

/// API-12, PLAT-135
#[tokio::test]
async fn every_operation_is_refused_alike_without_a_licence() {
    let harness = Harness::new().await;
    for (name, call) in calls(&Uuid::new_v4().to_string()) {
        let mut details = Vec::new();
        for tenant in [UNKNOWN_TENANT, UNLICENSED_TENANT, SUSPENDED_TENANT] {
            let answer = harness.send(call().tenant(tenant)).await;
            details.push(answer.problem(403, "feature_not_licensed").body["detail"].clone());
        }
        assert!(details.windows(2).all(|pair| pair[0] == pair[1]), "{name}");
    }
}

/// API-13
#[tokio::test]
async fn every_operation_needs_its_scope_whether_or_not_the_chat_exists() {
    let harness = Harness::new().await;
    for chat in [harness.create_chat(ALICE).await, Uuid::new_v4().to_string()] {
        for (name, call) in calls(&chat) {
            let (missing, granted) = if name.starts_with("GET") {
                ("ai:mini_chat:write", "ai:mini_chat:read")
            } else {
                ("ai:mini_chat:read", "ai:mini_chat:write ai:mini_chat:erase")
            };
            for scopes in [missing, "openid"] {
                harness
                    .send(call().header("x-scopes", scopes))
                    .await
                    .problem(403, "insufficient_permissions");
            }
            // The first needs a provider, the second a scope of its own.
            if ["POST /chats/{id}/messages:stream", "DELETE /me"].contains(&name.as_str()) {
                continue;
            }
            let answer = harness.send(call().header("x-scopes", granted)).await;
            assert_ne!(answer.status, 403, "{name}");
        }
    }
}

/// API-14, API-15
#[tokio::test]
async fn anothers_chat_is_like_no_chat_on_every_operation() {
    let harness = Harness::new().await;
    let alices = harness.create_chat(ALICE).await;
    let without_ids = |answer: Answer| {
        let mut body = answer.problem(404, "chat_not_found").body;
        body["instance"].take();
        body["trace_id"].take();
        body
    };
    let nobodys = calls(&Uuid::new_v4().to_string());
    for ((name, to_alices), (_, to_nobodys)) in calls(&alices).into_iter().zip(nobodys) {
        if !name.contains("{id}") {
            continue;
        }
        let reference = without_ids(harness.send(to_nobodys()).await);
        for stranger in [to_alices().user(BOB), to_alices().tenant(OTHER_TENANT)] {
            assert_eq!(
                without_ids(harness.send(stranger).await),
                reference,
                "{name}"
            );
        }
    }
    for stranger in [
        Call::get("/chats").user(BOB),
        Call::get("/chats").tenant(OTHER_TENANT),
    ] {
        assert_eq!(harness.send(stranger).await.ok().body["items"], json!([]));
    }
}

/// API-20
#[tokio::test]
async fn the_first_failing_step_answers() {
    let harness = Harness::new().await;
    let unknown = || Call::get("/nothing");
    let steps = [
        (unknown().without("x-user-id"), 401, "unauthenticated"),
        (
            unknown().tenant(UNKNOWN_TENANT),
            403,
            "feature_not_licensed",
        ),
        (
            unknown().header("x-scopes", "x"),
            403,
            "insufficient_permissions",
        ),
        (unknown(), 404, "not_found"),
        (unknown().absolute("/"), 404, "not_found"),
        (unknown().absolute("/v1/models"), 404, "not_found"),
        (Call::get("/chats/"), 404, "not_found"),
        (
            Call::post("/chats/x/messages:stream", &json!({})),
            400,
            "invalid_request",
        ),
    ];
    for (call, status, code) in steps {
        harness.send(call).await.problem(status, code);
    }
    let both = Call::new(Method::POST, "/chats/x/messages:stream", "{");
    let answer = harness.send(both).await.problem(400, "invalid_request");
    assert_eq!(answer.body["errors"][0]["field"], "id");
}

/// API-20
#[tokio::test]
async fn a_known_path_names_its_methods() {
    let harness = Harness::new().await;
    for (path, allowed) in [("/chats", "GET,HEAD,POST"), ("/models", "GET,HEAD")] {
        let answer = harness.send(Call::new(Method::PUT, path, "")).await;
        let answer = answer.problem(405, "method_not_allowed");
        let allow = answer.headers["allow"].to_str().unwrap();
        let mut methods: Vec<_> = allow.split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed);
    }
    let stranger = Call::new(Method::PUT, "/chats", "").without("x-user-id");
    harness.send(stranger).await.problem(401, "unauthenticated");
}

/// API-22
#[tokio::test]
async fn every_answer_carries_the_request_id_and_the_callers_trace() {
    let harness = Harness::new().await;
    for (path, status) in [("/models", 200), ("/chats/x", 400), ("/nothing", 404)] {
        let answer = harness
            .send(Call::get(path).header("x-request-id", "abc"))
            .await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["x-request-id"], "abc");
        let made = harness.send(Call::get(path)).await.headers["x-request-id"].clone();
        assert!(made.to_str().unwrap().parse::<Uuid>().is_ok());
    }
    let traced = Call::get("/nothing").header(
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    );
    let answer = harness.send(traced).await;
    assert_eq!(answer.body["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(answer.body["instance"], "/mini-chat/v1/nothing");
}

/// API-5
#[tokio::test]
async fn no_answer_names_tenant_or_user() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    for (name, call) in calls(&chat) {
        if name == "POST /chats/{id}/messages:stream" {
            continue;
        }
        let answer = harness.send(call()).await;
        let everything = format!("{} {:?}", answer.text, answer.headers);
        for id in [TENANT, ALICE] {
            assert!(!everything.contains(id), "{name}: {everything}");
        }
    }
}
