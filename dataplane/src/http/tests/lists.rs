//! Paging through the API (API-40 to API-46).

use minichat_core::turn::Usage;
use minichat_core::{ChatId, MessageId, RequestId};
use minichat_store::{NewMessage, Role};
use serde_json::{Value, json};

use super::harness::{ALICE, Answer, Call, Harness, alice};

fn ids(answer: &Answer) -> Vec<String> {
    let items = answer.body["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Goes to the last page and back. Returns the pages in the order visited.
async fn walk(harness: &Harness, path: &str) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let mut answer = harness
        .send(Call::get(&format!("{path}?limit=2")))
        .await
        .ok();
    assert_eq!(answer.body["page_info"]["prev_cursor"], Value::Null);
    let mut forward = vec![ids(&answer)];
    while let Some(cursor) = answer.body["page_info"]["next_cursor"].as_str() {
        let next = format!("{path}?limit=2&cursor={cursor}");
        answer = harness.send(Call::get(&next)).await.ok();
        forward.push(ids(&answer));
    }
    let mut backward = vec![ids(&answer)];
    while let Some(cursor) = answer.body["page_info"]["prev_cursor"].as_str() {
        let previous = format!("{path}?limit=2&cursor={cursor}");
        answer = harness.send(Call::get(&previous)).await.ok();
        backward.push(ids(&answer));
    }
    (forward, backward)
}

/// API-42, API-43
#[tokio::test]
async fn chats_of_one_instant_are_each_on_one_page() {
    let harness = Harness::new().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(harness.create_chat(ALICE).await);
    }
    let (forward, mut backward) = walk(&harness, "/chats").await;
    assert_eq!(
        forward.iter().map(Vec::len).collect::<Vec<_>>(),
        [2, 2, 2, 1]
    );
    made.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(forward.concat(), made);
    backward.reverse();
    assert_eq!(backward, forward);
}

/// API-42, API-54
#[tokio::test]
async fn the_latest_chat_comes_first_and_the_oldest_message() {
    let harness = Harness::new().await;
    let first = harness.create_chat(ALICE).await;
    harness.clock.advance_seconds(1);
    let second = harness.create_chat(ALICE).await;
    let answer = harness.send(Call::get("/chats")).await.ok();
    assert_eq!(ids(&answer), [second, first.clone()]);

    let chat: ChatId = first.parse().unwrap();
    for number in 0..5 {
        insert_message(&harness, chat, &number.to_string()).await;
    }
    let path = format!("/chats/{first}/messages");
    let answer = harness.send(Call::get(&path)).await.ok();
    let contents: Vec<_> = answer.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(contents, ["0", "1", "2", "3", "4"]);
    let (forward, mut backward) = walk(&harness, &path).await;
    assert_eq!(forward.concat(), ids(&answer));
    backward.reverse();
    assert_eq!(backward, forward);
}

async fn insert_message(harness: &Harness, chat_id: ChatId, content: &str) {
    let content = content.to_owned();
    let created_at = harness.app.clock.now();
    let (tenant_id, _) = alice();
    let inserted: Result<(), minichat_store::StoreError> = harness
        .app
        .store
        .write(move |tx| {
            let content = content.clone();
            Box::pin(async move {
                tx.message_insert(&NewMessage {
                    id: MessageId::random(),
                    tenant_id,
                    chat_id,
                    request_id: RequestId::random(),
                    role: Role::User,
                    content: &content,
                    provider_response_id: None,
                    usage: Usage::default(),
                    model: None,
                    created_at,
                })
            })
        })
        .await;
    inserted.unwrap();
}

/// API-40, API-41
#[tokio::test]
async fn the_page_tells_the_limit_applied() {
    let harness = Harness::new().await;
    for _ in 0..21 {
        harness.create_chat(ALICE).await;
    }
    for (query, limit, length) in [("", 20, 20), ("?limit=500", 100, 21), ("?limit=3", 3, 3)] {
        let answer = harness
            .send(Call::get(&format!("/chats{query}")))
            .await
            .ok();
        assert_eq!(answer.body["page_info"]["limit"], limit);
        assert_eq!(ids(&answer).len(), length);
    }
}

/// API-41, API-44, API-46
#[tokio::test]
async fn a_bad_query_is_told_by_its_code_on_both_lists() {
    let harness = Harness::new().await;
    let chat = harness.create_chat(ALICE).await;
    harness.create_chat(ALICE).await;
    let chats = harness.send(Call::get("/chats?limit=1")).await.ok();
    let cursor = chats.body["page_info"]["next_cursor"].as_str().unwrap();
    for path in ["/chats".to_owned(), format!("/chats/{chat}/messages")] {
        for (query, status, code) in [
            ("limit=0", 422, "invalid_limit"),
            ("limit=x", 400, "invalid_request"),
            ("cursor=garbage", 422, "invalid_cursor"),
            ("$orderby=role", 422, "invalid_orderby"),
            ("$filter=id%20eq%20null", 422, "invalid_filter"),
            (
                &format!("cursor={cursor}&$orderby=id"),
                422,
                "invalid_cursor",
            ),
        ] {
            let answer = harness.send(Call::get(&format!("{path}?{query}"))).await;
            answer.problem(status, code);
        }
    }
    let messages = format!("/chats/{chat}/messages?cursor={cursor}");
    harness
        .send(Call::get(&messages))
        .await
        .problem(422, "invalid_cursor");
}

/// API-43: a cursor grants nothing.
#[tokio::test]
async fn a_cursor_of_another_user_shows_ones_own_chats() {
    let harness = Harness::new().await;
    for _ in 0..3 {
        harness.create_chat(ALICE).await;
    }
    let alices = harness.send(Call::get("/chats?limit=1")).await.ok();
    let cursor = alices.body["page_info"]["next_cursor"].as_str().unwrap();
    let path = format!("/chats?cursor={cursor}");
    let bobs = harness
        .send(Call::get(&path).user(super::harness::BOB))
        .await
        .ok();
    assert_eq!(bobs.body["items"], json!([]));
}
