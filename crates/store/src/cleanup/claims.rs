//! Who works on which chat (CONT-173). A claim is a row with an expiry. It saves
//! work and keeps attempts apart; what is written of an attachment or a store never
//! depends on it.

use std::time::Duration;

use minichat_core::{AttachmentId, ChatId, TenantId, Timestamp};

use super::due::store_is_due;
use super::{CleanupStep, CleanupTimes, DueKind, DuePart, LeftStore, PendingFile, due_at, is_due};
use crate::outbox::micros;
use crate::tx::only_column;
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// A chat that a process works on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CleanupClaim {
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    /// Which no other claim has.
    pub token: String,
    /// For how long, from the last step on.
    pub lease: Duration,
}

/// The last attachment of a chat that a pass has tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanupCursor {
    pub since: Timestamp,
    pub id: AttachmentId,
}

impl Tx {
    /// Claims those of `chats` that nobody has claimed. Returns which.
    pub async fn cleanup_claim(
        &mut self,
        tenant: TenantId,
        chats: &[ChatId],
        token: &str,
        lease: Duration,
    ) -> Result<Vec<ChatId>, StoreError> {
        let mut chats = chats.to_vec();
        // All processes insert in one order, so that none waits for another in a circle.
        chats.sort_by_key(|chat| chat.0);
        for chat in chats {
            self.execute_later(
                "INSERT INTO cleanup_claims (chat_id, tenant_id, locked_by, locked_until) \
                 VALUES ($1, $2, $3, statement_timestamp() + $4) \
                 ON CONFLICT (chat_id) DO UPDATE SET locked_by = excluded.locked_by, \
                 locked_until = excluded.locked_until \
                 WHERE cleanup_claims.locked_until <= statement_timestamp()",
                params![chat, tenant, token, micros(lease)],
            )?;
        }
        self.query(
            "SELECT chat_id FROM cleanup_claims WHERE locked_by = $1",
            &params![token],
            only_column,
        )
        .await
    }

    /// The next thing to do in a chat for `part`, after the attachment `after`. Renews
    /// the claim.
    pub async fn cleanup_next(
        &mut self,
        claim: &CleanupClaim,
        part: &DuePart,
        after: Option<CleanupCursor>,
        times: CleanupTimes,
    ) -> Result<CleanupStep, StoreError> {
        let (tenant, chat) = (claim.tenant_id, claim.chat_id);
        self.execute_later(
            "UPDATE cleanup_claims SET locked_until = statement_timestamp() + $3 \
             WHERE chat_id = $1 AND locked_by = $2",
            params![chat, claim.token.as_str(), micros(claim.lease)],
        )?;
        let file: Option<PendingFile> = self
            .query_opt(
                NEXT_FILE_SQL,
                &params![
                    tenant,
                    chat,
                    times.now,
                    times.stale_before,
                    after.map(|it| it.since),
                    after.map(|it| it.id),
                    claim.token.as_str(),
                    part.label.as_str(),
                    part.kind == DueKind::Fileless,
                ],
                file_row,
            )
            .await?;
        if let Some(file) = file {
            return Ok(CleanupStep::File(file));
        }
        let store: Option<LeftStore> = self
            .query_opt(
                NEXT_STORE_SQL,
                &params![
                    tenant,
                    chat,
                    times.now,
                    times.stale_before,
                    claim.token.as_str(),
                    part.label.as_str(),
                ],
                store_row,
            )
            .await?;
        Ok(store.map_or(CleanupStep::Nothing, CleanupStep::Store))
    }

    /// Gives the claims with a token back, if they are still held.
    pub fn cleanup_release(&mut self, token: &str) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM cleanup_claims WHERE locked_by = $1",
            params![token],
        )
    }

    /// Removes claims of processes that are gone: those that have expired, or all, if
    /// this process has the database alone.
    pub fn cleanup_forget_claims(&mut self, is_alone: bool) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM cleanup_claims WHERE $1 OR locked_until <= statement_timestamp()",
            params![is_alone],
        )
    }
}

const NEXT_FILE_SQL: &str = concat!(
    "SELECT a.id, COALESCE(a.cleanup_updated_at, a.created_at), a.provider_file_id, \
     a.storage_backend, a.cleanup_due_at, \
     CASE WHEN a.for_file_search AND c.deleted_at IS NULL THEN s.vector_store_id END \
     FROM attachments a JOIN chats c ON c.id = a.chat_id AND c.tenant_id = a.tenant_id \
     LEFT JOIN chat_vector_stores s ON s.tenant_id = a.tenant_id AND s.chat_id = a.chat_id \
     AND s.provider = a.storage_backend \
     WHERE a.tenant_id = $1 AND a.chat_id = $2 AND a.storage_backend = $8 \
     AND (NOT $9 OR a.provider_file_id IS NULL) AND ",
    is_due!("$3", "$4"),
    " AND (CAST($5 AS TIMESTAMPTZ) IS NULL \
     OR COALESCE(a.cleanup_updated_at, a.created_at) > $5 \
     OR (COALESCE(a.cleanup_updated_at, a.created_at) = $5 AND a.id > $6)) \
     AND EXISTS (SELECT 1 FROM cleanup_claims k WHERE k.chat_id = $2 AND k.locked_by = $7) \
     ORDER BY 2, 1 LIMIT 1"
);

const NEXT_STORE_SQL: &str = concat!(
    "SELECT s.id, s.vector_store_id, s.provider, s.cleanup_updated_at, s.cleanup_due_at \
     FROM chat_vector_stores s \
     JOIN chats c ON c.id = s.chat_id AND c.tenant_id = s.tenant_id \
     WHERE s.tenant_id = $1 AND s.chat_id = $2 AND s.provider = $6 AND ",
    store_is_due!("$3", "$4"),
    " AND EXISTS (SELECT 1 FROM cleanup_claims k WHERE k.chat_id = $2 AND k.locked_by = $5)"
);

fn file_row(row: &Row<'_>) -> Result<PendingFile, StoreError> {
    Ok(PendingFile {
        id: row.take()?,
        since: row.take()?,
        provider_file_id: row.take()?,
        storage_backend: row.take()?,
        due_at: row.take()?,
        vector_store_id: row.take()?,
    })
}

fn store_row(row: &Row<'_>) -> Result<LeftStore, StoreError> {
    Ok(LeftStore {
        id: row.take()?,
        vector_store_id: row.take()?,
        provider: row.take()?,
        tried_at: row.take()?,
        due_at: row.take()?,
    })
}
