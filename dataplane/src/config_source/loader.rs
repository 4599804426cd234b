//! Applies manifests: compares them with the running configurations and swaps
//! in only the valid ones (QUOTA-31, K8S-22).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::join_all;
use minichat_core::{NamespacedName, TenantId};
use minichat_crds::Revisions;
use minichat_crds::manifests::{Concern, Files, Manifests, Problem, TenantManifest};
use minichat_store::StoreError;

use super::issuers;
use super::tenant_states::{NOT_STORED, Rejected, TenantStates, contested_words};
use super::{PolicyError, StoredPolicyVersions, TenantRuntime};

/// The state that all loads of a process share.
pub(super) struct Loader {
    versions: StoredPolicyVersions,
    revisions: Revisions,
    /// The manifests of the running configurations.
    manifests: BTreeMap<TenantId, Arc<TenantManifest>>,
    /// Problems of the last manifests that were logged.
    warned: BTreeSet<String>,
    pub(super) states: TenantStates,
}

/// The decision about one tenant.
enum Verdict {
    /// The running configuration stays.
    Stands,
    Serve(Arc<TenantManifest>),
    Reject(Rejection),
    Remove,
}

/// Why a configuration is refused, and the files that it is in.
struct Rejection {
    error: String,
    files: BTreeSet<String>,
    /// The owner of the id, if that is the reason.
    owner: Option<NamespacedName>,
    /// What the database said, if that is why: for the log alone.
    database_error: Option<String>,
}

/// The manifests of one load, indexed.
struct Load<'a> {
    manifests: &'a Manifests,
    names: BTreeMap<TenantId, Vec<&'a NamespacedName>>,
    /// Problems of one tenant.
    of_tenant: HashMap<&'a NamespacedName, Vec<&'a Problem>>,
    /// Tenants whose id other tenants have too.
    shared: HashMap<&'a NamespacedName, Vec<&'a Problem>>,
    /// Problems that may concern any tenant of a file.
    of_file: HashMap<&'a str, Vec<&'a Problem>>,
    /// The owners of ids that several tenants have.
    owners: BTreeMap<TenantId, NamespacedName>,
    /// Why that cannot be read.
    owners_error: Option<String>,
}

impl<'a> Load<'a> {
    fn of(manifests: &'a Manifests) -> Self {
        let mut load = Self {
            manifests,
            names: BTreeMap::new(),
            of_tenant: HashMap::new(),
            shared: HashMap::new(),
            of_file: HashMap::new(),
            owners: BTreeMap::new(),
            owners_error: None,
        };
        for (name, id) in &manifests.ids {
            load.names.entry(*id).or_default().push(name);
        }
        for problem in &manifests.problems {
            match &problem.concerns {
                Concern::Tenant(name) => load.of_tenant.entry(name).or_default().push(problem),
                Concern::SharedId(name) => load.shared.entry(name).or_default().push(problem),
                Concern::Unknown => {
                    let file = problem.source.file.as_str();
                    load.of_file.entry(file).or_default().push(problem);
                }
                Concern::Nobody => {}
            }
        }
        load
    }

    /// The tenant to use for `id`; `None` if several have it and none of them
    /// is known to own it.
    fn candidate(&self, id: TenantId) -> Option<&'a NamespacedName> {
        match self.names.get(&id).map_or(&[][..], Vec::as_slice) {
            [only] => Some(*only),
            several => {
                let owner = self.owners.get(&id)?;
                several.iter().copied().find(|name| *name == owner)
            }
        }
    }

    /// The rejection if several tenants have `id`.
    fn shared(&self, id: TenantId) -> Option<Rejection> {
        let names = self.names.get(&id)?;
        let problems = names.iter().filter_map(|name| self.shared.get(*name));
        let rejection = Rejection::of(problems.flatten().copied())?;
        Some(match &self.owners_error {
            Some(error) => Rejection::not_stored(rejection.files, error.clone()),
            None => rejection,
        })
    }

    /// Whether `/configz` shows the problem.
    fn is_shown(&self, problem: &Problem) -> bool {
        let candidate = |name| {
            let id = self.manifests.ids.get(name);
            id.map(|id| self.candidate(*id))
        };
        match &problem.concerns {
            Concern::Tenant(name) => candidate(name) == Some(Some(name)),
            Concern::SharedId(name) => {
                matches!(candidate(name), Some(found) if found.is_none_or(|found| found == name))
            }
            Concern::Nobody | Concern::Unknown => false,
        }
    }

    /// Problems in `files` that cannot be assigned to one tenant.
    fn lost(&self, files: &BTreeSet<String>) -> Vec<&'a Problem> {
        let problems = files
            .iter()
            .filter_map(|file| self.of_file.get(file.as_str()));
        problems.flatten().copied().collect()
    }
}

