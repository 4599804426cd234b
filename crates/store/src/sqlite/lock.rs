//! One process per file (D16). Two writers would not corrupt the file, but
//! group commit and start-up recovery require that there is no other process.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use minichat_core::Timestamp;

use crate::StoreError;

/// The host name of the machine, or of the pod.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// An exclusive lock on `<file>.lock`, held until it is dropped. The database
/// file itself cannot be locked, because `SQLite` uses locks on it. The lock
/// file names its holder, for people.
pub(crate) struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    /// Takes the lock. If another process has it, waits up to `patience` for it
    /// (D50).
    pub(crate) fn acquire(
        database: &Path,
        patience: Duration,
        now: impl Fn() -> Timestamp,
    ) -> Result<Self, StoreError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        let in_use = || StoreError::InUse {
            path: database.to_owned(),
            holder: holder(&path),
        };
        let file = match file.try_lock() {
            Ok(()) => file,
            Err(TryLockError::WouldBlock) if patience.is_zero() => return Err(in_use()),
            Err(TryLockError::WouldBlock) => {
                tracing::warn!(
                    database = %database.display(),
                    holder = holder(&path),
                    patience_secs = patience.as_secs(),
                    "the database file is open elsewhere; waiting until it is free"
                );
                wait(file, patience)?.ok_or_else(in_use)?
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        };
        name_holder(&file, now())?;
        Ok(Self { _file: file })
    }
}

/// The locked file; `None` if it did not become free within `patience`. The
/// kernel wakes the waiting thread at once.
fn wait(file: File, patience: Duration) -> io::Result<Option<File>> {
    let (locked, waiting) = mpsc::channel();
    thread::Builder::new()
        .name("sqlite-lock".to_owned())
        .spawn(move || {
            let file = file.lock().map(|()| file);
            // If the caller has given up, the file is closed, which releases
            // the lock.
            let _ = locked.send(file);
        })?;
    waiting.recv_timeout(patience).ok().transpose()
}

/// Writes the name of this process into the lock file.
fn name_holder(mut file: &File, now: Timestamp) -> io::Result<()> {
    let process = std::process::id();
    let host = fs::read_to_string(HOST_NAME).unwrap_or_default();
    let host = match host.trim() {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    file.set_len(0)?;
    writeln!(file, "process {process}{host}, since {now}")
}

/// The holder, as named in the lock file.
fn holder(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(512).read_to_string(&mut text));
    match (read, text.lines().next()) {
        (Ok(_), Some(line)) => line.to_owned(),
        _ => "another process".to_owned(),
    }
}
