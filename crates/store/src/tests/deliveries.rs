//! Delivery of the outbox: leases, order, parked tenants, dead letters, vacuum.

mod waiting;

use std::sync::Arc;
use std::time::Duration;

use minichat_core::TenantId;
use tokio::sync::Notify;
use uuid::Uuid;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::outbox::backlog::DUE_SQL;
use crate::tx::only_column;
use crate::value::params;
use crate::{
    BoxFuture, DeadLetterFilter, DeadLetterStatus, Delivery, Holder, OutboxMessage, OutboxQueue,
    PendingMessage, QueueMismatch, Share, StoreError, Tx,
};

const HOUR: Duration = Duration::from_hours(1);
const SHARE: Share = Share {
    messages: 100,
    bytes: 1 << 20,
};

/// A tenant of partition 0.
fn tenant(n: u128) -> TenantId {
    TenantId(Uuid::from_u128(n * 4))
}

fn queues(partitions: u32) -> Vec<OutboxQueue> {
    vec![OutboxQueue {
        name: "usage".to_owned(),
        partitions,
        is_ordered: true,
        payloads: "%\"used\"%",
    }]
}

fn message(tenant_id: TenantId, payload: &str) -> OutboxMessage<'_> {
    OutboxMessage {
        queue: "usage",
        tenant_id,
        key: tenant_id.0,
        partitions: 4,
        dedupe_key: None,
        payload,
        created_at: NOON,
    }
}

impl Db {
    async fn tx<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> T {
        self.store.write(job).await.unwrap()
    }

    async fn register(&self, queues: Vec<OutboxQueue>) -> Option<QueueMismatch> {
        self.tx(move |tx| {
            let queues = queues.clone();
            Box::pin(async move { tx.outbox_register(&queues).await })
        })
        .await
    }

    async fn enqueue(&self, tenant_id: TenantId, payload: &'static str) {
        self.write(move |tx| tx.outbox_enqueue(&message(tenant_id, payload)))
            .await
            .unwrap();
    }

    /// Tenants that are due, with their attempts.
    async fn due(&self) -> Vec<(TenantId, u32)> {
        let due = self.tx(|tx| Box::pin(async move { tx.outbox_due("usage").await }));
        let due = due.await.into_iter();
        due.map(|it| (it.tenant_id, it.attempts)).collect()
    }

    async fn list(&self, tenants: &[TenantId], share: Share) -> Vec<PendingMessage> {
        let tenants = tenants.to_vec();
        self.tx(move |tx| {
            let tenants = tenants.clone();
            Box::pin(async move { tx.outbox_list("usage", 0, &tenants, share).await })
        })
        .await
    }

    async fn claim(&self, token: &'static str, lease: Duration) -> bool {
        let claimed = self.tx(move |tx| {
            Box::pin(async move {
                let wanted = [("usage".to_owned(), 0)];
                tx.outbox_claim(&wanted, token, lease).await
            })
        });
        claimed.await == [("usage".to_owned(), 0)]
    }

    async fn acknowledge(&self, delivery: &Delivery, messages: &[PendingMessage]) -> usize {
        let delivery = delivery.clone();
        let ids: Vec<i64> = messages.iter().map(|it| it.id).collect();
        let letters: Vec<i64> = messages.iter().filter_map(|it| it.dead_letter).collect();
        self.tx(move |tx| {
            let (delivery, ids, letters) = (delivery.clone(), ids.clone(), letters.clone());
            Box::pin(async move { tx.outbox_acknowledge(&delivery, &ids, &letters).await })
        })
        .await
    }

    async fn park(&self, delivery: &Delivery, wait: Duration) -> Option<u32> {
        let delivery = delivery.clone();
        self.tx(move |tx| {
            let delivery = delivery.clone();
            Box::pin(async move { tx.outbox_park(&delivery, wait, "503").await })
        })
        .await
    }

    async fn park_running(&self, delivery: Delivery, token: &'static str) -> Option<u32> {
        self.tx(move |tx| {
            let delivery = delivery.clone();
            Box::pin(async move {
                let wait = Duration::ZERO;
                tx.outbox_park_running(&delivery, token, wait).await
            })
        })
        .await
    }

