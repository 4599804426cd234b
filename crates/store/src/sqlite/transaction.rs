//! The transactions of a database thread, and the proofs of how they ended.

use super::tx::Control;
use crate::{StoreError, Tx};

/// An open transaction. Dropped, it is rolled back.
pub(super) struct Transaction<'c> {
    tx: &'c mut Tx,
    is_over: bool,
}

/// The proof that everything a transaction changed is in the file.
pub(super) struct Committed(());

/// The proof that nothing of a transaction will ever be in the file.
pub(super) struct RolledBack(());

impl<'c> Transaction<'c> {
    /// Begins one that writes.
    pub(super) fn begin(tx: &'c mut Tx) -> Result<Self, StoreError> {
        Self::begin_as(tx, Control::Begin)
    }

    /// Begins one that sees a snapshot.
    pub(super) fn begin_reading(tx: &'c mut Tx) -> Result<Self, StoreError> {
        Self::begin_as(tx, Control::BeginReading)
    }

    fn begin_as(tx: &'c mut Tx, begin: Control) -> Result<Self, StoreError> {
        let connection = tx.as_sqlite().ok_or(StoreError::Closed)?;
        // One that could not be rolled back must not become part of this one.
        if connection.is_open() {
            connection.control(Control::Rollback)?;
        }
        connection.control(begin)?;
        Ok(Self { tx, is_over: false })
    }

    pub(super) const fn tx(&mut self) -> &mut Tx {
        self.tx
    }

    pub(super) fn savepoint(&mut self) -> Result<(), StoreError> {
        self.control(Control::Savepoint)
    }

    /// Undoes everything since the savepoint, which stays.
    pub(super) fn rollback_to_savepoint(&mut self) -> Result<(), StoreError> {
        self.control(Control::RollbackTo)
    }

    pub(super) fn release_savepoint(&mut self) -> Result<(), StoreError> {
        self.control(Control::Release)
    }

    pub(super) fn commit(mut self) -> Result<Committed, StoreError> {
        self.control(Control::Commit)?;
        self.is_over = true;
        Ok(Committed(()))
    }

    pub(super) fn rollback(self) -> RolledBack {
        drop(self);
        RolledBack(())
    }

    fn control(&mut self, control: Control) -> Result<(), StoreError> {
        let connection = self.tx.as_sqlite().ok_or(StoreError::Closed)?;
        connection.control(control)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // SQLite may have rolled back already. If it cannot now, it must before
        // the next transaction begins.
        if !self.is_over
            && let Some(connection) = self.tx.as_sqlite()
            && connection.is_open()
            && let Err(error) = connection.control(Control::Rollback)
        {
            tracing::warn!(%error, "a transaction is not rolled back yet");
        }
    }
}
