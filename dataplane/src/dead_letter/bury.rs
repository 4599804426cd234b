//! Events of tenants that no process serves any more: nobody delivers them, and while
//! they wait, the queue keeps its name and its number of partitions (PLAT-31). As dead
//! letters they hold nothing up, and may be requeued or discarded.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use minichat_config::process::{JobConfig, Outbox, OutboxKind};
use minichat_core::TenantId;
use minichat_store::{Buried, Store, StoreError, WaitingTenant};
use serde_json::json;

use super::Output;
use crate::database::open;

/// Messages that one transaction moves.
const BATCH: u32 = 200;

const REASON: &str = "buried by hand: no process serves the tenant any more";

/// Writes whose events wait to be delivered.
pub async fn waiting(
    config: &JobConfig,
    output: Output,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let store = open(&config.database, false).await?;
    let waiting = delivered(&store, &config.outbox).await?;
    if output == Output::Table {
        writeln!(
            out,
            "{:12}  {:36}  {:>8}  {:27}  QUEUE",
            "KIND", "TENANT", "MESSAGES", "OLDEST"
        )?;
    }
    for it in &waiting {
        let kind = config.outbox.kind(&it.queue).map(OutboxKind::as_str);
        match output {
            Output::Json => {
                let line = json!({
                    "kind": kind,
                    "queue": it.queue,
                    "tenant_id": it.tenant_id,
                    "messages": it.messages,
                    "oldest": it.oldest.to_string(),
                });
                writeln!(out, "{line}")?;
            }
            Output::Table => writeln!(
                out,
                "{:12}  {:36}  {:>8}  {:27}  {}",
                kind.unwrap_or("-"),
                it.tenant_id.to_string(),
                it.messages,
                it.oldest.to_string(),
                it.queue
            )?,
        }
    }
    Ok(())
}

/// Makes dead letters of everything of `tenant` that waits to be delivered when it
/// begins, and says how much it was.
pub async fn bury(
    config: &JobConfig,
    tenant: TenantId,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let store = open(&config.database, false).await?;
    let waiting = delivered(&store, &config.outbox).await?;
    let queues = waiting.into_iter().filter(|it| it.tenant_id == tenant);
    let queues: Vec<WaitingTenant> = queues.collect();
    if queues.is_empty() {
        bail!(
            "no event of {tenant} waits; nothing was changed. `minichat-dataplane dead-letter waiting` shows the tenants with events that wait"
        );
    }
    for queue in queues {
        let buried = bury_queue(&store, &queue).await?;
        let queue = queue.queue;
        let when = match config.outbox.kind(&queue) {
            Some(_) => "",
            None => {
                " after the next start of a process that serves, which gives them the new name of their queue"
            }
        };
        writeln!(
            out,
            "{buried} events of {tenant} in the queue {queue} are dead letters now. `minichat-dataplane dead-letter list --tenant {tenant}` shows them; requeue or discard them{when}"
        )?;
    }
    Ok(())
}

/// Goes on until nothing is left of what waited, because a process may deliver some of
/// it meanwhile.
async fn bury_queue(store: &Store, waiting: &WaitingTenant) -> anyhow::Result<usize> {
    let queue: Arc<str> = waiting.queue.as_str().into();
    let (tenant, last) = (waiting.tenant_id, waiting.last);
    let mut all = 0;
    loop {
        let queue = Arc::clone(&queue);
        let buried: Result<Buried, StoreError> = store
            .write(move |tx| {
                let queue = Arc::clone(&queue);
                Box::pin(async move { tx.outbox_bury(&queue, tenant, last, BATCH, REASON).await })
            })
            .await;
        let buried = buried.context("the events cannot be moved")?;
        all += buried.letters;
        if !buried.is_more {
            return Ok(all);
        }
    }
}

/// What waits for a sink. What deletions enqueue is read by the clean-up, whoever is
/// served.
async fn delivered(store: &Store, outbox: &Outbox) -> anyhow::Result<Vec<WaitingTenant>> {
    let waiting: Result<_, StoreError> = store
        .read(|tx| Box::pin(async move { tx.outbox_waiting().await }))
        .await;
    let mut waiting: Vec<WaitingTenant> = waiting.context("what waits cannot be read")?;
    let is_of_cleanup = |queue: &str| outbox.kind(queue).is_some_and(OutboxKind::is_of_cleanup);
    waiting.retain(|it| !is_of_cleanup(&it.queue));
    Ok(waiting)
}
