//! What becomes of PostgreSQL sessions whose jobs are over before their server answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::Db;
use super::outages::chat;
use super::proxy::Proxy;
use crate::tx::only_column;
use crate::{DatabaseSettings, Store, StoreError, Tx};

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(30);

/// Ends all other sessions.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

async fn proxied(change: impl FnOnce(&mut DatabaseSettings)) -> (Db, Proxy, Store) {
    let db = Db::postgres().await;
    let proxy = Proxy::before(&db.settings.url).await;
    let mut settings = db.settings.clone();
    settings.url.clone_from(&proxy.url);
    change(&mut settings);
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    (db, proxy, store)
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    connection.execute(sql).await.unwrap();
}

/// A connection that is none of a pool's.
async fn connect(db: &Db) -> PgConnection {
    PgConnection::connect(&db.settings.url).await.unwrap()
}

/// Which session serves a job.
async fn session(store: &Store) -> Result<i64, StoreError> {
    let asked = store.read(|tx: &mut Tx| {
        let sql = "SELECT CAST(pg_backend_pid() AS BIGINT)";
        Box::pin(async move { tx.query_opt(sql, &[], only_column).await })
    });
    Ok(asked.await?.unwrap())
}

/// The same, as soon as there is one.
async fn next_session(store: &Store) -> i64 {
    loop {
        match session(store).await {
            Ok(session) => return session,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
    }
}

/// Returns when the store has two sessions.
async fn two_sessions(proxy: &Proxy, store: &Store) {
    while proxy.accepted() < 2 {
        let _ = tokio::join!(store.ping(), store.ping());
    }
}

/// D43: a connection that takes longer than its job waits serves the next one.
/// Otherwise, on a server that is slow to connect, no job would ever have one.
#[tokio::test]
async fn a_connection_that_comes_too_late_serves_the_next_job() {
    let (db, proxy, store) = proxied(|settings| {
        settings.max_conns = 1;
        settings.job_timeout = Duration::from_millis(200);
        settings.connect_timeout = LONG;
    })
    .await;
    proxy.shut(true);
    run(&mut connect(&db).await, END).await;
    while proxy.accepted() < 2 {
        store.ping().await.unwrap_err();
    }
    store.ping().await.unwrap_err();
    proxy.shut(false);
    next_session(&store).await;
    assert_eq!(proxy.accepted(), 2);
}

/// D43: a session whose job has given up serves the next one when its server has
/// answered, be it with a failure, and nothing is left of the transaction.
#[tokio::test]
async fn an_abandoned_session_serves_again_when_its_server_has_answered() {
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = 1;
    settings.job_timeout = Duration::from_millis(500);
    settings.statement_timeout = Duration::from_secs(1);
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let first = next_session(&store).await;
    let mut other = connect(&db).await;
    for (is_unlocked, chats) in [(true, 2), (false, 3)] {
        run(&mut other, "SELECT pg_advisory_lock(7)").await;
        let abandoned = chat(&db, db.user);
        let waits = store.write(move |tx: &mut Tx| {
            let sql = "SELECT 1 FROM (SELECT pg_advisory_xact_lock(7)) AS locked";
            Box::pin(async move {
                tx.chat_insert(&abandoned)?;
                tx.query_opt(sql, &[], |_| Ok(())).await
            })
        });
        let refused: Result<_, StoreError> = waits.await;
        assert!(matches!(refused, Err(StoreError::Deadline)), "{refused:?}");
        if is_unlocked {
            run(&mut other, "SELECT pg_advisory_unlock(7)").await;
        }
        assert_eq!(next_session(&store).await, first);
        let chat = chat(&db, db.user);
        let written =
            store.write(move |tx: &mut Tx| Box::pin(async move { tx.chat_insert(&chat) }));
        written.await.map_err(|error: StoreError| error).unwrap();
        assert_eq!(db.count("SELECT COUNT(*) FROM chats", []).await, chats);
        assert_eq!(next_session(&store).await, first);
    }
}

/// D43: a server that is silent for one session ends those that were there before, and
/// none that it has answered since.
#[tokio::test]
async fn a_session_that_is_younger_than_the_silence_stays() {
    let (_db, proxy, store) = proxied(|settings| {
        settings.max_conns = 2;
        settings.job_timeout = Duration::from_secs(1);
        settings.statement_timeout = Duration::from_millis(500);
    })
    .await;
    proxy.silence();
    let waits = tokio::spawn({
        let store = store.clone();
        async move { store.ping().await }
    });
    proxy.has_lost_something().await;
    let young = session(&store).await.unwrap();
    let refused = waits.await.unwrap();
    assert!(matches!(refused, Err(StoreError::Deadline)), "{refused:?}");
    assert_eq!(session(&store).await.unwrap(), young);
    assert_eq!(proxy.accepted(), 2);
}

/// D43: a server that does not answer a session for which no job waits any more is as
/// silent to the others.
#[tokio::test]
async fn silence_after_a_job_is_over_ends_the_other_sessions() {
    let (_db, proxy, store) = proxied(|settings| {
        settings.max_conns = 2;
        settings.job_timeout = Duration::from_millis(400);
        settings.statement_timeout = Duration::from_millis(500);
        settings.connect_timeout = Duration::from_secs(2);
    })
    .await;
    two_sessions(&proxy, &store).await;
    let (one, other) = tokio::join!(next_session(&store), next_session(&store));
    assert_ne!(one, other);
    proxy.silence();
    let refused = store.ping().await;
    assert!(matches!(refused, Err(StoreError::Deadline)), "{refused:?}");
    let closed = timeout(LONG, proxy.has_open(0)).await;
    closed.expect("a session of the silent server was kept");
}

/// D43: a server that ends a session while it is made, or is about to serve, is asked
/// once more.
#[tokio::test]
async fn a_connection_that_a_restart_refuses_is_tried_once_more() {
    for state in ["57P01", "57P03"] {
        let (db, proxy, store) = proxied(|_| ()).await;
        drop(store);
        let mut settings = db.settings.clone();
        settings.url.clone_from(&proxy.url);
        proxy.refuse(state);
        Store::open(&settings, db.clock.clone()).await.unwrap();
        assert_eq!(proxy.accepted(), 3);
        proxy.refuse(state);
        proxy.refuse(state);
        let Err(refused) = Store::open(&settings, db.clock.clone()).await else {
            panic!("the server was asked more than twice");
        };
        assert!(refused.is_unavailable(), "{refused}");
        assert!(refused.to_string().contains(state), "{refused}");
        assert_eq!(proxy.accepted(), 5);
    }
}

/// A job whose statement waits for what `other` has locked.
async fn waiting(
    other: &mut PgConnection,
    store: &Store,
    sql: &'static str,
) -> JoinHandle<Result<Option<i64>, StoreError>> {
    let store = store.clone();
    let waits = tokio::spawn(async move {
        let waits = store.read(move |tx: &mut Tx| {
            Box::pin(async move { tx.query_opt(sql, &[], only_column).await })
        });
        waits.await
    });
    let locked = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    loop {
        let row = other.fetch_one(sqlx::raw_sql(locked)).await.unwrap();
        if row.get::<i64, _>(0) > 0 {
            return waits;
        }
    }
}

/// Ends a job, so that its statement is abandoned.
async fn abandon(waits: JoinHandle<Result<Option<i64>, StoreError>>) {
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
}

/// A statement that fails with `state` as soon as nobody has the advisory lock, and a
/// store with two sessions, one of which was abandoned with it.
async fn abandoned_with(state: &str) -> (Db, Proxy, Store, PgConnection) {
    let (db, proxy, store) = proxied(|settings| settings.max_conns = 2).await;
    two_sessions(&proxy, &store).await;
    let mut other = connect(&db).await;
    let function = format!(
        "CREATE FUNCTION fails() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock(7); \
         RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"
    );
    run(&mut other, &function).await;
    run(&mut other, "SELECT pg_advisory_lock(7)").await;
    let waits = waiting(&mut other, &store, "SELECT fails()").await;
    session(&store).await.unwrap();
    abandon(waits).await;
    (db, proxy, store, other)
}

/// D43: what a server says when nobody waits any more counts as much: one that may only
/// be read is not used again.
#[tokio::test]
async fn a_read_only_server_is_noticed_after_a_job_is_over() {
    let (_db, proxy, store, mut other) = abandoned_with("25006").await;
    run(&mut other, "SELECT pg_advisory_unlock(7)").await;
    let closed = timeout(LONG, proxy.has_open(0)).await;
    closed.expect("a session that may only be read was kept");
    session(&store).await.unwrap();
}

/// D43: the same for a server that ends sessions: the others are asked before they are
/// used, since a commit on a dead one would be in doubt.
#[tokio::test]
async fn an_ended_session_is_noticed_after_a_job_is_over() {
    let (db, proxy, store, mut other) = abandoned_with("57P01").await;
    run(&mut other, "SELECT pg_advisory_unlock(7)").await;
    proxy.has_open(1).await;
    run(&mut other, END).await;
    proxy.has_open(0).await;
    let chat = chat(&db, db.user);
    let written = store.write(move |tx: &mut Tx| Box::pin(async move { tx.chat_insert(&chat) }));
    written.await.map_err(|error: StoreError| error).unwrap();
}

/// D43: a session that was connected after a silent server was asked has had an answer
/// since, also if nobody waited for the one that is missing.
#[tokio::test]
async fn a_session_that_is_younger_than_an_abandoned_statement_stays() {
    let (_db, proxy, store) = proxied(|settings| {
        settings.max_conns = 2;
        settings.statement_timeout = Duration::from_millis(500);
        settings.connect_timeout = Duration::from_secs(1);
    })
    .await;
    proxy.silence();
    let waits = tokio::spawn({
        let store = store.clone();
        async move {
            store
                .read(|tx: &mut Tx| {
                    Box::pin(async move { tx.query_opt("SELECT 1", &[], only_column).await })
                })
                .await
        }
    });
    proxy.has_lost_something().await;
    let young = session(&store).await.unwrap();
    abandon(waits).await;
    let closed = timeout(LONG, proxy.has_open(1)).await;
    closed.expect("not only the silent session was given up");
    assert_eq!(session(&store).await.unwrap(), young);
}

/// D43: a server without further connections is waited for as long as this process has
/// one on its way.
#[tokio::test]
async fn a_job_waits_for_a_connection_that_another_job_makes() {
    let (db, proxy, store) = proxied(|settings| settings.max_conns = 2).await;
    proxy.shut(true);
    run(&mut connect(&db).await, END).await;
    proxy.has_open(0).await;
    let ping = || {
        let store = store.clone();
        tokio::spawn(async move { store.ping().await })
    };
    let first = ping();
    proxy.has_accepted(2).await;
    proxy.refuse("53300");
    let second = ping();
    proxy.has_accepted(3).await;
    proxy.has_open(1).await;
    proxy.shut(false);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

/// D43: what is prepared for a job that is over has no use, and is not kept.
#[tokio::test]
async fn a_cut_preparation_leaves_nothing_at_the_server() {
    const CUT: &str = "SELECT COUNT(*) FROM chats WHERE title = 'cut'";
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = 1;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let first = session(&store).await.unwrap();
    let mut other = connect(&db).await;
    run(&mut other, "BEGIN; LOCK TABLE chats").await;
    abandon(waiting(&mut other, &store, CUT).await).await;
    run(&mut other, "COMMIT").await;
    let prepared = store.read(|tx: &mut Tx| {
        let sql = "SELECT COUNT(*) FROM pg_prepared_statements WHERE statement LIKE '%''cut''%' \
            AND statement NOT LIKE '%prepared%'";
        Box::pin(async move { tx.query_opt(sql, &[], only_column).await })
    });
    let prepared: Result<Option<i64>, StoreError> = prepared.await;
    assert_eq!(prepared.unwrap(), Some(0));
    assert_eq!(session(&store).await.unwrap(), first);
}

/// QUOTA-82: a job that lets others go first lets them have its session.
#[tokio::test]
async fn a_session_is_free_until_the_next_attempt() {
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = 1;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let collides = "CREATE FUNCTION collides() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN \
        RAISE EXCEPTION USING ERRCODE = '40001'; END $$";
    run(&mut connect(&db).await, collides).await;
    let (attempts, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    // The clock stands still as long as a thread is blocked.
    tokio::time::pause();
    let (go_on, blocked) = mpsc::channel::<()>();
    let blocked = spawn_blocking(move || blocked.recv_timeout(LONG));
    let job = tokio::spawn({
        let (store, attempts, begun) = (store.clone(), Arc::clone(&attempts), Arc::clone(&begun));
        async move {
            let job = store.write(move |tx: &mut Tx| {
                attempts.fetch_add(1, Ordering::Relaxed);
                begun.notify_one();
                Box::pin(async move { tx.query_opt("SELECT collides()", &[], |_| Ok(())).await })
            });
            job.await
        }
    });
    begun.notified().await;
    tokio::select! {
        served = store.ping() => served.unwrap(),
        _ = blocked => panic!("the session was held until the next attempt"),
    }
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    tokio::time::resume();
    go_on.send(()).unwrap();
    let refused: Result<Option<()>, StoreError> = job.await.unwrap();
    assert!(
        matches!(refused, Err(StoreError::Contended(_))),
        "{refused:?}"
    );
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
}
