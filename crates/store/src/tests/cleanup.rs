//! The statements of the clean-up (CONT-160 to CONT-175).

use std::time::Duration;

use minichat_core::{AttachmentId, ChatId, Timestamp};
use uuid::Uuid;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{
    BoxFuture, CleanupClaim, CleanupStep, CleanupTimes, DeletedPage, DroppedStore, DueChat,
    DueKind, DuePart, DuePlace, FailedAttempt, FailedDeletion, LeftStore, PendingFile, StoreError,
    Tx,
};

const LEASE: Duration = Duration::from_hours(1);
const MINUTE: i64 = 60_000_000;

/// A row of `attachments`.
#[derive(Clone, Copy)]
struct File {
    chat: ChatId,
    provider_file_id: Option<&'static str>,
    status: &'static str,
    cleanup_status: Option<&'static str>,
    is_deleted: bool,
}

impl File {
    const fn pending(chat: ChatId) -> Self {
        Self {
            chat,
            provider_file_id: Some("file-1"),
            status: "ready",
            cleanup_status: Some("pending"),
            is_deleted: false,
        }
    }
}

fn claimed_by(db: &Db, token: &str) -> CleanupClaim {
    CleanupClaim {
        tenant_id: db.tenant,
        chat_id: db.chat,
        token: token.to_owned(),
        lease: LEASE,
    }
}

impl Db {
    async fn cleanup<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> T {
        self.store.write(job).await.unwrap()
    }

    /// Now, and an instant by which an upload of a quarter of an hour ago is abandoned.
    /// The databases have different clocks.
    async fn times(&self) -> CleanupTimes {
        let now = self
            .cleanup(|tx| Box::pin(async move { tx.now().await }))
            .await;
        CleanupTimes {
            now,
            stale_before: now.plus_micros(-15 * MINUTE),
        }
    }

    async fn now(&self) -> Timestamp {
        self.times().await.now
    }

    async fn insert_file(&self, file: File) -> AttachmentId {
        let id = AttachmentId::random();
        let now = self.now().await;
        self.sql(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, provider_file_id, status, \
             attachment_kind, for_file_search, cleanup_status, cleanup_updated_at, created_at, \
             updated_at, deleted_at) VALUES ($1, $2, $3, $4, 'f', 't', 1, 'main', $5, $6, \
             'document', $7, $8, $9, $9, $9, CASE WHEN $10 THEN $9 END)",
            params![
                id,
                self.tenant,
                file.chat,
                self.user,
                file.provider_file_id,
                file.status,
                true,
                file.cleanup_status,
                now,
                file.is_deleted,
            ],
        )
        .await
        .unwrap();
        id
    }

    async fn insert_store(&self, id: Option<&'static str>) {
        let now = self.now().await;
        self.sql(
            "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, \
             created_at) VALUES ($1, $2, $3, $4, 'main', $5)",
            params![Uuid::new_v4(), self.tenant, self.chat, id, now],
        )
        .await
        .unwrap();
    }

    async fn delete_chat(&self) {
        let now = self.now().await;
        let (tenant, user, chat) = (self.tenant, self.user, self.chat);
        let is_deleted = self
            .cleanup(move |tx| {
                Box::pin(async move { tx.chat_delete(tenant, user, chat, now).await })
            })
            .await;
        assert!(is_deleted);
    }

    async fn due_chats(&self) -> Vec<DueChat> {
        let mut due = Vec::new();
        for kind in [DueKind::Files, DueKind::Stores] {
            due.extend(self.due_of(self.part(kind, "main")).await);
        }
        due
    }

    fn part(&self, kind: DueKind, label: &str) -> DuePart {
        DuePart {
            tenant_id: self.tenant,
            kind,
            label: label.to_owned(),
        }
    }

    async fn due_of(&self, part: DuePart) -> Vec<DueChat> {
        let times = self.times().await;
        self.cleanup(move |tx| {
            let part = part.clone();
            Box::pin(async move { tx.cleanup_due(&part, times, DuePlace::START, 10).await })
        })
        .await
    }

    async fn parts(&self) -> Vec<DuePart> {
        let now = self.now().await;
        self.cleanup(move |tx| Box::pin(async move { tx.cleanup_parts(now).await }))
            .await
    }

    async fn claim_chat(&self, token: &'static str, lease: Duration) -> bool {
        let (tenant, chat) = (self.tenant, self.chat);
        let claimed = self
            .cleanup(move |tx| {
                Box::pin(async move { tx.cleanup_claim(tenant, &[chat], token, lease).await })
            })
            .await;
        claimed == [self.chat]
    }

    async fn next(&self, token: &str) -> CleanupStep {
        self.next_of(token, self.part(DueKind::Files, "main")).await
    }

    async fn next_of(&self, token: &str, part: DuePart) -> CleanupStep {
        let (claim, times) = (claimed_by(self, token), self.times().await);
        self.cleanup(move |tx| {
            let (claim, part) = (claim.clone(), part.clone());
            Box::pin(async move { tx.cleanup_next(&claim, &part, None, times).await })
        })
        .await
    }

    async fn next_file(&self, token: &str) -> PendingFile {
        match self.next(token).await {
            CleanupStep::File(file) => file,
            other => panic!("{other:?}"),
        }
    }

    async fn next_store(&self, token: &str) -> LeftStore {
        match self.next(token).await {
            CleanupStep::Store(store) => store,
            other => panic!("{other:?}"),
        }
    }

    async fn done(&self, file: &PendingFile) -> bool {
        let (tenant, file) = (self.tenant, file.clone());
        self.cleanup(move |tx| {
            let file = file.clone();
            Box::pin(async move { tx.cleanup_file_done(tenant, &file).await })
        })
        .await
    }

    /// The second refusal is final.
    async fn failed(&self, file: &PendingFile, is_refusal: bool) -> FailedAttempt {
        let (tenant, file) = (self.tenant, file.clone());
        let failed = FailedDeletion {
            error: "why".to_owned(),
            is_refusal,
            wait: Duration::from_mins(1),
            max_attempts: 2,
        };
        self.cleanup(move |tx| {
            let (file, failed) = (file.clone(), failed.clone());
            Box::pin(async move { tx.cleanup_file_failed(tenant, &file, &failed).await })
        })
        .await
    }

    async fn drop_store(&self, store: &LeftStore) -> DroppedStore {
        let (tenant, chat, store) = (self.tenant, self.chat, store.clone());
        self.cleanup(move |tx| {
            let store = store.clone();
            Box::pin(async move { tx.cleanup_store_drop(tenant, chat, &store).await })
        })
        .await
    }

    async fn deleted_page(&self, from: Timestamp) -> DeletedPage {
        self.cleanup(move |tx| Box::pin(tx.cleanup_deleted_page(from, 2)))
            .await
    }

    async fn age(&self, minutes: i64) {
        let then = self.now().await.plus_micros(-minutes * MINUTE);
        self.sql(
            "UPDATE attachments SET cleanup_updated_at = $1, updated_at = $1, \
             cleanup_due_at = CASE WHEN cleanup_due_at IS NOT NULL THEN $1 END",
            params![then],
        )
        .await
        .unwrap();
        self.sql(
            "UPDATE chat_vector_stores SET created_at = $1",
            params![then],
        )
        .await
        .unwrap();
    }
}