impl Loader {
    pub(super) fn new(versions: StoredPolicyVersions) -> Self {
        Self {
            versions,
            revisions: Revisions::new(),
            manifests: BTreeMap::new(),
            warned: BTreeSet::new(),
            states: TenantStates::default(),
        }
    }

    /// Applies `manifests`, which were made from `files`. `false` if the
    /// database did not accept some tenant, so that loading the same files
    /// again may succeed.
    pub(super) async fn apply(&mut self, manifests: &Manifests, files: &Files) -> bool {
        let mut load = Load::of(manifests);
        match self.owners(&load).await {
            Ok(owners) => load.owners = owners,
            Err(error) => load.owners_error = Some(error.to_string()),
        }
        self.warn(&load);
        let mut known: BTreeSet<TenantId> = self.states.known().collect();
        known.extend(load.names.keys());
        let mut served = Vec::new();
        for id in known {
            match self.verdict(id, &load) {
                Verdict::Stands => {}
                Verdict::Serve(manifest) => served.push((id, manifest)),
                Verdict::Reject(rejection) => self.reject(id, rejection, files),
                Verdict::Remove => self.remove(id),
            }
        }
        self.refuse_foreign_issuers(&mut served, files);
        let complete = self.serve(served, files).await && load.owners_error.is_none();
        self.states.choose_default(&in_order(manifests));
        self.states.publish();
        complete
    }

    /// Whose the ids are that several tenants have (D36).
    async fn owners(
        &self,
        load: &Load<'_>,
    ) -> Result<BTreeMap<TenantId, NamespacedName>, StoreError> {
        let several = load.names.iter().filter(|(_, names)| names.len() > 1);
        let ids: Vec<_> = several.map(|(id, _)| *id).collect();
        self.versions.owners_among(ids, &self.states).await
    }

    /// Logs each problem that no tenant shows, once.
    fn warn(&mut self, load: &Load<'_>) {
        let unseen = load
            .manifests
            .problems
            .iter()
            .filter(|problem| !load.is_shown(problem));
        let unseen: BTreeSet<_> = unseen.map(ToString::to_string).collect();
        for problem in unseen.difference(&self.warned) {
            tracing::warn!(problem, "a manifest is refused");
        }
        self.warned = unseen;
    }

    fn verdict(&mut self, id: TenantId, load: &Load<'_>) -> Verdict {
        let Some(name) = load.candidate(id) else {
            return self.without_candidate(id, load);
        };
        let of_tenant = load.of_tenant.get(name).into_iter().flatten().copied();
        // A document that cannot be identified may belong to this tenant: for
        // example a quota, without which the tenant must not continue.
        let before = self.manifests.get(&id);
        let lost = before
            .into_iter()
            .flat_map(|before| load.lost(&before.files));
        if let Some(rejection) = Rejection::of(of_tenant.chain(lost)) {
            return Verdict::Reject(rejection);
        }
        let Some(manifest) = load.manifests.tenants.get(name) else {
            return Verdict::Remove;
        };
        // A tenant whose manifest is gone ends, even if another file has a
        // tenant with the same id. In the same file, it may have been renamed.
        if before.is_some_and(|before| before.name != *name && before.file != manifest.file) {
            self.remove(id);
        }
        let before = self.manifests.get(&id);
        if before.is_some_and(|before| Arc::ptr_eq(before, manifest))
            && !self.states.is_rejected(id)
        {
            return Verdict::Stands;
        }
        Verdict::Serve(Arc::clone(manifest))
    }

    fn without_candidate(&self, id: TenantId, load: &Load<'_>) -> Verdict {
        let before = self.manifests.get(&id);
        let lost = before
            .into_iter()
            .flat_map(|before| load.lost(&before.files));
        let rejection = load.shared(id).or_else(|| Rejection::of(lost));
        rejection.map_or(Verdict::Remove, Verdict::Reject)
    }

