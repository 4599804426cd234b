//! Policies in the database: the owners of tenant ids (D36), version numbers
//! for documents that no operator numbered (QUOTA-28), and the snapshots by
//! which turns are priced (QUOTA-30).

use std::collections::BTreeMap;

use minichat_config::TenantConfig;
use minichat_core::{NamespacedName, TenantId};
use minichat_store::{PolicySnapshot, Store, StoreError, Tx};

use super::tenant_states::TenantStates;

/// Assigns version numbers from the database, and stores each policy before a
/// turn can be priced by it (QUOTA-30, QUOTA-34).
#[derive(Clone)]
pub struct StoredPolicyVersions {
    store: Store,
}

/// Why a policy was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    OwnedByAnother(#[from] OwnedByAnother),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The tenant's id belongs to another `ChatTenant` (D36).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the tenant id {tenant} belongs to the ChatTenant {owner}, which was served under it first, and \
     not to {claimant}: give {claimant} another tenantId; or, if it is the same tenant under a new \
     name, run `minichat-dataplane tenants transfer --tenant {tenant} --from {owner} --to {claimant}`; \
     or erase the tenant of {owner}"
)]
pub struct OwnedByAnother {
    pub tenant: TenantId,
    /// The owner of the id.
    pub owner: NamespacedName,
    /// The `ChatTenant` that was refused.
    pub claimant: NamespacedName,
}

impl StoredPolicyVersions {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The version of `config`: that of the newest stored policy if the hashes
    /// are equal, otherwise the next one, which is stored before this returns.
    /// Claims the tenant id for `owner`.
    pub async fn resolve(
        &self,
        owner: &NamespacedName,
        config: &TenantConfig,
    ) -> Result<u64, PolicyError> {
        let (owner, config) = (owner.clone(), config.clone());
        self.store
            .write(move |tx| {
                let (owner, config) = (owner.clone(), config.clone());
                Box::pin(async move {
                    claim(tx, config.tenant_id, &owner).await?;
                    next_version(tx, config).await
                })
            })
            .await
    }

    /// Stores `config` under `version`, which the operator assigned. The same
    /// version with another hash is [`StoreError::PolicyHashMismatch`]. Claims
    /// the tenant id for `owner`.
    pub async fn store(
        &self,
        owner: &NamespacedName,
        config: &TenantConfig,
        version: u64,
    ) -> Result<(), PolicyError> {
        let (owner, tenant) = (owner.clone(), config.tenant_id);
        let snapshot = snapshot(config.clone(), version)?;
        self.store
            .write(move |tx| {
                let (owner, snapshot) = (owner.clone(), snapshot.clone());
                Box::pin(async move {
                    claim(tx, tenant, &owner).await?;
                    Ok(tx.policy_snapshot_store(tenant, &snapshot).await?)
                })
            })
            .await
    }

    /// Claims the tenant id for `owner`, unless it belongs to another.
    pub async fn claim(&self, tenant: TenantId, owner: &NamespacedName) -> Result<(), PolicyError> {
        let owner = owner.clone();
        self.store
            .write(move |tx| {
                let owner = owner.clone();
                Box::pin(async move { claim(tx, tenant, &owner).await })
            })
            .await
    }

    /// The owners of `tenants`. Ids that were never served are left out.
    pub async fn owners(
        &self,
        tenants: Vec<TenantId>,
    ) -> Result<BTreeMap<TenantId, NamespacedName>, StoreError> {
        self.store
            .read(move |tx| {
                let tenants = tenants.clone();
                Box::pin(async move {
                    let mut owners = BTreeMap::new();
                    for tenant in tenants {
                        if let Some(owner) = tx.tenant_owner(tenant).await? {
                            owners.insert(tenant, owner);
                        }
                    }
                    Ok(owners)
                })
            })
            .await
    }

    /// The owners of `tenants`: of a running one, its source; otherwise the
    /// owner in the database.
    pub(super) async fn owners_among(
        &self,
        tenants: Vec<TenantId>,
        states: &TenantStates,
    ) -> Result<BTreeMap<TenantId, NamespacedName>, StoreError> {
        let (mut owners, mut unknown) = (BTreeMap::new(), Vec::new());
        for id in tenants {
            match states.running(id) {
                Some(running) => {
                    owners.insert(id, running.source.clone());
                }
                None => unknown.push(id),
            }
        }
        if !unknown.is_empty() {
            owners.extend(self.owners(unknown).await?);
        }
        Ok(owners)
    }

    /// The highest version that `tenant` ever had.
    pub async fn newest(&self, tenant: TenantId) -> Result<Option<u64>, StoreError> {
        let stored = self
            .store
            .read(move |tx| Box::pin(async move { tx.policy_snapshot_newest(tenant).await }))
            .await?;
        Ok(stored.map(|stored| stored.policy_version))
    }
}

async fn claim(
    tx: &mut Tx,
    tenant: TenantId,
    claimant: &NamespacedName,
) -> Result<(), PolicyError> {
    let owner = tx.tenant_claim(tenant, claimant).await?;
    if owner == *claimant {
        return Ok(());
    }
    Err(PolicyError::OwnedByAnother(OwnedByAnother {
        tenant,
        owner,
        claimant: claimant.clone(),
    }))
}

async fn next_version(tx: &mut Tx, config: TenantConfig) -> Result<u64, PolicyError> {
    let tenant = config.tenant_id;
    let version = match tx.policy_snapshot_newest(tenant).await? {
        Some(stored) if stored.content_hash == config.content_hash => {
            return Ok(stored.policy_version);
        }
        Some(stored) => stored.policy_version + 1,
        None => 1,
    };
    let snapshot = snapshot(config, version)?;
    tx.policy_snapshot_store(tenant, &snapshot).await?;
    Ok(version)
}

fn snapshot(config: TenantConfig, version: u64) -> Result<PolicySnapshot, StoreError> {
    Ok(PolicySnapshot {
        policy_version: version,
        content_hash: config.content_hash.clone(),
        snapshot: document(&config.numbered(version))?,
    })
}

fn document(config: &TenantConfig) -> Result<String, StoreError> {
    config
        .document
        .to_json()
        .map_err(|_| StoreError::Parameter("snapshot"))
}
