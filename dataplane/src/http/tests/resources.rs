//! Chats, messages, turns, models and quota as JSON (API-50 to API-112).

use minichat_core::turn::{Outcome, TurnErrorCode};
use minichat_core::{ChatId, RequestId, TurnId};
use minichat_store::{NewTurn, QuotaDay, StoreError, TurnFinish};
use serde_json::{Value, json};
use uuid::Uuid;

use super::harness::{ALICE, BOB, Call, Harness, alice};

/// API-50, API-51, API-53
#[tokio::test]
async fn a_chat_is_created_with_defaults_and_read_back() {
    let harness = Harness::new().await;
    let created = harness.send(Call::post("/chats", &json!({}))).await;
    assert_eq!(created.status, 201);
    let id = created.body["id"].as_str().unwrap().to_owned();
    let now = harness.app.clock.now().to_string();
    let expected = json!({
        "id": id, "model": "premium", "is_temporary": false, "message_count": 0,
        "created_at": now, "updated_at": now,
    });
    assert!(now.ends_with('Z'));
    assert_eq!(created.body, expected);
    assert_eq!(
        created.headers["location"],
        format!("/mini-chat/v1/chats/{id}")
    );
    let upper = Call::get(&format!("/chats/{}", id.to_uppercase()));
    assert_eq!(harness.send(upper).await.ok().body, expected);
    let read = harness.send(Call::get(&format!("/chats/{id}"))).await.ok();
    assert_eq!(read.body, expected);
}

/// API-2, API-4, API-51
#[tokio::test]
async fn title_and_model_are_honoured_and_the_rest_ignored() {
    let harness = Harness::new().await;
    for (body, title, model) in [
        (
            json!({"title": "  a ", "model": "standard"}),
            json!("a"),
            "standard",
        ),
        (
            json!({"title": null, "model": null, "id": 5}),
            Value::Null,
            "premium",
        ),
        (
            json!({"title": "ä".repeat(255)}),
            json!("ä".repeat(255)),
            "premium",
        ),
    ] {
        let chat = harness.send(Call::post("/chats", &body)).await;
        assert_eq!(chat.status, 201, "{}", chat.text);
        assert_eq!(
            (&chat.body["title"], &chat.body["model"]),
            (&title, &json!(model))
        );
    }
}

/// API-23, API-51
#[tokio::test]
async fn a_chat_that_cannot_be_is_refused_by_field() {
    let harness = Harness::new().await;
    for (body, field) in [
        (json!({"title": "  "}), "title"),
        (json!({"title": "a".repeat(256)}), "title"),
        (json!({"title": 5}), "title"),
        (json!({"model": "unknown"}), "model"),
        (json!({"model": "retired"}), "model"),
        (json!({"model": ""}), "model"),
        (json!([]), "body"),
    ] {
        let answer = harness.send(Call::post("/chats", &body)).await;
        let answer = answer.problem(400, "invalid_request");
        assert_eq!(answer.body["errors"][0]["field"], field, "{body}");
    }
    let text = Call::post("/chats", &json!({})).header("content-type", "text/plain");
    harness
        .send(text)
        .await
        .problem(415, "unsupported_content_type");
    let list = harness.send(Call::get("/chats")).await.ok();
    assert_eq!(list.body["items"], json!([]));
}

/// API-110
#[tokio::test]
async fn models_show_what_clients_may_know() {
    let harness = Harness::new().await;
    let standard = json!({
        "model_id": "standard", "display_name": "The standard model", "tier": "standard",
        "multiplier_display": "2x", "multimodal_capabilities": ["VISION_INPUT"],
        "context_window": 128_000,
    });
    let premium = json!({
        "model_id": "premium", "display_name": "The premium model", "tier": "premium",
        "multiplier_display": "2x", "description": "Thinks longer.",
        "multimodal_capabilities": ["VISION_INPUT"], "context_window": 128_000,
    });
    let list = harness.send(Call::get("/models")).await.ok();
    assert_eq!(list.body, json!({"items": [standard, premium]}));
    let one = harness.send(Call::get("/models/premium")).await.ok();
    assert_eq!(one.body, premium);
    for absent in ["retired", "unknown", "a%2Fb"] {
        let path = format!("/models/{absent}");
        harness
            .send(Call::get(&path))
            .await
            .problem(404, "model_not_found");
    }
}

