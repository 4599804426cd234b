//! The one thread that writes, and its group commit.

use std::sync::Arc;

use super::SqliteTx;
use super::checkpoint::Checkpoints;
use super::job::{Failure, Job, Success, Tried};
use super::queue::Queue;
use super::transaction::Transaction;
use crate::{StoreError, Tx};

/// Maximum number of jobs in one commit.
const BATCH_LIMIT: usize = 64;

type Jobs = Vec<Box<dyn Job>>;

pub(super) fn run(tx: SqliteTx, jobs: &Queue<Box<dyn Job>>, checkpoints: &Checkpoints) {
    let mut tx = Tx::sqlite(tx);
    let mut batch = Jobs::with_capacity(BATCH_LIMIT);
    while jobs.drain(BATCH_LIMIT, &mut batch) {
        batch.retain(|job| job.claim());
        if batch.is_empty() {
            continue;
        }
        run_batch(&mut tx, std::mem::take(&mut batch));
        if checkpoints.committed()
            && let Some(tx) = tx.as_sqlite()
        {
            checkpoints.finish_on_writer(tx.connection());
        }
    }
}

/// Runs every job in one transaction and commits. The jobs first run without
/// savepoints, whose journal would double the amount of data written. Failing
/// jobs are rare; if one fails, the others run again.
fn run_batch(tx: &mut Tx, jobs: Jobs) {
    if let Some(jobs) = try_together(tx, jobs) {
        run_apart(tx, jobs);
    }
}

/// Runs the jobs without savepoints. `Some`: one job failed, everything was
/// rolled back, and the jobs must run again. `None`: every caller has its
/// answer.
fn try_together(tx: &mut Tx, jobs: Jobs) -> Option<Jobs> {
    let mut transaction = match Transaction::begin(tx) {
        Ok(transaction) => transaction,
        Err(error) => {
            fail(jobs, error);
            return None;
        }
    };
    let mut succeeded = Vec::with_capacity(jobs.len());
    let mut rest = jobs.into_iter();
    while let Some(job) = rest.next() {
        match job.run(transaction.tx()) {
            Tried::Succeeded(success) => succeeded.push(success),
            Tried::Refused(failure) if succeeded.is_empty() && rest.len() == 0 => {
                failure.reply_after_rollback(&transaction.rollback());
                return None;
            }
            Tried::Refused(failure) => {
                drop(transaction);
                return Some(again(succeeded, failure).chain(rest).collect());
            }
        }
    }
    match transaction.commit() {
        Ok(committed) => {
            for success in succeeded {
                success.reply(&committed);
            }
        }
        Err(error) => fail(succeeded.into_iter().map(Success::again), error),
    }
    None
}

fn again(succeeded: Vec<Success>, failure: Failure) -> impl Iterator<Item = Box<dyn Job>> {
    let succeeded = succeeded.into_iter().map(Success::again);
    succeeded.chain(std::iter::once(failure.again()))
}

/// Runs every job in a savepoint of one transaction and commits, so that a
/// failing job does not affect the others.
fn run_apart(tx: &mut Tx, jobs: Jobs) {
    let mut transaction = match Transaction::begin(tx) {
        Ok(transaction) => transaction,
        Err(error) => return fail(jobs, error),
    };
    let mut tried = Vec::with_capacity(jobs.len());
    let mut rest = jobs.into_iter();
    while let Some(job) = rest.next() {
        match in_savepoint(&mut transaction, job) {
            Ok(job) => tried.push(job),
            Err((job, error)) => {
                let failed = tried.into_iter().map(Tried::again);
                fail(failed.chain([job]).chain(rest), error);
                return;
            }
        }
    }
    match transaction.commit() {
        Ok(committed) => {
            for job in tried {
                job.reply(&committed);
            }
        }
        Err(error) => fail(tried.into_iter().map(Tried::again), error),
    }
}

/// The job, and why its savepoint failed together with the whole transaction.
fn in_savepoint(
    transaction: &mut Transaction<'_>,
    job: Box<dyn Job>,
) -> Result<Tried, (Box<dyn Job>, StoreError)> {
    if let Err(error) = transaction.savepoint() {
        return Err((job, error));
    }
    let tried = job.run(transaction.tx());
    let undone = match &tried {
        Tried::Succeeded(_) => Ok(()),
        Tried::Refused(_) => transaction.rollback_to_savepoint(),
    };
    match undone.and_then(|()| transaction.release_savepoint()) {
        Ok(()) => Ok(tried),
        Err(error) => Err((tried.again(), error)),
    }
}

/// Answers that the jobs failed. Nothing of them is in the file or will be,
/// with one exception. A commit whose sync failed has written its frames to the
/// log. If the process ends before the next transaction overwrites them, the
/// next process to open the file finds the commit.
fn fail(jobs: impl IntoIterator<Item = Box<dyn Job>>, error: StoreError) {
    tracing::error!(%error, "a transaction of the writer failed");
    let error = Arc::new(error);
    for job in jobs {
        job.fail(StoreError::RolledBack(Arc::clone(&error)));
    }
}
