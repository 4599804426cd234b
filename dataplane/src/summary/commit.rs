//! The transaction that puts a summary in the place of messages (CONT-137).

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_core::Timestamp;
use minichat_store::{
    BoxFuture, ChatToSummarize, MessageToSummarize, NewSummary, OutboxMessage, StoreError, Tx,
};

use super::Summarizer;
use super::generate::Generated;
use super::item::{self, Item};
use super::usage_event::UsageEvent;

/// How a commit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Committed {
    Won,
    /// The chat is not as it was read.
    Lost,
}

/// Why the transaction was rolled back.
enum RolledBack {
    Lost,
    Store(StoreError),
}

impl From<StoreError> for RolledBack {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What the transaction writes.
struct Commit {
    item: Item,
    messages: Vec<minichat_core::MessageId>,
    text: String,
    token_estimate: u32,
    queue: String,
    partitions: u32,
    dedupe_key: String,
    event: UsageEvent,
}

impl Summarizer {
    pub(super) async fn commit(
        &self,
        item: &Item,
        chat: &ChatToSummarize,
        generated: &Generated,
    ) -> Result<Committed, StoreError> {
        let id = |message: &MessageToSummarize| message.id;
        let commit = Arc::new(Commit {
            item: *item,
            messages: chat.messages.iter().map(id).collect(),
            text: generated.text.clone(),
            token_estimate: generated.token_estimate,
            queue: self.outbox.queue(OutboxKind::Usage).to_owned(),
            partitions: self.outbox.num_partitions,
            dedupe_key: item::dedupe_key(item.tenant_id, item.system_request_id),
            event: UsageEvent::new(item, generated),
        });
        let written = self
            .store
            .write(move |tx| -> BoxFuture<'_, Result<(), RolledBack>> {
                let commit = Arc::clone(&commit);
                Box::pin(async move { commit.write(tx).await })
            })
            .await;
        match written {
            Ok(()) => Ok(Committed::Won),
            Err(RolledBack::Lost) => Ok(Committed::Lost),
            Err(RolledBack::Store(error)) => Err(error),
        }
    }
}

impl Commit {
    async fn write(&self, tx: &mut Tx) -> Result<(), RolledBack> {
        let Item {
            tenant_id, chat_id, ..
        } = self.item;
        let new = NewSummary {
            tenant_id,
            chat_id,
            range: self.item.range(),
            text: &self.text,
            token_estimate: self.token_estimate,
            messages: &self.messages,
        };
        let now: Timestamp = tx.summary_commit(&new).await?.ok_or(RolledBack::Lost)?;
        let payload = self.event.payload(now)?;
        tx.outbox_enqueue(&OutboxMessage {
            queue: &self.queue,
            tenant_id,
            key: tenant_id.0,
            partitions: self.partitions,
            dedupe_key: Some(&self.dedupe_key),
            payload: &payload,
            created_at: now,
        })?;
        Ok(())
    }
}