    async fn reject(&self, delivery: &Delivery, message: i64) -> bool {
        let delivery = delivery.clone();
        self.tx(move |tx| {
            let delivery = delivery.clone();
            Box::pin(async move { tx.outbox_reject(&delivery, &[message], 1, "422").await })
        })
        .await
    }
}

fn delivery(tenant_id: TenantId, token: &str) -> Delivery {
    Delivery {
        queue: "usage".to_owned(),
        partition: 0,
        tenant_id,
        holder: Holder::OfPartition(token.to_owned()),
        is_parked: false,
    }
}

fn payloads(messages: &[PendingMessage]) -> Vec<&str> {
    messages.iter().map(|it| it.payload.as_str()).collect()
}

on_both_databases! {
    /// PLAT-32: what was not listed is not acknowledged, whatever its id.
    async fn messages_are_listed_in_order_until_they_are_acknowledged(db: Db) {
        assert_eq!(db.register(queues(4)).await, None);
        let (a, b) = (tenant(1), tenant(2));
        for (tenant, payload) in [(a, "1"), (b, "2"), (a, "3"), (a, "4")] {
            db.enqueue(tenant, payload).await;
        }
        assert!(db.claim("x", HOUR).await);
        assert_eq!(db.due().await, [(a, 0), (b, 0)]);
        let messages = db.list(&[a, b], SHARE).await;
        assert_eq!(payloads(&messages), ["1", "3", "4", "2"]);
        let first = Share { messages: 2, ..SHARE };
        assert_eq!(payloads(&db.list(&[a], first).await), ["1", "3"]);
        let small = Share { bytes: 1, ..SHARE };
        assert_eq!(payloads(&db.list(&[a, b], small).await), ["1", "2"]);

        let outer = [messages[0].clone(), messages[2].clone()];
        assert_eq!(db.acknowledge(&delivery(a, "x"), &outer).await, 2);
        assert_eq!(payloads(&db.list(&[a, b], SHARE).await), ["3", "2"]);
        assert_eq!(db.acknowledge(&delivery(a, "x"), &messages[1..2]).await, 1);
        assert_eq!(db.due().await, [(b, 0)]);
    }

    /// PLAT-34: a parked tenant is not due, others of its partition are.
    async fn a_parked_tenant_waits_alone(db: Db) {
        db.register(queues(4)).await;
        let (a, b) = (tenant(1), tenant(2));
        db.enqueue(a, "1").await;
        db.enqueue(b, "2").await;
        assert!(db.claim("x", HOUR).await);
        assert_eq!(db.park(&delivery(a, "x"), HOUR).await, Some(1));
        assert_eq!(db.due().await, [(b, 0)]);
        assert_eq!(db.park(&delivery(a, "x"), Duration::ZERO).await, Some(2));
        assert_eq!(db.due().await, [(a, 2), (b, 0)]);
        let parked = db.tx(|tx| Box::pin(async move { tx.outbox_parked().await })).await;
        assert_eq!(parked.len(), 1);
        assert_eq!((parked[0].attempts, parked[0].last_error.as_deref()), (2, Some("503")));

        let again = Delivery { is_parked: true, ..delivery(a, "x") };
        let messages = db.list(&[a], SHARE).await;
        assert_eq!(db.acknowledge(&again, &messages).await, 1);
        db.enqueue(a, "3").await;
        assert_eq!(db.due().await, [(a, 0), (b, 0)]);
    }

    /// PLAT-33: of a delivery that is parked while it runs, only its own end counts.
    async fn a_running_delivery_is_written_by_its_own_token(db: Db) {
        db.register(queues(4)).await;
        let a = tenant(1);
        db.enqueue(a, "1").await;
        assert!(db.claim("x", HOUR).await);
        let messages = db.list(&[a], SHARE).await;
        let running = |token| db.park_running(delivery(a, "x"), token);
        assert_eq!(running("first").await, Some(1));
        assert_eq!(running("second").await, Some(2));
        let of = |token: &str| Delivery {
            holder: Holder::OfTenant(token.to_owned()),
            is_parked: true,
            ..delivery(a, "x")
        };
        assert_eq!(db.acknowledge(&of("first"), &messages).await, 0);
        assert_eq!(db.park(&of("first"), HOUR).await, None);
        assert!(!db.reject(&of("first"), messages[0].id).await);
        assert_eq!(db.due().await, [(a, 2)]);
        assert_eq!(db.park(&of("second"), Duration::ZERO).await, Some(2));
        assert_eq!(db.acknowledge(&of("second"), &messages).await, 0, "it has ended");
        assert_eq!(running("third").await, Some(3));
        assert_eq!(db.acknowledge(&of("third"), &messages).await, 1);
        assert_eq!(db.due().await, []);
        assert_eq!(db.count("SELECT COUNT(*) FROM outbox_parked", []).await, 0);
    }

    /// PLAT-35: from refusal to delivery, under one key.
    async fn a_dead_letter_is_tried_again_under_its_key(db: Db) {
        db.register(queues(4)).await;
        let a = tenant(1);
        db.enqueue(a, "{}").await;
        db.enqueue(a, "[]").await;
        assert!(db.claim("x", HOUR).await);
        let messages = db.list(&[a], SHARE).await;
        let key = messages[0].key();
        assert!(db.reject(&delivery(a, "x"), messages[0].id).await);
        assert!(!db.reject(&delivery(a, "x"), messages[0].id).await, "it is gone");
        assert_eq!(payloads(&db.list(&[a], SHARE).await), ["[]"]);

        let all = || DeadLetterFilter { limit: 10, ..DeadLetterFilter::default() };
        let letters = || db.tx(move |tx| Box::pin(async move { tx.outbox_dead_letters(&all()).await }));
        let letter = letters().await.remove(0);
        assert_eq!((letter.key.as_str(), letter.last_error.as_deref()), (key.as_str(), Some("422")));
        assert_eq!(letter.status, DeadLetterStatus::Pending);
        let id = letter.id;
        let requeue = || db.tx(move |tx| Box::pin(async move { tx.outbox_requeue(id).await }));
        assert!(requeue().await);
        assert!(!requeue().await, "it is on its way");
        let messages = db.list(&[a], SHARE).await;
        assert_eq!(payloads(&messages), ["[]", "{}"]);
        assert_eq!((messages[1].key(), messages[1].dead_letter), (key.clone(), Some(id)));

        // It is refused again, and is still one dead letter.
        assert!(db.reject(&delivery(a, "x"), messages[1].id).await);
        let letter = letters().await.remove(0);
        assert_eq!((letter.id, letter.status), (id, DeadLetterStatus::Pending));
        assert_eq!(letters().await.len(), 1);

        assert!(requeue().await);
        let messages = db.list(&[a], SHARE).await;
        assert_eq!(db.acknowledge(&delivery(a, "x"), &messages).await, 2);
        assert_eq!(letters().await[0].status, DeadLetterStatus::Resolved);
        let discard = db.tx(move |tx| Box::pin(async move { tx.outbox_discard(id).await }));
        assert!(!discard.await, "it was delivered");
    }

    /// PLAT-41: without a sink nothing is read, whatever it waits for.
    async fn messages_without_a_sink_are_acknowledged_at_once(db: Db) {
        db.register(queues(4)).await;
        let (a, b, c) = (tenant(1), TenantId(Uuid::from_u128(7)), tenant(3));
        for tenant in [a, b, c, a] {
            db.enqueue(tenant, "{}").await;
        }
        assert!(db.claim("x", HOUR).await);
        let messages = db.list(&[a], SHARE).await;
        assert!(db.reject(&delivery(a, "x"), messages[0].id).await);
        let id = db.count("SELECT MAX(id) FROM outbox_dead_letters", []).await;
        db.tx(move |tx| Box::pin(async move { tx.outbox_requeue(id).await })).await;
        db.park(&delivery(a, "x"), Duration::ZERO).await;
        let all = || db.tx(move |tx| Box::pin(async move {
            tx.outbox_acknowledge_all("usage", &[a, b], 2).await
        }));
        assert_eq!((all().await, all().await, all().await), (2, 1, 0));
        assert_eq!(db.due().await, [(c, 0)]);
        let resolved = "SELECT COUNT(*) FROM outbox_dead_letters WHERE status = 'resolved'";
        assert_eq!(db.count(resolved, []).await, 1);
        assert_eq!(db.count("SELECT COUNT(*) FROM outbox_parked", []).await, 0);
    }

    /// PLAT-21, PLAT-38: a usage event is in one table.
    async fn delivered_messages_are_added_up_and_removed(db: Db) {
        db.register(queues(4)).await;
        let a = tenant(1);
        let event = r#"{"event_type":"usage_snapshot","user_id":"00000000-0000-4000-8000-000000000001","effective_model":"m",
            "reserve_day":"2026-03-09","timestamp":"2026-03-10T00:00:01Z","web_search_calls":1,
            "committed_credits_micro":5,"usage":{"input_tokens":2,"output_tokens":3}}"#;
        for payload in [event, event, r#"{"bad":1}"#, event] {
            db.enqueue(a, payload).await;
        }
        // One was enqueued before its queue got another name.
        let rename = "UPDATE outbox_messages SET queue = 'old', done_at = statement_timestamp() \
            WHERE id = (SELECT MIN(id) FROM outbox_messages)";
        db.sql(rename, []).await.unwrap();
        assert!(db.claim("x", HOUR).await);
        let messages = db.list(&[a], SHARE).await;
        db.acknowledge(&delivery(a, "x"), &messages[..2]).await;
        let vacuum = |after, age| db.tx(move |tx| Box::pin(async move {
            tx.outbox_vacuum(after, age, 2).await
        }));
        assert_eq!(vacuum(0, HOUR).await, None, "too young");
        let first = vacuum(0, Duration::ZERO).await.unwrap();
        assert_eq!(first.deleted, 2);
        assert_eq!(vacuum(first.last, Duration::ZERO).await.unwrap().deleted, 1);
        assert_eq!(vacuum(0, Duration::ZERO).await, None);
        assert_eq!(db.count("SELECT COUNT(*) FROM outbox_messages", []).await, 1);
        let sums = "SELECT events * 10000 + credits_micro * 100 + input_tokens + output_tokens \
            + web_search_calls FROM usage_rollups WHERE day = $1 AND model = 'm'";
        let day: minichat_core::Date = "2026-03-09".parse().unwrap();
        assert_eq!(db.count(sums, params![day]).await, 21_012);
    }

}

