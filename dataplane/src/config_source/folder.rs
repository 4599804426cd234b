//! Follows a directory: reads it at start and whenever it changes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use minichat_crds::manifests::Files;
use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use super::files::FileReader;
use super::settling::{Objects, Reading, Settling};

/// How often the directory is read without a notification. Some file systems
/// send none, and notifications get lost.
const POLL: Duration = Duration::from_secs(5);
/// A change is applied when two readings this far apart are equal.
const SETTLE: Duration = Duration::from_millis(20);
/// Number of readings after which a directory that keeps changing is taken as
/// it is.
const MAX_READINGS: usize = 50;

/// How the files of a directory are chosen and used.
pub(super) trait Reader: Send + Sync + 'static {
    /// Whether subdirectories are read too.
    const DEPTH: RecursiveMode;

    /// Name and path of every file to read. Blocks.
    fn files(directory: &Path) -> io::Result<Vec<(String, PathBuf)>>;

    /// Kind and name of the objects in a text, if a file can contain several.
    fn objects(&mut self, _file: &str, _text: &Arc<str>) -> Objects {
        None
    }

    /// Applies the files. `false` if applying the same files again may succeed.
    fn load(&mut self, files: Files) -> impl Future<Output = bool> + Send;
}

/// Reads the texts of `directory` once. Blocks.
pub(super) fn read<R: Reader>(directory: &Path) -> io::Result<Files> {
    Ok(FileReader::default().read(R::files(directory)?))
}

/// Follows a directory until dropped.
pub(super) struct Followed {
    task: JoinHandle<()>,
    // The directory is watched until this is dropped.
    _watcher: Option<RecommendedWatcher>,
}

impl Followed {
    /// Loads `directory` and starts to watch it. Fails only if the directory
    /// cannot be read.
    pub(super) async fn start<R: Reader>(directory: PathBuf, reader: R) -> anyhow::Result<Self> {
        let changes = Arc::<Changes>::default();
        // The watch starts before the first reading, so that no change is
        // missed in between.
        let watcher = watch(&directory, R::DEPTH, Arc::clone(&changes));
        let mut follower = Follower {
            directory,
            reader,
            changes,
            files: FileReader::default(),
            settling: Settling::default(),
            unsettled: None,
            loaded: None,
        };
        let reading = follower.read().await?;
        follower.take(&reading).await;
        Ok(Self {
            task: tokio::spawn(follower.follow()),
            _watcher: watcher,
        })
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The notifications about the directory.
#[derive(Default)]
struct Changes {
    noticed: Notify,
    /// Files that were written to and not closed yet.
    writing: Mutex<BTreeSet<PathBuf>>,
}

impl Changes {
    fn notice(&self, event: &Event) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if event.need_rescan() {
            writing.clear();
        }
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => writing.extend(event.paths.iter().cloned()),
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => {
                for path in &event.paths {
                    writing.remove(path);
                }
            }
            _ => {}
        }
        drop(writing);
        if is_change(event) {
            self.noticed.notify_one();
        }
    }

    fn is_writing(&self, path: &Path) -> bool {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.contains(path)
    }
}

/// Whether the directory's contents may have changed. Reading the directory
/// causes events too; if they counted as changes, it would be read forever.
fn is_change(event: &Event) -> bool {
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    !event.kind.is_access() || event.kind == written
}

