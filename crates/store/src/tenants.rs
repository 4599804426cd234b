//! The owner of each tenant id (D36): the `ChatTenant` that was served under it
//! first, as long as rows of the tenant exist.

use minichat_core::{NamespacedName, TenantId, Timestamp};

use crate::value::{Row, params};
use crate::{Refused, StoreError, Tx};

/// A tenant that was served from this database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServedTenant {
    pub id: TenantId,
    pub owner: NamespacedName,
    pub first_served: Timestamp,
    /// When a process last started to serve it, or took over a change of it.
    pub last_served: Timestamp,
}

/// Deletes the row of a tenant of which no other table has rows.
pub(crate) const RELEASE: &str = "DELETE FROM tenants WHERE id = $1 \
     AND NOT EXISTS (SELECT 1 FROM chats WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM messages WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM chat_turns WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM attachments WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM message_attachments WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM thread_summaries WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM chat_vector_stores WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM quota_usage WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM message_reactions WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM policy_snapshots WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM outbox_messages WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM outbox_parked WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM outbox_dead_letters WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM usage_rollups WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM turn_rollups WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM erasures WHERE tenant_id = $1) \
     AND NOT EXISTS (SELECT 1 FROM cleanup_claims WHERE tenant_id = $1) \
     RETURNING id";

impl Tx {
    /// Claims `tenant` for `claimant` and returns the owner: `claimant`, unless
    /// the id already has another owner. If several claim it at once, one wins.
    pub async fn tenant_claim(
        &mut self,
        tenant: TenantId,
        claimant: &NamespacedName,
    ) -> Result<NamespacedName, StoreError> {
        self.execute_later(
            "INSERT INTO tenants (id, owner, first_served, last_served) \
             VALUES ($1, $2, statement_timestamp(), statement_timestamp()) \
             ON CONFLICT (id) DO UPDATE SET last_served = excluded.last_served \
             WHERE tenants.owner = excluded.owner",
            params![tenant, claimant.as_str()],
        )?;
        let owner = self.tenant_owner(tenant).await?;
        // Only an erase at the same instant can remove the row.
        owner.ok_or_else(|| {
            StoreError::Contended(Refused::found("the tenant was removed meanwhile"))
        })
    }

    /// The owner of `tenant`; `None` if it was never served.
    pub async fn tenant_owner(
        &mut self,
        tenant: TenantId,
    ) -> Result<Option<NamespacedName>, StoreError> {
        self.query_opt(
            "SELECT owner FROM tenants WHERE id = $1",
            &params![tenant],
            crate::tx::only_column,
        )
        .await
    }

    /// Transfers `tenant` from `from` to `to`. Returns whether `from` was the
    /// owner.
    pub async fn tenant_transfer(
        &mut self,
        tenant: TenantId,
        from: &NamespacedName,
        to: &NamespacedName,
    ) -> Result<bool, StoreError> {
        let moved: Option<TenantId> = self
            .query_opt(
                "UPDATE tenants SET owner = $3 WHERE id = $1 AND owner = $2 RETURNING id",
                &params![tenant, from.as_str(), to.as_str()],
                crate::tx::only_column,
            )
            .await?;
        Ok(moved.is_some())
    }

    /// Every tenant that was served from this database, with its owner.
    pub async fn tenant_list(&mut self) -> Result<Vec<ServedTenant>, StoreError> {
        self.query(
            "SELECT id, owner, first_served, last_served FROM tenants ORDER BY owner, id",
            &[],
            tenant_row,
        )
        .await
    }

    /// Ends the ownership of a tenant of which no other row is left, and
    /// returns whether it did. This is the last step of an erase. Afterwards
    /// anyone can claim the id.
    pub async fn tenant_release(&mut self, tenant: TenantId) -> Result<bool, StoreError> {
        let released: Option<TenantId> = self
            .query_opt(RELEASE, &params![tenant], crate::tx::only_column)
            .await?;
        Ok(released.is_some())
    }
}

fn tenant_row(row: &Row<'_>) -> Result<ServedTenant, StoreError> {
    Ok(ServedTenant {
        id: row.take()?,
        owner: row.take()?,
        first_served: row.take()?,
        last_served: row.take()?,
    })
}
