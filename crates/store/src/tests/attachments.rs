//! Rows of attachments: what each update needs, and what a chat may hold.

use minichat_core::{AttachmentId, AttachmentKind, ChatId, MessageId, Timestamp, UserId};

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{
    AttachmentDeletion, AttachmentInsert, AttachmentKey, AttachmentStatus, ChatLimits,
    DeletedAttachment, NewAttachment, StoreError, Thumbnail, Tx,
};

const LIMITS: ChatLimits = ChatLimits {
    documents: 2,
    bytes: 100,
};

/// `seconds` after noon.
fn later(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOON.as_micros() + seconds * 1_000_000)
}

/// A file of `size` bytes to insert into the chat of `db`.
fn file(db: &Db, kind: AttachmentKind, size: u64) -> NewAttachment<'static> {
    NewAttachment {
        id: AttachmentId::random(),
        tenant_id: db.tenant,
        chat_id: db.chat,
        user_id: db.user,
        filename: "a.txt",
        content_type: "text/plain",
        size_bytes: size,
        storage_backend: "main",
        kind,
        for_file_search: true,
        for_code_interpreter: false,
        created_at: NOON,
    }
}

async fn insert(db: &Db, new: NewAttachment<'static>) -> AttachmentInsert {
    let inserted: Result<_, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.attachment_insert(&new, LIMITS).await }))
        .await;
    inserted.unwrap()
}

/// A pending document of one byte.
async fn pending(db: &Db) -> AttachmentKey {
    let new = file(db, AttachmentKind::Document, 1);
    assert_eq!(insert(db, new).await, AttachmentInsert::Inserted);
    AttachmentKey {
        tenant_id: db.tenant,
        chat_id: db.chat,
        id: new.id,
    }
}

async fn uploaded(db: &Db, key: AttachmentKey) -> bool {
    let changed: Result<_, StoreError> = db
        .store
        .write(move |tx| {
            Box::pin(async move { tx.attachment_uploaded(key, "file-1", 7, later(1)).await })
        })
        .await;
    changed.unwrap()
}

async fn ready(db: &Db, key: AttachmentKey) -> bool {
    let thumbnail = Thumbnail {
        webp: b"RIFF\0".to_vec(),
        width: 128,
        height: 64,
    };
    let changed: Result<_, StoreError> = db
        .store
        .write(move |tx| {
            let thumbnail = thumbnail.clone();
            Box::pin(async move { tx.attachment_ready(key, Some(&thumbnail), later(2)).await })
        })
        .await;
    changed.unwrap()
}

async fn failed(db: &Db, key: AttachmentKey) {
    let job = move |tx: &mut Tx| tx.attachment_failed(key, "upload_failed", later(3));
    db.write(job).await.unwrap();
}

async fn discarded(db: &Db, key: AttachmentKey) {
    let job = move |tx: &mut Tx| tx.attachment_discard(key, "file-2", later(4));
    db.write(job).await.unwrap();
}

async fn delete(db: &Db, user: UserId, key: AttachmentKey) -> AttachmentDeletion {
    let deletion: Result<_, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.attachment_delete(user, key, later(5)).await }))
        .await;
    deletion.unwrap()
}

async fn found(db: &Db, key: AttachmentKey) -> crate::Attachment {
    let user = db.user;
    let found: Result<_, StoreError> = db
        .store
        .read(move |tx| Box::pin(async move { tx.attachment_get(user, key).await }))
        .await;
    found.unwrap().unwrap()
}

/// Whether the row of `key` is as `condition` says.
async fn holds(db: &Db, key: AttachmentKey, condition: &'static str) -> bool {
    let sql = format!("SELECT COUNT(*) FROM attachments WHERE id = $1 AND {condition}");
    db.count(sql.leak(), params![key.id]).await == 1
}