/// PLAT-32; check 18 of chapter 05: a message that is committed after a later one was
/// delivered is not skipped.
#[tokio::test]
async fn a_message_that_is_committed_late_is_delivered() {
    let db = Db::postgres().await;
    db.register(queues(4)).await;
    let a = tenant(1);
    let (enqueued, commit) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let late = tokio::spawn({
        let (store, enqueued, commit) = (db.store.clone(), enqueued.clone(), commit.clone());
        async move {
            let written: Result<(), StoreError> = store
                .write(move |tx| {
                    let (enqueued, commit) = (enqueued.clone(), commit.clone());
                    Box::pin(async move {
                        tx.outbox_enqueue(&message(a, "late"))?;
                        // The message has its number.
                        tx.outbox_oldest("usage").await?;
                        enqueued.notify_one();
                        commit.notified().await;
                        Ok(())
                    })
                })
                .await;
            written
        }
    });
    enqueued.notified().await;
    db.enqueue(a, "early").await;
    assert!(db.claim("x", HOUR).await);
    let messages = db.list(&[a], SHARE).await;
    assert_eq!(payloads(&messages), ["early"]);
    assert_eq!(db.acknowledge(&delivery(a, "x"), &messages).await, 1);
    commit.notify_one();
    late.await.unwrap().unwrap();
    let messages_late = db.list(&[a], SHARE).await;
    assert_eq!(payloads(&messages_late), ["late"]);
    assert!(messages_late[0].id < messages[0].id);
}

