//! Repairs rows that no deletion has marked (CONT-174), in batches. What is repaired
//! becomes due, and this pass works on it.

use minichat_store::{BoxFuture, StoreError, Tx};

use super::pass::Pass;

/// Rows that are repaired in one transaction.
const BATCH: u32 = 100;

impl Pass<'_> {
    pub(super) async fn repair_drift(&self) -> Result<(), StoreError> {
        let stale_before = self.times().await?.stale_before;
        self.repair("uploads that nobody has ended", move |tx| {
            Box::pin(tx.cleanup_abandon_uploads(stale_before, BATCH))
        })
        .await?;
        self.repair("failed uploads that have left a file", |tx| {
            Box::pin(tx.cleanup_rearm_failed(BATCH))
        })
        .await?;
        self.rearm_deleted_chats().await?;
        self.repair("vector stores that nobody has created", move |tx| {
            Box::pin(tx.cleanup_drop_placeholders(stale_before, BATCH))
        })
        .await?;
        self.write(|tx| {
            let forgotten = tx.cleanup_forget_claims(false);
            Box::pin(async move { forgotten })
        })
        .await
    }

    async fn repair(
        &self,
        what: &'static str,
        repair: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<usize, StoreError>>
        + Clone
        + Send
        + 'static,
    ) -> Result<(), StoreError> {
        while !self.must_stop_repairs() {
            let repaired = self.write(repair.clone()).await?;
            if repaired > 0 {
                tracing::info!(repaired, what, "rows without a deletion are cleaned up");
            }
            if repaired < BATCH as usize {
                break;
            }
        }
        Ok(())
    }
}
