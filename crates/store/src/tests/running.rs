use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use minichat_core::{ChatId, UserId};
use tokio::sync::Barrier;

use super::fixture::{NOON, SendError};
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{NewChat, QuotaDay, Store, StoreError, Tx};

const CHATS: &str = "SELECT COUNT(*) FROM chats WHERE user_id = $1";

fn new_chat(db: &Db, user_id: UserId) -> NewChat<'static> {
    NewChat {
        id: ChatId::random(),
        tenant_id: db.tenant,
        user_id,
        model: "m",
        title: Some("ünï\u{1f642}"),
        is_temporary: true,
        created_at: NOON,
    }
}

on_both_databases! {
    /// A job's own error is returned unchanged, and its changes are rolled
    /// back.
    async fn an_error_of_the_caller_rolls_back(db: Db) {
        let user = UserId::random();
        let chat = new_chat(&db, user);
        let result = db.store.write(move |tx| Box::pin(async move {
            tx.chat_insert(&chat)?;
            assert!(tx.chat_get(chat.tenant_id, user, chat.id).await?.is_some());
            Err::<(), _>(SendError::QuotaExceeded)
        })).await;
        assert!(matches!(result, Err(SendError::QuotaExceeded)));
        assert_eq!(db.count(CHATS, params![user]).await, 0);
    }

    /// A failing job does not affect the jobs that share its commit.
    async fn a_failing_job_harms_no_other(db: Db) {
        let user = UserId::random();
        let twin = new_chat(&db, user);
        let jobs = (0..40).map(|n| {
            // Every fourth job inserts the same row.
            let chat = if n % 4 == 0 { twin } else { new_chat(&db, user) };
            db.write(move |tx| tx.chat_insert(&chat))
        });
        let answers = join_all(jobs).await;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(failed, 9);
        assert_eq!(db.count(CHATS, params![user]).await, 31);
    }

    /// Text, nulls, booleans and instants are read back unchanged.
    async fn values_survive_the_round_trip(db: Db) {
        let user = UserId::random();
        let chat = new_chat(&db, user);
        db.write(move |tx| tx.chat_insert(&chat)).await.unwrap();
        let stored = db.store
            .read(move |tx| Box::pin(async move { tx.chat_get(chat.tenant_id, user, chat.id).await }))
            .await;
        let stored = stored.map_err(|error: StoreError| error).unwrap().unwrap();
        assert_eq!(stored.id, chat.id);
        assert_eq!(stored.title.as_deref(), chat.title);
        assert!(stored.is_temporary);
        assert_eq!((stored.created_at, stored.updated_at), (NOON, NOON));
        assert_eq!(stored.message_count, 0);
    }

    /// A read job cannot write.
    async fn a_reading_job_cannot_write(db: Db) {
        let chat = new_chat(&db, db.user);
        let refused = db.store
            .read(move |tx| Box::pin(async move { tx.chat_insert(&chat) }))
            .await;
        assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    }

    /// A panic ends its job, not the store.
    async fn a_store_outlives_a_job_that_panics(db: Db) {
        let chat = new_chat(&db, db.user);
        let store = db.store.clone();
        let job = async move {
            store.write(move |tx: &mut Tx| Box::pin(async move {
                tx.chat_insert(&chat)?;
                tx.now().await?;
                panic!("a job that panics");
                #[expect(unreachable_code, reason = "the type of the answer")]
                Ok::<(), StoreError>(())
            })).await
        };
        let answer = tokio::spawn(job).await;
        assert!(matches!(answer, Err(_) | Ok(Err(StoreError::JobPanicked))));
        assert_eq!(db.count(CHATS, params![db.user]).await, 1);
        let chat = new_chat(&db, db.user);
        db.write(move |tx| tx.chat_insert(&chat)).await.unwrap();
    }
}

/// Group commit: all jobs that waited while the writer was busy are answered by
/// one transaction; jobs whose caller has gone do not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_jobs_share_a_transaction_and_abandoned_ones_are_skipped() {
    let db = Db::sqlite().await;
    let (busy, started) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (busy, released) = (busy, Arc::new(std::sync::Mutex::new(released)));
    let store = db.store.clone();
    let blocker = tokio::spawn(async move {
        store
            .write(move |_: &mut Tx| {
                busy.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
                Box::pin(async { Ok::<_, StoreError>(()) })
            })
            .await
    });
    started.recv().unwrap();

    let user = UserId::random();
    let runs = Arc::new(AtomicU32::new(0));
    let submit = |runs: &Arc<AtomicU32>| {
        let (chat, runs) = (new_chat(&db, user), Arc::clone(runs));
        db.write(move |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.chat_insert(&chat)
        })
    };
    let mut abandoned = Box::pin(submit(&runs));
    assert!((&mut abandoned).now_or_never().is_none());
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(submit(&runs))).collect();
    for job in &mut waiting {
        assert!(job.now_or_never().is_none());
    }
    drop(abandoned);
    release.send(()).unwrap();
    blocker.await.unwrap().unwrap();
    for answer in join_all(waiting).await {
        answer.unwrap();
    }
    assert_eq!(runs.load(Ordering::Relaxed), 10);
    assert_eq!(db.count(CHATS, params![user]).await, 10);
}

