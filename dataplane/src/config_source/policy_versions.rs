//! Policies in the database: numbers for documents that no operator numbered
//! (QUOTA-28), and the snapshots that turns are priced by (QUOTA-30).

use minichat_config::TenantConfig;
use minichat_core::TenantId;
use minichat_store::{BoxFuture, PolicySnapshot, Store, StoreError};

/// Numbers policies by what the database holds, and stores each before any
/// turn can be priced by it (QUOTA-30, QUOTA-34).
#[derive(Clone)]
pub struct StoredPolicyVersions {
    store: Store,
}

impl StoredPolicyVersions {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The version of `config`: the newest stored one if its hash is equal,
    /// else the next, which is stored before this returns.
    pub async fn resolve(&self, config: &TenantConfig) -> Result<u64, StoreError> {
        let tenant = config.tenant_id;
        let hash = config.content_hash.clone();
        let config = config.clone();
        self.store
            .write(move |tx| -> BoxFuture<'_, Result<u64, StoreError>> {
                let (hash, config) = (hash.clone(), config.clone());
                Box::pin(async move {
                    let newest = tx.policy_snapshot_newest(tenant).await?;
                    let version = match &newest {
                        Some(stored) if stored.content_hash == hash => {
                            return Ok(stored.policy_version);
                        }
                        Some(stored) => stored.policy_version + 1,
                        None => 1,
                    };
                    let snapshot = snapshot(config, version)?;
                    tx.policy_snapshot_store(tenant, &snapshot).await?;
                    Ok(version)
                })
            })
            .await
    }

    /// Stores `config` as `version`, which the operator gave it. The same
    /// version with another hash is [`StoreError::PolicyHashMismatch`].
    pub async fn store(&self, config: &TenantConfig, version: u64) -> Result<(), StoreError> {
        let tenant = config.tenant_id;
        let snapshot = snapshot(config.clone(), version)?;
        self.store
            .write(move |tx| -> BoxFuture<'_, Result<(), StoreError>> {
                let snapshot = snapshot.clone();
                Box::pin(async move { tx.policy_snapshot_store(tenant, &snapshot).await })
            })
            .await
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
