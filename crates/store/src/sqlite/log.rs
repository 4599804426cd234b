//! Gives the write-ahead log its full length from the start.
//! A commit that makes a file longer waits for the file system's own journal
//! too, which takes several times as long as the data. `SQLite` starts the log
//! over after a checkpoint and never shortens it. So a log that is long from
//! the start never grows, and still has room when the disk is full. `SQLite`
//! does not take the zeros after the last frame for frames.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Bytes: the length at which the writer helps to empty the log, and half as
/// much again for ending turns when it cannot be emptied.
const LENGTH: u64 = 24 << 20;
/// Bytes of the index of a log of this length: 32 KiB for each 4,096 frames. A
/// frame holds one page of 2 KiB.
const INDEX_LENGTH: u64 = 4 * (32 << 10);
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Extends the log of the open `database` unless it is long enough.
pub(super) fn lengthen(database: &Path) -> io::Result<()> {
    let mut file = open_beside(database, "-wal")?;
    fill(&mut file, LENGTH)
}

/// Opens the index of the log. The file must stay open as long as the database,
/// because closing it would release the locks that `SQLite` holds on it.
pub(super) fn open_index(database: &Path) -> io::Result<File> {
    open_beside(database, "-shm")
}

/// Extends the index. A commit fails if the disk has no room for the index of
/// its frames.
pub(super) fn lengthen_index(index: &mut File) -> io::Result<()> {
    fill(index, INDEX_LENGTH)
}

fn open_beside(database: &Path, suffix: &str) -> io::Result<File> {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    File::options().append(true).open(path)
}

fn fill(file: &mut File, length: u64) -> io::Result<()> {
    let mut missing = length.saturating_sub(file.metadata()?.len());
    if missing == 0 {
        return Ok(());
    }
    while missing > 0 {
        let count = missing.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..usize::try_from(count).unwrap_or(ZEROS.len())])?;
        missing -= count;
    }
    file.sync_all()
}
