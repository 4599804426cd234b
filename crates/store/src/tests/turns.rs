use minichat_core::turn::{Outcome, TurnErrorCode, TurnState};
use minichat_core::{RequestId, TurnId};

use super::fixture::{NOON, SendError};
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{Constraint, OrphanRule, StoreError, Turn};

async fn stored(db: &Db, request: RequestId) -> Option<Turn> {
    let (tenant, user, chat) = (db.tenant, db.user, db.chat);
    db.store
        .read(move |tx| Box::pin(async move { tx.turn_get(tenant, user, chat, request).await }))
        .await
        .map_err(|error: StoreError| error)
        .unwrap()
}

on_both_databases! {
    /// TURN-12: the two conflicts of a reserve are distinguished, and leave
    /// nothing behind.
    async fn conflicting_sends_are_named(db: Db) {
        let first = db.send(NOON);
        first.reserve(&db.store).await.unwrap();
        let parallel = db.send(NOON).reserve(&db.store).await;
        assert!(
            matches!(parallel, Err(SendError::Store(StoreError::Unique(Constraint::OneRunningTurn, _)))),
            "{parallel:?}"
        );
        assert!(first.complete(&db.store).await.unwrap());
        let mut again = db.send(NOON);
        again.request = first.request;
        db.sql("UPDATE messages SET deleted_at = $1", params![NOON]).await.unwrap();
        let again = again.reserve(&db.store).await;
        assert!(
            matches!(again, Err(SendError::Store(StoreError::Unique(Constraint::TurnRequest, _)))),
            "{again:?}"
        );
        assert_eq!(db.count("SELECT COUNT(*) FROM chat_turns", []).await, 1);
        let reserved = "SELECT CAST(SUM(reserved_credits_micro) AS BIGINT) FROM quota_usage";
        assert_eq!(db.count(reserved, []).await, 0);
    }

    /// TURN-42, QUOTA-81: if finalizers race, one wins, and quota is booked
    /// once.
    async fn the_first_finisher_wins(db: Db) {
        let send = db.send(NOON);
        send.reserve(&db.store).await.unwrap();
        let (a, b, c) = tokio::join!(
            send.complete(&db.store),
            send.complete(&db.store),
            send.complete(&db.store),
        );
        let wins = [a, b, c].map(Result::unwrap).into_iter().filter(|won| *won).count();
        assert_eq!(wins, 1);
        let answers = "SELECT COUNT(*) FROM messages WHERE role = 'assistant'";
        assert_eq!(db.count(answers, []).await, 1);
        let calls = "SELECT CAST(SUM(calls) AS BIGINT) FROM quota_usage";
        assert_eq!(db.count(calls, []).await, 2);
        let turn = stored(&db, send.request).await.unwrap();
        assert_eq!(turn.state, TurnState::Completed);
        assert_eq!(turn.error_code, None);
        assert_eq!(turn.provider_response_id.as_deref(), Some("resp_1"));
        assert!(turn.assistant_message_id.is_some());
    }

    /// TURN-60: the watchdog ends only turns without recent progress.
    async fn a_turn_with_progress_is_not_an_orphan(db: Db) {
        let send = db.send(NOON);
        send.reserve(&db.store).await.unwrap();
        let orphan = |stale_at| {
            let mut finish = send.finish(Outcome::Failed(TurnErrorCode::OrphanTimeout));
            finish.orphan = Some(OrphanRule { stale_at, silence: None });
            let scope = send.scope();
            db.store.write(move |tx| {
                Box::pin(async move { tx.turn_finish(&finish, scope).await })
            })
        };
        let early: Result<_, StoreError> = orphan(NOON.plus_micros(-1)).await;
        assert!(early.unwrap().is_none());
        let late: Result<_, StoreError> = orphan(NOON).await;
        assert!(late.unwrap().is_some());
        let turn = stored(&db, send.request).await.unwrap();
        assert_eq!(turn.state, TurnState::Failed);
        assert_eq!(turn.error_code.as_deref(), Some("orphan_timeout"));
    }

    /// TURN-7: progress is recorded while the turn runs, and not afterwards.
    async fn progress_moves_only_running_turns(db: Db) {
        let send = db.send(NOON.plus_seconds(-3600));
        send.reserve(&db.store).await.unwrap();
        let progress = "SELECT COUNT(*) FROM chat_turns WHERE last_progress_at > started_at";
        assert_eq!(db.count(progress, []).await, 0);
        db.write(move |tx| tx.turn_progress(send.tenant, TurnId::random())).await.unwrap();
        assert_eq!(db.count(progress, []).await, 0);
        assert!(send.complete(&db.store).await.unwrap());
        db.write(move |tx| tx.turn_progress(send.tenant, send.turn)).await.unwrap();
        assert_eq!(db.count(progress, []).await, 0);
        let second = db.send(NOON.plus_seconds(-1800));
        second.reserve(&db.store).await.unwrap();
        db.write(move |tx| tx.turn_progress(second.tenant, second.turn)).await.unwrap();
        assert_eq!(db.count(progress, []).await, 1);
    }

    /// TURN-6: a clock that stands still or goes back does not change the order
    /// of a chat.
    async fn timestamps_of_a_chat_are_strictly_increasing(db: Db) {
        for shift in [0, 0, -5, 3] {
            let send = db.send(NOON.plus_seconds(shift));
            send.reserve(&db.store).await.unwrap();
            assert!(send.complete(&db.store).await.unwrap());
        }
        let messages = "SELECT COUNT(DISTINCT created_at) FROM messages";
        assert_eq!(db.count(messages, []).await, 8);
        let turns = "SELECT COUNT(DISTINCT started_at) FROM chat_turns";
        assert_eq!(db.count(turns, []).await, 4);
        let facts = db.facts(RequestId::random(), 100).await.unwrap();
        let roles: Vec<_> = facts.recent_messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant"].repeat(4));
        assert!(facts.boundary.is_some_and(|newest| facts.now > newest.at));
    }

    /// PLAT-16: a turn of another user or chat does not exist.
    async fn a_foreign_turn_is_not_found(db: Db) {
        let send = db.send(NOON);
        send.reserve(&db.store).await.unwrap();
        assert!(stored(&db, send.request).await.is_some());
        let mut other = db;
        other.user = minichat_core::UserId::random();
        assert!(stored(&other, send.request).await.is_none());
        let running = other.store.read(move |tx| Box::pin(async move {
            tx.turn_is_running(minichat_core::TenantId::random(), send.chat).await
        })).await;
        assert!(!running.map_err(|error: StoreError| error).unwrap());
    }
}
