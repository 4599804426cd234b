//! From manifests to what runs: one load compares what the files say with what
//! runs, and swaps only what is valid (QUOTA-31, K8S-22).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::join_all;
use minichat_core::TenantId;
use minichat_crds::Revisions;
use minichat_crds::manifests::{Concern, Files, Manifests, Problem, TenantManifest};

use super::status::{Entry, State};
use super::{Status, StoredPolicyVersions, TenantRuntime, Tenants};

/// Everything the loads of one process share.
pub(super) struct Loader {
    versions: StoredPolicyVersions,
    revisions: Revisions,
    states: BTreeMap<TenantId, TenantState>,
    pub(super) tenants: Arc<Tenants>,
    pub(super) status: Status,
}

/// What is known of one tenant.
#[derive(Default)]
struct TenantState {
    running: Option<Arc<TenantRuntime>>,
    /// Files that the running configuration was read from.
    files: BTreeSet<String>,
    rejected: Option<Rejected>,
}

/// A configuration that was refused.
#[derive(Clone, PartialEq, Eq)]
struct Rejected {
    revision: String,
    error: String,
}

/// What the files say about one tenant, given what runs.
enum Verdict {
    Serve(Box<TenantManifest>),
    Reject(Refusal),
    Remove,
}

/// Why a configuration is refused, and the files it stands in.
struct Refusal {
    error: String,
    files: BTreeSet<String>,
}

impl Loader {
    pub(super) fn new(versions: StoredPolicyVersions) -> Self {
        Self {
            versions,
            revisions: Revisions::new(),
            states: BTreeMap::new(),
            tenants: Arc::default(),
            status: Status::default(),
        }
    }

    /// Takes over `manifests`, which were made from `files`. `false` when the database did not answer for
    /// some tenant, so that the same files are worth another load.
    pub(super) async fn apply(&mut self, mut manifests: Manifests, files: &Files) -> bool {
        for problem in manifests
            .problems
            .iter()
            .filter(|p| matches!(p.concerns, Concern::Nobody | Concern::Unknown))
        {
            tracing::warn!(%problem, "a manifest is refused");
        }
        let mut known: BTreeSet<TenantId> = self.states.keys().copied().collect();
        known.extend(manifests.tenants.keys());
        known.extend(
            manifests
                .problems
                .iter()
                .filter_map(|problem| match problem.concerns {
                    Concern::Tenant(id) => Some(id),
                    Concern::Nobody | Concern::Unknown => None,
                }),
        );
        let mut served = Vec::new();
        for id in known {
            match self.verdict(id, &mut manifests) {
                Verdict::Serve(manifest) => served.push((id, *manifest)),
                Verdict::Reject(refusal) => self.reject(id, refusal, files),
                Verdict::Remove => {
                    self.states.remove(&id);
                    tracing::info!(tenant.id = %id, "the tenant is gone");
                }
            }
        }
        let complete = self.serve(served, files).await;
        self.publish();
        complete
    }

    fn verdict(&self, id: TenantId, manifests: &mut Manifests) -> Verdict {
        let refused: Vec<_> = manifests.problems_of(id).collect();
        if !refused.is_empty() {
            return Verdict::Reject(Refusal::of(refused.into_iter()));
        }
        // A document that cannot be told apart may be one of this tenant's: a
        // quota, say, without which the tenant must not go on.
        let files = self.states.get(&id).map(|state| &state.files);
        let mut lost = manifests
            .problems
            .iter()
            .filter(|problem| problem.concerns == Concern::Unknown)
            .filter(|problem| files.is_some_and(|files| files.contains(&problem.source.file)))
            .peekable();
        if lost.peek().is_some() {
            return Verdict::Reject(Refusal::of(lost));
        }
        match manifests.tenants.remove(&id) {
            Some(manifest) => Verdict::Serve(Box::new(manifest)),
            None => Verdict::Remove,
        }
    }

