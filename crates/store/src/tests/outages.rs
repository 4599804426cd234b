//! Databases that cannot serve: how this is reported, and that it is temporary.

use std::sync::Arc;
use std::time::Duration;

use minichat_core::{ChatId, UserId};
use rusqlite::ffi;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::error::testing::{fatal_of_postgres, refused_by_postgres, refused_by_sqlite};
use crate::testing::{Control, Fault};
use crate::{NewChat, Store, StoreError, Tx};

/// SQLSTATE codes, and whether the failure is temporary.
const STATES: [(&str, bool); 27] = [
    ("08000", true),
    ("08006", true),
    ("08P01", true),
    ("25006", true),
    ("25P03", true),
    ("28000", true),
    ("28P01", true),
    ("3D000", true),
    ("40001", true),
    ("40P01", true),
    ("53000", true),
    ("53100", true),
    ("53200", true),
    ("53300", true),
    ("53400", true),
    ("55P03", true),
    ("57014", true),
    ("57P01", true),
    ("57P02", true),
    ("57P03", true),
    ("58030", true),
    ("22001", false),
    ("22P05", false),
    ("23502", false),
    ("25P02", false),
    ("42P01", false),
    ("XX000", false),
];

/// D43: if the session ended, the commit is in doubt, whatever the code is.
#[test]
fn a_fatal_error_ends_the_session_whatever_its_code() {
    for state in ["53100", "XX000", "40001"] {
        assert!(!refused_by_postgres(state).ends_session(), "{state}");
        assert!(fatal_of_postgres(state).ends_session(), "{state}");
    }
    assert!(refused_by_postgres("57P01").ends_session());
}

/// D43: the temporary failures of PostgreSQL and SQLite.
#[test]
fn what_passes_by_itself_is_told_apart() {
    for (state, passes) in STATES {
        let error = refused_by_postgres(state);
        assert_eq!(error.is_unavailable(), passes, "{state}");
        assert!(!error.is_unanswered(), "{state}");
    }
    for (code, passes) in [
        (ffi::SQLITE_BUSY, true),
        (ffi::SQLITE_BUSY_SNAPSHOT, true),
        (ffi::SQLITE_LOCKED, true),
        (ffi::SQLITE_NOMEM, true),
        (ffi::SQLITE_READONLY, true),
        (ffi::SQLITE_READONLY_DBMOVED, true),
        (ffi::SQLITE_IOERR, true),
        (ffi::SQLITE_IOERR_FSYNC, true),
        (ffi::SQLITE_FULL, true),
        (ffi::SQLITE_CANTOPEN, true),
        (ffi::SQLITE_PROTOCOL, true),
        (ffi::SQLITE_CORRUPT, false),
        (ffi::SQLITE_NOTADB, false),
        (ffi::SQLITE_CONSTRAINT_NOTNULL, false),
        (ffi::SQLITE_ERROR, false),
    ] {
        let error = refused_by_sqlite(code);
        assert_eq!(error.is_unavailable(), passes, "{error}");
        // Every job of the shared transaction gets the same error.
        let shared = StoreError::RolledBack(Arc::new(error));
        assert_eq!(shared.is_unavailable(), passes, "{shared}");
    }
}

pub(super) fn chat(db: &Db, user_id: UserId) -> NewChat<'static> {
    NewChat {
        id: ChatId::random(),
        tenant_id: db.tenant,
        user_id,
        model: "m",
        title: Some("a title of a user"),
        is_temporary: false,
        created_at: NOON,
    }
}

on_both_databases! {
    /// The error contains code, message and constraint, and no value of a row.
    async fn a_refusal_is_told_in_the_words_of_the_database(db: Db) {
        let chat = chat(&db, UserId::random());
        db.write(move |tx| tx.chat_insert(&chat)).await.unwrap();
        let again = db.write(move |tx| tx.chat_insert(&chat)).await.unwrap_err();
        let message = again.to_string();
        let (code, constraint) = match db.directory {
            Some(_) => ("SQLite 1555", "chats.id"),
            None => ("23505", "constraint chats_pkey"),
        };
        assert!(message.contains(code) && message.contains(constraint), "{message}");
        assert!(!message.contains(&chat.id.to_string()), "{message}");
        let nobody = NewChat { tenant_id: minichat_core::TenantId::random(), ..chat };
        assert!(!format!("{again:?}").contains(&nobody.id.to_string()), "{again:?}");
    }

    /// Each probe writes.
    async fn a_probe_fails_when_nothing_can_be_written(db: Db) {
        db.store.probe().await.unwrap();
        db.store.probe().await.unwrap();
        if let Some(writer) = db.store.writer() {
            for fault in [Fault::Busy, Fault::Full, Fault::Io] {
                writer.fail(Control::Commit, 0, fault);
                let refused = db.store.probe().await.unwrap_err();
                assert!(refused.is_unavailable(), "{refused}");
                db.store.probe().await.unwrap();
            }
        }
    }
}

