//! The file of the write-ahead log, made long before anything needs the room.
//!
//! A commit that makes a file longer waits for the file system's own journal
//! too, which takes several times as long as the data. `SQLite` begins the log
//! anew after a checkpoint and never shortens it, so a log that is long from
//! the start never grows. Zeros behind the last frame are no frame to it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Bytes: what the log may hold before the writer helps to empty it, and a
/// quarter more for what is written until it does.
const LENGTH: u64 = 20 << 20;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Lengthens the log of `database`, which is open. It is not needed for
/// anything but speed, so that a full disk is no reason to stop.
pub(super) fn lengthen(database: &Path) {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    if let Err(error) = write_zeros(Path::new(&path)) {
        tracing::warn!(%error, "the write-ahead log cannot be lengthened; commits will be slower");
    }
}

fn write_zeros(path: &Path) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let mut missing = LENGTH.saturating_sub(file.metadata()?.len());
    while missing > 0 {
        let count = missing.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..usize::try_from(count).unwrap_or(ZEROS.len())])?;
        missing -= count;
    }
    file.sync_all()
}
