//! How the deletion of a file ended (CONT-161, CONT-165 to CONT-168). Every change
//! holds only for the row as it was read, so that of several processes that work on
//! a row, one changes it.

use std::time::Duration;

use minichat_core::{AttachmentId, TenantId};

use super::{CleanupBacklog, FailedAttempt, PendingFile};
use crate::outbox::micros;
use crate::tx::only_column;
use crate::value::params;
use crate::{StoreError, Tx};

/// An attempt to delete a file that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedDeletion {
    /// Scrubbed, at most 1 KiB.
    pub error: String,
    /// Whether the provider refused this file. Otherwise it could not serve.
    pub is_refusal: bool,
    /// How long the file is left alone.
    pub wait: Duration,
    /// Number of refusals of which the last is final.
    pub max_attempts: u32,
}

impl Tx {
    /// The file is gone, or there never was one. Returns whether this call wrote it:
    /// not if another process did, or if the upload has brought a file since, or may
    /// have brought it into the vector store.
    pub async fn cleanup_file_done(
        &mut self,
        tenant: TenantId,
        file: &PendingFile,
    ) -> Result<bool, StoreError> {
        let done: Option<AttachmentId> = self
            .query_opt(
                "UPDATE attachments SET cleanup_status = 'done', last_cleanup_error = NULL, \
                 cleanup_updated_at = statement_timestamp() \
                 WHERE tenant_id = $1 AND id = $2 AND cleanup_status = 'pending' \
                 AND COALESCE(provider_file_id, '') = $3 \
                 AND COALESCE(cleanup_updated_at, created_at) = $4 RETURNING id",
                &params![
                    tenant,
                    file.id,
                    file.provider_file_id.as_deref().unwrap_or_default(),
                    file.since,
                ],
                only_column,
            )
            .await?;
        Ok(done.is_some())
    }

    /// Writes down a failed attempt, and counts it if it is a refusal, of which the
    /// last is final (CONT-168).
    pub async fn cleanup_file_failed(
        &mut self,
        tenant: TenantId,
        file: &PendingFile,
        failed: &FailedDeletion,
    ) -> Result<FailedAttempt, StoreError> {
        let status: Option<String> = self
            .query_opt(
                "UPDATE attachments SET cleanup_attempts = cleanup_attempts + $5, \
                 cleanup_status = CASE WHEN $5 > 0 AND cleanup_attempts + $5 >= $6 \
                 THEN 'failed' ELSE 'pending' END, \
                 last_cleanup_error = $4, cleanup_due_at = statement_timestamp() + $7, \
                 cleanup_updated_at = statement_timestamp() \
                 WHERE tenant_id = $1 AND id = $2 AND cleanup_status = 'pending' \
                 AND COALESCE(cleanup_due_at, cleanup_updated_at, created_at) = $3 \
                 RETURNING cleanup_status",
                &params![
                    tenant,
                    file.id,
                    file.due_at.unwrap_or(file.since),
                    failed.error.as_str(),
                    u32::from(failed.is_refusal),
                    failed.max_attempts,
                    micros(failed.wait),
                ],
                only_column,
            )
            .await?;
        Ok(match status.as_deref() {
            None => FailedAttempt::Elsewhere,
            Some("failed") => FailedAttempt::Failed,
            Some(_) => FailedAttempt::Pending,
        })
    }

    /// Attachments that are pending, and those whose clean-up has failed.
    pub async fn cleanup_backlog(&mut self) -> Result<CleanupBacklog, StoreError> {
        let counts = self
            .query(
                "SELECT cleanup_status, COUNT(*) FROM attachments \
                 WHERE cleanup_status IN ('pending', 'failed') GROUP BY cleanup_status",
                &[],
                |row| Ok((row.take::<String>()?, row.take::<u64>()?)),
            )
            .await?;
        let count = |status: &str| {
            let found = counts.iter().find(|(name, _)| name == status);
            found.map_or(0, |(_, count)| *count)
        };
        Ok(CleanupBacklog {
            pending: count("pending"),
            failed: count("failed"),
        })
    }
}
