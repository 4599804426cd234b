//! Removes chats that were deleted long ago (PLAT-21), a few rows at a time.
//!
//! Whoever uses the database goes first: a step is as short as a turn's, and is
//! followed by a pause of its own length, so that `SQLite`'s only writer has at most
//! half of its time for this. A pass has [`TIME`] for it, or less if it is short; what is
//! left waits for the next one.

use std::time::Duration;

use minichat_store::{PurgeStep, PurgeableChat, StoreError};
use tokio::time::{Instant, sleep};

use super::pass::Pass;

/// Rows that are deleted in one transaction.
const STEP: u32 = 100;
/// Chats that are read at a time.
const PAGE: u32 = 50;
/// How long a pass purges.
const TIME: Duration = Duration::from_secs(10);
/// Chats in a row that the database fails to remove, after which no other is tried.
const FAILURES: u32 = 3;

impl Pass<'_> {
    /// What fails here fails again in the next pass, and holds nothing else up.
    pub(super) async fn purge_chats(&self) {
        let Some(grace) = self.cleanup.retention.purge_grace else {
            return;
        };
        if let Err(error) = self.purge_deleted(grace).await {
            tracing::warn!(%error, "deleted chats are not removed from the database");
        }
    }

    async fn purge_deleted(&self, grace: Duration) -> Result<(), StoreError> {
        let (mut failures, until) = (0, Instant::now() + self.time_to_purge());
        let mut behind = None;
        while Instant::now() < until && !self.must_stop() {
            let due = self.purgeable(grace, behind).await?;
            let Some(last) = due.last() else {
                break;
            };
            behind = Some(*last);
            for chat in due {
                match self.purge(chat, until).await {
                    Ok(true) => failures = 0,
                    Ok(false) => return Ok(()),
                    // It is left to the next pass, and others go on.
                    Err(error) => {
                        tracing::warn!(%error, tenant.id = %chat.tenant_id, chat_id = %chat.chat_id, "a deleted chat is not removed from the database");
                        failures += 1;
                        if failures >= FAILURES {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Most of the time in which calls of providers may begin is left to them.
    fn time_to_purge(&self) -> Duration {
        let call = self.cleanup.settings.call_timeout;
        let left = self
            .limits
            .deadline
            .saturating_duration_since(Instant::now());
        TIME.min(left.saturating_sub(call) / 4)
    }

    async fn purgeable(
        &self,
        grace: Duration,
        behind: Option<PurgeableChat>,
    ) -> Result<Vec<PurgeableChat>, StoreError> {
        let grace = i64::try_from(grace.as_micros()).unwrap_or(i64::MAX);
        self.read(move |tx| {
            Box::pin(async move {
                let deleted_by = tx.now().await?.plus_micros(-grace);
                tx.purge_due(deleted_by, behind, PAGE).await
            })
        })
        .await
    }

    /// Returns whether there is time for another chat.
    async fn purge(&self, chat: PurgeableChat, until: Instant) -> Result<bool, StoreError> {
        loop {
            let began = Instant::now();
            if began >= until || self.must_stop() {
                return Ok(false);
            }
            let step = self
                .write(move |tx| Box::pin(async move { tx.purge_step(chat, STEP).await }))
                .await?;
            if step == PurgeStep::Purged {
                self.report().purged += 1;
            }
            sleep(began.elapsed()).await;
            if step != PurgeStep::Begun {
                return Ok(true);
            }
        }
    }
}
