//! The file of the write-ahead log, made long before anything needs the room.
//!
//! A commit that makes a file longer waits for the file system's own journal
//! too, which takes several times as long as the data. `SQLite` begins the log
//! anew after a checkpoint and never shortens it, so a log that is long from
//! the start never grows, and has room when the disk has none. Zeros behind the
//! last frame are no frame to it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Bytes: what the log may hold before the writer helps to empty it, and half
/// as much again for the ends of turns when it cannot be emptied.
const LENGTH: u64 = 24 << 20;
/// Bytes of the index of such a log: 32 KiB for each 4,096 frames, and one page
/// of 2 KiB is a frame.
const INDEX_LENGTH: u64 = 4 * (32 << 10);
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Lengthens the log of `database`, which is open, unless it is long enough.
pub(super) fn lengthen(database: &Path) -> io::Result<()> {
    let mut file = open_beside(database, "-wal")?;
    fill(&mut file, LENGTH)
}

/// Opens the index of the log. The file must stay open for as long as the
/// database is, because closing it would release the locks that `SQLite` holds
/// on it.
pub(super) fn open_index(database: &Path) -> io::Result<File> {
    open_beside(database, "-shm")
}

/// Lengthens the index: a commit fails when the disk has no room for the index of
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
