//! One chat (CONT-165, CONT-166): file by file, and each outcome is recorded before
//! the next call; then, if nothing is pending, the vector store of a deleted chat.

use std::sync::Arc;
use std::time::Duration;

use minichat_core::{TenantId, Timestamp};
use minichat_metrics::{CleanupResource, CleanupRetryReason};
use minichat_store::{
    CleanupClaim, CleanupCursor, CleanupStep, CleanupTimes, DroppedStore, DuePart, FailedAttempt,
    FailedDeletion, LeftStore, PendingFile, StoreError,
};
use tokio::time::Instant;

use super::backoff;
use super::pass::Pass;
use super::provider::{FailedCall, Failure};
use super::tenants::Chat;

/// Maximum length of `last_cleanup_error` in bytes (CONT-161).
const MAX_ERROR: usize = 1024;

impl Pass<'_> {
    /// Cleans what a claimed chat has of `part`. Returns whether it ended: it begins no
    /// call after `until`, or while the provider is to be left alone.
    pub(super) async fn clean_chat(
        &self,
        claim: &CleanupClaim,
        part: &DuePart,
        chat: &mut Chat,
        times: CleanupTimes,
        until: Instant,
    ) -> Result<bool, StoreError> {
        while !self.must_stop() && Instant::now() < until {
            match self.next(claim, part, chat.behind, times).await? {
                CleanupStep::File(file) => {
                    let cursor = CleanupCursor {
                        since: file.since,
                        id: file.id,
                    };
                    if !self.clean_file(claim, file).await? {
                        return Ok(false);
                    }
                    chat.behind = Some(cursor);
                }
                CleanupStep::Store(store) => {
                    return self.clean_store(claim, store).await.map(|()| true);
                }
                CleanupStep::Nothing => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn next(
        &self,
        claim: &CleanupClaim,
        part: &DuePart,
        behind: Option<CleanupCursor>,
        times: CleanupTimes,
    ) -> Result<CleanupStep, StoreError> {
        let (claim, part) = (claim.clone(), part.clone());
        self.write(move |tx| {
            let (claim, part) = (claim.clone(), part.clone());
            Box::pin(async move { tx.cleanup_next(&claim, &part, behind, times).await })
        })
        .await
    }

    /// Returns whether the file was tried, and the next one can be.
    async fn clean_file(
        &self,
        claim: &CleanupClaim,
        file: PendingFile,
    ) -> Result<bool, StoreError> {
        let tenant = claim.tenant_id;
        let file = Arc::new(file);
        let recorded = match self.delete_file(tenant, &file).await {
            Ok(()) => self.file_done(tenant, &file).await,
            Err(Failure::NotTried) => return Ok(false),
            Err(Failure::Config(why)) => {
                log_failed(claim, "file", CleanupRetryReason::Config, &why);
                self.retried(CleanupResource::File, CleanupRetryReason::Config);
                Ok(())
            }
            Err(Failure::Call(failed)) => {
                log_failed(claim, "file", failed.reason, &failed.why);
                self.file_failed(tenant, &file, failed).await
            }
        };
        self.recorded(CleanupResource::File, recorded)
            .map(|()| true)
    }

    /// The step ended; an error is the database's.
    fn recorded(
        &self,
        resource: CleanupResource,
        recorded: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if recorded.is_err() {
            self.retried(resource, CleanupRetryReason::Database);
        }
        self.report().processed += 1;
        self.progressed();
        recorded
    }

    async fn file_done(&self, tenant: TenantId, file: &Arc<PendingFile>) -> Result<(), StoreError> {
        let row = Arc::clone(file);
        let is_ours = self.write(move |tx| {
            let row = Arc::clone(&row);
            Box::pin(async move { tx.cleanup_file_done(tenant, &row).await })
        });
        if is_ours.await? && file.provider_file_id.is_some() {
            self.completed(CleanupResource::File);
        }
        Ok(())
    }

    async fn file_failed(
        &self,
        tenant: TenantId,
        file: &Arc<PendingFile>,
        failed: FailedCall,
    ) -> Result<(), StoreError> {
        let reason = failed.reason;
        let deletion = self.failed_deletion(file, failed);
        let row = Arc::clone(file);
        let attempt = self.write(move |tx| {
            let (row, deletion) = (Arc::clone(&row), deletion.clone());
            Box::pin(async move { tx.cleanup_file_failed(tenant, &row, &deletion).await })
        });
        match attempt.await? {
            FailedAttempt::Elsewhere => {}
            FailedAttempt::Pending => self.retried(CleanupResource::File, reason),
            FailedAttempt::Failed => {
                tracing::error!(tenant.id = %tenant, attachment_id = %file.id, "a file at the provider is given up");
                self.cleanup.metrics.cleanup_failed();
                self.report().failed += 1;
            }
        }
        Ok(())
    }

    fn failed_deletion(&self, file: &PendingFile, failed: FailedCall) -> FailedDeletion {
        let wait = self.wait_after(Some(file.since), file.due_at, &failed);
        let mut error = failed.why;
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        FailedDeletion {
            error,
            is_refusal: failed.is_refusal,
            wait,
            max_attempts: self.cleanup.settings.max_attempts,
        }
    }

    /// How long something is left alone that was left alone before from `tried_at` to
    /// `due_at`.
    fn wait_after(
        &self,
        tried_at: Option<Timestamp>,
        due_at: Option<Timestamp>,
        failed: &FailedCall,
    ) -> Duration {
        let first = self.cleanup.settings.poll_interval;
        let waited = tried_at.zip(due_at).map(|(from, to)| {
            let waited = to.as_micros().saturating_sub(from.as_micros());
            Duration::from_micros(u64::try_from(waited).unwrap_or_default())
        });
        backoff::wait(first, waited.unwrap_or_default(), failed.retry_after)
    }

    async fn clean_store(&self, claim: &CleanupClaim, store: LeftStore) -> Result<(), StoreError> {
        let store = Arc::new(store);
        let recorded = match self.delete_store(claim.tenant_id, &store).await {
            Ok(()) => self.store_gone(claim, &store).await,
            Err(Failure::NotTried) => return Ok(()),
            Err(Failure::Config(why)) => {
                log_failed(claim, "vector_store", CleanupRetryReason::Config, &why);
                self.retried(CleanupResource::VectorStore, CleanupRetryReason::Config);
                Ok(())
            }
            Err(Failure::Call(failed)) => {
                log_failed(claim, "vector_store", failed.reason, &failed.why);
                self.store_failed(claim.tenant_id, &store, &failed).await
            }
        };
        self.recorded(CleanupResource::VectorStore, recorded)
    }

    async fn store_gone(
        &self,
        claim: &CleanupClaim,
        store: &Arc<LeftStore>,
    ) -> Result<(), StoreError> {
        let row = Arc::clone(store);
        let (tenant, chat) = (claim.tenant_id, claim.chat_id);
        let dropped = self.write(move |tx| {
            let row = Arc::clone(&row);
            Box::pin(async move { tx.cleanup_store_drop(tenant, chat, &row).await })
        });
        let DroppedStore::Dropped { has_failed_files } = dropped.await? else {
            return Ok(());
        };
        if store.vector_store_id.is_some() {
            self.completed(CleanupResource::VectorStore);
        }
        if has_failed_files {
            self.cleanup.metrics.cleanup_vs_with_failed_attachments();
        }
        Ok(())
    }

    async fn store_failed(
        &self,
        tenant: TenantId,
        store: &Arc<LeftStore>,
        failed: &FailedCall,
    ) -> Result<(), StoreError> {
        let row = Arc::clone(store);
        let wait = self.wait_after(store.tried_at, Some(store.due_at), failed);
        let is_there = self.write(move |tx| {
            let row = Arc::clone(&row);
            Box::pin(async move { tx.cleanup_store_failed(tenant, &row, wait).await })
        });
        if is_there.await? {
            self.retried(CleanupResource::VectorStore, failed.reason);
        }
        Ok(())
    }

    fn completed(&self, resource: CleanupResource) {
        self.cleanup.metrics.cleanup_completed(resource);
        self.report().completed += 1;
    }

    pub(super) fn retried(&self, resource: CleanupResource, reason: CleanupRetryReason) {
        self.cleanup.metrics.cleanup_retry(resource, reason);
        self.report().retried += 1;
    }
}

fn log_failed(
    claim: &CleanupClaim,
    resource: &'static str,
    reason: CleanupRetryReason,
    error: &str,
) {
    tracing::warn!(
        tenant.id = %claim.tenant_id,
        chat_id = %claim.chat_id,
        resource,
        reason = reason.as_str(),
        error,
        "what a deleted chat or attachment has at the provider cannot be deleted"
    );
}
