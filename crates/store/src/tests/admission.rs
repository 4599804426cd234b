use minichat_core::quota::{Bucket, Period};
use minichat_core::{RequestId, UserId};

use futures_util::future::join_all;

use super::fixture::{NOON, OneTurn, RESERVE, SendError};
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{AdmissionQuery, Role};

on_both_databases! {
    /// CONT-4, QUOTA-82: a new chat has no history and no turn. Missing quota
    /// rows are inserted, so that they can be locked.
    async fn facts_of_a_new_chat_are_empty(db: Db) {
        let facts = db.facts(RequestId::random(), 10).await.unwrap();
        assert_eq!(facts.model, "large");
        assert_eq!(facts.existing_turn, None);
        assert!(!facts.is_running);
        assert_eq!(facts.boundary, None);
        assert!(facts.recent_messages.is_empty());
        assert_eq!(facts.prior_context_tokens, 0);
        assert!(facts.quota.has_totals(facts.now.date()));
        assert!(facts.quota.iter().all(|cell| cell.reserved_credits_micro == 0));
    }

    /// QUOTA-37, CONT-5: one read returns everything that a send needs.
    async fn facts_show_turn_history_and_quota(db: Db) {
        let now = db.facts(RequestId::random(), 0).await.unwrap().now;
        let send = db.send(now);
        send.reserve(&db.store).await.unwrap();
        let running = db.facts(send.request, 10).await.unwrap();
        assert!(running.is_running);
        assert_eq!(running.existing_turn.as_ref().map(|turn| turn.id), Some(send.turn));
        assert_eq!(running.quota.used_credits_micro(Period::Monthly, Bucket::Total), RESERVE);
        assert!(send.complete(&db.store).await.unwrap());

        let facts = db.facts(RequestId::random(), 10).await.unwrap();
        assert!(!facts.is_running);
        assert_eq!(facts.prior_context_tokens, 52);
        let texts: Vec<_> = facts.recent_messages.iter()
            .map(|message| (message.role, message.content.as_str()))
            .collect();
        assert_eq!(texts, [(Role::User, "hello"), (Role::Assistant, "hi there")]);
        let newest = facts.recent_messages.last().unwrap();
        assert_eq!(facts.boundary.map(|key| key.id), Some(newest.id.0));
        let daily = facts.quota.get(Period::Daily, Bucket::Total).unwrap();
        assert_eq!((daily.spent_credits_micro, daily.web_search_calls), (600, 1));
    }

    /// TURN-55: the turn that a new turn replaces is not part of its history.
    async fn facts_for_a_replacement_leave_its_turn_out(db: Db) {
        let first = db.send(NOON);
        first.reserve(&db.store).await.unwrap();
        assert!(first.complete(&db.store).await.unwrap());
        let facts = db.facts(first.request, 10).await.unwrap();
        assert_eq!(facts.boundary, None);
        assert!(facts.recent_messages.is_empty());
        assert_eq!(facts.prior_context_tokens, 0);
        let second = db.send(NOON);
        second.reserve(&db.store).await.unwrap();
        assert!(second.complete(&db.store).await.unwrap());
        let facts = db.facts(second.request, 10).await.unwrap();
        assert_eq!(facts.recent_messages.len(), 2);
        assert_eq!(facts.prior_context_tokens, 52);
    }

    /// CONT-5: the window has the newest rows; with a limit of 0 there is still
    /// a boundary.
    async fn the_window_is_bounded(db: Db) {
        for _ in 0..3 {
            let send = db.send(NOON);
            send.reserve(&db.store).await.unwrap();
            assert!(send.complete(&db.store).await.unwrap());
        }
        let all = db.facts(RequestId::random(), 100).await.unwrap().recent_messages;
        assert_eq!(all.len(), 6);
        let some = db.facts(RequestId::random(), 3).await.unwrap().recent_messages;
        assert_eq!(some, all[3..]);
        let none = db.facts(RequestId::random(), 0).await.unwrap();
        assert!(none.recent_messages.is_empty());
        assert_eq!(none.boundary.map(|key| key.id), Some(all[5].id.0));
    }

    /// PLAT-16, PLAT-20: foreign and deleted chats do not exist; a deleted turn
    /// still blocks its request id.
    async fn facts_respect_owner_and_deletion(db: Db) {
        let send = db.send(NOON);
        send.reserve(&db.store).await.unwrap();
        assert!(send.complete(&db.store).await.unwrap());
        assert!(db.facts_of(UserId::random(), send.request, 10).await.is_none());
        db.sql("UPDATE chat_turns SET deleted_at = $1", params![NOON]).await.unwrap();
        db.sql("UPDATE messages SET deleted_at = $1", params![NOON]).await.unwrap();
        let facts = db.facts(send.request, 10).await.unwrap();
        assert!(facts.existing_turn.is_some_and(|turn| turn.is_deleted));
        assert!(facts.recent_messages.is_empty());
        assert_eq!(facts.prior_context_tokens, 0);
        db.sql("UPDATE chats SET deleted_at = $1", params![NOON]).await.unwrap();
        assert!(db.facts(send.request, 10).await.is_none());
    }

    /// QUOTA-82, TURN-12: the facts hold until the transaction ends, even for a
    /// user who has no quota rows yet.
    async fn of_parallel_admissions_to_one_chat_one_finds_it_idle(db: Db) {
        let admissions = (0..8).map(|_| {
            let send = db.send(NOON);
            let query = AdmissionQuery {
                tenant_id: db.tenant,
                user_id: db.user,
                chat_id: db.chat,
                request_id: send.request,
                recent_messages_limit: 10,
                ignores_summary: false,
            };
            db.store.write(move |tx| Box::pin(async move {
                let facts = tx.turn_admission_facts(&query).await?.unwrap();
                if !facts.is_running {
                    OneTurn { at: facts.now, ..send }.reserve_in(tx).await?;
                }
                Ok::<_, SendError>(facts.is_running)
            }))
        });
        let found = join_all(admissions).await;
        let idle = found.into_iter().filter(|running| !running.as_ref().unwrap()).count();
        assert_eq!(idle, 1);
    }
}
