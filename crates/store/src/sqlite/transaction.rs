//! The transactions of a database thread, and the proofs of how they ended.

use super::tx::Control;
use crate::{StoreError, Tx};

/// An open transaction. It is rolled back when dropped.
pub(super) struct Transaction<'c> {
    tx: &'c mut Tx,
    is_over: bool,
}

/// Proof that a transaction was committed to the file.
pub(super) struct Committed(());

/// Proof that a transaction was rolled back and will never be in the file.
pub(super) struct RolledBack(());

impl<'c> Transaction<'c> {
    /// Begins a transaction that writes.
    pub(super) fn begin(tx: &'c mut Tx) -> Result<Self, StoreError> {
        Self::begin_as(tx, Control::Begin)
    }

    /// Begins a transaction that reads a snapshot.
    pub(super) fn begin_reading(tx: &'c mut Tx) -> Result<Self, StoreError> {
        Self::begin_as(tx, Control::BeginReading)
    }

    fn begin_as(tx: &'c mut Tx, begin: Control) -> Result<Self, StoreError> {
        let connection = tx.as_sqlite().ok_or(StoreError::Closed)?;
        // A transaction that could not be rolled back must not become part of
        // this one.
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

    /// Undoes everything since the savepoint, which remains.
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
        // SQLite may have rolled back already. If the rollback fails now, it
        // must succeed before the next transaction begins.
        if !self.is_over
            && let Some(connection) = self.tx.as_sqlite()
            && connection.is_open()
            && let Err(error) = connection.control(Control::Rollback)
        {
            tracing::warn!(%error, "a transaction is not rolled back yet");
        }
    }
}
