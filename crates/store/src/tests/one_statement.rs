//! What the statements of the hot path check, one by one.

use std::time::Duration;

use minichat_core::quota::{Bucket, Limits, MostCalls, Period, Reserve, TierLimits};
use minichat_core::turn::{Outcome, SettlementMethod};
use minichat_core::{MessageId, Timestamp};

use super::Db;
use super::fixture::{NOON, OneTurn, RESERVE};
use crate::one_statement::rfc3339;
use crate::tx::only_column;
use crate::value::params;
use crate::{
    ConditionalReserve, Finalization, OutboxMessage, Role, SettlementBooking, Store, StoreError,
    TurnFinish, Tx,
};

const NOBODY: Limits = limits(0);
pub(super) const EVERYBODY: Limits = limits(i64::MAX);

const fn limits(most: i64) -> Limits {
    let tier = TierLimits {
        daily: most,
        monthly: most,
    };
    Limits {
        standard: tier,
        premium: tier,
    }
}

/// Reserves at once if the chat has `revision` and its user's cells hold no more
/// than `most_used`.
pub(super) async fn reserve(
    db: &Db,
    turn: OneTurn,
    revision: u64,
    most_used: Limits,
) -> Result<bool, StoreError> {
    reserve_in(&db.store, turn, revision, most_used).await
}

const ANY_CALLS: MostCalls = MostCalls {
    web_search: i64::MAX,
    code_interpreter: i64::MAX,
};

pub(super) async fn reserve_in(
    store: &Store,
    turn: OneTurn,
    revision: u64,
    most_used: Limits,
) -> Result<bool, StoreError> {
    reserve_with_calls(store, turn, revision, (most_used, ANY_CALLS)).await
}

async fn reserve_with_calls(
    store: &Store,
    turn: OneTurn,
    revision: u64,
    (most_used, most_calls): (Limits, MostCalls),
) -> Result<bool, StoreError> {
    let answer = store.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let reserve = ConditionalReserve {
                turn: turn.new_turn(),
                message: turn.message(MessageId::random(), Role::User, "hello"),
                premium: turn.premium,
                revision,
                most_used,
                most_calls,
            };
            tx.turn_reserve(&reserve).await
        })
    });
    answer.await
}

async fn finalize(db: &Db, turn: OneTurn) -> Result<bool, StoreError> {
    finalize_as(db, turn, uuid::Uuid::new_v4()).await
}

/// Ends a turn by an attempt with this id.
pub(super) async fn finalize_as(
    db: &Db,
    turn: OneTurn,
    finalization_id: uuid::Uuid,
) -> Result<bool, StoreError> {
    let answer = db.store.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let event = |queue| OutboxMessage {
                queue,
                tenant_id: turn.tenant,
                key: turn.tenant.0,
                partitions: 4,
                dedupe_key: None,
                payload: "{\"b\":\"\\\"timestamp\\\":\",\"timestamp\":\"1970-01-01T00:00:00Z\",\"a\":1}",
                created_at: NOON,
            };
            let finalization = Finalization {
                finish: TurnFinish {
                    finalization_id,
                    ..turn.finish(Outcome::Completed(None))
                },
                reserve: Reserve {
                    reserve_tokens: 100,
                    max_output_tokens_applied: 50,
                    minimal_generation_floor_applied: 10,
                    reserved_credits_micro: i64::try_from(RESERVE).unwrap(),
                },
                booking: SettlementBooking {
                    web_search_calls: 0,
                    ..turn.settlement(NOON)
                },
                method: SettlementMethod::Actual,
                answer: Some(turn.message(MessageId::random(), Role::Assistant, "hi")),
                events: [event("a"), event("b")],
                summary: None,
            };
            Ok(tx.turn_finalize(&finalization).await?.is_some())
        })
    });
    answer.await
}

async fn turns(db: &Db) -> i64 {
    db.count("SELECT COUNT(*) FROM chat_turns", []).await
}

/// Makes the rows of the day.
pub(super) async fn with_rows(db: &Db) -> OneTurn {
    let turn = db.send(NOON);
    let scope = turn.scope();
    db.write(move |tx| tx.quota_ensure(scope)).await.unwrap();
    turn
}

/// QUOTA-52: nothing is written unless every row is there and has room, and the
/// chat is as it was read.
#[tokio::test]
async fn a_reserve_writes_only_what_still_holds() {
    let db = Db::postgres().await;
    let turn = db.send(NOON);
    assert!(!reserve(&db, turn, 0, EVERYBODY).await.unwrap(), "no rows");
    let turn = with_rows(&db).await;
    let premium = OneTurn {
        premium: true,
        ..turn
    };
    assert!(
        !reserve(&db, premium, 0, EVERYBODY).await.unwrap(),
        "no premium rows"
    );
    assert!(
        !reserve(&db, turn, 1, EVERYBODY).await.unwrap(),
        "another revision"
    );
    assert!(!reserve(&db, turn, 0, limits(-1)).await.unwrap(), "no room");
    assert_eq!(turns(&db).await, 0);
    assert!(reserve(&db, turn, 0, NOBODY).await.unwrap());
    assert_eq!(turns(&db).await, 1);
    let scope = turn.scope();
    let cells = db
        .store
        .read(move |tx: &mut Tx| Box::pin(async move { tx.quota_cells(scope).await }));
    let cells = cells.await.map_err(|error: StoreError| error).unwrap();
    for period in [Period::Monthly, Period::Daily] {
        assert_eq!(cells.used_credits_micro(period, Bucket::Total), RESERVE);
    }
    assert!(finalize(&db, turn).await.unwrap());
    // Its own reserve has changed the chat.
    assert!(!reserve(&db, db.send(NOON), 0, EVERYBODY).await.unwrap());
    assert!(reserve(&db, db.send(NOON), 1, EVERYBODY).await.unwrap());
}

