//! Commits that wait for a flush which they share, and servers that crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use minichat_core::quota::{Bucket, Period};
use minichat_core::{ChatId, RequestId, TurnId};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Db;
use super::fixture::{NOON, OneTurn, RESERVE};
use super::one_statement::{EVERYBODY, finalize_as, reserve, reserve_in, with_rows};
use crate::testing::TestPostgres;
use crate::tx::only_column;
use crate::value::params;
use crate::{QuotaCells, Store, StoreError, Tx};

/// What a turn costs that is ended here.
const CHARGE: u64 = 600;
/// Turns of one user at once.
const AT_ONCE: usize = 8;

/// A flush waits until the gate is open: whoever has the advisory lock has shut it.
const GATE: &str = "CREATE FUNCTION public.pg_logical_emit_message(boolean, text, text) \
    RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN \
    PERFORM pg_advisory_xact_lock_shared(7); \
    RETURN pg_catalog.pg_logical_emit_message($1, $2, $3); END $$";
const AT_THE_GATE: &str =
    "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";
const OPENED: &str = "SELECT COUNT(*) FROM chat_turns";
const ENDED: &str = "SELECT COUNT(*) FROM chat_turns WHERE state = 'completed'";

async fn durable() -> (TestPostgres, Arc<Db>) {
    let server = TestPostgres::start_durable().unwrap();
    let url = server.create_database().await.unwrap();
    let name = url.rsplit_once('/').unwrap().1;
    // The function above comes before the server's own.
    let set = format!("ALTER DATABASE {name} SET search_path = public, pg_catalog");
    run(&mut connect(&url).await, &format!("{GATE}; {set}")).await;
    let db = Db::open(url, None).await;
    (server, Arc::new(db))
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    connection.execute(sql).await.unwrap();
}

async fn until(db: &Db, sql: &'static str, count: i64) {
    while db.count(sql, []).await != count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns when the server serves again.
async fn crash(server: &mut TestPostgres, db: &Db) {
    tokio::task::block_in_place(|| server.crash()).unwrap();
    // Finds the sessions that are dead.
    let is_back = async { while db.store.ping().await.is_err() {} };
    tokio::time::timeout(Duration::from_mins(1), is_back)
        .await
        .expect("the server answers within a minute of its crash");
}

/// A running turn of the user in a chat of its own.
async fn open(db: &Db) -> OneTurn {
    let turn = in_a_chat(db).await;
    assert!(reserve(db, turn, 0, EVERYBODY).await.unwrap());
    turn
}

async fn in_a_chat(db: &Db) -> OneTurn {
    let chat = ChatId::random();
    db.insert_chat(db.user, chat, NOON).await;
    OneTurn {
        chat,
        ..db.send(NOON)
    }
}

/// The second of two turns, which end at once while the gate is shut.
struct Unflushed {
    server: TestPostgres,
    db: Arc<Db>,
    gate: PgConnection,
    turn: OneTurn,
    finalization: Uuid,
    answer: JoinHandle<Result<bool, StoreError>>,
}

async fn unflushed() -> Unflushed {
    let (server, db) = durable().await;
    with_rows(&db).await;
    let turns = [open(&db).await, open(&db).await];
    let url = &db.settings.url;
    let (mut gate, mut rows) = (connect(url).await, connect(url).await);
    run(&mut gate, "SELECT pg_advisory_lock(7)").await;
    run(&mut rows, "BEGIN; SELECT 1 FROM quota_usage FOR UPDATE").await;
    let mut answers = Vec::new();
    let mut finalization = Uuid::nil();
    for (turn, waiting) in turns.into_iter().zip(1..) {
        let (db, id) = (Arc::clone(&db), Uuid::new_v4());
        finalization = id;
        answers.push(tokio::spawn({
            let db = Arc::clone(&db);
            async move { finalize_as(&db, turn, id).await }
        }));
        until(&db, WAITING, waiting).await;
    }
    run(&mut rows, "COMMIT").await;
    let answer = answers.pop().unwrap();
    // The first has nobody beside it when it begins, and flushes by itself.
    assert!(answers.pop().unwrap().await.unwrap().unwrap());
    until(&db, AT_THE_GATE, 1).await;
    until(&db, ENDED, 2).await;
    Unflushed {
        server,
        db,
        gate,
        turn: turns[1],
        finalization,
        answer,
    }
}

async fn ended_by(db: &Db, turn: OneTurn, id: Uuid) -> Result<bool, StoreError> {
    let asked = db.store.write(move |tx: &mut Tx| {
        Box::pin(async move { tx.turn_finalized_by(turn.tenant, turn.turn, id).await })
    });
    asked.await.map(|at| at.is_some())
}

/// QUOTA-82, TURN-38: turns of one user do not wait for one another's flush, and none
/// is answered before its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_free_before_the_flush_and_answers_come_after_it() {
    let mut it = unflushed().await;
    let db = Arc::clone(&it.db);
    let turn = in_a_chat(&db).await;
    let third = tokio::spawn(async move { reserve(&db, turn, 0, EVERYBODY).await });
    until(&it.db, OPENED, 3).await;
    assert!(!it.answer.is_finished(), "answered before its flush");
    assert!(!third.is_finished(), "answered before its flush");
    run(&mut it.gate, "SELECT pg_advisory_unlock(7)").await;
    assert!(it.answer.await.unwrap().unwrap());
    assert!(third.await.unwrap().unwrap());
    crash(&mut it.server, &it.db).await;
    assert_eq!(it.db.count(ENDED, []).await, 2);
    assert_eq!(it.db.count(OPENED, []).await, 3);
}

