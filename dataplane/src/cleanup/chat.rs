//! One chat (CONT-165, CONT-166): file by file, and each outcome is recorded before
//! the next call; then, if nothing is pending, the vector store of a deleted chat.

use std::sync::Arc;

use minichat_core::TenantId;
use minichat_metrics::{CleanupResource, CleanupRetryReason};
use minichat_store::{
    CleanupClaim, CleanupCursor, CleanupStep, CleanupTimes, DroppedStore, FailedAttempt, LeftStore,
    PendingFile, StoreError,
};

use super::pass::Pass;
use super::provider::Failure;

/// Maximum length of `last_cleanup_error` in bytes (CONT-161).
const MAX_ERROR: usize = 1024;

impl Pass<'_> {
    /// Cleans a claimed chat as far as it can.
    pub(super) async fn clean_chat(
        &self,
        claim: &CleanupClaim,
        times: CleanupTimes,
    ) -> Result<(), StoreError> {
        let mut behind = None;
        while !self.must_stop() {
            match self.next(claim, behind, times).await? {
                CleanupStep::File(file) => {
                    behind = Some(CleanupCursor {
                        since: file.since,
                        id: file.id,
                    });
                    if !self.clean_file(claim, file).await? {
                        return Ok(());
                    }
                }
                CleanupStep::Store(store) => return self.clean_store(claim, store).await,
                CleanupStep::Nothing => return Ok(()),
                CleanupStep::Lost => {
                    tracing::debug!(chat_id = %claim.chat_id, "another process cleans the chat up");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn next(
        &self,
        claim: &CleanupClaim,
        behind: Option<CleanupCursor>,
        times: CleanupTimes,
    ) -> Result<CleanupStep, StoreError> {
        let claim = claim.clone();
        self.write(move |tx| {
            let claim = claim.clone();
            Box::pin(async move { tx.cleanup_next(&claim, behind, times).await })
        })
        .await
    }

    /// Returns whether the next file of the chat can be tried.
    async fn clean_file(
        &self,
        claim: &CleanupClaim,
        file: PendingFile,
    ) -> Result<bool, StoreError> {
        let tenant = claim.tenant_id;
        let file = Arc::new(file);
        let recorded = match self.delete_file(tenant, &file).await {
            Ok(()) => self.file_done(tenant, &file).await,
            // Files of other providers may be in the chat as well.
            Err(Failure::NotTried) => return Ok(!self.must_stop()),
            Err(Failure::Config(why)) => {
                log_failed(claim, "file", CleanupRetryReason::Config, &why);
                self.retried(CleanupResource::File, CleanupRetryReason::Config);
                Ok(())
            }
            Err(Failure::Call(reason, why)) => {
                log_failed(claim, "file", reason, &why);
                self.file_failed(tenant, &file, reason, why).await
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
        reason: CleanupRetryReason,
        mut why: String,
    ) -> Result<(), StoreError> {
        why.truncate(why.floor_char_boundary(MAX_ERROR));
        let row = Arc::clone(file);
        let max_attempts = self.cleanup.settings.max_attempts;
        let attempt = self.write(move |tx| {
            let (row, why) = (Arc::clone(&row), why.clone());
            Box::pin(async move {
                tx.cleanup_file_failed(tenant, &row, &why, max_attempts)
                    .await
            })
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
            Err(Failure::Call(reason, why)) => {
                log_failed(claim, "vector_store", reason, &why);
                self.store_failed(claim.tenant_id, &store, reason).await
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
        reason: CleanupRetryReason,
    ) -> Result<(), StoreError> {
        let row = Arc::clone(store);
        let is_there = self.write(move |tx| {
            let row = Arc::clone(&row);
            Box::pin(async move { tx.cleanup_store_failed(tenant, &row).await })
        });
        if is_there.await? {
            self.retried(CleanupResource::VectorStore, reason);
        }
        Ok(())
    }

    fn completed(&self, resource: CleanupResource) {
        self.cleanup.metrics.cleanup_completed(resource);
        self.report().completed += 1;
    }

    fn retried(&self, resource: CleanupResource, reason: CleanupRetryReason) {
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
