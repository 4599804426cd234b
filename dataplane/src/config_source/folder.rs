//! A directory that is read at the start and whenever it changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_crds::manifests::Files;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

/// How often the directory is read when no change was noticed: file systems
/// without notifications exist, and notifications get lost.
const POLL: Duration = Duration::from_secs(5);
/// A change is taken over when two readings this far apart are equal: a file
/// that is being written is not read by halves.
const SETTLE: Duration = Duration::from_millis(20);
/// Readings after which a directory that never comes to rest is taken as it is.
const MAX_READINGS: usize = 50;

/// What a directory is read for.
pub(super) trait Reader: Send + Sync + 'static {
    /// Whether folders of the directory are part of it.
    const DEPTH: RecursiveMode;

    /// Reads the directory; blocks.
    fn read(directory: &Path) -> io::Result<Files>;

    /// Takes over what was read. `false` when the same is worth another try.
    fn load(&mut self, files: Files) -> impl Future<Output = bool> + Send;
}

/// Follows a directory until it is dropped.
pub(super) struct Followed {
    task: JoinHandle<()>,
    // Watches until dropped.
    _watcher: Option<RecommendedWatcher>,
}

impl Followed {
    /// Loads `directory` and begins to watch it. Fails only when the directory
    /// cannot be read.
    pub(super) async fn start<R: Reader>(directory: PathBuf, reader: R) -> anyhow::Result<Self> {
        let changed = Arc::new(Notify::new());
        // Before the first reading, so that no change falls between.
        let watcher = watch(&directory, R::DEPTH, Arc::clone(&changed));
        let mut follower = Follower {
            directory,
            reader,
            loaded: None,
        };
        let files = follower.read().await?;
        follower.load(files).await;
        Ok(Self {
            task: tokio::spawn(follower.follow(changed)),
            _watcher: watcher,
        })
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the directory may say something else now. Reading it is an event
/// too: taken for a change, it would be read for ever.
fn is_change(event: &notify::Event) -> bool {
    !event.kind.is_access()
}

fn watch(
    directory: &Path,
    depth: RecursiveMode,
    changed: Arc<Notify>,
) -> Option<RecommendedWatcher> {
    let notify = move |event: notify::Result<notify::Event>| {
        if event.as_ref().map_or(true, is_change) {
            changed.notify_one();
        }
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

struct Follower<R> {
    directory: PathBuf,
    reader: R,
    /// What was taken over last; `None` when it must be taken over again.
    loaded: Option<Files>,
}

impl<R: Reader> Follower<R> {
    /// Loads on every notice and every [`POLL`], for ever.
    async fn follow(mut self, changed: Arc<Notify>) {
        let mut readable = true;
        loop {
            let _ = tokio::time::timeout(POLL, changed.notified()).await;
            match self.settled().await {
                Ok(files) => {
                    readable = true;
                    if self.loaded.as_ref() != Some(&files) {
                        self.load(files).await;
                    }
                }
                Err(error) if readable => {
                    readable = false;
                    tracing::error!(error = format!("{error:#}"), "what runs goes on");
                }
                Err(_) => {}
            }
        }
    }

    /// The files once they are at rest, or as they were loaded.
    async fn settled(&self) -> anyhow::Result<Files> {
        let mut files = self.read().await?;
        for _ in 0..MAX_READINGS {
            if self.loaded.as_ref() == Some(&files) {
                break;
            }
            tokio::time::sleep(SETTLE).await;
            let again = self.read().await?;
            if again == files {
                break;
            }
            files = again;
        }
        Ok(files)
    }

    async fn read(&self) -> anyhow::Result<Files> {
        let directory = self.directory.clone();
        spawn_blocking(move || R::read(&directory))
            .await?
            .with_context(|| format!("{} cannot be read", self.directory.display()))
    }

    async fn load(&mut self, files: Files) {
        let complete = self.reader.load(files.clone()).await;
        self.loaded = complete.then_some(files);
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind};
    use notify::{Event, EventKind};

    use super::is_change;

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
        assert!(change(EventKind::Modify(ModifyKind::Any)));
        assert!(change(EventKind::Create(CreateKind::File)));
        assert!(change(EventKind::Remove(RemoveKind::File)));
        assert!(change(EventKind::Any));
    }
}