/// API-112
#[tokio::test]
async fn the_quota_of_a_new_user_is_untouched() {
    let harness = Harness::new().await;
    let status = harness.send(Call::get("/quota/status")).await.ok().body;
    assert_eq!(status["warning_threshold_pct"], 80);
    let tiers = status["tiers"].as_array().unwrap();
    let names: Vec<_> = tiers.iter().map(|tier| &tier["tier"]).collect();
    assert_eq!(names, ["premium", "total"]);
    assert_eq!(
        tiers[0]["periods"][0],
        json!({
            "period": "daily", "limit_credits_micro": 50_000_000, "used_credits_micro": 0,
            "remaining_credits_micro": 50_000_000, "remaining_percentage": 100,
            "next_reset": "2030-03-18T00:00:00Z", "warning": false, "exhausted": false,
        })
    );
}

/// API-15, API-61, API-70
#[tokio::test]
async fn a_chat_without_turns_has_no_messages_and_no_turn() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    let messages = harness
        .send(Call::get(&format!("/chats/{chat}/messages")))
        .await;
    assert_eq!(messages.ok().body["items"], json!([]));
    let turn = |chat: &str| format!("/chats/{chat}/turns/{}", Uuid::new_v4());
    harness
        .send(Call::get(&turn(&chat)))
        .await
        .problem(404, "turn_not_found");
    harness
        .send(Call::get(&turn(&chat)).user(BOB))
        .await
        .problem(404, "chat_not_found");
    let malformed = format!("/chats/{chat}/turns/latest");
    let answer = harness
        .send(Call::get(&malformed))
        .await
        .problem(400, "invalid_request");
    assert_eq!(answer.body["errors"][0]["field"], "request_id");
}

/// API-70
#[tokio::test]
async fn a_turn_tells_its_state_and_only_a_failed_one_its_error() {
    let harness = Harness::new().await;
    let chat: ChatId = harness.create_chat(ALICE).await.parse().unwrap();
    for (outcome, state, error_code) in [
        (Some(Outcome::Completed(None)), "done", None),
        (
            Some(Outcome::Failed(TurnErrorCode::OrphanTimeout)),
            "error",
            Some("orphan_timeout"),
        ),
        (Some(Outcome::Cancelled), "cancelled", None),
        (None, "running", None),
    ] {
        let request_id = RequestId::random();
        insert_turn(&harness, chat, request_id, outcome)
            .await
            .unwrap();
        let path = format!("/chats/{chat}/turns/{request_id}");
        let turn = harness.send(Call::get(&path)).await.ok().body;
        let mut expected = json!({
            "request_id": request_id, "state": state, "updated_at": turn["updated_at"],
        });
        if let Some(error_code) = error_code {
            expected["error_code"] = json!(error_code);
        }
        assert_eq!(turn, expected);
    }
}

/// Inserts a turn of Alice and ends it unless `outcome` is `None`.
async fn insert_turn(
    harness: &Harness,
    chat_id: ChatId,
    request_id: RequestId,
    outcome: Option<Outcome>,
) -> Result<(), StoreError> {
    let (tenant_id, user_id) = alice();
    let now = harness.app.clock.now();
    let turn = NewTurn {
        id: TurnId::random(),
        tenant_id,
        chat_id,
        request_id,
        requester_user_id: user_id,
        provider_name: "llm",
        effective_model: "standard",
        reserve_tokens: 1,
        reserved_credits_micro: 0,
        policy_version_applied: 1,
        max_output_tokens_applied: 1,
        minimal_generation_floor_applied: 1,
        reserve_day: now.date(),
        web_search_enabled: false,
        started_at: now,
        process_id: None,
    };
    let scope = QuotaDay {
        tenant_id,
        user_id,
        day: now.date(),
    };
    harness
        .app
        .store
        .write(move |tx| {
            Box::pin(async move {
                tx.turn_insert(&turn)?;
                if let Some(outcome) = outcome {
                    let finish = TurnFinish {
                        tenant_id,
                        turn_id: turn.id,
                        outcome,
                        provider_response_id: None,
                        finalization_id: uuid::Uuid::new_v4(),
                        orphan: None,
                    };
                    tx.turn_finish(&finish, scope).await?;
                }
                Ok(())
            })
        })
        .await
}
