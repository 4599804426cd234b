//! A thread that runs jobs against snapshots.

use super::queue::Queue;
use super::{Job, SqliteTx};
use crate::{StoreError, Tx};

pub(super) fn run(tx: SqliteTx, jobs: &Queue<Box<dyn Job>>) {
    let mut tx = Tx::sqlite(tx);
    let mut batch = Vec::with_capacity(1);
    while jobs.drain(1, &mut batch) {
        for mut job in batch.drain(..).filter(|job| !job.is_abandoned()) {
            if let Err(error) = snapshot(&mut tx, job.as_mut()) {
                job.fail(error);
            }
            job.reply();
        }
    }
}

fn snapshot(tx: &mut Tx, job: &mut dyn Job) -> Result<(), StoreError> {
    control(tx, "BEGIN DEFERRED")?;
    job.run(tx);
    control(tx, "ROLLBACK")
}

fn control(tx: &mut Tx, sql: &'static str) -> Result<(), StoreError> {
    tx.as_sqlite().ok_or(StoreError::Closed)?.control(sql)
}
