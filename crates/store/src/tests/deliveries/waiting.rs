//! Queues whose names and partitions change, and what waits in them (PLAT-31).

use std::sync::Arc;

use tokio::sync::Notify;
use uuid::Uuid;

use super::{HOUR, PARKED, SHARE, delivery, messages_read, payloads, queues, tenant};
use crate::outbox::{NEXT_WAITING_SQL, TAKE_WAITING_SQL, WAITING_SQL};
use crate::tests::{Db, on_both_databases};
use crate::tx::only_column;
use crate::{
    Buried, DeadLetterFilter, DeadLetterStatus, OutboxQueue, PendingMessage, QueueMismatch,
    StoreError, WaitingShare,
};

on_both_databases! {
    /// PLAT-31, PLAT-35: what waits of one tenant becomes dead letters, in order, and
    /// one that was tried again is pending again.
    async fn waiting_messages_of_a_tenant_become_dead_letters(db: Db) {
        db.register(queues(4)).await;
        let (a, b) = (tenant(1), tenant(2));
        for (tenant, payload) in [(a, "0"), (a, "{}"), (a, "[]"), (b, "{}"), (a, "1")] {
            db.enqueue(tenant, payload).await;
        }
        assert!(db.claim("x", HOUR).await);
        let delivered = db.list(&[a], SHARE).await;
        assert_eq!(db.acknowledge(&delivery(a, "x"), &delivered[..1]).await, 1);
        let messages = db.list(&[a], SHARE).await;
        assert!(db.reject(&delivery(a, "x"), messages[0].id).await);
        let again = db.count("SELECT MAX(id) FROM outbox_dead_letters", []).await;
        db.tx(move |tx| Box::pin(async move { tx.outbox_requeue(again).await })).await;
        db.park(&delivery(a, "x"), HOUR).await;
        let waiting = async || {
            let pages = waiting(&db, 10).await;
            assert_eq!(pages.len(), 1);
            pages.into_iter().flatten().collect::<Vec<_>>()
        };
        let numbers = waiting().await.into_iter().map(|it| (it.tenant_id, it.messages));
        assert_eq!(numbers.collect::<Vec<_>>(), [(a, 3), (b, 1)]);
        let share = waiting().await.remove(0);

        let bury = || {
            let share = share.clone();
            db.tx(move |tx| {
                let share = share.clone();
                Box::pin(async move { tx.outbox_bury(&share, 2, "gone").await })
            })
        };
        let buried = |letters, is_more| Buried { letters, is_more };
        let parked = "SELECT COUNT(*) FROM outbox_parked";
        assert_eq!((bury().await, db.count(parked, []).await), (buried(2, true), 1));
        assert_eq!((bury().await, db.count(parked, []).await), (buried(1, false), 0));
        db.enqueue(a, "later").await;
        assert_eq!(bury().await, buried(0, false));
        assert_eq!(payloads(&db.list(&[a], SHARE).await), ["later"]);
        db.sql("DELETE FROM outbox_messages WHERE payload = 'later'", []).await.unwrap();
        let numbers = waiting().await.into_iter().map(|it| (it.tenant_id, it.messages));
        assert_eq!(numbers.collect::<Vec<_>>(), [(b, 1)]);
        let all = DeadLetterFilter { limit: 10, ..DeadLetterFilter::default() };
        let letters = db.tx(move |tx| {
            let all = all.clone();
            Box::pin(async move { tx.outbox_dead_letters(&all).await })
        });
        let letters = letters.await;
        let mut payloads = Vec::new();
        for letter in &letters {
            let id = letter.id;
            let payload = db.tx(move |tx| Box::pin(async move { tx.outbox_dead_letter_payload(id).await }));
            payloads.push(payload.await.unwrap());
            assert_eq!(letter.payload_bytes, payloads.last().unwrap().len() as u64);
        }
        assert_eq!(payloads, ["{}", "[]", "1"]);
        for letter in &letters {
            assert_eq!(letter.status, DeadLetterStatus::Pending);
            assert_eq!(letter.last_error.as_deref(), Some("gone"));
        }
        let keys: Vec<_> = letters.iter().map(|it| it.key.clone()).collect();
        let expected: Vec<_> = messages.iter().map(PendingMessage::key).collect();
        assert_eq!(keys, expected);
    }

    /// PLAT-31: pages of any length count each message once.
    async fn what_waits_is_counted_in_pages(db: Db) {
        db.register(queues(4)).await;
        assert_eq!(waiting(&db, 3).await, [vec![]]);
        let (a, b) = (tenant(1), tenant(2));
        for tenant in [a, b, b, a, a, a, b] {
            db.enqueue(tenant, "{}").await;
        }
        for sql in [
            "UPDATE outbox_messages SET partition = 1 WHERE id = (SELECT MAX(id) FROM outbox_messages)",
            "UPDATE outbox_messages SET queue = 'audit' WHERE id = (SELECT MIN(id) FROM outbox_messages)",
            "INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, payload, \
             created_at, done_at) SELECT queue, partition, tenant_id, payload_type, payload, \
             created_at, created_at FROM outbox_messages",
        ] {
            db.sql(sql, []).await.unwrap();
        }
        let numbers = async |limit| {
            let shares = waiting(&db, limit).await.into_iter().flatten();
            let numbers = shares.map(|it| (it.queue, it.partition, it.tenant_id, it.messages));
            numbers.collect::<Vec<_>>()
        };
        let share = |queue: &str, partition, tenant, messages| {
            (queue.to_owned(), partition, tenant, messages)
        };
        let first = share("audit", 0, a, 1);
        let last = share("usage", 1, b, 1);
        let whole = [first.clone(), share("usage", 0, a, 3), share("usage", 0, b, 2), last.clone()];
        assert_eq!(numbers(7).await, whole);
        assert_eq!(numbers(100).await, whole);
        let in_two = numbers(3).await;
        let two_and_one = [share("usage", 0, a, 2), share("usage", 0, a, 1)];
        assert_eq!(in_two[1..3], two_and_one);
        assert_eq!((&in_two[0], &in_two[4]), (&first, &last));
        let one_and_one = [share("usage", 0, b, 1), share("usage", 0, b, 1), last];
        assert_eq!(numbers(5).await[2..], one_and_one);
    }

    /// PLAT-31: messages that wait decide how many partitions there are, and how
    /// their queue is called.
    async fn a_queue_with_messages_is_not_changed(db: Db) {
        assert_eq!(db.register(queues(8)).await, None);
        assert_eq!(db.register(queues(4)).await, None);
        assert_eq!(db.count("SELECT COUNT(*) FROM outbox_partitions", []).await, 4);
        db.enqueue(tenant(1), "{}").await;
        let queue = "usage".to_owned();
        let mismatch = Some(QueueMismatch::Partitions { queue: queue.clone(), found: 4 });
        assert_eq!(db.register(queues(8)).await, mismatch);
        let other = OutboxQueue { name: "other".to_owned(), ..queues(4).remove(0) };
        assert_eq!(db.register(vec![other]).await, Some(QueueMismatch::Unknown { queue }));
        db.sql("UPDATE outbox_messages SET done_at = created_at", []).await.unwrap();
        assert_eq!(db.register(queues(8)).await, None);
    }

    /// PLAT-31: a few tenants, whatever waits; each once.
    async fn few_of_those_whose_messages_wait_are_named(db: Db) {
        db.register(queues(4)).await;
        let tenants: Vec<_> = (1..=4).map(tenant).collect();
        for tenant in tenants.iter().rev().chain(&tenants) {
            db.enqueue(*tenant, "{}").await;
        }
        let named = |limit| db.tx(move |tx| Box::pin(async move {
            tx.outbox_waiting_tenants("usage", limit).await
        }));
        assert_eq!(named(3).await, tenants[..3]);
        assert_eq!(named(9).await, tenants);
        let sql = "UPDATE outbox_messages SET partition = 1 WHERE id = (SELECT MAX(id) FROM outbox_messages)";
        db.sql(sql, []).await.unwrap();
        assert_eq!(named(9).await, tenants, "one of them is in two partitions");
        let sql = "UPDATE outbox_messages SET done_at = statement_timestamp() WHERE partition = 0";
        db.sql(sql, []).await.unwrap();
        assert_eq!(named(9).await, tenants[3..]);
    }

    /// PLAT-31, PLAT-35: dead letters follow their queue to its new name, by what they
    /// are.
    async fn dead_letters_follow_the_name_of_their_queue(db: Db) {
        db.register(queues(4)).await;
        let a = tenant(1);
        for payload in [r#"{"used":1}"#, r#"{"used":2}"#, r#"{"other":"\"used\""}"#, r#"{"used":3}"#] {
            db.enqueue(a, payload).await;
        }
        assert!(db.claim("x", HOUR).await);
        for message in db.list(&[a], SHARE).await {
            assert!(db.reject(&delivery(a, "x"), message.id).await);
        }
        let follow = |name: &str| {
            let queue = OutboxQueue { name: name.to_owned(), ..queues(4).remove(0) };
            db.tx(move |tx| {
                let queue = queue.clone();
                Box::pin(async move { tx.outbox_follow_names(&[queue], 2).await })
            })
        };
        assert_eq!(follow("usage").await, 0);
        assert_eq!((follow("new").await, follow("new").await, follow("new").await), (2, 1, 0));
        let of = async |queue: &str| {
            let filter = DeadLetterFilter {
                queue: Some(queue.to_owned()),
                limit: 10,
                ..DeadLetterFilter::default()
            };
            let letters = db.tx(move |tx| {
                let filter = filter.clone();
                Box::pin(async move { tx.outbox_dead_letters(&filter).await })
            });
            letters.await.len()
        };
        assert_eq!((of("new").await, of("usage").await), (3, 1));
    }

    /// PLAT-31, CONT-164: messages without an order may wait in any partition.
    async fn a_queue_without_an_order_may_be_changed(db: Db) {
        let unordered = |partitions| {
            let queues = queues(partitions).into_iter();
            queues.map(|it| OutboxQueue { is_ordered: false, ..it }).collect::<Vec<_>>()
        };
        assert_eq!(db.register(unordered(4)).await, None);
        db.enqueue(tenant(1), "{}").await;
        assert_eq!(db.register(unordered(1)).await, None);
        assert_eq!(db.count("SELECT COUNT(*) FROM outbox_partitions", []).await, 1);
        let hints = db.tx(|tx| Box::pin(async move { tx.cleanup_hints("usage", 10).await })).await;
        assert_eq!(hints.len(), 1);
    }
}

