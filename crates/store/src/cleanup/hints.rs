//! The messages that deletions enqueue (CONT-162, CONT-163). They are hints: the rows
//! of the same transaction say what is to be done, and when it is tried again. So a
//! message is read once, in any order, by whoever comes first.

use minichat_core::{ChatId, TenantId};

use crate::outbox::event_key;
use crate::tx::only_column;
use crate::value::params;
use crate::{StoreError, Tx};

/// A message that nobody has read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CleanupHint {
    pub id: i64,
    pub tenant_id: TenantId,
    pub dedupe_key: Option<String>,
    /// JSON.
    pub payload: String,
}

/// The chat that a message names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintedChat {
    /// There is no row of this tenant.
    Gone,
    Living,
    Deleted,
}

impl Tx {
    /// At most `limit` messages of `queue` that nobody has read, of all partitions.
    pub async fn cleanup_hints(
        &mut self,
        queue: &str,
        limit: u32,
    ) -> Result<Vec<CleanupHint>, StoreError> {
        self.query(
            "SELECT id, tenant_id, dedupe_key, payload FROM outbox_messages \
             WHERE queue = $1 AND done_at IS NULL \
             ORDER BY partition, tenant_id, id LIMIT $2",
            &params![queue, limit],
            |row| {
                Ok(CleanupHint {
                    id: row.take()?,
                    tenant_id: row.take()?,
                    dedupe_key: row.take()?,
                    payload: row.take()?,
                })
            },
        )
        .await
    }

    pub async fn cleanup_hinted_chat(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<HintedChat, StoreError> {
        let is_deleted: Option<bool> = self
            .query_opt(
                "SELECT deleted_at IS NOT NULL FROM chats WHERE tenant_id = $1 AND id = $2",
                &params![tenant, chat],
                only_column,
            )
            .await?;
        Ok(match is_deleted {
            None => HintedChat::Gone,
            Some(false) => HintedChat::Living,
            Some(true) => HintedChat::Deleted,
        })
    }

    /// The message was read. Returns whether this call is the first. A dead letter that
    /// was tried again with it is resolved.
    pub async fn cleanup_hint_read(&mut self, hint: &CleanupHint) -> Result<bool, StoreError> {
        let is_first = self.cleanup_hint_take(hint).await?;
        if is_first && let Some(key) = &hint.dedupe_key {
            self.execute_later(
                "UPDATE outbox_dead_letters SET status = 'resolved' \
                 WHERE tenant_id = $1 AND dedupe_key = $2 AND status = 'reprocessing'",
                params![hint.tenant_id, key.as_str()],
            )?;
        }
        Ok(is_first)
    }

    /// The message becomes a dead letter (PLAT-35); one that was tried again goes back
    /// there. Returns whether this call did it.
    pub async fn cleanup_hint_bury(
        &mut self,
        hint: &CleanupHint,
        reason: &str,
    ) -> Result<bool, StoreError> {
        if !self.cleanup_hint_take(hint).await? {
            return Ok(false);
        }
        let key = event_key(hint.dedupe_key.as_deref(), hint.tenant_id, hint.id);
        let again: Option<i64> = self
            .query_opt(
                "UPDATE outbox_dead_letters SET status = 'pending', message_id = $3, \
                 last_error = $4, failed_at = statement_timestamp() \
                 WHERE tenant_id = $1 AND dedupe_key = $2 AND status = 'reprocessing' \
                 RETURNING id",
                &params![hint.tenant_id, key.as_str(), hint.id, reason],
                only_column,
            )
            .await?;
        if again.is_none() {
            self.execute_later(
                "INSERT INTO outbox_dead_letters (queue, partition, message_id, tenant_id, \
                 dedupe_key, payload_type, payload, attempts, last_error, created_at, failed_at) \
                 SELECT queue, partition, id, tenant_id, $2, payload_type, payload, 1, $3, \
                 created_at, statement_timestamp() FROM outbox_messages WHERE id = $1",
                params![hint.id, key.as_str(), reason],
            )?;
        }
        self.execute_later(
            "DELETE FROM outbox_messages WHERE id = $1",
            params![hint.id],
        )?;
        Ok(true)
    }

    async fn cleanup_hint_take(&mut self, hint: &CleanupHint) -> Result<bool, StoreError> {
        let taken: Option<i64> = self
            .query_opt(
                "UPDATE outbox_messages SET done_at = statement_timestamp() \
                 WHERE id = $1 AND done_at IS NULL RETURNING id",
                &params![hint.id],
                only_column,
            )
            .await?;
        Ok(taken.is_some())
    }
}