/// A turn that has nobody beside it takes no more round trips than before.
#[tokio::test]
async fn a_turn_alone_flushes_by_itself() {
    let (_server, db) = durable().await;
    with_rows(&db).await;
    let mut gate = connect(&db.settings.url).await;
    run(&mut gate, "SELECT pg_advisory_lock(7)").await;
    let turn = open(&db).await;
    assert!(finalize_as(&db, turn, Uuid::new_v4()).await.unwrap());
}

/// A turn that has the last session does not wait with it for its own flush. If
/// there is only one, the shared flush needs no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_session_commits_and_then_flushes() {
    let (mut server, db) = durable().await;
    let turn = with_rows(&db).await;
    let mut settings = db.settings.clone();
    settings.max_conns = 1;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let mut gate = connect(&db.settings.url).await;
    run(&mut gate, "SELECT pg_advisory_lock(7)").await;
    let answer = tokio::spawn({
        let store = store.clone();
        async move { reserve_in(&store, turn, 0, EVERYBODY).await }
    });
    until(&db, AT_THE_GATE, 1).await;
    assert!(!answer.is_finished(), "answered before its flush");
    run(&mut gate, "SELECT pg_advisory_unlock(7)").await;
    assert!(answer.await.unwrap().unwrap());
    store.ping().await.unwrap();
    crash(&mut server, &db).await;
    assert_eq!(db.count(OPENED, []).await, 1);
}

/// TURN-38: a flush that fails leaves its commits in doubt, and whoever finds one
/// has flushed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_flush_is_in_doubt_until_it_is_asked_about() {
    let mut it = unflushed().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks \
        WHERE locktype = 'advisory' AND NOT granted; SELECT pg_advisory_unlock(7)";
    run(&mut it.gate, end).await;
    let error = it.answer.await.unwrap().unwrap_err();
    assert!(error.is_unanswered(), "{error}");
    assert!(ended_by(&it.db, it.turn, it.finalization).await.unwrap());
    crash(&mut it.server, &it.db).await;
    assert_eq!(it.db.count(ENDED, []).await, 2);
}

/// The same if the server crashes: what was not flushed may be lost, and then it is
/// found so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_flush_is_in_doubt() {
    let mut it = unflushed().await;
    crash(&mut it.server, &it.db).await;
    let error = it.answer.await.unwrap().unwrap_err();
    assert!(error.is_unanswered(), "{error}");
    let is_ended = ended_by(&it.db, it.turn, it.finalization).await.unwrap();
    let ended = it.db.count(ENDED, []).await;
    assert_eq!(ended, if is_ended { 2 } else { 1 });
    assert_ne!(it.turn.complete(&it.db.store).await.unwrap(), is_ended);
    check_credits(&it.db, 2, 0).await;
}

/// TURN-44: what a reader has flushed survives a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_survives_if_it_was_flushed() {
    let (mut server, db) = durable().await;
    let mut other = connect(&db.settings.url).await;
    let change = "SET synchronous_commit = off; UPDATE chats SET title = 'seen'";
    run(&mut other, change).await;
    let seen = db
        .store
        .read(|tx: &mut Tx| Box::pin(async { tx.flush_seen().await }));
    seen.await.map_err(|error: StoreError| error).unwrap();
    crash(&mut server, &db).await;
    let seen = "SELECT COUNT(*) FROM chats WHERE title = 'seen'";
    assert_eq!(db.count(seen, []).await, 1);
}

async fn check_credits(db: &Db, ended: u64, running: u64) {
    let cells: QuotaCells = db.cells(db.send(NOON).scope()).await;
    for period in [Period::Daily, Period::Monthly] {
        let used = cells.used_credits_micro(period, Bucket::Total);
        assert_eq!(used, ended * CHARGE + running * RESERVE);
    }
}

/// What a worker was told before its server crashed.
#[derive(Default)]
struct Told {
    opened: Vec<TurnId>,
    ended: Vec<TurnId>,
}

