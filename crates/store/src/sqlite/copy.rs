//! A copy of a database file, made while another process serves from it.
//!
//! `VACUUM INTO` reads one snapshot, as every reader does: it sees each
//! transaction wholly or not at all, and no commit waits for it. Until it ends, the
//! write-ahead log cannot start over, so the log grows by what is written meanwhile.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::StoreError;
use crate::migrate::READ_VERSION;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("there is no database file {}", .0.display())]
    Missing(PathBuf),
    #[error("the file {} is no database of minichat", .0.display())]
    Foreign(PathBuf),
    #[error("the path {} is not UTF-8, which SQLite needs", .0.display())]
    Path(PathBuf),
    #[error("the copy has a fault: {0}")]
    Damaged(String),
    #[error(transparent)]
    Sqlite(StoreError),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

/// A `SQLite` file that is only read, whoever else has it open.
pub struct DatabaseFile {
    connection: Connection,
    schema_version: i64,
}

impl DatabaseFile {
    /// Opens the file at `path`, which must hold a schema of minichat, of whichever
    /// release. `lock_timeout` limits each wait for another process.
    pub fn open(path: &Path, lock_timeout: Duration) -> Result<Self, CopyError> {
        if !path.is_file() {
            return Err(CopyError::Missing(path.to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(lock_timeout)?;
        // The image of the data plane has no directory for temporary files.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        let schema_version = schema_version(&connection)
            .map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::NotADatabase) => CopyError::Foreign(path.to_owned()),
                _ => error.into(),
            })?
            .ok_or_else(|| CopyError::Foreign(path.to_owned()))?;
        Ok(Self {
            connection,
            schema_version,
        })
    }

    /// The newest migration of the file.
    pub const fn schema_version(&self) -> i64 {
        self.schema_version
    }

    /// A connection that reads one snapshot from now on.
    pub(crate) fn into_snapshot(self) -> Result<Connection, StoreError> {
        self.connection.execute_batch("BEGIN DEFERRED")?;
        Ok(self.connection)
    }

    /// Bytes that a copy takes at most.
    pub fn size(&self) -> Result<u64, CopyError> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let size: i64 = self.connection.query_row(sql, [], |row| row.get(0))?;
        Ok(size.unsigned_abs())
    }

    /// Interrupts a copy from another thread: it fails.
    pub fn interrupter(&self) -> impl Fn() + Send + use<> {
        let handle = self.connection.get_interrupt_handle();
        move || handle.interrupt()
    }

    /// Copies the database into the empty file `target` and reads the copy once.
    /// The copy is not flushed to disk. It needs no other file.
    pub fn copy_into(&self, target: &Path) -> Result<(), CopyError> {
        let path = target
            .to_str()
            .ok_or_else(|| CopyError::Path(target.to_owned()))?;
        self.connection.execute("VACUUM INTO ?1", [path])?;
        // Attached, so that an interrupt ends this, too.
        self.connection.execute("ATTACH ?1 AS copy", [path])?;
        let check = "PRAGMA copy.quick_check(1)";
        let found: String = self.connection.query_row(check, [], |row| row.get(0))?;
        if found == "ok" {
            Ok(())
        } else {
            Err(CopyError::Damaged(found))
        }
    }
}

/// `None`: no process has ever served from the file.
fn schema_version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'";
    let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    found
        .map(|_| connection.query_row(READ_VERSION, [], |row| row.get(0)))
        .transpose()
}
