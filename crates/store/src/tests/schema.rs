use std::time::Duration;

use minichat_core::{ChatId, MessageId, RequestId, Timestamp, TurnId};
use uuid::Uuid;

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::migrate::newest;
use crate::tx::only_column;
use crate::value::{Param, params};
use crate::{Constraint, DatabaseSettings, Store, StoreError};

const INSERT_TURN: &str = "INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, \
    requester_type, state, started_at, last_progress_at, completed_at, updated_at) \
    VALUES ($1, $2, $3, $4, 'user', $5, $6, $7, $8, $6)";

fn turn(
    db: &Db,
    state: &'static str,
    progress: Option<Timestamp>,
    completed: Option<Timestamp>,
) -> [Param<'static>; 8] {
    params![
        TurnId::random(),
        db.tenant,
        db.chat,
        RequestId::random(),
        state,
        NOON,
        progress,
        completed,
    ]
}

async fn insert_message(db: &Db) -> MessageId {
    let id = MessageId::random();
    db.sql(
        "INSERT INTO messages (id, tenant_id, chat_id, role, created_at) \
         VALUES ($1, $2, $3, 'assistant', $4)",
        params![id, db.tenant, db.chat, NOON],
    )
    .await
    .unwrap();
    id
}

on_both_databases! {
    /// TURN-4, PLAT-7: the database itself refuses impossible turns.
    async fn impossible_turns_are_refused(db: Db) {
        db.sql(INSERT_TURN, turn(&db, "running", Some(NOON), None)).await.unwrap();
        let second = db.sql(INSERT_TURN, turn(&db, "running", Some(NOON), None)).await;
        assert!(matches!(second, Err(StoreError::Unique(Constraint::OneRunningTurn, _))), "{second:?}");
        for params in [
            turn(&db, "completed", Some(NOON), None),
            turn(&db, "failed", None, None),
            turn(&db, "running", None, None),
            turn(&db, "running", Some(NOON), Some(NOON)),
            turn(&db, "paused", Some(NOON), Some(NOON)),
        ] {
            let refused = db.sql(INSERT_TURN, params.clone()).await;
            assert!(matches!(refused, Err(StoreError::Check(_))), "{params:?}: {refused:?}");
        }
        db.sql(INSERT_TURN, turn(&db, "cancelled", None, Some(NOON))).await.unwrap();
    }

    /// TURN-4: a request id can be used once per chat, deleted turns included.
    async fn a_deleted_turn_keeps_its_request_id(db: Db) {
        let first = turn(&db, "completed", None, Some(NOON));
        let mut second = turn(&db, "completed", None, Some(NOON));
        second[3] = first[3].clone();
        db.sql(INSERT_TURN, first).await.unwrap();
        db.sql("UPDATE chat_turns SET deleted_at = $1", params![NOON]).await.unwrap();
        let again = db.sql(INSERT_TURN, second).await;
        assert!(matches!(again, Err(StoreError::Unique(Constraint::TurnRequest, _))), "{again:?}");
    }

    /// PLAT-10, PLAT-11, PLAT-13: one row per key, and only known reactions.
    async fn duplicate_children_are_refused(db: Db) {
        let message = insert_message(&db).await;
        let summary = "INSERT INTO thread_summaries (id, tenant_id, chat_id, summary_text, \
            summarized_up_to_created_at, summarized_up_to_message_id, created_at, updated_at) \
            VALUES ($1, $2, $3, 's', $4, $1, $4, $4)";
        let store = "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, provider, created_at) \
            VALUES ($1, $2, $3, 'p', $4)";
        let children = [
            (summary, Constraint::ThreadSummary),
            (store, Constraint::VectorStore),
        ];
        for (sql, constraint) in children {
            let row = || params![Uuid::new_v4(), db.tenant, db.chat, NOON];
            db.sql(sql, row()).await.unwrap();
            let again = db.sql(sql, row()).await;
            assert!(matches!(again, Err(StoreError::Unique(found, _)) if found == constraint), "{again:?}");
        }
        let reaction = "INSERT INTO message_reactions (id, tenant_id, message_id, user_id, \
            chat_id, reaction, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let row = |value| params![Uuid::new_v4(), db.tenant, message, db.user, db.chat, value, NOON];
        assert!(matches!(db.sql(reaction, row("love")).await, Err(StoreError::Check(_))));
        db.sql(reaction, row("like")).await.unwrap();
        let again = db.sql(reaction, row("dislike")).await;
        assert!(matches!(again, Err(StoreError::Unique(Constraint::Reaction, _))), "{again:?}");
    }

    /// PLAT-9: a link must stay inside its chat.
    async fn an_attachment_of_another_chat_cannot_be_linked(db: Db) {
        let message = insert_message(&db).await;
        let other = ChatId::random();
        db.insert_chat(db.user, other, NOON).await;
        let attachment = Uuid::new_v4();
        db.sql(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, status, attachment_kind, created_at, \
             updated_at) VALUES ($1, $2, $3, $4, 'f', 't', 1, 'b', 'ready', 'document', $5, $5)",
            params![attachment, db.tenant, other, db.user, NOON],
        ).await.unwrap();
        let link = db.sql(
            "INSERT INTO message_attachments (chat_id, message_id, attachment_id, tenant_id, \
             created_at) VALUES ($1, $2, $3, $4, $5)",
            params![db.chat, message, attachment, db.tenant, NOON],
        ).await;
        assert!(matches!(link, Err(StoreError::ForeignKey(_))), "{link:?}");
    }

    /// PLAT-2, D23: nothing is rounded on the way.
    async fn an_instant_is_read_as_it_was_written(db: Db) {
        let at = NOON.plus_micros(123_457);
        let chat = ChatId::random();
        db.insert_chat(db.user, chat, at).await;
        let (tenant, user) = (db.tenant, db.user);
        let found: Result<_, StoreError> = db
            .store
            .read(move |tx| Box::pin(async move { tx.chat_get(tenant, user, chat).await }))
            .await;
        let found = found.unwrap().unwrap();
        assert_eq!((found.created_at, found.updated_at), (at, at));
    }

    /// PLAT-1: a second start changes nothing; an older release refuses a newer
    /// schema.
    async fn a_newer_schema_is_refused(db: Db) {

        let count = "SELECT COUNT(*) FROM schema_migrations";
        assert_eq!(db.count(count, []).await, newest());
        db.sql("INSERT INTO schema_migrations (version) VALUES (1000)", []).await.unwrap();
        let Db { store, settings, clock, directory, .. } = db;
        drop(store);
        let opened = Store::open(&settings, clock).await;
        assert!(
            matches!(opened, Err(StoreError::NewerSchema { found: 1000, known }) if known == newest()),
            "{:?}", opened.err()
        );
        drop(directory);
    }
}

