//! Applies tenants that the operator rendered and numbered (K8S-22, QUOTA-29).

use std::collections::BTreeMap;

use futures_util::future::join_all;
use minichat_core::{NamespacedName, TenantId};
use minichat_crds::RenderedTenant;
use minichat_store::StoreError;

use super::issuers;
use super::tenant_states::{NOT_STORED, Rejected, TenantStates};
use super::{OwnedByAnother, PolicyError, StoredPolicyVersions, TenantRuntime};

/// The newest state of one tenant in the source.
#[derive(Debug)]
pub(super) enum Delivery {
    Rendered(Box<RenderedTenant>),
    /// The delivered document is not valid.
    Refused {
        revision: String,
        error: String,
    },
    Gone,
}

/// Applies deliveries.
pub(super) struct Intake {
    versions: StoredPolicyVersions,
    pub(super) states: TenantStates,
    /// Valid deliveries that the database has not accepted yet.
    unstored: BTreeMap<TenantId, Box<RenderedTenant>>,
    /// Valid deliveries that list an issuer of another tenant, which may give
    /// it up.
    contested: BTreeMap<TenantId, Box<RenderedTenant>>,
    /// Valid deliveries whose id belongs to another tenant (D36). It may be
    /// transferred to them.
    foreign: BTreeMap<TenantId, Box<RenderedTenant>>,
}

impl Intake {
    pub(super) fn new(versions: StoredPolicyVersions) -> Self {
        Self {
            versions,
            states: TenantStates::default(),
            unstored: BTreeMap::new(),
            contested: BTreeMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Applies the newest delivery of each tenant and publishes all of them at
    /// once.
    pub(super) async fn take(&mut self, deliveries: BTreeMap<TenantId, Delivery>) {
        let mut rendered = Vec::new();
        for (id, delivery) in deliveries {
            self.unstored.remove(&id);
            self.contested.remove(&id);
            self.foreign.remove(&id);
            match delivery {
                Delivery::Rendered(tenant) => rendered.push((id, tenant)),
                Delivery::Refused { revision, error } => {
                    self.states.reject(id, Rejected::new(revision, error));
                }
                Delivery::Gone => self.states.remove(id),
            }
        }
        self.offer(rendered).await;
        let order: Vec<_> = self.states.known().collect();
        self.states.choose_default(&order);
        self.states.publish();
    }

    /// The owners of those `tenants` that were ever served. If the database
    /// cannot be asked, it does not accept the tenant either.
    pub(super) async fn owners(
        &self,
        tenants: impl Iterator<Item = TenantId>,
    ) -> BTreeMap<TenantId, NamespacedName> {
        let tenants = tenants.collect();
        let owners = self.versions.owners_among(tenants, &self.states).await;
        owners.unwrap_or_else(|error| {
            tracing::warn!(%error, "the owners of tenant ids cannot be read");
            BTreeMap::new()
        })
    }

    /// Whether a delivery waits for the database, or for a change in it.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.unstored.is_empty() || !self.foreign.is_empty()
    }

    /// Tries again to store what the database did not accept.
    pub(super) async fn retry(&mut self) {
        let mut waiting: Vec<_> = std::mem::take(&mut self.unstored).into_iter().collect();
        waiting.extend(self.transferred().await);
        if !waiting.is_empty() {
            self.offer(waiting).await;
            self.states.publish();
        }
    }

    /// The foreign deliveries whose id now belongs to them or to no one.
    async fn transferred(&mut self) -> Vec<(TenantId, Box<RenderedTenant>)> {
        if self.foreign.is_empty() {
            return Vec::new();
        }
        let ids = self.foreign.keys().copied().collect();
        let Ok(owners) = self.versions.owners(ids).await else {
            return Vec::new();
        };
        let is_free = |id: &TenantId, tenant: &mut Box<RenderedTenant>| {
            owners.get(id).is_none_or(|owner| *owner == tenant.source)
        };
        self.foreign.extract_if(.., is_free).collect()
    }

    /// Applies the deliveries whose issuers belong to no other tenant.
    /// Deliveries that were refused for this before are checked again.
    async fn offer(&mut self, mut rendered: Vec<(TenantId, Box<RenderedTenant>)>) {
        rendered.extend(std::mem::take(&mut self.contested));
        let offered: Vec<_> = rendered.iter().map(|(_, tenant)| &tenant.config).collect();
        let mut refused = issuers::refused(&offered, &self.states.all_running());
        let mut free = Vec::with_capacity(rendered.len());
        for (id, tenant) in rendered {
            if let Some(conflict) = refused.remove(&id) {
                let rejected = Rejected::contested(tenant.revision.clone(), conflict);
                self.states.reject(id, rejected);
                self.contested.insert(id, tenant);
            } else {
                free.push((id, tenant));
            }
        }
        self.store(free).await;
    }

    /// Stores each policy before a turn can be priced by it (QUOTA-30). All
    /// tenants are stored at once, so that they share commits.
    async fn store(&mut self, rendered: Vec<(TenantId, Box<RenderedTenant>)>) {
        let stored = join_all(rendered.into_iter().map(|(id, tenant)| {
            let running = self.states.running(id).cloned();
            let versions = self.versions.clone();
            async move {
                let refused = store_version(&tenant, running.as_deref(), &versions)
                    .await
                    .err();
                (id, tenant, refused)
            }
        }));
        for (id, tenant, refused) in stored.await {
            match refused {
                None => self.run(id, *tenant),
                Some(refused) => {
                    let rejected = Rejected {
                        stored_version: refused.stored_version(),
                        stored_owner: refused.stored_owner(),
                        database_error: refused.database_error(),
                        ..Rejected::new(tenant.revision.clone(), refused.to_string())
                    };
                    self.states.reject(id, rejected);
                    match refused {
                        Refused::Database(_) => {
                            self.unstored.insert(id, tenant);
                        }
                        Refused::OwnedByAnother(_) => {
                            self.foreign.insert(id, tenant);
                        }
                        Refused::Lower { .. } | Refused::OtherContent { .. } => {}
                    }
                }
            }
        }
    }

    fn run(&mut self, id: TenantId, tenant: RenderedTenant) {
        let version = tenant.config.policy_version.unwrap_or_default();
        let runtime = TenantRuntime::new(tenant.source, tenant.config, version, tenant.credentials)
            .with_revision(tenant.revision);
        self.states.run(id, runtime);
    }
}

/// Why a valid delivery is not applied.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "policy version {delivered} is lower than {running}, which runs; versions only go up (QUOTA-29)"
    )]
    Lower { delivered: u64, running: u64 },
    #[error(
        "policy version {delivered} is stored with other content, and {newest} is the newest one; a changed policy needs a higher version"
    )]
    OtherContent { delivered: u64, newest: u64 },
    #[error(transparent)]
    OwnedByAnother(OwnedByAnother),
    #[error("{NOT_STORED}")]
    Database(StoreError),
}

