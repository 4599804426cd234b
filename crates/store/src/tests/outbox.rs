use minichat_core::{RequestId, TenantId, TurnId};
use uuid::Uuid;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::{OutboxMessage, StoreError};

const COUNT: &str = "SELECT COUNT(*) FROM outbox_messages WHERE done_at IS NULL";

fn message(tenant_id: TenantId, dedupe_key: Option<&str>) -> OutboxMessage<'_> {
    OutboxMessage {
        queue: "usage",
        tenant_id,
        key: tenant_id.0,
        partitions: 4,
        dedupe_key,
        payload: r#"{"event_type":"usage_snapshot"}"#,
        created_at: NOON,
    }
}

on_both_databases! {
    /// PLAT-37: the second enqueue with the same key does nothing.
    async fn a_dedupe_key_is_enqueued_once(db: Db) {
        let tenant = db.tenant;
        let key = minichat_core::ids::usage_dedupe_key(tenant, TurnId::random(), RequestId::random());
        for _ in 0..2 {
            let key = key.clone();
            db.write(move |tx| tx.outbox_enqueue(&message(tenant, Some(&key)))).await.unwrap();
        }
        assert_eq!(db.count(COUNT, []).await, 1);
        for _ in 0..2 {
            db.write(move |tx| tx.outbox_enqueue(&message(tenant, None))).await.unwrap();
        }
        assert_eq!(db.count(COUNT, []).await, 3);
    }

    /// PLAT-32: an id is never given again, nor taken from a cache of lower ones.
    async fn ids_of_messages_only_rise(db: Db) {
        const NEWEST: &str = "SELECT COALESCE(MAX(id), 0) FROM outbox_messages";
        let tenant = db.tenant;
        let mut last = 0;
        for _ in 0..3 {
            db.write(move |tx| tx.outbox_enqueue(&message(tenant, None))).await.unwrap();
            let newest = db.count(NEWEST, []).await;
            assert!(newest > last, "{newest} after {last}");
            last = newest;
            db.sql("DELETE FROM outbox_messages", []).await.unwrap();
        }
    }

    /// PLAT-37: a key that another tenant used aborts the whole transaction.
    async fn a_dedupe_key_of_another_tenant_aborts(db: Db) {
        let (tenant, other) = (db.tenant, TenantId::random());
        let key = minichat_core::ids::usage_dedupe_key(other, TurnId::random(), RequestId::random());
        let refused = db.write(move |tx| {
            tx.outbox_enqueue(&message(tenant, None))?;
            tx.outbox_enqueue(&message(tenant, Some(&key)))
        }).await;
        assert!(matches!(refused, Err(StoreError::DedupeKey)), "{refused:?}");
        assert_eq!(db.count(COUNT, []).await, 0);
    }
}

/// PLAT-32: sessions with ids in stock would enqueue lower ids after higher ones.
#[tokio::test]
async fn ids_of_messages_are_not_cached_by_sessions() {
    let db = Db::postgres().await;
    let sql =
        "SELECT CAST(MAX(cache_size) AS BIGINT) FROM pg_sequences WHERE schemaname = 'public'";
    assert_eq!(db.count(sql, []).await, 1);
}

/// PLAT-31, PLAT-39, QUOTA-94: partition = key mod N.
#[test]
fn the_partition_is_the_key_modulo_the_number_of_partitions() {
    let tenant = TenantId(Uuid::from_u128(0xabcd_0000_0000_0005));
    assert_eq!(message(tenant, None).partition(), 1);
}