on_both_databases! {
    /// CONT-58
    async fn an_upload_walks_to_ready_and_its_end_is_final(db: Db) {
        let key = pending(&db).await;
        assert!(!ready(&db, key).await, "before the provider has the file");
        assert!(uploaded(&db, key).await);
        assert!(!uploaded(&db, key).await, "twice");
        assert!(ready(&db, key).await);
        assert!(!ready(&db, key).await, "twice");
        failed(&db, key).await;
        discarded(&db, key).await;
        let row = found(&db, key).await;
        assert_eq!((row.status, row.size_bytes), (AttachmentStatus::Ready, 7));
        assert_eq!((row.error_code, row.filename.as_str()), (None, "a.txt"));
        let thumbnail = row.thumbnail.unwrap();
        assert_eq!(thumbnail.webp, b"RIFF\0");
        assert_eq!((thumbnail.width, thumbnail.height), (128, 64));
        assert!(holds(&db, key, "provider_file_id = 'file-1' AND cleanup_status IS NULL").await);

        let lost = pending(&db).await;
        failed(&db, lost).await;
        assert!(!uploaded(&db, lost).await, "after the failure");
        assert!(holds(&db, lost, "status = 'failed' AND error_code = 'upload_failed'").await);
    }

    /// CONT-64: whatever became of the row, the clean-up gets to know the file.
    async fn a_discarded_file_is_left_to_the_clean_up(db: Db) {
        let failing = pending(&db).await;
        assert!(uploaded(&db, failing).await);
        failed(&db, failing).await;
        discarded(&db, failing).await;
        assert!(holds(&db, failing, "status = 'failed' AND cleanup_status = 'pending'").await);

        let deleted = pending(&db).await;
        delete(&db, db.user, deleted).await;
        assert!(!uploaded(&db, deleted).await, "the row is deleted");
        // The clean-up was there before the file.
        db.sql("UPDATE attachments SET cleanup_status = 'done' WHERE id = $1", params![deleted.id])
            .await
            .unwrap();
        discarded(&db, deleted).await;
        let is_due = "provider_file_id = 'file-2' AND cleanup_status = 'pending' AND status = 'pending'";
        assert!(holds(&db, deleted, is_due).await);
        db.sql("UPDATE attachments SET cleanup_status = 'done' WHERE id = $1", params![deleted.id])
            .await
            .unwrap();
        discarded(&db, deleted).await;
        assert!(holds(&db, deleted, "cleanup_status = 'done'").await, "the file is gone");

        // The clean-up was there before the file got into the vector store.
        let indexed = pending(&db).await;
        assert!(uploaded(&db, indexed).await);
        delete(&db, db.user, indexed).await;
        for (status, is_due) in [("done", true), ("pending", true), ("failed", false)] {
            let set = "UPDATE attachments SET cleanup_status = $2, cleanup_updated_at = $3 WHERE id = $1";
            db.sql(set, params![indexed.id, status, later(3)]).await.unwrap();
            discarded(&db, indexed).await;
            let is_pending = "cleanup_status = 'pending' AND cleanup_updated_at <> $2";
            let sql = format!("SELECT COUNT(*) FROM attachments WHERE id = $1 AND {is_pending}");
            let count = db.count(sql.leak(), params![indexed.id, later(3)]).await;
            assert_eq!(count == 1, is_due, "{status}");
        }
    }

    /// CONT-58: the deletion of a chat wins against an upload.
    async fn an_upload_loses_against_the_deletion_of_its_chat(db: Db) {
        let key = pending(&db).await;
        let second = pending(&db).await;
        assert!(uploaded(&db, second).await);
        let (tenant, user, chat) = (db.tenant, db.user, db.chat);
        let deleted: Result<_, StoreError> = db
            .store
            .write(move |tx| Box::pin(async move { tx.chat_delete(tenant, user, chat, later(1)).await }))
            .await;
        assert!(deleted.unwrap());
        assert!(!uploaded(&db, key).await && !ready(&db, second).await);
        let new = file(&db, AttachmentKind::Image, 1);
        assert_eq!(insert(&db, new).await, AttachmentInsert::NoChat);
    }

    /// CONT-55
    async fn a_chat_holds_no_more_than_it_may(db: Db) {
        let mut image = file(&db, AttachmentKind::Image, 60);
        assert_eq!(insert(&db, image).await, AttachmentInsert::Inserted);
        image.id = AttachmentId::random();
        assert_eq!(insert(&db, image).await, AttachmentInsert::TooManyBytes);
        image.size_bytes = 40;
        assert_eq!(insert(&db, image).await, AttachmentInsert::Inserted);
        let unknown = file(&db, AttachmentKind::Document, 0);
        assert_eq!(insert(&db, unknown).await, AttachmentInsert::Inserted);
        let (tenant_id, chat_id) = (db.tenant, db.chat);
        let key = |id| AttachmentKey { tenant_id, chat_id, id };
        failed(&db, key(image.id)).await;
        let second = file(&db, AttachmentKind::Document, 40);
        assert_eq!(insert(&db, second).await, AttachmentInsert::Inserted);
        let total: Result<_, StoreError> = db
            .store
            .read(move |tx| Box::pin(async move { tx.attachment_total(tenant_id, chat_id).await }))
            .await;
        assert_eq!(total.unwrap(), 100);
        let third = file(&db, AttachmentKind::Document, 0);
        assert_eq!(insert(&db, third).await, AttachmentInsert::TooManyDocuments);
        failed(&db, key(unknown.id)).await;
        assert_eq!(insert(&db, third).await, AttachmentInsert::TooManyDocuments, "failed ones count");
        delete(&db, db.user, key(unknown.id)).await;
        assert_eq!(insert(&db, third).await, AttachmentInsert::Inserted);
        let mut foreign = file(&db, AttachmentKind::Image, 0);
        foreign.user_id = UserId::random();
        assert_eq!(insert(&db, foreign).await, AttachmentInsert::NoChat);
    }

    /// CONT-55: the chat is locked while its files are counted.
    async fn uploads_at_once_are_counted_one_after_the_other(db: Db) {
        let inserts = [(); 12].map(|()| insert(&db, file(&db, AttachmentKind::Document, 1)));
        let results = futures_util::future::join_all(inserts).await;
        let inserted = results.iter().filter(|it| **it == AttachmentInsert::Inserted);
        assert_eq!(inserted.count(), 2, "{results:?}");
    }

    /// CONT-73, CONT-162
    async fn a_file_is_deleted_once_and_never_while_a_message_has_it(db: Db) {
        let key = pending(&db).await;
        assert!(uploaded(&db, key).await);
        let stranger = UserId::random();
        assert_eq!(delete(&db, stranger, key).await, AttachmentDeletion::NoChat);
        let other = AttachmentKey { id: AttachmentId::random(), ..key };
        assert_eq!(delete(&db, db.user, other).await, AttachmentDeletion::NoAttachment);
        let other = AttachmentKey { chat_id: ChatId::random(), ..key };
        assert_eq!(delete(&db, db.user, other).await, AttachmentDeletion::NoChat);
        db.sql(
            "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, \
             created_at) VALUES ($1, $2, $3, 'vs-1', 'main', $4)",
            params![uuid::Uuid::new_v4(), db.tenant, db.chat, NOON],
        )
        .await
        .unwrap();
        let deleted = DeletedAttachment {
            provider_file_id: Some("file-1".to_owned()),
            vector_store_id: Some("vs-1".to_owned()),
            storage_backend: "main".to_owned(),
            kind: AttachmentKind::Document,
        };
        assert_eq!(delete(&db, db.user, key).await, AttachmentDeletion::Deleted(deleted));
        assert_eq!(delete(&db, db.user, key).await, AttachmentDeletion::Already);
        assert_eq!(found(&db, key).await.deleted_at, Some(later(5)));
        assert!(holds(&db, key, "cleanup_status = 'pending' AND cleanup_updated_at = deleted_at").await);

        let linked = pending(&db).await;
        let message = MessageId::random();
        db.sql(
            "INSERT INTO messages (id, tenant_id, chat_id, role, content, created_at, deleted_at) \
             VALUES ($1, $2, $3, 'user', 'a', $4, $4)",
            params![message, db.tenant, db.chat, NOON],
        )
        .await
        .unwrap();
        db.sql(
            "INSERT INTO message_attachments (chat_id, message_id, attachment_id, tenant_id, \
             created_at) VALUES ($1, $2, $3, $4, $5)",
            params![db.chat, message, linked.id, db.tenant, NOON],
        )
        .await
        .unwrap();
        assert_eq!(delete(&db, db.user, linked).await, AttachmentDeletion::Locked);
        db.sql("UPDATE attachments SET uploaded_by_user_id = $1", params![stranger]).await.unwrap();
        assert_eq!(delete(&db, db.user, linked).await, AttachmentDeletion::Foreign);
    }
}
