use std::sync::Arc;

use minichat_core::{AttachmentId, MessageId, RequestId};
use tokio::sync::Barrier;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::tx::{Dialect, only_column};
use crate::value::{Param, params};
use crate::{
    AdmissionQuery, AttachmentDeletion, AttachmentKey, ListedThumbnail, Message, MessageKey, Order,
    PageRequest, Role, StoreError, Tx, UsableAttachment,
};

/// Rounds of a race.
const ROUNDS: u32 = 60;

impl Db {
    async fn insert_ready_file(&self, kind: &'static str) -> AttachmentId {
        let id = AttachmentId::random();
        self.sql(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, provider_file_id, status, \
             attachment_kind, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, 'a', 'image/png', 1, 'main', 'file-1', 'ready', $5, $6, $6)",
            params![id, self.tenant, self.chat, self.user, kind, NOON],
        )
        .await
        .unwrap();
        id
    }

    async fn add_thumbnail(&self, file: AttachmentId, bytes: usize) {
        let webp = Param::Bytes(vec![7; bytes].into());
        let sql = "UPDATE attachments SET img_thumbnail = $2, img_thumbnail_width = 128, \
            img_thumbnail_height = 64 WHERE id = $1";
        self.sql(sql, [file.into(), webp]).await.unwrap();
    }

    /// The messages of the chat.
    async fn page(&self) -> Vec<Message> {
        let (tenant, user, chat) = (self.tenant, self.user, self.chat);
        let request = PageRequest::first(5, Order::OLDEST_FIRST);
        let page: Result<_, StoreError> = self
            .store
            .read(move |tx| {
                let request = request.clone();
                Box::pin(async move { tx.message_list(tenant, user, chat, &request).await })
            })
            .await;
        page.unwrap().items
    }

    /// Deletes a file as its user does.
    async fn delete_as_user(&self, id: AttachmentId) -> AttachmentDeletion {
        let user = self.user;
        let key = AttachmentKey {
            tenant_id: self.tenant,
            chat_id: self.chat,
            id,
        };
        let deletion: Result<_, StoreError> = self
            .store
            .write(move |tx| Box::pin(async move { tx.attachment_delete(user, key, NOON).await }))
            .await;
        deletion.unwrap()
    }

    /// Sends a message with `ids`, if all of them can be sent.
    async fn send_files(&self, ids: Vec<AttachmentId>) -> Result<bool, StoreError> {
        let (tenant_id, user_id, chat_id) = (self.tenant, self.user, self.chat);
        let request_id = RequestId::random();
        let message = self.send(NOON).message(MessageId::random(), Role::User, "");
        let query = AdmissionQuery {
            tenant_id,
            user_id,
            chat_id,
            request_id,
            recent_messages_limit: 0,
            ignores_summary: false,
        };
        self.store
            .write(move |tx| {
                let ids = ids.clone();
                Box::pin(async move {
                    tx.turn_admission_facts(&query).await?;
                    let files = tx.attachments_usable(tenant_id, user_id, chat_id, &ids);
                    if files.await?.len() < ids.len() {
                        return Ok(false);
                    }
                    tx.message_insert(&message)?;
                    let key = MessageKey {
                        tenant_id,
                        chat_id,
                        id: message.id,
                    };
                    tx.message_attach(key, &ids, NOON)?;
                    Ok(true)
                })
            })
            .await
    }

    /// Deletes a file that no message is linked to, after it has locked the chat or
    /// the row of the file.
    async fn delete_file(&self, file: AttachmentId, lock: Lock) -> Result<bool, StoreError> {
        let (tenant, user, chat) = (self.tenant, self.user, self.chat);
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    match lock {
                        Lock::Chat => tx.chat_lock(tenant, user, chat)?,
                        Lock::Row => lock_row(tx, file).await?,
                    }
                    let deleted: Option<AttachmentId> = tx
                        .query_opt(
                            "UPDATE attachments SET deleted_at = $2 WHERE id = $1 \
                             AND deleted_at IS NULL AND NOT EXISTS (SELECT 1 \
                             FROM message_attachments l WHERE l.attachment_id = $1) \
                             RETURNING id",
                            &params![file, NOON],
                            only_column,
                        )
                        .await?;
                    Ok(deleted.is_some())
                })
            })
            .await
    }

    async fn usable(&self, ids: Vec<AttachmentId>) -> Vec<UsableAttachment> {
        let (tenant, user, chat) = (self.tenant, self.user, self.chat);
        self.store
            .write(move |tx| {
                let ids = ids.clone();
                Box::pin(async move { tx.attachments_usable(tenant, user, chat, &ids).await })
            })
            .await
            .unwrap()
    }
}

