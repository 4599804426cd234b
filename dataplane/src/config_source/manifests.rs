//! The source `manifests` (K8S-4, K8S-21): a watched directory of YAML files.
//!
//! The directory is read as a whole after each change. A tenant with a problem
//! keeps the configuration it runs with; so does every running tenant of a file
//! with a document that cannot be told apart.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use minichat_core::TenantId;
use minichat_crds::manifests::{Concern, TenantManifest};
use minichat_crds::{Manifests, RenderSettings};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::policy_versions::StoredPolicyVersions;
use super::status::{Entry, Refusals, State, Status};
use super::tenants::{TenantRuntime, Tenants};

/// The directory is read at least this often, in case a notification is lost.
const POLL: Duration = Duration::from_secs(5);

/// Writers replace several files in a row: a change is read once they are
/// quiet this long.
const QUIET: Duration = Duration::from_millis(50);

/// A running source. Dropping it ends the watch; the tenants stay.
pub struct ManifestsSource {
    tenants: Arc<Tenants>,
    status: Status,
    task: JoinHandle<()>,
    _watcher: RecommendedWatcher,
}

impl ManifestsSource {
    /// Reads `directory`, then watches it. Problems of single documents are no
    /// error here: they are logged and in the status.
    pub async fn start(
        directory: PathBuf,
        settings: RenderSettings,
        versions: StoredPolicyVersions,
    ) -> anyhow::Result<Self> {
        let (notice, changed) = mpsc::channel(1);
        let watcher = watch(&directory, notice)
            .with_context(|| format!("--manifests {}: cannot be watched", directory.display()))?;
        let mut loader = Loader {
            directory,
            settings,
            versions,
            tenants: Arc::default(),
            status: Status::default(),
            files: HashMap::new(),
            reported: Refusals::new(),
        };
        loader.load().await?;
        Ok(Self {
            tenants: Arc::clone(&loader.tenants),
            status: loader.status.clone(),
            task: tokio::spawn(follow(loader, changed)),
            _watcher: watcher,
        })
    }

    pub fn tenants(&self) -> Arc<Tenants> {
        Arc::clone(&self.tenants)
    }

    pub fn status(&self) -> Status {
        self.status.clone()
    }
}

