//! The queues of the configuration, in the database (PLAT-31): their rows, what waits
//! in queues that have another name or another number of partitions by now, and what
//! is left in them.

use std::sync::Arc;

use minichat_config::process::{Outbox, OutboxKind};
use minichat_core::TenantId;
use minichat_store::{OutboxQueue, QueueMismatch, Store, StoreError};

/// A pattern of `LIKE` that the payloads of a kind match, and no others: text inside
/// them cannot, because its quotes are escaped.
const fn payloads(kind: OutboxKind) -> &'static str {
    match kind {
        OutboxKind::Usage => r#"%"event_type":"usage_snapshot"%"#,
        OutboxKind::Audit => r#"%"event_type":"turn_%"#,
        OutboxKind::ChatCleanup => r#"%"reason":"chat_soft_delete"%"#,
        OutboxKind::AttachmentCleanup => r#"%"event_type":"attachment_deleted"%"#,
        OutboxKind::ThreadSummary => r#"%"frozen_target_created_at":"%"#,
    }
}

/// Dead letters that one transaction moves.
const BATCH: u32 = 500;

/// Makes the rows of the configured queues, and on `SQLite` ends the deliveries and
/// the claims of the last process. An error says what to do about messages
/// that would not be delivered any more (PLAT-31). Dead letters of queues that got
/// another name follow them.
pub(crate) async fn register(store: &Store, config: &Outbox) -> anyhow::Result<()> {
    let queues: Arc<[_]> = OutboxKind::ENQUEUED
        .into_iter()
        .map(|kind| OutboxQueue {
            name: config.queue(kind).to_owned(),
            partitions: config.num_partitions,
            is_ordered: !kind.is_of_cleanup(),
            payloads: payloads(kind),
        })
        .collect();
    check_waiting(store, config, &queues).await?;
    follow_names(store, &queues).await
}

async fn check_waiting(
    store: &Store,
    config: &Outbox,
    queues: &Arc<[OutboxQueue]>,
) -> anyhow::Result<()> {
    let queues = Arc::clone(queues);
    let is_owner = store.is_sqlite();
    let registered: Result<_, StoreError> = store
        .write(move |tx| {
            let queues = Arc::clone(&queues);
            Box::pin(async move {
                if is_owner {
                    tx.outbox_recover()?;
                    tx.cleanup_forget_claims(true)?;
                }
                let Some(mismatch) = tx.outbox_register(&queues).await? else {
                    return Ok(None);
                };
                let queue = mismatch.queue();
                let waiting = tx.outbox_waiting_tenants(queue, NAMED + 1).await?;
                Ok(Some((mismatch, waiting)))
            })
        })
        .await;
    let Some((mismatch, waiting)) = registered? else {
        return Ok(());
    };
    match mismatch {
        QueueMismatch::Unknown { queue } => anyhow::bail!(
            "outbox: messages wait in the queue {queue}, which no kind of event has. Give the queue its name back, or deliver the messages with the old configuration first; then stop all processes and change the name. {}",
            waiting_for(&waiting)
        ),
        QueueMismatch::Partitions { queue, found } => anyhow::bail!(
            "outbox.num_partitions: messages wait in the queue {queue}, which has {found} partitions, not {}. Set {found} again until they are delivered; then stop all processes and change the number. {}",
            config.num_partitions,
            waiting_for(&waiting)
        ),
    }
}

async fn follow_names(store: &Store, queues: &Arc<[OutboxQueue]>) -> anyhow::Result<()> {
    let mut all = 0;
    loop {
        let queues = Arc::clone(queues);
        let moved: Result<usize, StoreError> = store
            .write(move |tx| {
                let queues = Arc::clone(&queues);
                Box::pin(async move { tx.outbox_follow_names(&queues, BATCH).await })
            })
            .await;
        match moved? {
            0 => break,
            moved => all += moved,
        }
    }
    if all > 0 {
        tracing::info!(
            letters = all,
            "dead letters of queues with another name were moved"
        );
    }
    Ok(())
}

/// Tenants that an error names.
const NAMED: usize = 5;

/// Whose messages wait, and what to do about a tenant that is gone.
fn waiting_for(waiting: &[TenantId]) -> String {
    let named = waiting.iter().take(NAMED).map(TenantId::to_string);
    let named: Vec<_> = named.collect();
    let more = if waiting.len() > NAMED {
        " and more tenants, which `minichat-dataplane dead-letter waiting` lists"
    } else {
        ""
    };
    format!(
        "They are of {}{more}. If no process serves a tenant any more, `minichat-dataplane dead-letter bury --tenant ID` makes dead letters of its messages",
        named.join(", ")
    )
}
