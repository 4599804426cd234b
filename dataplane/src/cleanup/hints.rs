//! Reads the messages that deletions have enqueued (CONT-164). What they ask for is
//! in the rows of the same transaction, which also say when it is tried again. So a
//! message is acknowledged as soon as it was read, and never holds another one up. One
//! that does not fit the rows becomes a dead letter.

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_core::{ChatId, TenantId};
use minichat_metrics::OutboxHandled;
use minichat_store::{CleanupHint, HintedChat, StoreError, Tx};
use serde::Deserialize;

use super::pass::Pass;
use crate::outbox::label;

/// Messages that are read in one transaction.
const BATCH: u32 = 100;

/// The part of a payload that is compared with the rows.
#[derive(Deserialize)]
struct Payload {
    tenant_id: TenantId,
    chat_id: ChatId,
}

impl Pass<'_> {
    pub(super) async fn read_hints(&self) -> Result<(), StoreError> {
        let kinds = OutboxKind::ENQUEUED.into_iter();
        for kind in kinds.filter(|kind| kind.is_of_cleanup()) {
            while !self.must_stop_repairs() {
                let hints = self.hints(kind).await?;
                let is_last = hints.len() < BATCH as usize;
                let hints = Arc::<[CleanupHint]>::from(hints);
                let handled = self.write(move |tx| {
                    let hints = Arc::clone(&hints);
                    Box::pin(async move { read_all(tx, kind, &hints).await })
                });
                for handled in handled.await? {
                    self.cleanup.metrics.outbox_handler(label(kind), handled);
                }
                self.progressed();
                if is_last {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn hints(&self, kind: OutboxKind) -> Result<Vec<CleanupHint>, StoreError> {
        let queue: Arc<str> = self.cleanup.outbox.queue(kind).into();
        self.read(move |tx| {
            let queue = Arc::clone(&queue);
            Box::pin(async move { tx.cleanup_hints(&queue, BATCH).await })
        })
        .await
    }
}

/// Returns what became of the messages that no other process has read.
async fn read_all(
    tx: &mut Tx,
    kind: OutboxKind,
    hints: &[CleanupHint],
) -> Result<Vec<OutboxHandled>, StoreError> {
    let mut handled = Vec::with_capacity(hints.len());
    for hint in hints {
        let (is_ours, result) = match fault(tx, kind, hint).await? {
            None => (tx.cleanup_hint_read(hint).await?, OutboxHandled::Success),
            Some(fault) => (
                tx.cleanup_hint_bury(hint, fault).await?,
                OutboxHandled::Reject,
            ),
        };
        if is_ours {
            handled.push(result);
        }
    }
    Ok(handled)
}

/// Why a message does not fit the rows.
async fn fault(
    tx: &mut Tx,
    kind: OutboxKind,
    hint: &CleanupHint,
) -> Result<Option<&'static str>, StoreError> {
    let payload: Option<Payload> = serde_json::from_str(&hint.payload).ok();
    let Some(payload) = payload.filter(|it| it.tenant_id == hint.tenant_id) else {
        return Ok(Some(
            "the payload is not a deletion that this release can read",
        ));
    };
    if kind != OutboxKind::ChatCleanup {
        return Ok(None);
    }
    let chat = tx
        .cleanup_hinted_chat(payload.tenant_id, payload.chat_id)
        .await?;
    Ok((chat == HintedChat::Living).then_some("the chat is not deleted"))
}
