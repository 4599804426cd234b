//! What a summary is made of, and when it is committed.

use minichat_core::{ChatId, MessageId, Timestamp};

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{ChatToSummarize, Key, NewSummary, StoreError, SummaryRange};

/// Characters of a message.
const SIZE: i64 = 1_500_000;

/// A chat with four messages of [`SIZE`], oldest first; the last two are of one
/// instant.
async fn chat(db: &Db) -> (ChatId, Vec<MessageId>) {
    let chat = ChatId::random();
    db.insert_chat(db.user, chat, NOON).await;
    let mut ids: Vec<_> = (0..4).map(|_| MessageId::random()).collect();
    ids[2..].sort_unstable();
    let text = "x".repeat(usize::try_from(SIZE).unwrap());
    let text: &'static str = text.leak();
    for (id, second) in ids.iter().zip([0, 1, 2, 2]) {
        let at = NOON.plus_seconds(second);
        db.sql(
            "INSERT INTO messages (id, tenant_id, chat_id, role, content, created_at) \
             VALUES ($1, $2, $3, 'user', $4, $5)",
            params![*id, db.tenant, chat, text, at],
        )
        .await
        .unwrap();
    }
    (chat, ids)
}

const fn key(at: Timestamp, id: MessageId) -> Key {
    Key { at, id: id.0 }
}

async fn read(db: &Db, chat: ChatId, range: SummaryRange) -> ChatToSummarize {
    let tenant = db.tenant;
    let read: Result<_, StoreError> = db
        .store
        .read(move |tx| Box::pin(async move { tx.summary_read(tenant, chat, &range).await }))
        .await;
    read.unwrap().unwrap()
}

/// Whether a summary of these messages is committed. A lost one is rolled back.
async fn commit(db: &Db, chat: ChatId, range: SummaryRange, messages: &[MessageId]) -> bool {
    let (tenant_id, messages) = (db.tenant, messages.to_vec());
    let committed: Result<(), Option<StoreError>> = db
        .store
        .write(move |tx| {
            let messages = messages.clone();
            Box::pin(async move {
                let new = NewSummary {
                    tenant_id,
                    chat_id: chat,
                    range,
                    text: "summary",
                    token_estimate: 1,
                    messages: &messages,
                };
                match tx.summary_commit(&new).await {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err(None),
                    Err(error) => Err(Some(error)),
                }
            })
        })
        .await;
    committed.map_err(|error| assert!(error.is_none())).is_ok()
}

on_both_databases! {
    /// CONT-134: all messages of the range are covered, but no more text is read than
    /// any model has room for.
    async fn a_range_is_read_in_its_order_and_only_its_newest_texts(db: Db) {
        let (chat, ids) = chat(&db).await;
        let range = |base, target| SummaryRange { base, target };
        let all = range(None, key(NOON.plus_seconds(2), ids[3]));
        let found = read(&db, chat, all).await;
        let found: Vec<_> = found
            .messages
            .iter()
            .map(|it| (it.id, it.content.as_ref().map(String::len)))
            .collect();
        let size = usize::try_from(SIZE).ok();
        assert_eq!(found, [(ids[0], None), (ids[1], size), (ids[2], size), (ids[3], size)]);
        let middle = range(
            Some(key(NOON, ids[0])),
            key(NOON.plus_seconds(2), ids[2]),
        );
        let found = read(&db, chat, middle).await;
        let found: Vec<_> = found.messages.iter().map(|it| it.id).collect();
        assert_eq!(found, ids[1..3]);
    }

    /// CONT-137: a summary is lost unless it covers what its range has now.
    async fn a_summary_is_committed_for_what_was_read_and_once(db: Db) {
        let (chat, ids) = chat(&db).await;
        let range = SummaryRange {
            base: None,
            target: key(NOON.plus_seconds(2), ids[2]),
        };
        for wrong in [&ids[1..3], &ids[..], &ids[..2]] {
            assert!(!commit(&db, chat, range, wrong).await);
        }
        assert!(commit(&db, chat, range, &ids[..3]).await);
        assert!(!commit(&db, chat, range, &ids[..3]).await);
        let covered = "SELECT COUNT(*) FROM messages WHERE chat_id = $1 AND is_compressed";
        assert_eq!(db.count(covered, params![chat]).await, 3);

        let next = SummaryRange {
            base: Some(range.target),
            target: key(NOON.plus_seconds(2), ids[3]),
        };
        let found = read(&db, chat, next).await;
        assert_eq!(found.summary.map(|it| it.frontier), next.base);
        db.sql("UPDATE messages SET deleted_at = created_at WHERE id = $1", params![ids[3]])
            .await
            .unwrap();
        assert!(!commit(&db, chat, next, &ids[3..]).await);
        db.sql("UPDATE messages SET deleted_at = NULL WHERE id = $1", params![ids[3]])
            .await
            .unwrap();
        assert!(commit(&db, chat, next, &ids[3..]).await);
    }
}
