//! File locks whose file is removed when it is no longer needed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;

/// A lock, held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: &'static str,
}

impl Lock {
    /// Takes the lock at `path` with `lock`. If the file was removed during the wait, takes the new one.
    pub(super) fn take(
        path: &'static str,
        lock: impl Fn(&File) -> io::Result<()>,
    ) -> anyhow::Result<Self> {
        loop {
            let file = File::create(path).with_context(|| format!("cannot open {path}"))?;
            lock(&file)?;
            if is_at(&file, path) {
                return Ok(Self { file, path });
            }
        }
    }

    /// Turns a shared lock into an exclusive one; `None` if there are other holders.
    pub(super) fn alone(self) -> anyhow::Result<Option<Self>> {
        self.file.unlock()?;
        let is_alone = is_free(&self.file)? && is_at(&self.file, self.path);
        Ok(is_alone.then_some(self))
    }

    /// Releases the lock and removes the file.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        fs::remove_file(self.path).with_context(|| format!("cannot remove {}", self.path))
    }
}

/// Removes the file at `path` unless it is locked.
pub(super) fn remove_unused(path: &'static str) -> anyhow::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if is_free(&file)? && is_at(&file, path) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Takes the lock if it is free.
fn is_free(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &str) -> bool {
    let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let (held, now) = (file.metadata().map(inode), fs::metadata(path).map(inode));
    matches!((held, now), (Ok(held), Ok(now)) if held == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that lives as long as the process.
    fn path(directory: &tempfile::TempDir) -> &'static str {
        directory.path().join("lock").display().to_string().leak()
    }

    #[test]
    fn the_last_of_several_holders_removes_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory);
        let first = Lock::take(path, File::lock_shared).unwrap();
        let second = Lock::take(path, File::lock_shared).unwrap();
        assert!(first.alone().unwrap().is_none());
        remove_unused(path).unwrap();
        assert!(fs::exists(path).unwrap(), "it is held");
        second.alone().unwrap().unwrap().remove().unwrap();
        assert!(!fs::exists(path).unwrap());
        remove_unused(path).unwrap();
    }

    #[test]
    fn who_waited_for_a_file_that_is_gone_takes_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory);
        let first = Lock::take(path, File::lock).unwrap();
        let waiting = std::thread::spawn(move || Lock::take(path, File::lock).unwrap());
        first.remove().unwrap();
        let second = waiting.join().unwrap();
        assert!(is_at(&second.file, path));
    }
}
