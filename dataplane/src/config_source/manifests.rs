//! The source `manifests` (K8S-4, K8S-21): a directory of YAML files, read at
//! the start and whenever it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_crds::manifests::Files;
use minichat_crds::{Manifests, RenderSettings};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

use super::loader::Loader;
use super::{Status, StoredPolicyVersions, Tenants};

/// How often the directory is read when no change was noticed: file systems
/// without notifications exist, and notifications get lost.
const POLL: Duration = Duration::from_secs(5);
/// A change is taken over when two readings this far apart are equal: a file
/// that is being written is not read by halves.
const SETTLE: Duration = Duration::from_millis(20);
/// Readings after which a directory that never comes to rest is taken as it is.
const MAX_READINGS: usize = 50;

/// Tenants of a directory, kept up to date until it is dropped.
pub struct ManifestsSource {
    tenants: Arc<Tenants>,
    status: Status,
    task: JoinHandle<()>,
    // Watches until dropped.
    _watcher: Option<RecommendedWatcher>,
}

impl ManifestsSource {
    /// Loads `directory` and begins to watch it. Fails only when the directory
    /// cannot be read; what is wrong inside concerns single tenants.
    pub async fn start(
        directory: PathBuf,
        settings: RenderSettings,
        versions: StoredPolicyVersions,
    ) -> anyhow::Result<Self> {
        let changed = Arc::new(Notify::new());
        // Before the first reading, so that no change falls between.
        let watcher = watch(&directory, Arc::clone(&changed));
        let mut reader = Reader {
            directory,
            settings,
            loader: Loader::new(versions),
            loaded: None,
        };
        let files = reader.read().await?;
        reader.load(files).await;
        Ok(Self {
            tenants: Arc::clone(&reader.loader.tenants),
            status: reader.loader.status.clone(),
            task: tokio::spawn(reader.follow(changed)),
            _watcher: watcher,
        })
    }

    /// The registry that this source fills.
    pub fn tenants(&self) -> Arc<Tenants> {
        Arc::clone(&self.tenants)
    }

    /// What runs and what was refused.
    pub fn status(&self) -> Status {
        self.status.clone()
    }
}

impl Drop for ManifestsSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the directory may say something else now. Reading it is an event
/// too: taken for a change, it would be read for ever.
fn is_change(event: &notify::Event) -> bool {
    !event.kind.is_access()
}

fn watch(directory: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let notify = move |event: notify::Result<notify::Event>| {
        if event.as_ref().map_or(true, is_change) {
            changed.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(notify).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(
            |error| tracing::warn!(%error, "the directory cannot be watched; it is read every 5 s"),
        )
        .ok()
}

struct Reader {
    directory: PathBuf,
    settings: RenderSettings,
    loader: Loader,
    /// What was taken over last; `None` when it must be taken over again.
    loaded: Option<Files>,
}

impl Reader {
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
        spawn_blocking(move || Files::read(&directory))
            .await?
            .with_context(|| {
                format!(
                    "the manifests in {} cannot be read",
                    self.directory.display()
                )
            })
    }

    async fn load(&mut self, files: Files) {
        let (settings, texts) = (self.settings, files.clone());
        let Ok(manifests) = spawn_blocking(move || Manifests::parse(&texts, settings)).await else {
            tracing::error!("reading the manifests panicked; what runs goes on");
            return;
        };
        let complete = self.loader.apply(manifests, &files).await;
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
