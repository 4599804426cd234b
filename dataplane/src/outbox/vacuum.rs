//! Removes messages that were delivered long ago, and adds usage up (PLAT-38).

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;

/// How often messages are removed, and how long they are kept after their delivery.
pub(super) const INTERVAL: Duration = Duration::from_hours(1);
const KEPT: Duration = Duration::from_hours(1);
/// How long dead letters are kept that were delivered after all.
const KEPT_RESOLVED: Duration = Duration::from_hours(7 * 24);
/// Messages that one transaction removes.
const BATCH: u32 = 500;

pub(super) async fn vacuum(shared: Arc<Shared>) {
    let mut after = 0;
    loop {
        let vacuumed = shared
            .records
            .write(move |tx| Box::pin(async move { tx.outbox_vacuum(after, KEPT, BATCH).await }));
        match vacuumed.await {
            Ok(Some(vacuumed)) => after = vacuumed.last,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "delivered events cannot be removed; the next hour tries again");
                return;
            }
        }
    }
    let letters = shared.records.write(|tx| {
        let removed = tx.outbox_vacuum_dead_letters(KEPT_RESOLVED);
        Box::pin(async move { removed })
    });
    if let Err(error) = letters.await {
        tracing::warn!(%error, "old dead letters cannot be removed; the next hour tries again");
    }
}
