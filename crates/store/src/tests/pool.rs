//! What becomes of PostgreSQL sessions whose jobs are over before their server answers.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::Db;
use super::outages::chat;
use super::proxy::Proxy;
use crate::tx::only_column;
use crate::{DatabaseSettings, Store, StoreError, Tx};

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(30);

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
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    run(
        &mut PgConnection::connect(&db.settings.url).await.unwrap(),
        end,
    )
    .await;
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
    let mut other = PgConnection::connect(&db.settings.url).await.unwrap();
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
    while proxy.accepted() < 2 {
        let _ = tokio::join!(store.ping(), store.ping());
    }
    let (one, other) = tokio::join!(next_session(&store), next_session(&store));
    assert_ne!(one, other);
    proxy.silence();
    let refused = store.ping().await;
    assert!(matches!(refused, Err(StoreError::Deadline)), "{refused:?}");
    let closed = tokio::time::timeout(LONG, proxy.has_open(0)).await;
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