/// What waits, in pages of `limit` messages.
async fn waiting(db: &Db, limit: u32) -> Vec<Vec<WaitingShare>> {
    let mut pages: Vec<Vec<WaitingShare>> = Vec::new();
    loop {
        let after = pages.last().and_then(|page| page.last()).cloned();
        let page = db
            .tx(move |tx| {
                let after = after.clone();
                Box::pin(async move { tx.outbox_waiting(after.as_ref(), limit).await })
            })
            .await;
        let counted: u64 = page.iter().map(|it| it.messages).sum();
        pages.push(page);
        if counted < u64::from(limit) {
            return pages;
        }
    }
}

/// PLAT-31: what is delivered while it would be buried does not end it.
#[tokio::test]
async fn a_delivery_meanwhile_leaves_the_rest_to_be_buried() {
    let db = Db::postgres().await;
    db.register(queues(4)).await;
    let a = tenant(1);
    for payload in ["1", "2", "3"] {
        db.enqueue(a, payload).await;
    }
    let (marked, commit) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let delivered = tokio::spawn({
        let (store, marked, commit) = (db.store.clone(), marked.clone(), commit.clone());
        async move {
            let written: Result<(), StoreError> = store
                .write(move |tx| {
                    let (marked, commit) = (marked.clone(), commit.clone());
                    Box::pin(async move {
                        let sql = "UPDATE outbox_messages SET done_at = statement_timestamp() \
                                   WHERE payload IN ('1', '2') RETURNING id";
                        tx.query(sql, &[], only_column::<i64>).await?;
                        marked.notify_one();
                        commit.notified().await;
                        Ok(())
                    })
                })
                .await;
            written
        }
    });
    marked.notified().await;
    let share = waiting(&db, 10).await.remove(0).remove(0);
    let bury = || {
        let share = share.clone();
        db.tx(move |tx| {
            let share = share.clone();
            Box::pin(async move { tx.outbox_bury(&share, 2, "gone").await })
        })
    };
    let lets_go = async {
        while db.count(BLOCKED, []).await == 0 {
            tokio::task::yield_now().await;
        }
        commit.notify_one();
    };
    let (first, ()) = tokio::join!(bury(), lets_go);
    delivered.await.unwrap().unwrap();
    let buried = |letters, is_more| Buried { letters, is_more };
    assert_eq!(first, buried(0, true));
    assert_eq!(bury().await, buried(1, false));
}

