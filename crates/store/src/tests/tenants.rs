use minichat_core::{NamespacedName, TenantId};

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{Store, StoreError};

fn name(text: &str) -> NamespacedName {
    text.parse().unwrap()
}

async fn owner_after(store: &Store, tenant: TenantId, claimant: &'static str) -> NamespacedName {
    let owner: Result<_, StoreError> = store
        .write(move |tx| Box::pin(async move { tx.tenant_claim(tenant, &name(claimant)).await }))
        .await;
    owner.unwrap()
}

async fn release(db: &Db, tenant: TenantId) -> bool {
    let released: Result<_, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.tenant_release(tenant).await }))
        .await;
    released.unwrap()
}

on_both_databases! {
    /// D36
    async fn an_id_is_its_first_owners(db: Db) {
        let id = TenantId::random();
        assert_eq!(owner_after(&db.store, id, "a/acme").await, name("a/acme"));
        assert_eq!(owner_after(&db.store, id, "b/acme").await, name("a/acme"));
        assert_eq!(owner_after(&db.store, id, "a/acme").await, name("a/acme"));
        assert_eq!(owner_after(&db.store, TenantId::random(), "b/acme").await, name("b/acme"));
    }

    /// D36: two claims overlap, and neither sees the other's row when it begins.
    async fn of_claims_at_once_one_wins(db: Db) {
        for _ in 0..20 {
            let id = TenantId::random();
            let claimants = ["a/acme", "b/acme", "c/acme", "d/acme"];
            let claims = claimants.map(|claimant| owner_after(&db.store, id, claimant));
            let owners = futures_util::future::join_all(claims).await;
            assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        }
    }

    /// D36: only the owner's id is transferred.
    async fn an_id_is_transferred_from_its_owner_alone(db: Db) {
        let id = TenantId::random();
        let transfer = async |from: &'static str, to: &'static str| {
            let moved: Result<_, StoreError> = db
                .store
                .write(move |tx| {
                    Box::pin(async move { tx.tenant_transfer(id, &name(from), &name(to)).await })
                })
                .await;
            moved.unwrap()
        };
        assert!(!transfer("a/acme", "b/acme").await, "nobody was served");
        owner_after(&db.store, id, "a/acme").await;
        assert!(!transfer("c/acme", "b/acme").await);
        assert!(transfer("a/acme", "b/acme").await);
        assert_eq!(owner_after(&db.store, id, "a/acme").await, name("b/acme"));
        let listed: Result<Vec<_>, StoreError> = db
            .store
            .read(|tx| Box::pin(async move { tx.tenant_list().await }))
            .await;
        let listed = listed.unwrap();
        assert_eq!((listed.len(), listed[0].id), (1, id));
        assert!(listed[0].first_served <= listed[0].last_served);
    }

    /// D36: "for as long as rows of it exist", in any table.
    async fn an_id_is_free_when_no_row_of_its_tenant_is_left(db: Db) {
        owner_after(&db.store, db.tenant, "a/acme").await;
        assert!(!release(&db, db.tenant).await, "it has a chat");
        db.sql("DELETE FROM chats WHERE tenant_id = $1", params![db.tenant]).await.unwrap();
        db.sql(
            "INSERT INTO policy_snapshots (tenant_id, policy_version, content_hash, snapshot, \
             created_at) VALUES ($1, 1, 'h', '{}', $2)",
            params![db.tenant, NOON],
        ).await.unwrap();
        assert!(!release(&db, db.tenant).await, "it has a policy");
        db.sql("DELETE FROM policy_snapshots", []).await.unwrap();
        assert!(release(&db, db.tenant).await);
        assert_eq!(owner_after(&db.store, db.tenant, "b/acme").await, name("b/acme"));
    }
}

/// A table that is added later must be added to the query.
#[tokio::test]
async fn every_table_with_rows_of_tenants_keeps_the_ownership() {
    let db = Db::sqlite().await;
    let tables: Result<Vec<String>, StoreError> = db
        .store
        .read(|tx| {
            Box::pin(async move {
                let sql = "SELECT t.name FROM sqlite_schema t, pragma_table_info(t.name) c \
                    WHERE t.type = 'table' AND c.name = 'tenant_id'";
                tx.query(sql, &[], crate::tx::only_column).await
            })
        })
        .await;
    let tables = tables.unwrap();
    assert!(tables.len() >= 12, "{tables:?}");
    for table in tables {
        let part = format!("NOT EXISTS (SELECT 1 FROM {table} WHERE tenant_id = $1)");
        assert!(crate::tenants::RELEASE.contains(&part), "{table}");
    }
}
