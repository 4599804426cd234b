//! Goes on with the erasures of persons, which wait for their files to be deleted at
//! the providers (PLAT-22).

use std::sync::Arc;

use minichat_store::{Erasure, StoreError};
use uuid::Uuid;

use super::pass::Pass;
use crate::erasure::{Eraser, Progress};

/// Erasures that are read at a time.
const BATCH: u32 = 100;

impl Pass<'_> {
    pub(super) async fn go_on_with_erasures(&self) -> Result<(), StoreError> {
        let eraser = Eraser {
            store: self.cleanup.store.clone(),
            outbox: Arc::clone(&self.cleanup.outbox),
            clock: Arc::clone(&self.cleanup.clock),
        };
        // Each pass begins with another one, as its time may be over before the last.
        let first = Uuid::new_v4();
        self.go_on_after(&eraser, first, Uuid::max()).await?;
        self.go_on_after(&eraser, Uuid::nil(), first).await
    }

    /// Goes on with the erasures after `behind` and until `last`, in the order of their
    /// random ids.
    async fn go_on_after(
        &self,
        eraser: &Eraser,
        mut behind: Uuid,
        last: Uuid,
    ) -> Result<(), StoreError> {
        loop {
            let open: Vec<Erasure> = self
                .read(move |tx| Box::pin(async move { tx.erasures_open(behind, BATCH).await }))
                .await?;
            if open.is_empty() {
                return Ok(());
            }
            for erasure in open {
                if erasure.id > last || self.must_stop_erasing() {
                    return Ok(());
                }
                behind = erasure.id;
                self.go_on_with(eraser, erasure).await;
            }
        }
    }

    /// One that fails holds up no other.
    async fn go_on_with(&self, eraser: &Eraser, erasure: Erasure) {
        let (tenant, id) = (erasure.tenant_id, erasure.id);
        match eraser.advance(erasure, &|| self.must_stop_erasing()).await {
            Ok(Progress::Finished(_)) => {
                tracing::info!(tenant.id = %tenant, erasure_id = %id, "a person is erased");
            }
            Ok(Progress::Waiting(_)) => {}
            Err(error) => {
                tracing::warn!(%error, tenant.id = %tenant, erasure_id = %id, "an erasure failed and goes on in the next pass");
            }
        }
    }
}