impl Drop for ManifestsSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn watch(directory: &Path, notice: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |_| {
        // A full channel already holds the notice.
        let _ = notice.try_send(());
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

async fn follow(mut loader: Loader, mut changed: mpsc::Receiver<()>) {
    loop {
        if let Ok(Some(())) = tokio::time::timeout(POLL, changed.recv()).await {
            while let Ok(Some(())) = tokio::time::timeout(QUIET, changed.recv()).await {}
        }
        if let Err(error) = loader.load().await {
            tracing::error!(
                error = format!("{error:#}"),
                "manifests cannot be loaded; what runs goes on"
            );
        }
    }
}

struct Loader {
    directory: PathBuf,
    settings: RenderSettings,
    versions: StoredPolicyVersions,
    tenants: Arc<Tenants>,
    status: Status,
    /// Where the documents of each running tenant stood when it was loaded.
    files: HashMap<TenantId, Vec<String>>,
    /// Refusals that the log already has.
    reported: Refusals,
}

impl Loader {
    /// Reads the directory and swaps what changed.
    async fn load(&mut self) -> anyhow::Result<()> {
        let (directory, settings) = (self.directory.clone(), self.settings);
        let mut manifests =
            tokio::task::spawn_blocking(move || Manifests::read(&directory, settings))
                .await?
                .with_context(|| format!("{}: cannot be read", self.directory.display()))?;
        let refusals = self.refusals(&manifests);
        let mut next = HashMap::new();
        for (id, runtime) in self.tenants.all() {
            if refusals.contains_key(&Some(id)) {
                next.insert(id, runtime);
            }
        }
        for (id, manifest) in std::mem::take(&mut manifests.tenants) {
            if let Some(runtime) = self.runtime(id, &manifest).await? {
                next.insert(id, runtime);
                self.files.insert(id, manifest.files.into_iter().collect());
            }
        }
        self.files.retain(|id, _| next.contains_key(id));
        self.report(&next, refusals);
        self.tenants.replace(next);
        Ok(())
    }

    /// The tenants that must not be updated, each with the reasons.
    fn refusals(&self, manifests: &Manifests) -> Refusals {
        let mut refusals = Refusals::new();
        for problem in &manifests.problems {
            let text = problem.to_string();
            match problem.concerns {
                Concern::Tenant(id) => refusals.entry(Some(id)).or_default().push(text),
                Concern::Nobody => refusals.entry(None).or_default().push(text),
                Concern::Unknown => {
                    for id in self.missing_from(manifests, &problem.source.file) {
                        refusals.entry(Some(id)).or_default().push(text.clone());
                    }
                    refusals.entry(None).or_default().push(text);
                }
            }
        }
        refusals
    }

    /// Running tenants that once stood in `file` and are found nowhere now.
    fn missing_from(&self, manifests: &Manifests, file: &str) -> Vec<TenantId> {
        let stood_there = |files: &Vec<String>| files.iter().any(|name| name == file);
        self.files
            .iter()
            .filter(|(id, files)| !manifests.tenants.contains_key(id) && stood_there(files))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The tenant as it will run: what runs already when nothing changed.
    async fn runtime(
        &self,
        id: TenantId,
        manifest: &TenantManifest,
    ) -> anyhow::Result<Option<Arc<TenantRuntime>>> {
        let rendered = &manifest.rendered;
        let running = self.tenants.get(id);
        if let Some(running) = running
            && running.config.content_hash == rendered.config.content_hash
            && running.credentials == rendered.credentials
        {
            return Ok(Some(running));
        }
        let version = self.versions.resolve(&rendered.config).await?;
        let runtime = TenantRuntime::new(
            rendered.config.clone(),
            version,
            rendered.credentials.clone(),
        );
        for warning in &rendered.warnings {
            tracing::warn!(tenant = manifest.name, tenant_id = %id, warning, "a manifest is probably not meant like this");
        }
        tracing::info!(tenant = manifest.name, tenant_id = %id, revision = runtime.revision, "tenant configured");
        Ok(Some(Arc::new(runtime)))
    }

    /// Shows the picture in the status, and logs what was not logged before.
    fn report(&mut self, next: &HashMap<TenantId, Arc<TenantRuntime>>, refusals: Refusals) {
        for (concern, problems) in &refusals {
            if self.reported.get(concern) != Some(problems) {
                for problem in problems {
                    tracing::error!(
                        tenant_id = concern.map(tracing::field::display),
                        problem,
                        "a manifest is refused"
                    );
                }
            }
        }
        for (id, runtime) in self.tenants.all() {
            if !next.contains_key(&id) {
                tracing::info!(tenant_id = %id, revision = runtime.revision, "tenant removed");
            }
        }
        self.status.replace(entries(next, &refusals));
        self.reported = refusals;
    }
}

fn entries(next: &HashMap<TenantId, Arc<TenantRuntime>>, refusals: &Refusals) -> Vec<Entry> {
    let mut entries: BTreeMap<Option<TenantId>, Entry> = next
        .iter()
        .map(|(id, runtime)| (Some(*id), active(*id, runtime)))
        .collect();
    for (concern, problems) in refusals {
        let entry = entries.entry(*concern).or_insert_with(|| Entry {
            tenant_id: *concern,
            revision: None,
            state: State::Rejected,
            suspended: None,
            error: None,
        });
        entry.state = State::Rejected;
        entry.error = Some(problems.join("; "));
    }
    let nobody = entries.remove(&None);
    entries.into_values().chain(nobody).collect()
}

fn active(id: TenantId, runtime: &TenantRuntime) -> Entry {
    Entry {
        tenant_id: Some(id),
        revision: Some(runtime.revision.clone()),
        state: State::Active,
        suspended: runtime.config.suspended.then_some(true),
        error: None,
    }
}