/// When the log cannot be emptied, the remaining room is for open turns.
#[tokio::test]
async fn without_room_only_open_turns_can_be_ended() {
    let db = Db::sqlite().await;
    let writer = db.store.writer().unwrap();
    writer.fail_checkpoints(true);
    let user = UserId::random();
    let one = chat(&db, user);
    db.write(move |tx| tx.chat_insert(&one)).await.unwrap();
    let refused = loop {
        if let Err(error) = db.store.probe().await {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(matches!(refused, StoreError::NoRoom(_)), "{refused}");
    assert!(refused.is_unavailable());
    let two = chat(&db, user);
    let refused = db.write(move |tx| tx.chat_insert(&two)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom(_))), "{refused:?}");
    let three = chat(&db, user);
    let closing = db
        .store
        .write_closing(move |tx: &mut Tx| Box::pin(async move { tx.chat_insert(&three) }));
    closing.await.unwrap();
    db.store.ping().await.unwrap();
    writer.fail_checkpoints(false);
    while db.store.probe().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    db.write(move |tx| tx.chat_insert(&two)).await.unwrap();
}

/// D43: the pool drops a read-only session after the first write that fails.
#[tokio::test]
async fn a_session_that_turned_read_only_is_used_once() {
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = 1;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let turns = store.write(|tx: &mut Tx| {
        Box::pin(async { tx.execute_later("SET default_transaction_read_only = on", []) })
    });
    turns.await.map_err(|error: StoreError| error).unwrap();
    let refused = store.probe().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused}");
    assert!(refused.to_string().contains("25006"), "{refused}");
    store.probe().await.unwrap();
}

/// D43: sessions that the server ended, all of them or one, fail no job that can run
/// again.
#[tokio::test]
async fn ended_sessions_fail_no_job() {
    const SESSIONS: usize = 6;
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = SESSIONS;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut outside = PgConnection::connect(&settings.url).await.unwrap();
    for limit in ["", " LIMIT 1"] {
        // As many as there may be, all of them idle for a moment.
        let together = tokio::sync::Barrier::new(SESSIONS);
        let fill = (0..SESSIONS).map(|_| async {
            let job = store.write(|tx: &mut Tx| {
                Box::pin(async { tx.query_opt("SELECT 1", &[], |_| Ok(())).await })
            });
            together.wait().await;
            job.await
        });
        for filled in futures_util::future::join_all(fill).await {
            filled.map_err(|error: StoreError| error).unwrap();
        }
        let end = sqlx::raw_sql(AssertSqlSafe(format!("{end}{limit}")));
        outside.execute(end).await.unwrap();
        for _ in 0..SESSIONS {
            store.ping().await.unwrap();
        }
        let user = UserId::random();
        for _ in 0..SESSIONS {
            let chat = chat(&db, user);
            let job = store.write(move |tx: &mut Tx| {
                Box::pin(async move {
                    tx.query_opt("SELECT 1", &[], |_| Ok(())).await?;
                    tx.chat_insert(&chat)
                })
            });
            job.await.map_err(|error: StoreError| error).unwrap();
        }
    }
}

/// D43: while others have the server's connections, jobs take turns with the sessions
/// that there are; without any, they fail at once.
#[tokio::test]
async fn without_further_connections_jobs_take_turns() {
    const JOBS: usize = 6;
    let db = Db::postgres().await;
    let (server, name) = db.settings.url.rsplit_once('/').unwrap();
    let role = format!("few_{name}");
    let mut owner = PgConnection::connect(&db.settings.url).await.unwrap();
    let run = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
    let grant = format!(
        "CREATE ROLE {role} LOGIN CONNECTION LIMIT 2; \
         GRANT ALL ON SCHEMA public TO {role}; \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    );
    owner.execute(run(grant)).await.unwrap();
    let host = server.rsplit_once('@').unwrap().1;
    let mut settings = db.settings.clone();
    settings.url = format!("postgres://{role}@{host}/{name}");
    settings.max_conns = JOBS;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let job = || {
        let job = store.read(|tx: &mut Tx| {
            let sql = "SELECT 1 FROM pg_sleep(0.05)";
            Box::pin(async move { tx.query_opt(sql, &[], |_| Ok(())).await })
        });
        async { job.await.map_err(|error: StoreError| error) }
    };
    let jobs = futures_util::future::join_all((0..JOBS).map(|_| job()));
    for done in jobs.await {
        done.unwrap();
    }
    drop(store);

    let mut others = Vec::new();
    while let Ok(other) = PgConnection::connect(&settings.url).await {
        others.push(other);
    }
    let Err(refused) = Store::open(&settings, db.clock.clone()).await else {
        panic!("there was a connection left");
    };
    assert!(refused.is_unavailable(), "{refused}");
    assert!(refused.to_string().contains("53300"), "{refused}");
    drop(others);
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'; \
         DROP OWNED BY {role}; DROP ROLE {role}"
    );
    owner.execute(run(end)).await.unwrap();
}

