use std::collections::HashMap;

use minichat_core::{ChatId, MessageId, RequestId, Timestamp, UserId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use super::Db;
use super::fixture::NOON;
use crate::value::params;
use crate::{Direction, Key, Order, Page, PageRequest, StoreError};

/// Offsets in microseconds from a small range, so that many are equal.
fn lists() -> impl Strategy<Value = (Vec<i64>, u32)> {
    (prop::collection::vec(0..3_i64, 0..12), 1..5_u32)
}

/// API-40 to API-43, PLAT-4: following `next` returns every row once and in
/// order; going back returns the same pages; the first and the last page have
/// no cursor in that direction.
async fn walk<T, F, R>(list: F) -> Vec<T>
where
    T: Clone + PartialEq + std::fmt::Debug,
    F: Fn(Option<(Key, Direction)>) -> R,
    R: Future<Output = Result<Page<T>, StoreError>>,
{
    let mut pages = vec![list(None).await.unwrap()];
    assert_eq!(pages[0].previous, None);
    while let Some(key) = pages.last().and_then(|page| page.next) {
        let page = list(Some((key, Direction::Next))).await.unwrap();
        assert!(!page.items.is_empty());
        pages.push(page);
    }
    for pair in pages.windows(2).rev() {
        let key = pair[1].previous.unwrap();
        let back = list(Some((key, Direction::Previous))).await.unwrap();
        assert_eq!(back.items, pair[0].items);
        assert_eq!(back.next, pair[0].next);
    }
    if let [first, second, ..] = pages.as_slice() {
        let back = list(second.previous.map(|key| (key, Direction::Previous)));
        assert_eq!(back.await.unwrap().previous, None);
        assert_eq!(first.previous, None);
    }
    pages.into_iter().flat_map(|page| page.items).collect()
}

async fn chats_walk_both_ways(db: &Db, offsets: Vec<i64>, limit: u32) {
    let (tenant, user) = (db.tenant, UserId::random());
    let mut expected: Vec<(Timestamp, Uuid)> = Vec::new();
    for offset in offsets {
        let (id, at) = (ChatId::random(), NOON.plus_micros(offset));
        db.insert_chat(user, id, at).await;
        expected.push((at, id.0));
    }
    expected.sort_unstable();
    expected.reverse();
    let chats = walk(|cursor| {
        db.store.read(move |tx| {
            Box::pin(async move {
                let mut request = PageRequest::first(limit, Order::NEWEST_FIRST);
                request.cursor = cursor;
                tx.chat_list(tenant, user, &request).await
            })
        })
    });
    let found: Vec<_> = chats.await.iter().map(|c| (c.updated_at, c.id.0)).collect();
    assert_eq!(found, expected);
}

async fn messages_walk_both_ways(db: &Db, offsets: Vec<i64>, limit: u32) {
    let (tenant, user, chat) = (db.tenant, db.user, ChatId::random());
    db.insert_chat(user, chat, NOON).await;
    let mut expected: Vec<(Timestamp, Uuid)> = Vec::new();
    for offset in offsets {
        let (id, at) = (MessageId::random(), NOON.plus_micros(offset));
        db.sql(
            "INSERT INTO messages (id, tenant_id, chat_id, request_id, role, created_at) \
             VALUES ($1, $2, $3, $4, 'user', $5)",
            params![id, tenant, chat, RequestId::random(), at],
        )
        .await
        .unwrap();
        expected.push((at, id.0));
    }
    expected.sort_unstable();
    let messages = walk(|cursor| {
        db.store.read(move |tx| {
            Box::pin(async move {
                let mut request = PageRequest::first(limit, Order::OLDEST_FIRST);
                request.cursor = cursor;
                tx.message_list(tenant, user, chat, &request).await
            })
        })
    });
    let found: Vec<_> = messages
        .await
        .iter()
        .map(|m| (m.created_at, m.id.0))
        .collect();
    assert_eq!(found, expected);
}

fn check(open: impl Future<Output = Db>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(open);
    let mut runner = TestRunner::new(Config {
        cases: 16,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&lists(), |(offsets, limit)| {
        runtime.block_on(async {
            chats_walk_both_ways(&db, offsets.clone(), limit).await;
            messages_walk_both_ways(&db, offsets, limit).await;
        });
        Ok(())
    });
    result.unwrap();
}

#[test]
fn paging_is_total_and_reversible_on_sqlite() {
    check(Db::sqlite());
}

#[test]
fn paging_is_total_and_reversible_on_postgres() {
    check(Db::postgres());
}

/// API-61: messages that are deleted, or belong to no turn, are neither listed
/// nor counted; answers show the caller's reaction.
async fn lists_show_turn_messages_and_reactions(db: Db) {
    let send = db.send(NOON);
    send.reserve(&db.store).await.unwrap();
    assert!(send.complete(&db.store).await.unwrap());
    db.sql(
        "INSERT INTO messages (id, tenant_id, chat_id, role, created_at) \
         VALUES ($1, $2, $3, 'system', $4)",
        params![Uuid::new_v4(), db.tenant, db.chat, NOON],
    )
    .await
    .unwrap();
    db.sql(
        "INSERT INTO message_reactions (id, tenant_id, message_id, user_id, chat_id, reaction, \
         created_at) SELECT id, tenant_id, id, $1, chat_id, 'like', created_at FROM messages",
        params![db.user],
    )
    .await
    .unwrap();
    let (tenant, user, chat) = (db.tenant, db.user, db.chat);
    let both = db.store.read(move |tx| {
        Box::pin(async move {
            let request = PageRequest::first(20, Order::OLDEST_FIRST);
            let listed = tx.message_list(tenant, user, chat, &request).await?;
            Ok::<_, StoreError>((listed, tx.chat_get(tenant, user, chat).await?))
        })
    });
    let (listed, chat_row) = both.await.unwrap();
    let reactions: HashMap<_, _> = listed
        .items
        .iter()
        .map(|message| (message.role, message.my_reaction))
        .collect();
    assert_eq!(listed.items.len(), 2);
    assert_eq!(reactions[&crate::Role::User], None);
    assert_eq!(
        reactions[&crate::Role::Assistant],
        Some(crate::Reaction::Like)
    );
    assert_eq!(chat_row.unwrap().message_count, 2);
    let foreign = db.store.read(move |tx| {
        Box::pin(async move {
            let request = PageRequest::first(20, Order::OLDEST_FIRST);
            tx.message_list(tenant, UserId::random(), chat, &request)
                .await
        })
    });
    assert_eq!(foreign.await.unwrap().items, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_turn_messages_and_reactions_on_sqlite() {
    lists_show_turn_messages_and_reactions(Db::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_turn_messages_and_reactions_on_postgres() {
    lists_show_turn_messages_and_reactions(Db::postgres().await).await;
}
