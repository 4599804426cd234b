//! How the deletion of a file ended (CONT-161, CONT-165 to CONT-168). Every change
//! holds only for the row as it was read, so that of several processes that work on
//! a row, one changes it.

use minichat_core::{AttachmentId, TenantId};

use super::{CleanupBacklog, FailedAttempt, PendingFile};
use crate::tx::only_column;
use crate::value::params;
use crate::{StoreError, Tx};

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

    /// Counts a failed attempt. `error` is scrubbed and at most 1 KiB. The last of
    /// `max_attempts` is final.
    pub async fn cleanup_file_failed(
        &mut self,
        tenant: TenantId,
        file: &PendingFile,
        error: &str,
        max_attempts: u32,
    ) -> Result<FailedAttempt, StoreError> {
        let status: Option<String> = self
            .query_opt(
                "UPDATE attachments SET cleanup_attempts = cleanup_attempts + 1, \
                 cleanup_status = CASE WHEN cleanup_attempts + 1 >= $5 THEN 'failed' \
                 ELSE 'pending' END, last_cleanup_error = $4, \
                 cleanup_updated_at = statement_timestamp() \
                 WHERE tenant_id = $1 AND id = $2 AND cleanup_status = 'pending' \
                 AND cleanup_attempts = $3 RETURNING cleanup_status",
                &params![tenant, file.id, file.attempts, error, max_attempts],
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
