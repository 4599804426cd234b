//! Policy snapshots (PLAT-14, QUOTA-30): the policy that priced each turn.

use minichat_core::TenantId;

use crate::value::{Param, Row, params};
use crate::{StoreError, Tx};

/// A stored policy document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicySnapshot {
    pub policy_version: u64,
    pub content_hash: String,
    /// The document, JSON.
    pub snapshot: String,
}

impl Tx {
    /// Stores a version if it is absent; the same version with another hash is
    /// [`StoreError::PolicyHashMismatch`] (QUOTA-29).
    pub async fn policy_snapshot_store(
        &mut self,
        tenant: TenantId,
        snapshot: &PolicySnapshot,
    ) -> Result<(), StoreError> {
        let version = snapshot.policy_version;
        self.execute_later(
            "INSERT INTO policy_snapshots (tenant_id, policy_version, content_hash, snapshot, \
             created_at) VALUES ($1, $2, $3, $4, statement_timestamp()) \
             ON CONFLICT (tenant_id, policy_version) DO NOTHING",
            params![
                tenant,
                version,
                snapshot.content_hash.as_str(),
                Param::json(&snapshot.snapshot),
            ],
        )?;
        let stored = self.policy_snapshot_get(tenant, version).await?;
        match stored {
            Some(stored) if stored.content_hash == snapshot.content_hash => Ok(()),
            _ => Err(StoreError::PolicyHashMismatch { version }),
        }
    }

    pub async fn policy_snapshot_get(
        &mut self,
        tenant: TenantId,
        version: u64,
    ) -> Result<Option<PolicySnapshot>, StoreError> {
        self.query_opt(
            "SELECT policy_version, content_hash, snapshot FROM policy_snapshots \
             WHERE tenant_id = $1 AND policy_version = $2",
            &params![tenant, version],
            snapshot_row,
        )
        .await
    }

    /// The stored document with the highest version.
    pub async fn policy_snapshot_newest(
        &mut self,
        tenant: TenantId,
    ) -> Result<Option<PolicySnapshot>, StoreError> {
        self.query_opt(
            "SELECT policy_version, content_hash, snapshot FROM policy_snapshots \
             WHERE tenant_id = $1 ORDER BY policy_version DESC LIMIT 1",
            &params![tenant],
            snapshot_row,
        )
        .await
    }
}

fn snapshot_row(row: &Row<'_>) -> Result<PolicySnapshot, StoreError> {
    Ok(PolicySnapshot {
        policy_version: row.take()?,
        content_hash: row.take()?,
        snapshot: row.take()?,
    })
}