fn watch(
    directory: &Path,
    depth: RecursiveMode,
    changes: Arc<Changes>,
) -> Option<RecommendedWatcher> {
    let notify = move |event: notify::Result<Event>| match event {
        Ok(event) => changes.notice(&event),
        Err(_) => changes.noticed.notify_one(),
    };
    let watcher = notify::recommended_watcher(notify).and_then(|mut watcher| {
        watcher.watch(directory, depth)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(
            |error| tracing::warn!(%error, "the directory cannot be watched; it is read every 5 s"),
        )
        .ok()
}

/// The files of the directory, read once.
#[derive(PartialEq, Eq)]
struct Contents {
    files: Files,
    writing: BTreeSet<String>,
}

struct Follower<R> {
    directory: PathBuf,
    reader: R,
    changes: Arc<Changes>,
    files: FileReader,
    settling: Settling,
    /// When a change that does not count yet may start to count.
    unsettled: Option<Instant>,
    /// The files that were applied last; `None` if they must be applied again.
    loaded: Option<Files>,
}

impl<R: Reader> Follower<R> {
    /// Loads after every notification and every [`POLL`], forever.
    async fn follow(mut self) {
        let mut readable = true;
        loop {
            let until_settled = self
                .unsettled
                .map(|at| at.saturating_duration_since(Instant::now()));
            let wait = until_settled.map_or(POLL, |wait| wait.min(POLL));
            let _ = timeout(wait, self.changes.noticed.notified()).await;
            match self.at_rest().await {
                Ok(contents) => {
                    readable = true;
                    self.take(&contents).await;
                }
                Err(error) if readable => {
                    readable = false;
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the directory cannot be read; the running configurations stay"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// The files once two readings agree, or if they equal the loaded ones.
    async fn at_rest(&mut self) -> anyhow::Result<Contents> {
        let mut contents = self.read().await?;
        for _ in 0..MAX_READINGS {
            if self.loaded.as_ref() == Some(&contents.files) {
                break;
            }
            sleep(SETTLE).await;
            let again = self.read().await?;
            if again == contents {
                break;
            }
            contents = again;
        }
        Ok(contents)
    }

    async fn read(&mut self) -> anyhow::Result<Contents> {
        let directory = self.directory.clone();
        let changes = Arc::clone(&self.changes);
        let mut reader = std::mem::take(&mut self.files);
        let (read, reader) = spawn_blocking(move || {
            let read = R::files(&directory).map(|files| {
                let writing = files.iter().filter(|(_, path)| changes.is_writing(path));
                let writing = writing.map(|(name, _)| name.clone()).collect();
                let files = reader.read(files);
                Contents { files, writing }
            });
            (read, reader)
        })
        .await?;
        self.files = reader;
        read.with_context(|| format!("{} cannot be read", self.directory.display()))
    }

    /// Applies the part of `contents` that counts.
    async fn take(&mut self, contents: &Contents) {
        let reading = Reading {
            files: &contents.files,
            writing: &contents.writing,
            now: Instant::now(),
        };
        let reader = &mut self.reader;
        let objects = |file: &str, text: &Arc<str>| reader.objects(file, text);
        let (counting, unsettled) = self.settling.take(&reading, objects);
        self.unsettled = unsettled;
        if self.loaded.as_ref() != Some(&counting) {
            let complete = self.reader.load(counting.clone()).await;
            self.loaded = complete.then_some(counting);
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RemoveKind};

    use super::*;

    /// K8S-21
    #[test]
    fn reading_the_directory_is_no_change_of_it() {
        let change = |kind| is_change(&Event::new(kind));
        assert!(!change(EventKind::Access(AccessKind::Open(
            AccessMode::Any
        ))));
        assert!(!change(EventKind::Access(AccessKind::Close(
            AccessMode::Read
        ))));
        assert!(change(EventKind::Access(AccessKind::Close(
            AccessMode::Write
        ))));
        assert!(change(EventKind::Modify(ModifyKind::Any)));
        assert!(change(EventKind::Create(CreateKind::File)));
        assert!(change(EventKind::Remove(RemoveKind::File)));
        assert!(change(EventKind::Any));
    }

    #[test]
    fn a_file_is_written_from_the_first_byte_until_it_is_closed() {
        let changes = Changes::default();
        let path = Path::new("/manifests/a.yaml");
        let notify = |kind| changes.notice(&Event::new(kind).add_path(path.to_owned()));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        notify(EventKind::Create(CreateKind::File));
        assert!(!changes.is_writing(path), "a link is never closed");
        for end in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Remove(RemoveKind::File),
        ] {
            notify(data);
            assert!(changes.is_writing(path));
            notify(end);
            assert!(!changes.is_writing(path));
        }
    }
}