/// Statements that wait for a lock.
const BLOCKED: &str = "SELECT COUNT(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// PLAT-31: a tenant is named without a walk over what waits.
#[tokio::test]
async fn the_next_tenant_that_waits_is_found_by_its_index() {
    let db = Db::postgres().await;
    db.register(queues(4)).await;
    db.sql(PARKED, []).await.unwrap();
    db.sql("ANALYZE outbox_messages", []).await.unwrap();
    let after = format!("'{}'", Uuid::from_u128(25));
    let read = messages_read(&db, NEXT_WAITING_SQL, ["'usage'", "0", &after]).await;
    assert!((1.0..=2.0).contains(&read), "{read} rows");
}

/// PLAT-31: however much waits, one page is read at a time, and one batch is moved.
#[tokio::test]
async fn a_backlog_is_counted_and_buried_piece_by_piece() {
    let db = Db::postgres().await;
    db.register(queues(4)).await;
    for _ in 0..2 {
        db.sql(PARKED, []).await.unwrap();
    }
    db.sql("ANALYZE outbox_messages", []).await.unwrap();
    let pages = waiting(&db, 10_000).await;
    assert_eq!(pages.len(), 11);
    let counted =
        |pages: &[Vec<WaitingShare>]| -> u64 { pages.iter().flatten().map(|it| it.messages).sum() };
    assert_eq!(counted(&pages), 100_000);
    assert!(
        pages
            .iter()
            .all(|page| page.len() <= 6 && counted(std::slice::from_ref(page)) <= 10_000)
    );
    let middle = pages[5].last().unwrap();
    let (tenant, last) = (format!("'{}'", middle.tenant_id), middle.last.to_string());
    let read = messages_read(&db, WAITING_SQL, ["'usage'", "0", &tenant, &last, "10000"]).await;
    assert!((10_000.0..=10_001.0).contains(&read), "{read} rows");
    // It deletes them: they are found, found again by their ids, and deleted.
    let read = messages_read(
        &db,
        TAKE_WAITING_SQL,
        ["'usage'", "0", &tenant, &last, "200"],
    )
    .await;
    assert!((400.0..=801.0).contains(&read), "{read} rows");
}
