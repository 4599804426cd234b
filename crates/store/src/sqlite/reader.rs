//! A thread that runs jobs against snapshots.

use std::sync::Arc;

use super::SqliteTx;
use super::job::Job;
use super::queue::Queue;
use super::transaction::Transaction;
use crate::{StoreError, Tx};

pub(super) fn run(tx: SqliteTx, jobs: &Queue<Box<dyn Job>>) {
    let mut tx = Tx::sqlite(tx);
    let mut batch = Vec::with_capacity(1);
    while jobs.drain(1, &mut batch) {
        for job in batch.drain(..).filter(|job| job.claim()) {
            match Transaction::begin_reading(&mut tx) {
                Ok(mut snapshot) => {
                    let tried = job.run(snapshot.tx());
                    tried.reply_after_read(&snapshot.rollback());
                }
                Err(error) => job.fail(StoreError::RolledBack(Arc::new(error))),
            }
        }
    }
}