/// One turn after the other, until the server is gone or it `is_over`: between two
/// statements a crash may go by unnoticed.
async fn work(
    db: Arc<Db>,
    chat: ChatId,
    answers: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> Told {
    let mut told = Told::default();
    for revision in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let turn = OneTurn {
            chat,
            ..db.send(NOON)
        };
        match reserve(&db, turn, revision, EVERYBODY).await {
            Ok(is_open) => assert!(is_open, "nobody else changes the chat"),
            Err(error) if error.is_unanswered() => {
                let opened = asked(&db, move |tx| {
                    Box::pin(async move { tx.turn_opened(turn.scope(), chat, turn.turn).await })
                });
                told.opened.extend(opened.await.then_some(turn.turn));
                break;
            }
            Err(error) => {
                assert!(error.is_unavailable(), "{error}");
                break;
            }
        }
        told.opened.push(turn.turn);
        let id = Uuid::new_v4();
        match finalize_as(&db, turn, id).await {
            Ok(is_ended) => assert!(is_ended, "nobody else ends the turn"),
            Err(error) if error.is_unanswered() => {
                let ended = asked(&db, move |tx| {
                    Box::pin(async move { tx.turn_finalized_by(turn.tenant, turn.turn, id).await })
                });
                told.ended.extend(ended.await.map(|_| turn.turn));
                break;
            }
            Err(error) => {
                assert!(error.is_unavailable(), "{error}");
                break;
            }
        }
        told.ended.push(turn.turn);
        answers.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// What the database says as soon as it serves again.
async fn asked<T, F>(db: &Db, query: F) -> T
where
    F: for<'t> FnMut(&'t mut Tx) -> crate::BoxFuture<'t, Result<T, StoreError>>
        + Clone
        + Send
        + 'static,
    T: Send + 'static,
{
    loop {
        match db.store.write_closing(query.clone()).await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The ends that a client sees which asks for a turn again and again, until it
/// `is_over`. It may not notice the crash: a read is repeated.
async fn watch(db: Arc<Db>, chats: Vec<ChatId>, is_over: Arc<AtomicBool>) -> Vec<RequestId> {
    let mut seen = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        for chat in &chats {
            let (tenant, user, chat) = (db.tenant, db.user, *chat);
            let found = db.store.read(move |tx: &mut Tx| {
                Box::pin(async move {
                    let newest = "SELECT request_id FROM chat_turns WHERE chat_id = $1 \
                        AND state = 'completed' ORDER BY completed_at DESC LIMIT 1";
                    let newest = tx.query_opt(newest, &params![chat], only_column).await?;
                    let Some(request) = newest else {
                        return Ok(None);
                    };
                    let turn = tx.turn_get(tenant, user, chat, request).await?;
                    tx.flush_seen().await?;
                    Ok::<_, StoreError>(turn)
                })
            });
            match found.await {
                Ok(turn) => seen.extend(turn.map(|turn| turn.request_id)),
                Err(_) => return seen,
            }
        }
    }
    seen
}

/// API-132, TURN-38: whatever was answered before a crash is there after
/// it, and what was in doubt is as it was found. Credits agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_answered_survives_every_crash() {
    let (mut server, db) = durable().await;
    with_rows(&db).await;
    for round in 0..8 {
        let mut chats = Vec::new();
        for _ in 0..AT_ONCE {
            chats.push(in_a_chat(&db).await.chat);
        }
        let answers = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let workers = chats.iter().map(|chat| {
            let (answers, is_over) = (Arc::clone(&answers), Arc::clone(&is_over));
            tokio::spawn(work(Arc::clone(&db), *chat, answers, is_over))
        });
        let workers: Vec<_> = workers.collect();
        let watcher = tokio::spawn(watch(Arc::clone(&db), chats, Arc::clone(&is_over)));
        while answers.load(Ordering::Relaxed) < 100 + 7 * round {
            let is_over = workers.iter().all(JoinHandle::is_finished);
            assert!(
                !is_over,
                "round {round}: all workers ended before the crash"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        crash(&mut server, &db).await;
        is_over.store(true, Ordering::Relaxed);
        let state = "SELECT COUNT(*) FROM chat_turns WHERE id = $1";
        let ended = "SELECT COUNT(*) FROM chat_turns WHERE id = $1 AND state = 'completed'";
        let seen = "SELECT COUNT(*) FROM chat_turns WHERE request_id = $1 AND state = 'completed'";
        for worker in workers {
            let told = worker.await.unwrap();
            for turn in told.opened {
                assert_eq!(
                    db.count(state, params![turn]).await,
                    1,
                    "round {round}: opened"
                );
            }
            for turn in told.ended {
                assert_eq!(
                    db.count(ended, params![turn]).await,
                    1,
                    "round {round}: ended"
                );
            }
        }
        for request in watcher.await.unwrap() {
            assert_eq!(
                db.count(seen, params![request]).await,
                1,
                "round {round}: seen"
            );
        }
        let count = async |sql| u64::try_from(db.count(sql, []).await).unwrap();
        let running = "SELECT COUNT(*) FROM chat_turns WHERE state = 'running'";
        check_credits(&db, count(ENDED).await, count(running).await).await;
    }
}
