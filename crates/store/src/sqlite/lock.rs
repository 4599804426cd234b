//! One process per file (D16): two writers would corrupt nothing, but group
//! commit and start-up recovery assume that there is no other one.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::StoreError;

/// An exclusive lock on `<file>.lock`, held until dropped. The database file
/// itself cannot carry it, because `SQLite` uses locks on it.
pub(super) struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    pub(super) fn acquire(database: &Path) -> Result<Self, StoreError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
                path: database.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}