    fn remove(&mut self, id: TenantId) {
        self.manifests.remove(&id);
        self.states.remove(id);
    }

    /// Refuses tenants that list an issuer of another tenant.
    fn refuse_foreign_issuers(
        &mut self,
        served: &mut Vec<(TenantId, Arc<TenantManifest>)>,
        files: &Files,
    ) {
        let offered: Vec<_> = served
            .iter()
            .map(|(_, manifest)| &manifest.rendered.config)
            .collect();
        let mut refused = issuers::refused(&offered, &self.states.all_running());
        served.retain(|(id, manifest)| {
            let Some(conflict) = refused.remove(id) else {
                return true;
            };
            let rejection = Rejection {
                error: contested_words(&conflict),
                files: manifest.files.clone(),
                owner: None,
                database_error: None,
            };
            self.reject(*id, rejection, files);
            false
        });
    }

    fn reject(&mut self, id: TenantId, rejection: Rejection, files: &Files) {
        let Rejection {
            error,
            files: names,
            owner,
            database_error,
        } = rejection;
        let texts = names.iter().filter_map(|name| files.texts.get(name));
        let revision = self.revisions.of_refused(texts.map(|text| &**text));
        let rejected = Rejected {
            stored_owner: owner,
            database_error,
            ..Rejected::new(revision, error)
        };
        self.states.reject(id, rejected);
    }

    /// Assigns version numbers to new configurations. All tenants are stored at
    /// once, so that they share commits.
    async fn serve(&mut self, served: Vec<(TenantId, Arc<TenantManifest>)>, files: &Files) -> bool {
        let numbered = join_all(served.into_iter().map(|(id, manifest)| {
            let running = self.states.running(id).cloned();
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
                    // Also if the id belongs to another tenant: it may be
                    // transferred.
                    complete = false;
                    let rejection = Rejection::by_database(error, &manifest);
                    self.reject(id, rejection, files);
                }
            }
        }
        complete
    }

    fn run(&mut self, id: TenantId, manifest: Arc<TenantManifest>, version: u64) {
        let rendered = &manifest.rendered;
        let revision = self.revisions.of(
            version,
            &rendered.config.content_hash,
            &rendered.credentials,
        );
        let runtime = TenantRuntime::new(
            manifest.name.clone(),
            rendered.config.clone(),
            version,
            rendered.credentials.clone(),
        )
        .with_revision(revision);
        if self.states.run(id, runtime) {
            for warning in &rendered.warnings {
                tracing::warn!(tenant.id = %id, tenant.name = %manifest.name, warning, "a configuration is valid, but probably a mistake");
            }
        }
        self.manifests.insert(id, manifest);
    }
}

impl Rejection {
    /// `None` if there are no problems.
    fn of<'a>(problems: impl Iterator<Item = &'a Problem>) -> Option<Self> {
        let (mut errors, mut files) = (Vec::new(), BTreeSet::new());
        for problem in problems {
            errors.push(problem.to_string());
            files.insert(problem.source.file.clone());
        }
        (!errors.is_empty()).then(|| Self {
            error: errors.join("; "),
            files,
            owner: None,
            database_error: None,
        })
    }

    fn by_database(error: PolicyError, manifest: &TenantManifest) -> Self {
        let files = manifest.files.clone();
        match error {
            PolicyError::OwnedByAnother(error) => Self {
                error: error.to_string(),
                files,
                owner: Some(error.owner),
                database_error: None,
            },
            PolicyError::Store(error) => Self::not_stored(files, error.to_string()),
        }
    }

    /// What only the log says is `database_error`.
    fn not_stored(files: BTreeSet<String>, database_error: String) -> Self {
        Self {
            error: NOT_STORED.to_owned(),
            files,
            owner: None,
            database_error: Some(database_error),
        }
    }
}

/// Ids of the tenants, in the order of the documents.
fn in_order(manifests: &Manifests) -> Vec<TenantId> {
    let names = manifests.order.iter();
    let ids = names.filter_map(|name| manifests.ids.get(name));
    ids.copied().collect()
}