/// QUOTA-50, QUOTA-52: nothing is written when the day has more calls of a tool.
#[tokio::test]
async fn a_reserve_checks_the_calls_of_the_day() {
    let db = Db::postgres().await;
    let turn = with_rows(&db).await;
    let calls = "UPDATE quota_usage SET web_search_calls = 3, code_interpreter_calls = 5 \
        WHERE period_type = 'daily'";
    db.sql(calls, []).await.unwrap();
    let reserve = async |web_search, code_interpreter| {
        let most = MostCalls {
            web_search,
            code_interpreter,
        };
        let reserved = reserve_with_calls(&db.store, turn, 0, (EVERYBODY, most));
        reserved.await.unwrap()
    };
    assert!(!reserve(2, 5).await, "more searches");
    assert!(!reserve(3, 4).await, "more code");
    assert_eq!(turns(&db).await, 0);
    assert!(reserve(3, 5).await);
    assert_eq!(turns(&db).await, 1);
}

/// QUOTA-82: what a statement waited for is what it checks.
#[tokio::test]
async fn a_reserve_that_waited_sees_what_it_waited_for() {
    let db = Db::postgres().await;
    let turn = with_rows(&db).await;
    let scope = turn.scope();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let gone = std::sync::Arc::new(tokio::sync::Mutex::new(Some(gone)));
    let other = db.store.write(move |tx: &mut Tx| {
        let gone = std::sync::Arc::clone(&gone);
        Box::pin(async move {
            tx.quota_lock(scope).await?;
            tx.quota_reserve(scope, false, RESERVE, NOON)?;
            // Runs what is posted.
            tx.now().await?;
            if let Some(gone) = gone.lock().await.take() {
                gone.await.unwrap();
            }
            Ok::<_, StoreError>(())
        })
    });
    let waiting = async {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while db.count(sql, []).await == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        go.send(()).unwrap();
    };
    let late = async {
        // After the other has its locks.
        let held = "SELECT COUNT(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND state = 'idle in transaction'";
        while db.count(held, []).await == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        reserve(&db, turn, 0, NOBODY).await
    };
    let (other, late, ()) = tokio::join!(other, late, waiting);
    other.unwrap();
    assert!(!late.unwrap(), "the room was taken meanwhile");
    assert_eq!(turns(&db).await, 0);
}

/// TURN-38: who asks about a finalization takes the turn away from a statement
/// that comes later, and from nobody else.
#[tokio::test]
async fn a_finalization_that_was_asked_about_ends_nothing_later() {
    let db = Db::postgres().await;
    let turn = with_rows(&db).await;
    assert!(reserve(&db, turn, 0, EVERYBODY).await.unwrap());
    let (tenant, id) = (turn.tenant, uuid::Uuid::new_v4());
    let asked = db.store.write(move |tx: &mut Tx| {
        Box::pin(async move { tx.turn_finalized_by(tenant, turn.turn, id).await })
    });
    assert_eq!(
        asked.await.map_err(|error: StoreError| error).unwrap(),
        None
    );
    assert!(!finalize(&db, turn).await.unwrap());
    assert!(turn.complete(&db.store).await.unwrap());
}

/// QUOTA-86: events hold the instant as it is written everywhere else.
#[tokio::test]
async fn an_instant_is_written_as_everywhere() {
    let db = Db::postgres().await;
    for micros in [
        0,
        1,
        500_000,
        123_450,
        60_000_000,
        1_700_000_040_000_000,
        1_700_000_000_120_000,
    ] {
        let at = Timestamp::from_micros(micros);
        let text = db.store.read(move |tx: &mut Tx| {
            Box::pin(async move {
                let sql = concat!("SELECT ", rfc3339!("CAST($1 AS TIMESTAMPTZ)"));
                tx.query_opt(sql, &params![at], only_column).await
            })
        });
        let text: Result<Option<String>, StoreError> = text.await;
        assert_eq!(text.unwrap(), Some(at.to_string()));
    }
    let turn = with_rows(&db).await;
    assert!(reserve(&db, turn, 0, EVERYBODY).await.unwrap());
    assert!(finalize(&db, turn).await.unwrap());
    let events = "SELECT COUNT(*) FROM outbox_messages WHERE \
        CAST(CAST(payload AS JSONB)->>'timestamp' AS TIMESTAMPTZ) = created_at \
        AND payload LIKE '{\"b\":\"_\"timestamp_\":\",\"timestamp\":\"2%Z\",\"a\":1}'";
    assert_eq!(db.count(events, []).await, 2);
    let booked = "SELECT settled_credits_micro FROM chat_turns WHERE settlement_method = 'actual'";
    assert_eq!(db.count(booked, []).await, 600);
}
