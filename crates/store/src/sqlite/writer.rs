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

/// Runs every job in a savepoint of one transaction, so that a failing one
/// harms no other, and commits.
fn run_batch(tx: &mut Tx, batch: &mut Jobs) {
    let mut succeeded = vec![false; batch.len()];
    if let Err(error) = try_batch(tx, batch, &mut succeeded) {
        tracing::error!(%error, jobs = batch.len(), "group commit failed");
        control(tx, "ROLLBACK").unwrap_or_default();
        for (job, _) in batch.iter_mut().zip(succeeded).filter(|(_, ok)| *ok) {
            job.fail(StoreError::RolledBack);
        }
    }
}

fn try_batch(tx: &mut Tx, batch: &mut Jobs, succeeded: &mut [bool]) -> Result<(), StoreError> {
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

fn control(tx: &mut Tx, sql: &'static str) -> Result<(), StoreError> {
    tx.as_sqlite().ok_or(StoreError::Closed)?.control(sql)
}
