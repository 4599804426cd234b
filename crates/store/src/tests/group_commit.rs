//! A job that was answered with Ok is stored, and a job that was answered with
//! an error is not, whichever transaction statement of the writer fails in
//! whichever attempt.

use futures_util::future::join_all;
use minichat_core::{ChatId, UserId};
use proptest::prelude::{Just, prop_oneof};
use proptest::test_runner::{Config, TestRunner};

use super::Db;
use super::fixture::{NOON, SendError};
use crate::testing::{Control, Fault};
use crate::value::params;
use crate::{NewChat, StoreError};

const IS_STORED: &str = "SELECT COUNT(*) FROM chats WHERE id = $1";
const STATEMENTS: [Control; 6] = [
    Control::Begin,
    Control::Savepoint,
    Control::RollbackTo,
    Control::Release,
    Control::Commit,
    Control::Rollback,
];
const FAULTS: [Fault; 3] = [Fault::Busy, Fault::Full, Fault::Io];

/// A planned failure: the statement, how many of them succeed first, and the
/// fault.
type Planned = (Control, usize, Fault);

/// What a job does. Each inserts a chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Try {
    Insert,
    /// Inserts and then returns an error.
    Refuse,
}

/// Runs `jobs` in one transaction with the faults `planned`. Compares the
/// answers with the stored rows, at once and after the next transaction.
async fn check(db: &Db, jobs: &[Try], planned: &[Planned]) {
    let writer = db.store.writer().unwrap();
    for &(statement, after, fault) in planned {
        writer.fail(statement, after, fault);
    }
    writer.gather(jobs.len());
    let answers = join_all(jobs.iter().map(|&job| insert(db, job))).await;
    writer.recover();
    compare(db, &answers, planned).await;
    let (_, next) = insert(db, Try::Insert).await;
    next.unwrap_or_else(|error| panic!("nothing is written after {planned:?}: {error}"));
    compare(db, &answers, planned).await;
}

async fn compare(db: &Db, answers: &[(ChatId, Result<(), SendError>)], planned: &[Planned]) {
    for (chat, answer) in answers {
        let stored = db.count(IS_STORED, params![*chat]).await == 1;
        assert_eq!(stored, answer.is_ok(), "with {planned:?}: {answers:?}");
        if let Err(SendError::Store(error)) = answer {
            assert!(error.is_unavailable(), "{planned:?}: {error}");
            assert!(!error.is_unanswered(), "{planned:?}: {error}");
        }
    }
}

async fn insert(db: &Db, job: Try) -> (ChatId, Result<(), SendError>) {
    let chat = NewChat {
        id: ChatId::random(),
        tenant_id: db.tenant,
        user_id: UserId::random(),
        model: "m",
        title: None,
        is_temporary: false,
        created_at: NOON,
    };
    let answer = db.store.write(move |tx| {
        Box::pin(async move {
            tx.chat_insert(&chat)?;
            match job {
                Try::Insert => Ok(()),
                Try::Refuse => Err(SendError::QuotaExceeded),
            }
        })
    });
    (chat.id, answer.await)
}

/// TURN-26, TURN-35: every statement, at each occurrence, with every fault; for
/// a single job, for jobs that succeed, and for jobs of which some fail.
#[tokio::test]
async fn who_is_told_ok_is_stored_whichever_statement_fails() {
    use Try::{Insert, Refuse};
    let db = Db::sqlite().await;
    let batches: [&[Try]; 5] = [
        &[Insert],
        &[Refuse],
        &[Insert, Insert, Insert],
        &[Insert, Refuse, Insert],
        &[Refuse, Insert, Refuse],
    ];
    for jobs in batches {
        check(&db, jobs, &[]).await;
        for statement in STATEMENTS {
            for after in 0..3 {
                for fault in FAULTS {
                    check(&db, jobs, &[(statement, after, fault)]).await;
                }
            }
        }
    }
}

/// If a rollback fails, its changes are never committed with another job.
#[tokio::test]
async fn what_cannot_be_rolled_back_is_never_committed() {
    let db = Db::sqlite().await;
    let twice = [
        (Control::Commit, 0, Fault::Busy),
        (Control::Rollback, 0, Fault::Busy),
        (Control::Rollback, 0, Fault::Busy),
    ];
    for count in 1..=twice.len() {
        check(&db, &[Try::Insert, Try::Insert], &twice[..count]).await;
    }
}

/// A statement that fails because the disk is full ends the transaction of all
/// jobs. The rest of the job must not be committed statement by statement.
#[tokio::test]
async fn a_job_that_goes_on_after_its_transaction_was_lost_changes_nothing() {
    let db = Db::sqlite().await;
    let chats = [ChatId::random(), ChatId::random()];
    let (tenant, user) = (db.tenant, db.user);
    let answer = db
        .store
        .write(move |tx| {
            Box::pin(async move {
                let insert = |id| NewChat {
                    id,
                    tenant_id: tenant,
                    user_id: user,
                    model: "m",
                    title: None,
                    is_temporary: false,
                    created_at: NOON,
                };
                tx.chat_insert(&insert(chats[0]))?;
                let lost = tx.execute_later("ROLLBACK", []);
                assert!(lost.is_ok(), "{lost:?}");
                // This job ignores the error and goes on.
                let _ = tx.chat_insert(&insert(chats[1]));
                Ok::<_, StoreError>(())
            })
        })
        .await;
    assert!(answer.is_err());
    for chat in chats {
        assert_eq!(db.count(IS_STORED, params![chat]).await, 0);
    }
}

/// Any jobs with any faults.
#[test]
fn who_is_told_ok_is_stored() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let db = runtime.block_on(Db::sqlite());
    let job = prop_oneof![3 => Just(Try::Insert), 1 => Just(Try::Refuse)];
    let fault = (
        proptest::sample::select(&STATEMENTS[..]),
        0_usize..4,
        proptest::sample::select(&FAULTS[..]),
    );
    let lists = (
        proptest::collection::vec(job, 1..6),
        proptest::collection::vec(fault, 0..4),
    );
    let mut runner = TestRunner::new(Config::with_cases(300));
    let outcome = runner.run(&lists, |(jobs, faults)| {
        runtime.block_on(check(&db, &jobs, &faults));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