    fn reject(&mut self, id: TenantId, refusal: Refusal, files: &Files) {
        let Refusal {
            error,
            files: names,
        } = refusal;
        let texts = names.iter().filter_map(|name| files.texts.get(name));
        let revision = self.revisions.of_refused(texts.map(String::as_str));
        let rejected = Rejected { revision, error };
        let state = self.states.entry(id).or_default();
        if state.rejected.as_ref() != Some(&rejected) {
            let running = state
                .running
                .as_ref()
                .map(|running| running.revision.as_str());
            tracing::warn!(tenant.id = %id, error = rejected.error, running, "a configuration is refused");
        }
        state.rejected = Some(rejected);
    }

    /// Numbers what is new, all tenants at once so that they share commits.
    async fn serve(&mut self, served: Vec<(TenantId, TenantManifest)>, files: &Files) -> bool {
        let numbered = join_all(served.into_iter().map(|(id, manifest)| {
            let running = self.states.get(&id).and_then(|state| state.running.clone());
            let versions = self.versions.clone();
            async move {
                let config = &manifest.rendered.config;
                let version = match running {
                    Some(running) if running.config.content_hash == config.content_hash => {
                        Ok(running.policy_version())
                    }
                    _ => versions.resolve(config).await,
                };
                (id, manifest, version)
            }
        }))
        .await;
        let mut complete = true;
        for (id, manifest, version) in numbered {
            match version {
                Ok(version) => self.run(id, manifest, version),
                Err(error) => {
                    complete = false;
                    let error = format!("the policy cannot be stored: {error}");
                    let refusal = Refusal {
                        error,
                        files: manifest.files,
                    };
                    self.reject(id, refusal, files);
                }
            }
        }
        complete
    }

    fn run(&mut self, id: TenantId, manifest: TenantManifest, version: u64) {
        let TenantManifest {
            name,
            files,
            rendered,
        } = manifest;
        let revision = self.revisions.of(
            version,
            &rendered.config.content_hash,
            &rendered.credentials,
        );
        let state = self.states.entry(id).or_default();
        state.files = files;
        state.rejected = None;
        if state
            .running
            .as_ref()
            .is_some_and(|running| running.revision == revision)
        {
            return;
        }
        tracing::info!(tenant.id = %id, tenant.name = name, revision, "a configuration runs");
        for warning in &rendered.warnings {
            tracing::warn!(tenant.id = %id, warning, "a configuration is probably not meant so");
        }
        let runtime = TenantRuntime::new(rendered.config, version, rendered.credentials)
            .with_revision(revision);
        state.running = Some(Arc::new(runtime));
    }

    /// Swaps the registry and the status. Requests that pinned an older
    /// configuration keep it.
    fn publish(&self) {
        let running: HashMap<_, _> = self
            .states
            .iter()
            .filter_map(|(id, state)| Some((*id, Arc::clone(state.running.as_ref()?))))
            .collect();
        self.tenants.replace(running);
        self.status.publish(
            self.states
                .iter()
                .map(|(id, state)| entry(*id, state))
                .collect(),
        );
    }
}

fn entry(tenant_id: TenantId, state: &TenantState) -> Entry {
    let running = state.running.as_ref();
    let rejected = state.rejected.as_ref();
    Entry {
        tenant_id,
        revision: running.map(|running| running.revision.clone()),
        state: if rejected.is_some() {
            State::Rejected
        } else {
            State::Active
        },
        suspended: running.is_some_and(|running| running.config.suspended),
        rejected_revision: rejected.map(|rejected| rejected.revision.clone()),
        error: rejected.map(|rejected| rejected.error.clone()),
    }
}

impl Refusal {
    fn of<'a>(problems: impl Iterator<Item = &'a Problem>) -> Self {
        let (mut errors, mut files) = (Vec::new(), BTreeSet::new());
        for problem in problems {
            errors.push(problem.to_string());
            files.insert(problem.source.file.clone());
        }
        Self {
            error: errors.join("; "),
            files,
        }
    }
}
