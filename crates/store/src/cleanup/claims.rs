//! Who works on which chat (CONT-173). A claim is a row with an expiry. It saves
//! work and keeps attempts apart; what is written of an attachment or a store never
//! depends on it.

use std::time::Duration;

use minichat_core::{AttachmentId, ChatId, TenantId, Timestamp};

use super::{CleanupStep, CleanupTimes, DueChat, LeftStore, PendingFile, is_due};
use crate::outbox::micros;
use crate::tx::{Query, only_column};
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
    /// Chats with something due that nobody has claimed, the oldest first, after the
    /// place of `after`.
    pub async fn cleanup_due(
        &mut self,
        times: CleanupTimes,
        after: Option<DueChat>,
        limit: u32,
    ) -> Result<Vec<DueChat>, StoreError> {
        self.query(
            DUE_SQL,
            &params![
                times.spaced_before,
                times.stale_before,
                after.map(|it| it.since),
                after.map(|it| it.chat_id),
                limit,
            ],
            |row| {
                Ok(DueChat {
                    tenant_id: row.take()?,
                    chat_id: row.take()?,
                    since: row.take()?,
                })
            },
        )
        .await
    }

    /// Claims those of `chats` that nobody has claimed. Returns which.
    pub async fn cleanup_claim(
        &mut self,
        chats: &[DueChat],
        token: &str,
        lease: Duration,
    ) -> Result<Vec<ChatId>, StoreError> {
        let mut chats: Vec<&DueChat> = chats.iter().collect();
        // All processes insert in one order, so that none waits for another in a circle.
        chats.sort_by_key(|it| it.chat_id.0);
        for chat in chats {
            self.execute_later(
                "INSERT INTO cleanup_claims (chat_id, tenant_id, locked_by, locked_until) \
                 VALUES ($1, $2, $3, statement_timestamp() + $4) \
                 ON CONFLICT (chat_id) DO UPDATE SET locked_by = excluded.locked_by, \
                 locked_until = excluded.locked_until \
                 WHERE cleanup_claims.locked_until <= statement_timestamp()",
                params![chat.chat_id, chat.tenant_id, token, micros(lease)],
            )?;
        }
        self.query(
            "SELECT chat_id FROM cleanup_claims WHERE locked_by = $1",
            &params![token],
            only_column,
        )
        .await
    }

    /// The next thing to do in a chat, after the attachment `after`. Renews the claim.
    pub async fn cleanup_next(
        &mut self,
        claim: &CleanupClaim,
        after: Option<CleanupCursor>,
        times: CleanupTimes,
    ) -> Result<CleanupStep, StoreError> {
        let (tenant, chat) = (claim.tenant_id, claim.chat_id);
        let renewed: Option<ChatId> = self
            .query_opt(
                "UPDATE cleanup_claims SET locked_until = statement_timestamp() + $3 \
                 WHERE chat_id = $1 AND locked_by = $2 RETURNING chat_id",
                &params![chat, claim.token.as_str(), micros(claim.lease)],
                only_column,
            )
            .await?;
        if renewed.is_none() {
            return Ok(CleanupStep::Lost);
        }
        let (files, stores) = self
            .query2(
                Query {
                    sql: NEXT_FILE_SQL,
                    params: &params![
                        tenant,
                        chat,
                        times.spaced_before,
                        times.stale_before,
                        after.map(|it| it.since),
                        after.map(|it| it.id),
                    ],
                    map: file_row,
                },
                Query {
                    sql: NEXT_STORE_SQL,
                    params: &params![tenant, chat, times.spaced_before, times.stale_before],
                    map: store_row,
                },
            )
            .await?;
        let file = files.into_iter().next().map(CleanupStep::File);
        let store = stores.into_iter().next().map(CleanupStep::Store);
        Ok(file.or(store).unwrap_or(CleanupStep::Nothing))
    }

    /// Gives a claim back, if it is still held.
    pub fn cleanup_release(&mut self, claim: &CleanupClaim) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM cleanup_claims WHERE chat_id = $1 AND locked_by = $2",
            params![claim.chat_id, claim.token.as_str()],
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