impl From<PolicyError> for Refused {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::OwnedByAnother(error) => Self::OwnedByAnother(error),
            PolicyError::Store(error) => Self::Database(error),
        }
    }
}

impl Refused {
    /// The owner of the id, if that is the reason.
    fn stored_owner(&self) -> Option<NamespacedName> {
        match self {
            Self::OwnedByAnother(refused) => Some(refused.owner.clone()),
            Self::Lower { .. } | Self::OtherContent { .. } | Self::Database(_) => None,
        }
    }

    /// The database's error, if that is the reason.
    fn database_error(&self) -> Option<String> {
        match self {
            Self::Database(error) => Some(error.to_string()),
            Self::OwnedByAnother(_) | Self::Lower { .. } | Self::OtherContent { .. } => None,
        }
    }

    /// The version that the next delivery must exceed, if that is the reason.
    fn stored_version(&self) -> Option<u64> {
        match self {
            Self::Lower { running, .. } => Some(*running),
            Self::OtherContent { newest, .. } => Some(*newest),
            Self::OwnedByAnother(_) | Self::Database(_) => None,
        }
    }
}

async fn store_version(
    tenant: &RenderedTenant,
    running: Option<&TenantRuntime>,
    versions: &StoredPolicyVersions,
) -> Result<(), Refused> {
    let delivered = tenant.config.policy_version.unwrap_or_default();
    if let Some(running) = running {
        if running.source != tenant.source {
            versions
                .claim(running.config.tenant_id, &tenant.source)
                .await?;
        }
        let current = running.policy_version();
        if delivered < current {
            return Err(Refused::Lower {
                delivered,
                running: current,
            });
        }
        if delivered == current && running.config.content_hash == tenant.config.content_hash {
            return Ok(());
        }
    }
    match versions
        .store(&tenant.source, &tenant.config, delivered)
        .await
    {
        Ok(()) => Ok(()),
        Err(PolicyError::Store(StoreError::PolicyHashMismatch { .. })) => {
            Err(Refused::OtherContent {
                delivered,
                newest: versions
                    .newest(tenant.config.tenant_id)
                    .await
                    .map_err(Refused::Database)?
                    .map_or(delivered, |newest| newest.max(delivered)),
            })
        }
        Err(error) => Err(error.into()),
    }
}
