//! The purge of chats that were deleted long ago (PLAT-21).

use std::collections::BTreeMap;

use minichat_core::{ChatId, Timestamp};
use uuid::Uuid;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{BookPeriod, BoxFuture, PurgeStep, PurgeableChat, Snapshot, StoreError, Tx};

const DAY: i64 = 86_400 * 1_000_000;

/// Tables with rows of a chat.
const TABLES: [&str; 8] = [
    "SELECT COUNT(*) FROM chats WHERE id = $1",
    "SELECT COUNT(*) FROM messages WHERE chat_id = $1",
    "SELECT COUNT(*) FROM chat_turns WHERE chat_id = $1",
    "SELECT COUNT(*) FROM attachments WHERE chat_id = $1",
    "SELECT COUNT(*) FROM message_attachments WHERE chat_id = $1",
    "SELECT COUNT(*) FROM message_reactions WHERE chat_id = $1",
    "SELECT COUNT(*) FROM thread_summaries WHERE chat_id = $1",
    "SELECT COUNT(*) FROM cleanup_claims WHERE chat_id = $1",
];

/// User, day, model and policy, and turns, those that are settled, and credits.
type Booked = BTreeMap<String, [u64; 3]>;

impl Db {
    async fn purged<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> T {
        self.store.write(job).await.unwrap()
    }

    /// What the books say of the ended turns of the month.
    async fn booked(&self) -> Booked {
        let mut snapshot = Snapshot::open(&self.settings).await.unwrap();
        let march = BookPeriod {
            tenant_id: self.tenant,
            first: "2026-03-01".parse().unwrap(),
            end: "2026-04-01".parse().unwrap(),
        };
        let mut booked = Booked::new();
        let taken = snapshot.book_turns(&march, |it| {
            let user = it.user_id.map_or(Uuid::nil(), |user| user.0);
            let key = format!("{user} {} {} {}", it.day, it.model, it.policy_version);
            let [turns, settled, credits] = booked.entry(key).or_default();
            *turns += it.turns;
            *settled += it.settled;
            *credits += it.credits_micro;
        });
        taken.await.unwrap();
        booked
    }

    /// The numbers of rows of a chat, as in [`TABLES`].
    async fn rows_of(&self, chat: ChatId) -> [i64; 8] {
        let mut rows = [0; 8];
        for (count, sql) in rows.iter_mut().zip(TABLES) {
            *count = self.count(sql, params![chat]).await;
        }
        rows
    }