/// PLAT-3: every connection enforces foreign keys and waits for locks, and a
/// commit is on the disk before it is answered.
#[tokio::test]
async fn connections_to_a_file_are_set_up_for_one_durable_writer() {
    let db = Db::sqlite().await;
    for (pragma, value) in [
        ("PRAGMA foreign_keys", 1),
        ("PRAGMA busy_timeout", 5_000),
        (
            "SELECT count(*) FROM pragma_journal_mode WHERE journal_mode = 'wal'",
            1,
        ),
    ] {
        assert_eq!(db.count(pragma, []).await, value, "{pragma} of a reader");
        assert_eq!(written(&db, pragma).await, value, "{pragma} of the writer");
    }
    assert_eq!(written(&db, "PRAGMA synchronous").await, 2, "FULL");
}

/// The one integer that a query of the writer answers.
async fn written(db: &Db, sql: &'static str) -> i64 {
    let answer: Result<Option<i64>, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.query_opt(sql, &[], only_column).await }))
        .await;
    answer.unwrap().unwrap()
}

/// PLAT-3, D16: one process per file.
#[tokio::test]
async fn a_file_that_is_open_cannot_be_opened_again() {
    let db = Db::sqlite().await;
    let second = Store::open(&db.settings, db.clock.clone()).await;
    let Err(StoreError::InUse { holder, .. }) = second else {
        panic!("it was opened twice");
    };
    let me = format!("process {}", std::process::id());
    assert!(holder.starts_with(&me), "{holder}");
    let waiting = DatabaseSettings {
        file_patience: Duration::from_millis(1),
        ..db.settings.clone()
    };
    let second = Store::open(&waiting, db.clock.clone()).await;
    assert!(matches!(second, Err(StoreError::InUse { .. })));
    let Db {
        store,
        settings,
        clock,
        directory,
        ..
    } = db;
    drop(store);
    let third = Store::open(&settings, clock).await.unwrap();
    third.ping().await.unwrap();
    drop((third, directory));
}

/// Zeros after the last frame of the log are not damage: after a crash, the log
/// is recovered in full.
#[tokio::test]
async fn a_log_that_is_longer_than_its_frames_is_recovered() {
    let db = Db::sqlite().await;
    let source = db.directory.as_ref().unwrap().path();
    let crashed = tempfile::tempdir().unwrap();
    // The log first: a checkpoint may begin meanwhile, but only a later write
    // could start the log over.
    for name in ["chat.db-wal", "chat.db"] {
        std::fs::copy(source.join(name), crashed.path().join(name)).unwrap();
    }
    let log = crashed.path().join("chat.db-wal").metadata().unwrap();
    assert!(log.len() > 1 << 24, "{}", log.len());
    let url = format!("sqlite://{}", crashed.path().join("chat.db").display());
    let settings = crate::DatabaseSettings::new(url);
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let (tenant, user, chat) = (db.tenant, db.user, db.chat);
    let found: Result<_, StoreError> = store
        .read(move |tx| Box::pin(async move { tx.chat_get(tenant, user, chat).await }))
        .await;
    assert!(found.unwrap().is_some());
}

/// K8S-43: if several processes start at once, one migrates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openers_at_the_same_time_migrate_once() {
    let server = crate::testing::TestPostgres::shared().unwrap();
    let url = server.create_database().await.unwrap();
    let settings = crate::DatabaseSettings::new(url);
    let open = || Store::open(&settings, std::sync::Arc::new(minichat_core::SystemClock));
    let opened = futures_util::future::join_all((0..8).map(|_| open())).await;
    for store in opened {
        store.unwrap().ping().await.unwrap();
    }
}

/// K8S-43: with `auto_migrate` off an empty database is refused, not changed.
#[tokio::test]
async fn an_older_schema_is_refused_when_migration_is_off() {
    let server = crate::testing::TestPostgres::shared().unwrap();
    let mut settings = crate::DatabaseSettings::new(server.create_database().await.unwrap());
    settings.auto_migrate = false;
    let clock = std::sync::Arc::new(minichat_core::SystemClock);
    let refused = Store::open(&settings, clock.clone()).await;
    assert!(matches!(
        refused.err(),
        Some(StoreError::OlderSchema { found: 0, .. })
    ));
    settings.auto_migrate = true;
    Store::open(&settings, clock.clone()).await.unwrap();
    settings.auto_migrate = false;
    Store::open(&settings, clock).await.unwrap();
}
