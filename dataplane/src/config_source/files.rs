//! Reads the files of a directory. A file is read again only if it may have
//! changed. A file that cannot be read becomes a reported problem and never
//! blocks.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use minichat_crds::manifests::Files;
use rustix::fs::OFlags;

/// Maximum size of a file in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// How long a file is read again although it looks unchanged. A file system's
/// clock may have a resolution of 2 seconds, so a second edit within one tick
/// may not change the times. If its notification is lost too, the poll finds
/// it.
const TRUSTED_AFTER: Duration = Duration::from_secs(12);

/// Distinguishes two contents of a file, unless both were written within one
/// tick of the file system's clock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct Known {
    stamp: Stamp,
    since: Instant,
    text: Result<Arc<str>, String>,
}

/// Caches the files that it has read.
#[derive(Default)]
pub(super) struct FileReader {
    known: BTreeMap<String, Known>,
}

/// The content of one file.
enum Content {
    Gone,
    Is(Known),
}

impl FileReader {
    /// The texts of `files`, which are pairs of name and path. Missing files
    /// are left out.
    pub(super) fn read(&mut self, files: Vec<(String, PathBuf)>) -> Files {
        let mut before = std::mem::take(&mut self.known);
        let mut read = Files::default();
        for (name, path) in files {
            let Content::Is(known) = content(&path, before.remove(&name)) else {
                continue;
            };
            match &known.text {
                Ok(text) => read.insert(&name, Arc::clone(text)),
                Err(error) => {
                    read.unreadable.insert(name.clone(), error.clone());
                }
            }
            self.known.insert(name, known);
        }
        read
    }
}

/// Reads the file unless it is unchanged.
fn content(path: &Path, before: Option<Known>) -> Content {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Content::Gone,
        Err(error) => return Content::Is(Known::unreadable(&error)),
    };
    let stamp = Stamp::of(&metadata);
    match before {
        Some(before) if before.stamp == stamp && before.since.elapsed() > TRUSTED_AFTER => {
            return Content::Is(before);
        }
        _ => {}
    }
    let before = before.filter(|before| before.stamp == stamp);
    let since = before
        .as_ref()
        .map_or_else(Instant::now, |before| before.since);
    let text = match text(path, &metadata) {
        Ok(text) => Ok(text),
        // The file was removed after it was examined.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Content::Gone,
        Err(error) => Err(reason(&error)),
    };
    let text = match (text, before.map(|before| before.text)) {
        (Ok(text), Some(Ok(before))) if *before == *text => Ok(before),
        (text, _) => text.map(Arc::from),
    };
    Content::Is(Known { stamp, since, text })
}

fn text(path: &Path, metadata: &Metadata) -> io::Result<String> {
    check(metadata)?;
    // If it has become a pipe since it was examined, opening must not block.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    check(&file.metadata()?)?;
    bounded(&file)
}

fn bounded(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let limit = MAX_BYTES >> 20;
        return Err(io::Error::other(format!(
            "is larger than {limit} MiB; split it into several files"
        )));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("is no UTF-8 text"))
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let found = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_file() {
        return Ok(());
    } else {
        "a device"
    };
    Err(io::Error::other(format!(
        "is {found}; put a file in its place, or remove it"
    )))
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        // The system's error does not say which operation failed.
        Some(_) => format!("cannot be read: {error}"),
        None => error.to_string(),
    }
}

impl Known {
    fn unreadable(error: &io::Error) -> Self {
        Self {
            stamp: Stamp {
                device: 0,
                inode: 0,
                size: 0,
                modified: (0, 0),
                changed: (0, 0),
            },
            since: Instant::now(),
            text: Err(reason(error)),
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn read(reader: &mut FileReader, path: &Path) -> Files {
        reader.read(vec![("a".to_owned(), path.to_owned())])
    }

    #[test]
    fn what_is_no_file_is_reported_and_never_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let pipe = std::process::Command::new("mkfifo")
            .arg(at("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        std::fs::write(at("latin1"), b"a: \xe9").unwrap();
        for (name, says) in [
            ("directory", "is a directory; put a file in its place"),
            ("socket", "is a socket"),
            ("pipe", "is a named pipe"),
            ("device", "is a device"),
            ("latin1", "is no UTF-8 text"),
        ] {
            let files = read(&mut FileReader::default(), &at(name));
            assert!(files.unreadable["a"].starts_with(says), "{files:?}");
        }
        let missing = read(&mut FileReader::default(), &at("missing"));
        assert_eq!(missing, Files::default());
    }

    /// Even if size, inode and times are the same.
    #[test]
    fn an_edit_within_a_tick_of_the_clock_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one").unwrap();
        let mut reader = FileReader::default();
        let first = read(&mut reader, file.path()).texts["a"].clone();
        let again = read(&mut reader, file.path()).texts["a"].clone();
        assert!(Arc::ptr_eq(&first, &again));
        let known = reader.known.get_mut("a").unwrap();
        std::fs::write(file.path(), "two").unwrap();
        known.stamp = Stamp::of(&std::fs::metadata(file.path()).unwrap());
        assert_eq!(&*read(&mut reader, file.path()).texts["a"], "two");
    }
}