on_both_databases! {
    /// CONT-173: of several processes, one has a chat, until it gives it back or its time is over.
    async fn a_chat_is_claimed_once(db: Db) {
        db.insert_file(File::pending(db.chat)).await;
        db.delete_chat().await;
        assert_eq!(db.due_chats().await.len(), 1);
        let claims = futures_util::future::join_all(["1", "2", "3", "4"].map(|it| db.claim_chat(it, LEASE)));
        assert_eq!(claims.await.into_iter().filter(|it| *it).count(), 1);
        assert_eq!(db.due_chats().await, []);
        db.cleanup(|tx| {
            let forgotten = tx.cleanup_forget_claims(false);
            Box::pin(async move { forgotten })
        }).await;
        assert_eq!(db.due_chats().await, [], "it has not expired");
        let lost = db.next("nobody").await;
        assert_eq!(lost, CleanupStep::Nothing);
        db.sql("UPDATE cleanup_claims SET locked_until = $1", params![NOON.plus_micros(-1)]).await.unwrap();
        assert_eq!(db.due_chats().await.len(), 1);
        assert!(db.claim_chat("5", LEASE).await);
        for token in ["1", "2", "3", "4"] {
            assert_eq!(db.next(token).await, CleanupStep::Nothing);
        }
        db.cleanup(|tx| {
            let released = tx.cleanup_release("5");
            Box::pin(async move { released })
        }).await;
        assert_eq!(db.count("SELECT COUNT(*) FROM cleanup_claims", []).await, 0);
    }

    /// CONT-161, CONT-168: a failure is counted by one process, and spaces the next one.
    async fn a_failed_attempt_is_counted_once(db: Db) {
        let id = db.insert_file(File::pending(db.chat)).await;
        db.delete_chat().await;
        assert!(db.claim_chat("1", LEASE).await);
        let file = db.next_file("1").await;
        assert_eq!((file.id, file.due_at), (id, None));
        assert_eq!(db.failed(&file, true).await, FailedAttempt::Pending);
        assert_eq!(db.failed(&file, true).await, FailedAttempt::Elsewhere);
        assert_eq!(db.next("1").await, CleanupStep::Nothing, "too recent");
        db.age(1).await;
        let file = db.next_file("1").await;
        assert_eq!(file.due_at, Some(file.since), "as the test has written them");
        assert_eq!(db.failed(&file, true).await, FailedAttempt::Failed);
        assert!(!db.done(&file).await, "what has failed stays so");
        db.age(60).await;
        assert_eq!(db.next("1").await, CleanupStep::Nothing);
        let attempts = "SELECT cleanup_attempts FROM attachments WHERE cleanup_status = 'failed' \
            AND last_cleanup_error = 'why'";
        assert_eq!(db.count(attempts, []).await, 2);
    }

    /// CONT-168: outages are no refusals, whatever their number, and each is written down
    /// by one process.
    async fn outages_are_no_refusals(db: Db) {
        db.insert_file(File::pending(db.chat)).await;
        db.delete_chat().await;
        assert!(db.claim_chat("1", LEASE).await);
        let mut expected = [false; 9].map(|_| (false, FailedAttempt::Pending)).to_vec();
        expected.extend([(true, FailedAttempt::Pending), (false, FailedAttempt::Pending)]);
        expected.push((true, FailedAttempt::Failed));
        for (is_refusal, expected) in expected {
            let file = db.next_file("1").await;
            assert_eq!(db.failed(&file, is_refusal).await, expected);
            assert_eq!(db.failed(&file, is_refusal).await, FailedAttempt::Elsewhere);
            db.age(2).await;
        }
    }

    /// CONT-171: parts with something due are found, each once, and files and stores by
    /// their label.
    async fn parts_with_something_due_are_found(db: Db) {
        let (files, stores) = (db.part(DueKind::Files, "main"), db.part(DueKind::Stores, "main"));
        assert_eq!(db.parts().await, []);
        db.insert_store(Some("vs-1")).await;
        assert_eq!(db.parts().await, [], "the chat lives");
        db.delete_chat().await;
        assert_eq!(db.parts().await, std::slice::from_ref(&stores));
        for _ in 0..2 {
            db.insert_file(File::pending(db.chat)).await;
        }
        let without = db.insert_file(File { provider_file_id: None, ..File::pending(db.chat) }).await;
        assert_eq!(db.parts().await, [files.clone(), stores]);
        assert_eq!(db.due_of(files).await.len(), 3);
        assert_eq!(db.due_of(db.part(DueKind::Files, "other")).await, []);
        let fileless = db.part(DueKind::Fileless, "main");
        assert_eq!(db.due_of(fileless.clone()).await.len(), 1);
        assert!(db.claim_chat("1", LEASE).await);
        let other = db.part(DueKind::Files, "other");
        assert_eq!(db.next_of("1", other).await, CleanupStep::Nothing);
        let CleanupStep::File(file) = db.next_of("1", fileless).await else {
            panic!("it needs no provider");
        };
        assert_eq!(file.id, without);
    }

    /// CONT-174: the store of a chat that an older release deletes, which does not say that
    /// it is due.
    async fn a_store_that_no_deletion_has_marked_becomes_due(db: Db) {
        db.insert_store(Some("vs-1")).await;
        db.delete_chat().await;
        db.sql("UPDATE chat_vector_stores SET cleanup_due_at = NULL", []).await.unwrap();
        assert_eq!(db.parts().await, []);
        let page = db.deleted_page(NOON.plus_micros(-1)).await;
        assert!(page.has_unmarked);
        let marked = db.cleanup(move |tx| Box::pin(tx.cleanup_rearm_deleted(page.chats, 10)));
        assert_eq!(marked.await, 1);
        assert!(!db.deleted_page(NOON.plus_micros(-1)).await.has_unmarked);
        assert_eq!(db.due_chats().await.len(), 1);
    }

    /// CONT-166, CONT-173: the store of a deleted chat goes last, and its row once.
    async fn a_store_goes_when_nothing_is_pending(db: Db) {
        db.insert_file(File::pending(db.chat)).await;
        db.insert_store(Some("vs-1")).await;
        assert_eq!(db.due_chats().await, [], "the chat lives and uses the file");
        db.delete_chat().await;
        assert!(db.claim_chat("1", LEASE).await);
        let file = db.next_file("1").await;
        assert_eq!(file.vector_store_id, None, "the store is deleted as a whole");
        assert!(db.done(&file).await);
        assert!(!db.done(&file).await);
        let store = db.next_store("1").await;
        db.insert_file(File { cleanup_status: Some("failed"), ..File::pending(db.chat) }).await;
        let again = db.insert_file(File::pending(db.chat)).await;
        assert_eq!(db.drop_store(&store).await, DroppedStore::Kept);
        db.sql("DELETE FROM attachments WHERE id = $1", params![again]).await.unwrap();
        assert_eq!(db.drop_store(&store).await, DroppedStore::Dropped { has_failed_files: true });
        assert_eq!(db.drop_store(&store).await, DroppedStore::Kept);
        assert_eq!(db.due_chats().await, []);
    }

    /// CONT-160, CONT-165: of a living chat, only what was deleted or has failed.
    async fn a_living_chat_keeps_what_it_uses(db: Db) {
        db.insert_store(Some("vs-1")).await;
        db.insert_file(File::pending(db.chat)).await;
        assert_eq!(db.due_chats().await, []);
        let deleted = db.insert_file(File { is_deleted: true, ..File::pending(db.chat) }).await;
        assert_eq!(db.due_chats().await.len(), 1);
        assert!(db.claim_chat("1", LEASE).await);
        let file = db.next_file("1").await;
        assert_eq!((file.id, file.vector_store_id.as_deref()), (deleted, Some("vs-1")));
        assert!(db.done(&file).await);
        assert_eq!(db.next("1").await, CleanupStep::Nothing);
    }

    /// CONT-58, CONT-64: an upload that still runs may bring a file, and a store that is being
    /// created an id.
    async fn what_is_in_progress_is_waited_for(db: Db) {
        let upload = File { provider_file_id: None, status: "pending", cleanup_status: None, ..File::pending(db.chat) };
        db.insert_file(upload).await;
        db.insert_store(None).await;
        db.delete_chat().await;
        assert_eq!(db.due_chats().await, []);
        let times = db.times().await;
        let abandoned = db.cleanup(move |tx| Box::pin(tx.cleanup_abandon_uploads(times.stale_before, 10)));
        assert_eq!(abandoned.await, 0);
        db.age(16).await;
        let abandoned = db.cleanup(move |tx| Box::pin(tx.cleanup_abandon_uploads(times.stale_before, 10)));
        assert_eq!(abandoned.await, 1);
        assert!(db.claim_chat("1", LEASE).await);
        let mut file = db.next_file("1").await;
        file.provider_file_id = Some("file-late".to_owned());
        assert!(!db.done(&file).await, "the row has no such file");
        file.provider_file_id = None;
        assert!(db.done(&file).await);
        let store = db.next_store("1").await;
        assert_eq!(store.vector_store_id, None);
        assert_eq!(db.drop_store(&store).await, DroppedStore::Dropped { has_failed_files: false });
    }

    /// CONT-174
    async fn drift_is_repaired_once(db: Db) {
        let failed = File { status: "failed", cleanup_status: None, ..File::pending(db.chat) };
        db.insert_file(failed).await;
        db.insert_file(File { status: "uploaded", ..failed }).await;
        db.insert_file(File { status: "ready", ..failed }).await;
        db.insert_store(None).await;
        db.age(16).await;
        let stale_before = db.times().await.stale_before;
        for expected in [[1, 1, 1], [0, 0, 0]] {
            let repaired = db.cleanup(move |tx| Box::pin(async move {
                Ok([
                    tx.cleanup_abandon_uploads(stale_before, 10).await?,
                    tx.cleanup_rearm_failed(10).await?,
                    tx.cleanup_drop_placeholders(stale_before, 10).await?,
                ])
            }));
            assert_eq!(repaired.await, expected);
        }
        let pending = "SELECT COUNT(*) FROM attachments WHERE status = 'failed' \
            AND cleanup_status = 'pending'";
        assert_eq!(db.count(pending, []).await, 2);
        let page = db.deleted_page(NOON.plus_micros(-1)).await;
        assert!(!page.has_unmarked && page.is_last, "a living chat has the file");
        db.sql("UPDATE chats SET deleted_at = $1", params![NOON]).await.unwrap();
        assert!(!db.deleted_page(NOON).await.has_unmarked, "it has been looked through");
        for has_unmarked in [true, false] {
            let page = db.deleted_page(NOON.plus_micros(-1)).await;
            assert_eq!((page.has_unmarked, page.chats.until), (has_unmarked, NOON));
            let rearmed = db.cleanup(move |tx| Box::pin(tx.cleanup_rearm_deleted(page.chats, 10)));
            assert_eq!(rearmed.await, usize::from(has_unmarked));
        }
        let backlog = db.cleanup(|tx| Box::pin(tx.cleanup_backlog())).await;
        assert_eq!((backlog.pending, backlog.failed), (3, 0));
    }
}