/// A read-only server counts as unavailable, for readers as well.
#[tokio::test]
async fn a_server_that_may_only_be_read_serves_nobody() {
    let db = Db::postgres().await;
    let name = db.settings.url.rsplit_once('/').unwrap().1.to_owned();
    let mut settings = db.settings.clone();
    settings.max_conns = 2;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let set = |value| {
        let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
        let server = db.settings.url.replace(&name, "postgres");
        async move {
            let mut connection = PgConnection::connect(&server).await.unwrap();
            let sql = sqlx::raw_sql(AssertSqlSafe(sql));
            connection.execute(sql).await.unwrap();
        }
    };
    set("on").await;
    let turns = store.write(|tx: &mut Tx| {
        Box::pin(async { tx.execute_later("SET default_transaction_read_only = on", []) })
    });
    turns.await.map_err(|error: StoreError| error).unwrap();
    store.probe().await.unwrap_err();
    for refused in [store.probe().await, store.ping().await] {
        let refused = refused.unwrap_err();
        assert!(refused.is_unavailable(), "{refused}");
        assert!(refused.to_string().contains("does not allow"), "{refused}");
    }
    set("off").await;
    store.probe().await.unwrap();
    store.ping().await.unwrap();
}

/// D43: if a server accepts connections but does not answer, a job fails after
/// its timeout.
#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 64]).await;
            silent.push(connection);
        }
    });
    let mut settings = crate::DatabaseSettings::new(format!("postgres://postgres@{address}/a"));
    settings.connect_timeout = Duration::from_millis(100);
    let clock = Arc::new(minichat_core::SystemClock);
    let Err(error) = Store::open(&settings, clock).await else {
        panic!("a silent server was opened");
    };
    assert!(error.is_unavailable(), "{error}");
}

/// Commits need room in two more files than the database's own, even if the
/// disk is full.
#[tokio::test]
async fn the_log_and_its_index_have_their_room_from_the_start() {
    let db = Db::sqlite().await;
    let directory = db.directory.as_ref().unwrap().path();
    let length = |name| directory.join(name).metadata().unwrap().len();
    assert!(length("chat.db-wal") >= 24 << 20);
    // 4,062 frames fit into the first 32 KiB, and 4,096 into each further one.
    let frames = 4_062 + 4_096 * (length("chat.db-shm") / (32 << 10) - 1);
    assert!(frames * (2_048 + 24) >= 24 << 20);
}

/// PostgreSQL ends a statement, or a wait for a lock, that takes too long.
#[tokio::test]
async fn statements_and_waits_for_locks_are_limited() {
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.statement_timeout = Duration::from_millis(200);
    settings.lock_timeout = Duration::from_millis(50);
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let slow =
        store.write(|tx: &mut Tx| Box::pin(async { tx.execute_later("SELECT pg_sleep(60)", []) }));
    let slow: Result<(), StoreError> = slow.await;
    let slow = slow.unwrap_err();
    assert!(
        slow.is_unavailable() && slow.to_string().contains("57014"),
        "{slow}"
    );
    let mut other = PgConnection::connect(&db.settings.url).await.unwrap();
    let locks = other.execute(sqlx::raw_sql("BEGIN; LOCK TABLE chats"));
    locks.await.unwrap();
    let user = UserId::random();
    let one = chat(&db, user);
    let waits = store.write(move |tx: &mut Tx| Box::pin(async move { tx.chat_insert(&one) }));
    let waits: Result<(), StoreError> = waits.await;
    assert!(matches!(waits, Err(StoreError::Contended(_))), "{waits:?}");
    drop(other);
}

/// D43: a statement whose job is over keeps its session's place until the server is done
/// with it, so that a slow server gets no more sessions than there may be.
#[tokio::test]
async fn abandoned_statements_open_no_further_sessions() {
    const SESSIONS: usize = 2;
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = SESSIONS;
    settings.statement_timeout = Duration::from_secs(2);
    settings.job_timeout = Duration::from_millis(100);
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let slow = || {
        let job = store.read(|tx: &mut Tx| {
            let sql = "SELECT 1 FROM pg_sleep(60)";
            Box::pin(async move { tx.query_opt(sql, &[], |_| Ok(())).await })
        });
        async { job.await.map_err(|error: StoreError| error) }
    };
    for _ in 0..2 {
        let slow = futures_util::future::join_all((0..2 * SESSIONS).map(|_| slow()));
        for refused in slow.await {
            assert!(refused.unwrap_err().is_unavailable());
        }
    }
    let sleeping = "SELECT COUNT(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let sleeping = usize::try_from(db.count(sleeping, []).await).unwrap();
    assert!((1..=SESSIONS).contains(&sleeping), "{sleeping}");
    // The server ends them, and the places are free.
    while store.ping().await.is_err() {}
}

/// Through a pooler, nothing is prepared and no session setting is made, and
/// every type of value works.
#[tokio::test]
async fn a_store_behind_a_pooler_does_the_same() {
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.listen_url = Some(settings.url.clone());
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let db = Db { store, ..db };
    let turn = db.send(NOON);
    turn.reserve(&db.store).await.unwrap();
    assert!(turn.complete(&db.store).await.unwrap());
    let prepared = "SELECT COUNT(*) FROM pg_prepared_statements";
    assert_eq!(db.count(prepared, []).await, 0);
    db.store.probe().await.unwrap();
}