    /// A chat with turns of two days, one that says nothing of what it booked, one
    /// without a reserve, and a row of every other kind.
    async fn full_chat(&self) -> ChatId {
        let chat = ChatId::random();
        self.insert_chat(self.user, chat, NOON).await;
        for day in [0, 0, 0, 1, 1] {
            let mut send = self.send(NOON.plus_micros(day * DAY));
            send.chat = chat;
            send.reserve(&self.store).await.unwrap();
            assert!(send.complete(&self.store).await.unwrap());
        }
        let (old, without, file) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for (id, day) in [(old, "'2026-03-09'"), (without, "NULL")] {
            let sql = format!(
                "INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, \
                 state, reserve_day, started_at, completed_at, updated_at) VALUES ($1, $2, $3, \
                 $1, 'user', 'failed', {day}, $4, $4, $4)"
            );
            self.sql(sql.leak(), params![id, self.tenant, chat, NOON])
                .await
                .unwrap();
        }
        self.sql(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, status, attachment_kind, \
             cleanup_status, created_at, updated_at) VALUES ($1, $2, $3, $4, 'f', 't', 1, 'b', \
             'ready', 'document', 'done', $5, $5)",
            params![file, self.tenant, chat, self.user, NOON],
        )
        .await
        .unwrap();
        for sql in [
            "INSERT INTO message_attachments (chat_id, message_id, attachment_id, tenant_id, \
             created_at) SELECT chat_id, id, $1, tenant_id, $3 FROM messages WHERE chat_id = $2 \
             AND role = 'user'",
            "INSERT INTO message_reactions (id, tenant_id, message_id, user_id, chat_id, \
             reaction, created_at) SELECT id, tenant_id, id, $1, chat_id, 'like', $3 \
             FROM messages WHERE chat_id = $2 AND role = 'assistant'",
            "INSERT INTO thread_summaries (id, tenant_id, chat_id, summary_text, \
             summarized_up_to_created_at, summarized_up_to_message_id, created_at, updated_at) \
             SELECT $1, tenant_id, id, 's', $3, $1, $3, $3 FROM chats WHERE id = $2",
            "INSERT INTO cleanup_claims (chat_id, tenant_id, locked_by, locked_until) \
             SELECT id, tenant_id, 'gone', $3 FROM chats WHERE id = $2 AND id <> $1",
            "UPDATE messages SET deleted_at = $3 WHERE chat_id = $2 AND id = (SELECT id \
             FROM messages WHERE chat_id = $2 AND id <> $1 ORDER BY id LIMIT 1)",
        ] {
            self.sql(sql, params![file, chat, NOON]).await.unwrap();
        }
        assert_eq!(self.rows_of(chat).await, [1, 10, 7, 1, 5, 5, 1, 1]);
        chat
    }

    async fn deleted_at(&self, chat: ChatId, at: Timestamp) -> PurgeableChat {
        let sql = "UPDATE chats SET deleted_at = $2 WHERE id = $1";
        self.sql(sql, params![chat, at]).await.unwrap();
        PurgeableChat {
            tenant_id: self.tenant,
            chat_id: chat,
            deleted_at: at,
        }
    }

    async fn purgeable(
        &self,
        by: Timestamp,
        after: Option<PurgeableChat>,
        limit: u32,
    ) -> Vec<PurgeableChat> {
        self.purged(move |tx| Box::pin(tx.purge_due(by, after, limit)))
            .await
    }

    async fn purge_step(&self, chat: PurgeableChat, limit: u32) -> PurgeStep {
        self.purged(move |tx| Box::pin(tx.purge_step(chat, limit)))
            .await
    }

    async fn deleted_chats(&self) -> Vec<PurgeableChat> {
        let mut chats = Vec::new();
        for _ in 0..4 {
            let chat = self.full_chat().await;
            chats.push(self.deleted_at(chat, NOON).await);
        }
        chats
    }

    /// Purges those that no other process purges. Returns how many.
    async fn purge_all(&self, chats: &[PurgeableChat]) -> usize {
        let mut purged = 0;
        for chat in chats {
            let step = loop {
                let step = self.purge_step(*chat, 3).await;
                if step != PurgeStep::Begun {
                    break step;
                }
            };
            purged += usize::from(step == PurgeStep::Purged);
        }
        purged
    }

    /// Erases the person, whose chats are all deleted.
    async fn erase_person(&self) {
        let (tenant, user) = (self.tenant, self.user);
        let begun =
            self.purged(move |tx| Box::pin(tx.erasure_begin(tenant, user, Uuid::new_v4(), NOON)));
        let erasure = begun.await.unwrap();
        loop {
            let ready = self.purged(move |tx| {
                Box::pin(async move {
                    tx.erasure_ready_chats(&erasure, ChatId(Uuid::nil()), 100)
                        .await
                })
            });
            for chat in ready.await {
                self.purged(move |tx| {
                    Box::pin(async move { tx.erasure_empty_chat(&erasure, chat, NOON).await })
                })
                .await;
            }
            let finished = self
                .purged(move |tx| Box::pin(async move { tx.erasure_finish(&erasure, NOON).await }));
            if finished.await.is_some() {
                break;
            }
        }
    }

    /// The same in a transaction that fails at its end, as that of a killed process.
    async fn lost_purge_step(&self, chat: PurgeableChat, limit: u32) {
        let lost: Result<(), StoreError> = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    tx.purge_step(chat, limit).await?;
                    let sql = "INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at) \
                        SELECT id, tenant_id, user_id, model, created_at, updated_at FROM chats";
                    tx.execute_later(sql, [])
                })
            })
            .await;
        assert!(lost.is_err());
    }
}

