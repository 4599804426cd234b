//! The one thread that writes, and its group commit.

use super::checkpoint::Checkpoints;
use super::queue::Queue;
use super::{Job, SqliteTx};
use crate::{StoreError, Tx};

/// Jobs that share one commit at most.
const BATCH_LIMIT: usize = 64;

type Jobs = Vec<Box<dyn Job>>;

pub(super) fn run(tx: SqliteTx, jobs: &Queue<Box<dyn Job>>, checkpoints: &Checkpoints) {
    let mut tx = Tx::sqlite(tx);
    let mut batch = Jobs::with_capacity(BATCH_LIMIT);
    while jobs.drain(BATCH_LIMIT, &mut batch) {
        batch.retain(|job| !job.is_abandoned());
        if batch.is_empty() {
            continue;
        }
        run_batch(&mut tx, &mut batch);
        // Nobody learns of a success that is not on disk.
        batch.drain(..).for_each(Job::reply);
        if checkpoints.committed()
            && let Some(tx) = tx.as_sqlite()
        {
            checkpoints.finish_on_writer(tx.connection());
        }
    }
}

/// Runs every job in one transaction and commits. The jobs are first run
/// without savepoints, whose journal would double what is written: failing
/// jobs are rare, and one of a batch only means that the others run again.
fn run_batch(tx: &mut Tx, batch: &mut Jobs) {
    match try_together(tx, batch) {
        Ok(true) => {}
        Ok(false) if batch.len() == 1 => {}
        Ok(false) => run_apart(tx, batch),
        Err(error) => group_failed(tx, batch, &error),
    }
}

/// Whether all jobs succeeded and are committed; otherwise nothing was changed.
fn try_together(tx: &mut Tx, batch: &mut Jobs) -> Result<bool, StoreError> {
    control(tx, "BEGIN IMMEDIATE")?;
    let succeeded = batch.iter_mut().all(|job| job.run(tx));
    if succeeded {
        control(tx, "COMMIT")?;
    } else {
        // An error of the disk has rolled back already.
        let _ = control(tx, "ROLLBACK");
    }
    Ok(succeeded)
}

/// Runs every job in a savepoint of one transaction, so that a failing one
/// harms no other, and commits.
fn run_apart(tx: &mut Tx, batch: &mut Jobs) {
    let mut succeeded = vec![false; batch.len()];
    if let Err(error) = try_apart(tx, batch, &mut succeeded) {
        let failed = batch.iter_mut().zip(succeeded).filter(|(_, ok)| *ok);
        group_failed(tx, failed.map(|(job, _)| job), &error);
    }
}

fn try_apart(tx: &mut Tx, batch: &mut Jobs, succeeded: &mut [bool]) -> Result<(), StoreError> {
    control(tx, "BEGIN IMMEDIATE")?;
    for (job, succeeded) in batch.iter_mut().zip(succeeded) {
        control(tx, "SAVEPOINT job")?;
        if job.run(tx) {
            *succeeded = true;
        } else {
            control(tx, "ROLLBACK TO job")?;
        }
        // Fails when SQLite rolled the whole transaction back by itself, as it
        // does on a full disk.
        control(tx, "RELEASE job")?;
    }
    control(tx, "COMMIT")
}

/// Nothing of `jobs` is on disk.
fn group_failed<'j>(
    tx: &mut Tx,
    jobs: impl IntoIterator<Item = &'j mut Box<dyn Job>>,
    error: &StoreError,
) {
    tracing::error!(%error, "group commit failed");
    let _ = control(tx, "ROLLBACK");
    for job in jobs {
        job.fail(StoreError::RolledBack);
    }
}

fn control(tx: &mut Tx, sql: &'static str) -> Result<(), StoreError> {
    tx.as_sqlite().ok_or(StoreError::Closed)?.control(sql)
}
