//! From manifests to what runs: one load compares what the files say with what
//! runs, and swaps only what is valid (QUOTA-31, K8S-22).

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use minichat_core::TenantId;
use minichat_crds::Revisions;
use minichat_crds::manifests::{Concern, Files, Manifests, Problem, TenantManifest};

use super::issuers;
use super::registry::{Registry, Rejected};
use super::{PolicyError, StoredPolicyVersions, TenantRuntime};

/// Everything the loads of one process share.
pub(super) struct Loader {
    versions: StoredPolicyVersions,
    revisions: Revisions,
    /// Files that the running configurations were read from.
    files: BTreeMap<TenantId, BTreeSet<String>>,
    pub(super) registry: Registry,
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
            files: BTreeMap::new(),
            registry: Registry::default(),
        }
    }

    /// Takes over `manifests`, which were made from `files`. `false` when the database did not take
    /// some tenant, so that the same files are worth another load.
    pub(super) async fn apply(&mut self, mut manifests: Manifests, files: &Files) -> bool {
        for problem in manifests
            .problems
            .iter()
            .filter(|p| matches!(p.concerns, Concern::Nobody | Concern::Unknown))
        {
            tracing::warn!(%problem, "a manifest is refused");
        }
        let mut known: BTreeSet<TenantId> = self.registry.known().collect();
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
                    self.files.remove(&id);
                    self.registry.remove(id);
                }
            }
        }
        self.refuse_foreign_issuers(&mut served, files);
        let complete = self.serve(served, files).await;
        self.registry.publish();
        complete
    }

    fn verdict(&self, id: TenantId, manifests: &mut Manifests) -> Verdict {
        let refused: Vec<_> = manifests.problems_of(id).collect();
        if !refused.is_empty() {
            return Verdict::Reject(Refusal::of(refused.into_iter()));
        }
        // A document that cannot be told apart may be one of this tenant's: a
        // quota, say, without which the tenant must not go on.
        let files = self.files.get(&id);
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

    /// No issuer opens two tenants by accident.
    fn refuse_foreign_issuers(
        &mut self,
        served: &mut Vec<(TenantId, TenantManifest)>,
        files: &Files,
    ) {
        let offered: Vec<_> = served
            .iter()
            .map(|(_, manifest)| &manifest.rendered.config)
            .collect();
        let refused = issuers::refused(&offered, &self.registry.all_running());
        served.retain(|(id, manifest)| {
            let Some(error) = refused.get(id) else {
                return true;
            };
            let refusal = Refusal {
                error: error.clone(),
                files: manifest.files.clone(),
            };
            self.reject(*id, refusal, files);
            false
        });
    }

    fn reject(&mut self, id: TenantId, refusal: Refusal, files: &Files) {
        let Refusal {
            error,
            files: names,
        } = refusal;
        let texts = names.iter().filter_map(|name| files.texts.get(name));
        let revision = self.revisions.of_refused(texts.map(String::as_str));
        let rejected = Rejected {
            revision,
            error,
            stored_version: None,
            stored_owner: None,
        };
        self.registry.reject(id, rejected);
    }

    /// Numbers what is new, all tenants at once so that they share commits.
    async fn serve(&mut self, served: Vec<(TenantId, TenantManifest)>, files: &Files) -> bool {
        let numbered = join_all(served.into_iter().map(|(id, manifest)| {
            let running = self.registry.running(id).cloned();
            let versions = self.versions.clone();
            async move {
                let config = &manifest.rendered.config;
                let version = match running {
                    Some(running)
                        if running.config.content_hash == config.content_hash
                            && running.source == manifest.name =>
                    {
                        Ok(running.policy_version())
                    }
                    _ => versions.resolve(&manifest.name, config).await,
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
                    // Also when the id is another's: it may be transferred.
                    complete = false;
                    let error = match error {
                        PolicyError::OwnedByAnother(error) => error.to_string(),
                        PolicyError::Store(error) => {
                            format!("the policy cannot be stored: {error}; it is tried again")
                        }
                    };
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
        self.files.insert(id, files);
        let runtime =
            TenantRuntime::new(name.clone(), rendered.config, version, rendered.credentials)
                .with_revision(revision);
        if self.registry.run(id, runtime) {
            for warning in &rendered.warnings {
                tracing::warn!(tenant.id = %id, tenant.name = %name, warning, "a configuration is probably not meant so");
            }
        }
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
