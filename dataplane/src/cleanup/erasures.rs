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
        let mut behind = Uuid::nil();
        while !self.must_stop() {
            let open: Vec<Erasure> = self
                .read(move |tx| Box::pin(async move { tx.erasures_open(behind, BATCH).await }))
                .await?;
            let Some(last) = open.last() else {
                break;
            };
            behind = last.id;
            for erasure in open {
                self.go_on_with(&eraser, erasure).await;
            }
        }
        Ok(())
    }

    /// One that fails holds up no other.
    async fn go_on_with(&self, eraser: &Eraser, erasure: Erasure) {
        let (tenant, id) = (erasure.tenant_id, erasure.id);
        match eraser.advance(erasure).await {
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
