//! The clean-up on a database of the release before it knew tenants (K8S-43): what that
//! release left, and what its processes still write beside this one.

use minichat_core::Timestamp;
use uuid::Uuid;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{CleanupTimes, DueKind, DuePart, DuePlace, Store, StoreError};

/// Undoes the migration.
const BEFORE: [&str; 6] = [
    "DROP INDEX attachments_due",
    "DROP INDEX chat_vector_stores_due",
    "ALTER TABLE attachments DROP COLUMN cleanup_due_at",
    "ALTER TABLE chat_vector_stores DROP COLUMN cleanup_due_at",
    "CREATE INDEX attachments_pending_cleanup ON attachments (cleanup_updated_at, chat_id) \
     WHERE cleanup_status = 'pending'",
    "DELETE FROM schema_migrations WHERE version = 11",
];

/// What that release writes when it deletes a chat, and when a deletion fails.
const DELETION: [&str; 3] = [
    "UPDATE chats SET deleted_at = $2, updated_at = $2 WHERE id = $1",
    "UPDATE attachments SET cleanup_status = 'pending', cleanup_updated_at = $2 \
     WHERE chat_id = $1 AND cleanup_status IS NULL",
    "UPDATE attachments SET cleanup_attempts = cleanup_attempts + 1, cleanup_updated_at = $2, \
     last_cleanup_error = 'why' WHERE chat_id = $1",
];

/// The statement by which it finds what is due.
const DUE: &str = "SELECT COUNT(*) FROM attachments a JOIN chats c ON c.id = a.chat_id \
    AND c.tenant_id = a.tenant_id WHERE a.cleanup_status = 'pending' \
    AND (a.cleanup_attempts = 0 OR a.cleanup_updated_at <= $1) AND c.deleted_at IS NOT NULL";

impl Db {
    async fn chat_with_file_and_store(&self) -> Uuid {
        let chat = minichat_core::ChatId::random();
        self.insert_chat(self.user, chat, NOON).await;
        for sql in [
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, provider_file_id, status, \
             attachment_kind, created_at, updated_at) SELECT id, tenant_id, id, user_id, 'f', \
             't', 1, 'main', 'file-1', 'ready', 'document', created_at, created_at FROM chats \
             WHERE id = $1",
            "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, \
             created_at) SELECT id, tenant_id, id, 'vs-1', 'main', created_at FROM chats \
             WHERE id = $1",
        ] {
            self.sql(sql, params![chat]).await.unwrap();
        }
        chat.0
    }

    async fn delete_as_before(&self, chat: Uuid, at: Timestamp) {
        for sql in DELETION {
            self.sql(sql, params![chat, at]).await.unwrap();
        }
    }

    /// Files and stores that are due, after what is not marked was.
    async fn found(&self) -> [usize; 2] {
        let (tenant, after) = (self.tenant, NOON.plus_micros(3_600_000_000));
        let found: Result<_, StoreError> = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let looked_until = tx.cleanup_looked_until().await?;
                    let from = looked_until.unwrap_or(Timestamp::from_micros(0));
                    let page = tx.cleanup_deleted_page(from, 100).await?;
                    tx.cleanup_rearm_deleted(page.chats, 100).await?;
                    let now = tx.now().await?.max(after);
                    let times = CleanupTimes {
                        now,
                        stale_before: now,
                    };
                    let mut found = [0, 0];
                    for (count, kind) in found.iter_mut().zip([DueKind::Files, DueKind::Stores]) {
                        let part = DuePart {
                            tenant_id: tenant,
                            kind,
                            label: "main".to_owned(),
                        };
                        let due = tx.cleanup_due(&part, times, DuePlace::START, 100).await?;
                        *count = due.len();
                    }
                    Ok(found)
                })
            })
            .await;
        found.unwrap()
    }
}

on_both_databases! {
    /// K8S-43, CONT-174: nothing of what the release before has deleted is lost, whether it
    /// did so before the migration or after it, although it says that it has looked through
    /// its chats; and it can work on the new tables.
    async fn what_the_release_before_deleted_is_found(db: Db) {
        for sql in BEFORE {
            db.sql(sql, []).await.unwrap();
        }
        let (deleted, living, later) = (
            db.chat_with_file_and_store().await,
            db.chat_with_file_and_store().await,
            db.chat_with_file_and_store().await,
        );
        db.delete_as_before(deleted, NOON).await;
        let looked = "INSERT INTO cleanup_progress (scan, deleted_until) VALUES ('deleted_chats', $1)";
        db.sql(looked, params![NOON.plus_micros(10)]).await.unwrap();
        let Db { store, settings, clock, directory, tenant, user, chat, .. } = db;
        drop(store);
        let store = Store::open(&settings, clock.clone()).await.unwrap();
        let db = Db { store, settings, clock, tenant, user, chat, directory };
        db.delete_as_before(later, NOON.plus_micros(1)).await;
        assert_eq!(db.count(DUE, params![NOON.plus_micros(1)]).await, 2);
        let without = "UPDATE attachments SET cleanup_status = 'done' WHERE chat_id = $1";
        assert_eq!(db.found().await, [2, 0], "files go first");
        for chat in [deleted, later] {
            db.sql(without, params![chat]).await.unwrap();
        }
        assert_eq!(db.found().await, [0, 2]);
        let unmarked = "SELECT COUNT(*) FROM chat_vector_stores WHERE cleanup_due_at IS NULL \
            AND chat_id = $1";
        assert_eq!(db.count(unmarked, params![living]).await, 1);
    }
}
