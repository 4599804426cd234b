//! Events of tenants that no process serves any more: nobody delivers them, and while
//! they wait, the queue keeps its name and its number of partitions (PLAT-31). As dead
//! letters they hold nothing up, and may be requeued or discarded.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use minichat_config::process::{JobConfig, Outbox, OutboxKind};
use minichat_core::{TenantId, Timestamp};
use minichat_store::{Buried, Store, StoreError, WaitingShare};
use serde_json::json;

use super::Output;
use crate::database::open;

/// Messages that one transaction moves.
const BATCH: u32 = 200;

/// Messages that are counted at a time.
const PAGE: u32 = 10_000;

const REASON: &str = "buried by hand: no process serves the tenant any more";

/// Writes whose events wait to be delivered.
pub async fn waiting(
    config: &JobConfig,
    output: Output,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let store = open(&config.database, false).await?;
    let mut waiting: BTreeMap<(String, TenantId), (u64, Timestamp)> = BTreeMap::new();
    each_share(&store, &config.outbox, |share| {
        let key = (share.queue, share.tenant_id);
        let (messages, oldest) = waiting.entry(key).or_insert((0, share.oldest));
        *messages += share.messages;
        *oldest = share.oldest.min(*oldest);
    })
    .await?;
    if output == Output::Table {
        writeln!(
            out,
            "{:12}  {:36}  {:>8}  {:27}  QUEUE",
            "KIND", "TENANT", "MESSAGES", "OLDEST"
        )?;
    }
    for ((queue, tenant), (messages, oldest)) in &waiting {
        let kind = config.outbox.kind(queue).map(OutboxKind::as_str);
        match output {
            Output::Json => {
                let line = json!({
                    "kind": kind,
                    "queue": queue,
                    "tenant_id": tenant,
                    "messages": messages,
                    "oldest": oldest.to_string(),
                });
                writeln!(out, "{line}")?;
            }
            Output::Table => writeln!(
                out,
                "{:12}  {:36}  {messages:>8}  {:27}  {queue}",
                kind.unwrap_or("-"),
                tenant.to_string(),
                oldest.to_string(),
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
    // A share that goes on in the next page ends there.
    let mut queues: BTreeMap<String, BTreeMap<u32, WaitingShare>> = BTreeMap::new();
    each_share(&store, &config.outbox, |share| {
        if share.tenant_id == tenant {
            let shares = queues.entry(share.queue.clone()).or_default();
            shares.insert(share.partition, share);
        }
    })
    .await?;
    if queues.is_empty() {
        bail!(
            "no event of {tenant} waits; nothing was changed. `minichat-dataplane dead-letter waiting` shows the tenants with events that wait"
        );
    }
    for (queue, shares) in queues {
        let mut buried = 0;
        for share in shares.into_values() {
            buried += bury_share(&store, share).await?;
        }
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
async fn bury_share(store: &Store, share: WaitingShare) -> anyhow::Result<usize> {
    let share = Arc::new(share);
    let mut all = 0;
    loop {
        let share = Arc::clone(&share);
        let buried: Result<Buried, StoreError> = store
            .write(move |tx| {
                let share = Arc::clone(&share);
                Box::pin(async move { tx.outbox_bury(&share, BATCH, REASON).await })
            })
            .await;
        let buried = buried.context("the events cannot be moved")?;
        all += buried.letters;
        if !buried.is_more {
            return Ok(all);
        }
    }
}

/// Takes what waits for a sink, in pages, however much it is. What deletions enqueue is
/// read by the clean-up, whoever is served.
async fn each_share(
    store: &Store,
    outbox: &Outbox,
    mut take: impl FnMut(WaitingShare),
) -> anyhow::Result<()> {
    let mut after: Option<WaitingShare> = None;
    loop {
        let before = after.clone();
        let page: Result<_, StoreError> = store
            .read(move |tx| {
                let after = before.clone();
                Box::pin(async move { tx.outbox_waiting(after.as_ref(), PAGE).await })
            })
            .await;
        let page: Vec<WaitingShare> = page.context("what waits cannot be read")?;
        let counted: u64 = page.iter().map(|it| it.messages).sum();
        after = page.last().cloned();
        let is_of_cleanup = |queue: &str| outbox.kind(queue).is_some_and(OutboxKind::is_of_cleanup);
        for share in page {
            if !is_of_cleanup(&share.queue) {
                take(share);
            }
        }
        if counted < u64::from(PAGE) {
            return Ok(());
        }
    }
}