/// PLAT-33: of several, one holds a partition; what it writes later has no effect.
#[tokio::test]
async fn a_partition_has_one_holder() {
    let db = Db::postgres().await;
    db.register(queues(4)).await;
    let a = tenant(1);
    db.enqueue(a, "1").await;
    let claims = futures_util::future::join_all(
        ["1", "2", "3", "4", "5", "6"].map(|token| db.claim(token, HOUR)),
    );
    assert_eq!(claims.await.into_iter().filter(|it| *it).count(), 1);
    db.sql(
        "UPDATE outbox_partitions SET locked_by = NULL, locked_until = NULL",
        [],
    )
    .await
    .unwrap();

    assert!(db.claim("dead", Duration::ZERO).await);
    assert!(db.claim("next", HOUR).await, "the lease is over");
    let messages = db.list(&[a], SHARE).await;
    assert_eq!(db.acknowledge(&delivery(a, "dead"), &messages).await, 0);
    assert_eq!(db.park(&delivery(a, "dead"), HOUR).await, None);
    assert!(!db.reject(&delivery(a, "dead"), messages[0].id).await);
    db.write(|tx| tx.outbox_release("usage", 0, "dead"))
        .await
        .unwrap();
    assert!(
        !db.claim("other", HOUR).await,
        "somebody else's lease stays"
    );
    assert_eq!(db.acknowledge(&delivery(a, "next"), &messages).await, 1);
    db.write(|tx| tx.outbox_release("usage", 0, "next"))
        .await
        .unwrap();
    assert!(db.claim("other", HOUR).await);
}