/// What a deletion locks first.
#[derive(Clone, Copy, Debug)]
enum Lock {
    Chat,
    Row,
}

async fn lock_row(tx: &mut Tx, file: AttachmentId) -> Result<(), StoreError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT id FROM attachments WHERE id = $1",
        Dialect::Postgres => "SELECT id FROM attachments WHERE id = $1 FOR UPDATE",
    };
    tx.query(sql, &params![file], only_column::<AttachmentId>)
        .await
        .map(drop)
}

on_both_databases! {
    /// CONT-70: a message and the deletion of its file begin at the same time. One of
    /// them wins, and the other one sees it.
    async fn no_message_is_linked_to_a_deleted_file(db: Db) {
        let mut wins = [0, 0];
        for round in 0..ROUNDS {
            let lock = if round % 2 == 0 { Lock::Chat } else { Lock::Row };
            let file = db.insert_ready_file("image").await;
            let (sent, deleted) = if round % 3 == 0 {
                let (deleted, sent) =
                    tokio::join!(db.delete_file(file, lock), db.send_files(vec![file]));
                (sent.unwrap(), deleted.unwrap())
            } else {
                let (sent, deleted) =
                    tokio::join!(db.send_files(vec![file]), db.delete_file(file, lock));
                (sent.unwrap(), deleted.unwrap())
            };
            assert_ne!(sent, deleted, "round {round}, {lock:?}");
            wins[usize::from(deleted)] += 1;
        }
        let linked = "SELECT COUNT(*) FROM message_attachments l \
            JOIN attachments a ON a.id = l.attachment_id WHERE a.deleted_at IS NOT NULL";
        assert_eq!(db.count(linked, []).await, 0);
        assert!(wins[0] > 0 && wins[1] > 0, "{wins:?}");
    }

    /// CONT-70: of what was asked for, only what can be sent is found.
    async fn only_files_that_can_be_sent_are_found(db: Db) {
        let image = db.insert_ready_file("image").await;
        let document = db.insert_ready_file("document").await;
        let deleted = db.insert_ready_file("image").await;
        assert!(db.delete_file(deleted, Lock::Chat).await.unwrap());
        let mut asked = vec![deleted, document, AttachmentId::random(), image];
        let mut found = db.usable(asked.clone()).await;
        found.sort_by_key(|file| file.image_file_id.is_none());
        let expected = |id, kind: &str, image_file_id: Option<&str>| UsableAttachment {
            id,
            kind: kind.to_owned(),
            content_type: "image/png".to_owned(),
            size_bytes: 1,
            image_file_id: image_file_id.map(str::to_owned),
            storage_backend: "main".to_owned(),
        };
        assert_eq!(found, [
            expected(image, "image", Some("file-1")),
            expected(document, "document", None),
        ]);
        assert_eq!(db.usable(Vec::new()).await, []);
        asked.resize_with(20, AttachmentId::random);
        assert_eq!(db.usable(asked).await.len(), 2);
    }

    /// API-60: each message shows its own files in their order, however many messages
    /// a page has.
    async fn each_message_of_a_page_shows_its_files(db: Db) {
        let mut files = Vec::new();
        for _ in 0..3 {
            files.push(db.insert_ready_file("image").await);
        }
        files.sort_by_key(|id| std::cmp::Reverse(id.0));
        for count in [1, 0, 3, 2, 3] {
            assert!(db.send_files(files[..count].to_vec()).await.unwrap());
        }
        let listed: Vec<Vec<_>> = db.page().await.iter()
            .map(|message| message.attachments.iter().map(|file| file.attachment_id).collect())
            .collect();
        let expected: Vec<_> = [1, 0, 3, 2, 3].map(|count| files[..count].to_vec()).to_vec();
        assert_eq!(listed, expected);
    }

    /// API-60: what of a page's thumbnails fits into a mebibyte, in turn from each message.
    async fn a_page_shows_as_many_thumbnails_as_fit(db: Db) {
        let mut files = Vec::new();
        for nth in 0..12 {
            let file = db.insert_ready_file("image").await;
            if nth != 1 {
                db.add_thumbnail(file, 131_072).await;
            }
            files.push(file);
        }
        let (first, second) = files.split_at(10);
        assert!(db.send_files(first.to_vec()).await.unwrap());
        assert!(db.send_files(second.to_vec()).await.unwrap());
        let page = db.page().await;
        let kinds = |message: &Message| -> String {
            let files = message.attachments.iter();
            files.map(|file| match &file.thumbnail {
                ListedThumbnail::None => '-',
                ListedThumbnail::Omitted => '.',
                ListedThumbnail::Shown(thumbnail) => {
                    assert_eq!(thumbnail.webp, vec![7; 131_072]);
                    assert_eq!((thumbnail.width, thumbnail.height), (128, 64));
                    'x'
                }
            }).collect()
        };
        assert_eq!(kinds(&page[0]), "x-xxxxx...");
        assert_eq!(kinds(&page[1]), "xx");
    }

    /// CONT-70, CONT-73: a message with several files, and the deletion of each of them,
    /// begin at once.
    async fn a_message_has_all_of_its_files_or_was_not_sent(db: Db) {
        let db = Arc::new(db);
        let mut wins = [0, 0];
        for round in 0..ROUNDS {
            let mut files = Vec::new();
            for _ in 0..4 {
                files.push(db.insert_ready_file("image").await);
            }
            let barrier = Arc::new(Barrier::new(files.len() + 1));
            let deletions: Vec<_> = files.iter().map(|&file| {
                let (db, barrier) = (Arc::clone(&db), Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    db.delete_as_user(file).await
                })
            }).collect();
            // Who locks first is left to chance; the order of the locks must not matter.
            if round % 2 == 0 {
                files.reverse();
            }
            barrier.wait().await;
            let sent = db.send_files(files.clone()).await.unwrap();
            let mut deleted = 0;
            for deletion in deletions {
                match deletion.await.unwrap() {
                    AttachmentDeletion::Deleted(_) => deleted += 1,
                    AttachmentDeletion::Locked => assert!(sent, "round {round}"),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(deleted, if sent { 0 } else { files.len() }, "round {round}");
            wins[usize::from(sent)] += 1;
        }
        let wrong = "SELECT COUNT(*) FROM message_attachments l \
            JOIN attachments a ON a.id = l.attachment_id WHERE a.deleted_at IS NOT NULL";
        assert_eq!(db.count(wrong, []).await, 0);
        assert!(wins[0] > 0, "{wins:?}");
    }

    /// CONT-70: twenty files are linked in their order, of which none is named twice.
    async fn a_message_has_as_many_files_as_it_may(db: Db) {
        let mut files = Vec::new();
        for _ in 0..20 {
            files.push(db.insert_ready_file("document").await);
        }
        files.sort_by_key(|id| std::cmp::Reverse(id.0));
        assert!(db.send_files(files.clone()).await.unwrap());
        let page = db.page().await;
        let listed: Vec<_> = page[0].attachments.iter().map(|file| file.attachment_id).collect();
        assert_eq!(listed, files);
        let instants = "SELECT COUNT(DISTINCT created_at) FROM message_attachments";
        assert_eq!(db.count(instants, []).await, 20);
    }
}