/// A job on the writer thread cannot await anything but the transaction.
#[tokio::test]
async fn a_job_that_awaits_something_else_fails() {
    let db = Db::sqlite().await;
    let answer = db
        .store
        .write(|_: &mut Tx| {
            Box::pin(async {
                std::future::pending::<()>().await;
                Ok::<_, StoreError>(())
            })
        })
        .await;
    assert!(matches!(answer, Err(StoreError::JobSuspended)));
    db.store.ping().await.unwrap();
}

/// A caller that is dropped leaves neither locks nor an open transaction.
#[tokio::test]
async fn a_dropped_write_leaves_no_open_transaction() {
    let db = Db::postgres().await;
    let mut settings = db.settings.clone();
    settings.max_conns = 1;
    let store = Store::open(&settings, db.clock.clone()).await.unwrap();
    let (tenant, user, chat) = (db.tenant, db.user, db.chat);
    let reached = Arc::new(tokio::sync::Notify::new());
    let signal = Arc::clone(&reached);
    let write = store.write(move |tx: &mut Tx| {
        let signal = Arc::clone(&signal);
        Box::pin(async move {
            tx.chat_touch(tenant, user, chat, NOON.plus_seconds(9))?;
            tx.now().await?;
            signal.notify_one();
            std::future::pending::<()>().await;
            Ok::<_, StoreError>(())
        })
    });
    tokio::select! {
        _ = write => panic!("the job never ends"),
        () = reached.notified() => {}
    }
    // The row lock is free once the server has noticed, and the pool of one
    // connection has a clean one.
    let touched = store.write(move |tx| {
        Box::pin(async move {
            tx.chat_touch(tenant, user, chat, NOON.plus_seconds(5))?;
            tx.chat_get(tenant, user, chat).await
        })
    });
    let touched = touched.await.map_err(|error: StoreError| error).unwrap();
    assert_eq!(touched.unwrap().updated_at, NOON.plus_seconds(5));
    let idle = "SELECT COUNT(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(db.count(idle, []).await, 0);
}

/// QUOTA-82: the transaction that loses a deadlock runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_retried() {
    let db = Db::postgres().await;
    let scope = |user_id| QuotaDay {
        tenant_id: db.tenant,
        user_id,
        day: NOON.date(),
    };
    let (a, b) = (scope(UserId::random()), scope(UserId::random()));
    for scope in [a, b] {
        let locked = db
            .store
            .write(move |tx| Box::pin(async move { tx.quota_lock(scope).await }));
        locked.await.map_err(|error: StoreError| error).unwrap();
    }
    let both_hold_one = Arc::new(Barrier::new(2));
    let runs = Arc::new(AtomicU32::new(0));
    let cross = |first, second| {
        let (barrier, runs) = (Arc::clone(&both_hold_one), Arc::clone(&runs));
        let mut is_first_run = true;
        db.store.write(move |tx: &mut Tx| {
            let (barrier, runs) = (Arc::clone(&barrier), Arc::clone(&runs));
            let wait = std::mem::take(&mut is_first_run);
            Box::pin(async move {
                runs.fetch_add(1, Ordering::Relaxed);
                tx.quota_lock(first).await?;
                if wait {
                    barrier.wait().await;
                }
                tx.quota_lock(second).await?;
                Ok::<_, StoreError>(())
            })
        })
    };
    let (left, right) = tokio::join!(cross(a, b), cross(b, a));
    left.unwrap();
    right.unwrap();
    assert!(runs.load(Ordering::Relaxed) > 2);
}

/// The URL may contain a password, so it is never printed.
#[tokio::test]
async fn urls_that_cannot_be_used_are_refused_without_being_shown() {
    for url in [
        "mysql://u:secret@h/d",
        "sqlite://",
        "postgres://u:secret@h:port/d",
        "postgres://u:secret@h/d?sslmode=verify-ca",
        "postgres://u:secret@h/d?sslmode=verify-full&sslrootcert=/nowhere",
    ] {
        let settings = crate::DatabaseSettings::new(url);
        assert!(!format!("{settings:?}").contains("secret"));
        let clock = Arc::new(minichat_core::SystemClock);
        let Err(error) = Store::open(&settings, clock).await else {
            panic!("{url} was opened");
        };
        assert!(matches!(error, StoreError::Url(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
}
