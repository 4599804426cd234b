//! How the deletion of a vector store ended (CONT-166). The row's disappearance is
//! the mark that the chat is done.

use std::time::Duration;

use minichat_core::{ChatId, TenantId};
use uuid::Uuid;

use super::{DroppedStore, LeftStore};
use crate::outbox::micros;
use crate::tx::only_column;
use crate::value::params;
use crate::{StoreError, Tx};

impl Tx {
    /// Deletes the row of a store that is gone at the provider, unless an attachment
    /// of the chat is pending again.
    pub async fn cleanup_store_drop(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        store: &LeftStore,
    ) -> Result<DroppedStore, StoreError> {
        let dropped: Option<Uuid> = self
            .query_opt(
                "DELETE FROM chat_vector_stores WHERE tenant_id = $1 AND chat_id = $2 \
                 AND id = $3 AND COALESCE(vector_store_id, '') = $4 \
                 AND NOT EXISTS (SELECT 1 FROM attachments a WHERE a.chat_id = $2 \
                 AND a.cleanup_status = 'pending') RETURNING id",
                &params![
                    tenant,
                    chat,
                    store.id,
                    store.vector_store_id.as_deref().unwrap_or_default(),
                ],
                only_column,
            )
            .await?;
        if dropped.is_none() {
            return Ok(DroppedStore::Kept);
        }
        let failed: Option<i64> = self
            .query_opt(
                "SELECT MAX(1) FROM attachments WHERE tenant_id = $1 AND chat_id = $2 \
                 AND cleanup_status = 'failed'",
                &params![tenant, chat],
                only_column::<Option<i64>>,
            )
            .await?
            .flatten();
        Ok(DroppedStore::Dropped {
            has_failed_files: failed.is_some(),
        })
    }

    /// The store could not be deleted, and is due again after `wait`. Returns
    /// whether this call wrote it.
    pub async fn cleanup_store_failed(
        &mut self,
        tenant: TenantId,
        store: &LeftStore,
        wait: Duration,
    ) -> Result<bool, StoreError> {
        let tried: Option<Uuid> = self
            .query_opt(
                "UPDATE chat_vector_stores SET cleanup_updated_at = statement_timestamp(), \
                 cleanup_due_at = statement_timestamp() + $3 \
                 WHERE tenant_id = $1 AND id = $2 AND cleanup_due_at = $4 RETURNING id",
                &params![tenant, store.id, micros(wait), store.due_at],
                only_column,
            )
            .await?;
        Ok(tried.is_some())
    }
}