/// A deleted chat's store `s` is due.
macro_rules! store_is_due {
    ($spaced:literal, $stale:literal) => {
        concat!(
            "c.deleted_at IS NOT NULL \
             AND (s.cleanup_updated_at IS NULL OR s.cleanup_updated_at <= ",
            $spaced,
            ") AND (s.vector_store_id IS NOT NULL OR s.created_at <= ",
            $stale,
            ") AND NOT EXISTS (SELECT 1 FROM attachments p WHERE p.chat_id = s.chat_id \
             AND p.cleanup_status = 'pending')"
        )
    };
}

const DUE_SQL: &str = concat!(
    "SELECT d.tenant_id, d.chat_id, MIN(d.since) FROM (\
     SELECT a.tenant_id, a.chat_id, COALESCE(a.cleanup_updated_at, a.created_at) AS since \
     FROM attachments a JOIN chats c ON c.id = a.chat_id WHERE ",
    is_due!("$1", "$2"),
    " UNION ALL \
     SELECT s.tenant_id, s.chat_id, COALESCE(s.cleanup_updated_at, c.deleted_at) \
     FROM chat_vector_stores s JOIN chats c ON c.id = s.chat_id WHERE ",
    store_is_due!("$1", "$2"),
    ") d WHERE NOT EXISTS (SELECT 1 FROM cleanup_claims k WHERE k.chat_id = d.chat_id \
     AND k.locked_until > statement_timestamp()) \
     GROUP BY d.tenant_id, d.chat_id \
     HAVING CAST($3 AS TIMESTAMPTZ) IS NULL OR MIN(d.since) > $3 \
     OR (MIN(d.since) = $3 AND d.chat_id > $4) \
     ORDER BY 3, 2 LIMIT $5"
);

const NEXT_FILE_SQL: &str = concat!(
    "SELECT a.id, COALESCE(a.cleanup_updated_at, a.created_at), a.provider_file_id, \
     a.storage_backend, a.cleanup_attempts, \
     CASE WHEN a.for_file_search AND c.deleted_at IS NULL THEN s.vector_store_id END \
     FROM attachments a JOIN chats c ON c.id = a.chat_id AND c.tenant_id = a.tenant_id \
     LEFT JOIN chat_vector_stores s ON s.tenant_id = a.tenant_id AND s.chat_id = a.chat_id \
     AND s.provider = a.storage_backend \
     WHERE a.tenant_id = $1 AND a.chat_id = $2 AND ",
    is_due!("$3", "$4"),
    " AND (CAST($5 AS TIMESTAMPTZ) IS NULL \
     OR COALESCE(a.cleanup_updated_at, a.created_at) > $5 \
     OR (COALESCE(a.cleanup_updated_at, a.created_at) = $5 AND a.id > $6)) \
     ORDER BY 2, 1 LIMIT 1"
);

const NEXT_STORE_SQL: &str = concat!(
    "SELECT s.id, s.vector_store_id, s.provider FROM chat_vector_stores s \
     JOIN chats c ON c.id = s.chat_id AND c.tenant_id = s.tenant_id \
     WHERE s.tenant_id = $1 AND s.chat_id = $2 AND ",
    store_is_due!("$3", "$4")
);

fn file_row(row: &Row<'_>) -> Result<PendingFile, StoreError> {
    Ok(PendingFile {
        id: row.take()?,
        since: row.take()?,
        provider_file_id: row.take()?,
        storage_backend: row.take()?,
        attempts: row.take()?,
        vector_store_id: row.take()?,
    })
}

fn store_row(row: &Row<'_>) -> Result<LeftStore, StoreError> {
    Ok(LeftStore {
        id: row.take()?,
        vector_store_id: row.take()?,
        provider: row.take()?,
    })
}
