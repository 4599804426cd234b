//! Looks through deleted chats for attachments and vector stores that no deletion has
//! marked (CONT-174).
//!
//! A chat may be committed as deleted some time after the instant of its deletion,
//! and so may an attachment of it. So those that were deleted within [`MARGIN`] are
//! looked through again by each pass; older ones once.

use std::time::Duration;

use minichat_core::Timestamp;
use minichat_store::{DeletedChats, DeletedPage, StoreError};

use super::pass::Pass;

/// Chats that are looked through at a time.
const PAGE: u32 = 500;
/// Attachments that are marked in one transaction.
const BATCH: u32 = 100;
/// Far longer than a transaction may take, and clocks may differ.
const MARGIN: Duration = Duration::from_hours(1);

impl Pass<'_> {
    pub(super) async fn rearm_deleted_chats(&self) -> Result<(), StoreError> {
        let (stored, settled) = self.looked_until().await?;
        let mut from = stored;
        while !self.must_stop_repairs() {
            let page = self.deleted_page(from).await?;
            if page.has_unmarked {
                if self.rearm(page.chats).await? == 0 {
                    // Another process is changing them: the next pass looks again.
                    return Ok(());
                }
                continue;
            }
            from = page.chats.until;
            let looked_until = if page.is_last {
                settled
            } else {
                from.min(settled)
            };
            // The last page moves with each pass, and is written down once in a while.
            let least = if page.is_last { MARGIN } else { Duration::ZERO };
            if looked_until > stored.plus_micros(micros(least)) {
                self.write(move |tx| {
                    let written = tx.cleanup_set_looked_until(looked_until);
                    Box::pin(async move { written })
                })
                .await?;
            }
            if page.is_last {
                break;
            }
        }
        Ok(())
    }

    /// Until when chats were looked through, and until when that is final now.
    async fn looked_until(&self) -> Result<(Timestamp, Timestamp), StoreError> {
        self.read(|tx| {
            Box::pin(async move {
                let stored = tx.cleanup_looked_until().await?;
                let settled = tx.now().await?.plus_micros(-micros(MARGIN));
                Ok((stored.unwrap_or(Timestamp::from_micros(0)), settled))
            })
        })
        .await
    }

    async fn deleted_page(&self, from: Timestamp) -> Result<DeletedPage, StoreError> {
        self.read(move |tx| Box::pin(async move { tx.cleanup_deleted_page(from, PAGE).await }))
            .await
    }

    async fn rearm(&self, chats: DeletedChats) -> Result<usize, StoreError> {
        let rearmed = self
            .write(move |tx| Box::pin(async move { tx.cleanup_rearm_deleted(chats, BATCH).await }))
            .await?;
        if rearmed > 0 {
            tracing::info!(
                rearmed,
                "attachments and vector stores of deleted chats are cleaned up"
            );
        }
        Ok(rearmed)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