/// 50 parked tenants with 1,000 messages each.
const PARKED: &str = "INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, \
    payload, created_at) SELECT 'usage', 0, CAST(lpad(to_hex(n % 50), 32, '0') AS UUID), 'json', \
    '{}', statement_timestamp() FROM generate_series(1, 50000) n";

/// PLAT-34: a list of what is due does not read what is not.
#[tokio::test]
async fn the_backlog_of_parked_tenants_is_not_walked() {
    let db = Db::postgres().await;
    db.register(queues(4)).await;
    db.sql(PARKED, []).await.unwrap();
    db.sql(
        "INSERT INTO outbox_parked (queue, partition, tenant_id, attempts, next_attempt_at, \
         failing_since) SELECT DISTINCT queue, partition, tenant_id, 1, \
         statement_timestamp() + INTERVAL '1 hour', statement_timestamp() FROM outbox_messages",
        [],
    )
    .await
    .unwrap();
    db.enqueue(tenant(1 << 40), "{}").await;
    db.sql("ANALYZE outbox_messages", []).await.unwrap();
    assert_eq!(db.due().await, [(tenant(1 << 40), 0)]);
    let read = messages_read(&db, DUE_SQL, ["'usage'", "0", "3"]).await;
    assert!((51.0..=120.0).contains(&read), "{read} rows");
}

/// How many messages a statement with these parameters reads.
async fn messages_read<const N: usize>(db: &Db, sql: &str, params: [&str; N]) -> f64 {
    let numbered = (1..).zip(params);
    let sql = numbered.fold(sql.to_owned(), |sql, (number, value)| {
        sql.replace(&format!("${number}"), value)
    });
    let sql = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}");
    let plan: Result<Vec<String>, StoreError> = db
        .store
        .read(move |tx| {
            let sql = sql.clone();
            Box::pin(async move { tx.query_page(&sql, false, &[], only_column).await })
        })
        .await;
    let plan = plan.unwrap();
    eprintln!("{plan:#?}");
    plan.iter()
        .filter(|line| line.contains(" on outbox_messages"))
        .map(|line| {
            let number = |name: &str| -> f64 {
                let (_, rest) = line.split_once(name).unwrap();
                let digits = rest.split([' ', ')']).next().unwrap();
                digits.parse().unwrap()
            };
            number("actual rows=") * number("loops=")
        })
        .sum()
}