on_both_databases! {
    /// PLAT-21: step by step, nothing of the chat is left, the books are the same after each
    /// step, and a step that is not committed changes nothing.
    async fn a_purge_may_be_interrupted_anywhere(db: Db) {
        let kept = db.full_chat().await;
        for limit in [1, 2, 3, 7, 8, 100] {
            let chat = db.full_chat().await;
            let before = db.booked().await;
            let credits: u64 = before.values().map(|it| it[2]).sum();
            assert!(credits > 0 && before.len() >= 3, "{before:?}");
            let chat = db.deleted_at(chat, NOON).await;
            let mut rows = db.rows_of(chat.chat_id).await;
            loop {
                db.lost_purge_step(chat, limit).await;
                assert_eq!(db.rows_of(chat.chat_id).await, rows, "{limit}");
                assert_eq!(db.booked().await, before, "{limit}");
                let step = db.purge_step(chat, limit).await;
                let left = db.rows_of(chat.chat_id).await;
                assert_eq!(db.booked().await, before, "{limit}");
                let taken = rows.iter().sum::<i64>() - left.iter().sum::<i64>();
                assert!(taken > 0, "{limit}");
                rows = left;
                match step {
                    PurgeStep::Begun => {
                        assert_eq!(rows[0], 1);
                        assert_eq!(db.purgeable(NOON, None, 10).await, [chat], "the next pass finds it");
                    }
                    PurgeStep::Purged => break,
                    PurgeStep::Nothing => panic!("{rows:?}"),
                }
            }
            assert_eq!(rows, [0; 8]);
            assert_eq!(db.purge_step(chat, limit).await, PurgeStep::Nothing);
        }
        assert_eq!(db.rows_of(kept).await, [1, 10, 7, 1, 5, 5, 1, 1]);
        let turns = db.count("SELECT CAST(SUM(turns) AS BIGINT) FROM turn_rollups", []).await;
        assert_eq!(turns, 6 * 6, "without those that have no reserve");
    }

    /// PLAT-21: a chat is kept while its turn runs, while its files or its store may be at the
    /// provider, and while its person is being erased.
    async fn what_is_not_done_with_is_kept(db: Db) {
        let chat = db.full_chat().await;
        assert_eq!(db.purgeable(NOON.plus_micros(DAY), None, 10).await, [], "it lives");
        let chat = db.deleted_at(chat, NOON).await;
        assert_eq!(db.purgeable(NOON.plus_micros(-1), None, 10).await, [], "it is too recent");
        assert_eq!(db.purgeable(NOON, None, 10).await, [chat]);
        let (store, store_gone) = (
            "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, provider, created_at) \
             SELECT id, tenant_id, id, 'p', created_at FROM chats WHERE id = $1",
            "DELETE FROM chat_vector_stores WHERE chat_id = $1",
        );
        let (runs, ends) = (
            "INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, state, \
             started_at, last_progress_at, updated_at) SELECT id, tenant_id, id, id, 'user', \
             'running', created_at, created_at, created_at FROM chats WHERE id = $1",
            "UPDATE chat_turns SET state = 'failed', completed_at = started_at WHERE id = $1",
        );
        let (begins, finishes) = (
            "INSERT INTO erasures (id, tenant_id, user_id, requested_at) \
             SELECT user_id, tenant_id, id, created_at FROM chats WHERE id = $1",
            "UPDATE erasures SET user_id = NULL, finished_at = requested_at WHERE user_id = $1",
        );
        let done = "UPDATE attachments SET cleanup_status = 'done' WHERE chat_id = $1";
        for (blocks, frees) in [
            ("UPDATE attachments SET cleanup_status = NULL WHERE chat_id = $1", done),
            ("UPDATE attachments SET cleanup_status = 'pending' WHERE chat_id = $1", done),
            ("UPDATE attachments SET cleanup_status = 'failed' WHERE chat_id = $1", done),
            (store, store_gone),
            (runs, ends),
            (begins, finishes),
        ] {
            db.sql(blocks, params![chat.chat_id]).await.unwrap();
            assert_eq!(db.purgeable(NOON, None, 10).await, [], "{blocks}");
            assert_eq!(db.purge_step(chat, 100).await, PurgeStep::Nothing, "{blocks}");
            db.sql(frees, params![chat.chat_id]).await.unwrap();
            assert_eq!(db.purgeable(NOON, None, 10).await, [chat], "{frees}");
        }
        let mut chats = vec![chat];
        for _ in 0..3 {
            let same = db.full_chat().await;
            chats.push(db.deleted_at(same, NOON).await);
        }
        chats.sort_by_key(|it| it.chat_id.0);
        let mut found = Vec::new();
        loop {
            let page = db.purgeable(NOON, found.last().copied(), 1).await;
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, chats, "page by page");
    }

    /// PLAT-21: several at once count no turn twice.
    async fn purges_at_once_count_every_turn_once(db: Db) {
        let chats = db.deleted_chats().await;
        let before = db.booked().await;
        let purged = futures_util::future::join_all((0..4).map(|_| db.purge_all(&chats))).await;
        assert!(purged.iter().sum::<usize>() <= chats.len());
        // One that another process had is left to the next pass.
        db.purge_all(&chats).await;
        assert_eq!(db.booked().await, before);
        assert_eq!(db.count("SELECT COUNT(*) FROM chats WHERE deleted_at IS NOT NULL", []).await, 0);
    }

    /// PLAT-21, PLAT-22: an erasure meanwhile moves every turn once, whether its chat is
    /// purged before, at the same time, or after.
    async fn an_erasure_meanwhile_moves_every_turn_once(db: Db) {
        let mut chats = db.deleted_chats().await;
        chats.push(db.deleted_at(db.chat, NOON).await);
        let before = db.booked().await;
        let ((), first, second) =
            tokio::join!(db.erase_person(), db.purge_all(&chats), db.purge_all(&chats));
        assert!(first + second <= chats.len());
        db.purge_all(&chats).await;
        assert_eq!(db.count("SELECT COUNT(*) FROM chats", []).await, 0);
        let after = db.booked().await;
        assert_eq!(by_day(&after), by_day(&before));
        let name = db.user.to_string();
        assert!(before.keys().any(|key| key.contains(&name)), "{before:?}");
        assert!(!after.keys().any(|key| key.contains(&name)), "{after:?}");
    }
}

/// What is booked without who booked it.
fn by_day(booked: &Booked) -> Booked {
    let mut sums = Booked::new();
    for (key, counts) in booked {
        let (_, rest) = key.split_once(' ').unwrap();
        let sum = sums.entry(rest.to_owned()).or_default();
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    sums
}
