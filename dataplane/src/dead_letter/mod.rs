//! `minichat-dataplane dead-letter`: what becomes of events that a sink refused
//! (PLAT-35).

pub(crate) mod admin;
mod bury;

use std::io::Write;

use anyhow::{Context as _, bail};
use minichat_config::process::{JobConfig, Outbox, OutboxKind};
use minichat_core::TenantId;
use minichat_store::{DeadLetter, DeadLetterFilter, Store, StoreError};
use serde_json::Value;

use crate::database::open;
use admin::{Shown, filter};

pub use bury::{bury, waiting};

/// Which dead letters to list.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    pub kind: Option<String>,
    pub tenant: Option<TenantId>,
    /// `None`: pending ones.
    pub status: Option<String>,
    /// All, whatever their status.
    pub all: bool,
}

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Table,
    /// One object per line.
    Json,
}

/// What to do with dead letters that are pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Deliver it again, after everything that waits.
    Requeue,
    /// Give it up.
    Discard,
}

/// Rows that are read at a time.
const PAGE: u32 = 500;

/// Writes the dead letters that match, without their payloads.
pub async fn list(
    config: &JobConfig,
    listing: &Listing,
    output: Output,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let status = match (&listing.status, listing.all) {
        (None, false) => Some("pending"),
        (status, _) => status.as_deref(),
    };
    let mut filter = filter(&config.outbox, listing.kind.as_deref(), status)
        .map_err(|fault| anyhow::anyhow!(fault))?;
    filter.tenant_id = listing.tenant;
    filter.limit = PAGE;
    let store = open(&config.database, false).await?;
    if output == Output::Table {
        writeln!(
            out,
            "{:>8}  {:12}  {:36}  {:12}  {:8}  {:27}  ERROR",
            "ID", "KIND", "TENANT", "STATUS", "ATTEMPTS", "FAILED"
        )?;
    }
    loop {
        let letters = page(&store, filter.clone()).await?;
        for letter in &letters {
            filter.after = letter.id;
            let shown = Shown::of(letter, &config.outbox);
            match output {
                Output::Json => writeln!(out, "{}", serde_json::to_string(&shown)?)?,
                Output::Table => writeln!(
                    out,
                    "{:>8}  {:12}  {:36}  {:12}  {:8}  {:27}  {}",
                    shown.id,
                    shown.kind.unwrap_or(shown.queue),
                    shown.tenant_id.to_string(),
                    shown.status,
                    shown.attempts,
                    shown.failed_at.to_string(),
                    shown.last_error.unwrap_or_default(),
                )?,
            }
        }
        if letters.len() < PAGE as usize {
            return Ok(());
        }
    }
}

async fn page(store: &Store, filter: DeadLetterFilter) -> anyhow::Result<Vec<DeadLetter>> {
    let letters: Result<_, StoreError> = store
        .read(move |tx| {
            let filter = filter.clone();
            Box::pin(async move { tx.outbox_dead_letters(&filter).await })
        })
        .await;
    letters.context("the dead letters cannot be read")
}

/// The members of audit events that contain what users and models wrote.
const CONTENT: [&str; 3] = ["prompt", "response", "attachments"];

/// Operators never see content (PLAT-139).
pub(crate) fn without_content(mut payload: Value) -> Value {
    if let Some(members) = payload.as_object_mut() {
        members.retain(|name, _| !CONTENT.contains(&name.as_str()));
    }
    payload
}

/// Writes one dead letter with its payload, as JSON; without content, and without a
/// payload that cannot be read.
pub async fn show(config: &JobConfig, id: i64, out: &mut impl Write) -> anyhow::Result<()> {
    let store = open(&config.database, false).await?;
    let letter: Result<_, StoreError> = store
        .read(move |tx| {
            Box::pin(async move {
                let letter = tx.outbox_dead_letter(id).await?;
                Ok(letter.zip(tx.outbox_dead_letter_payload(id).await?))
            })
        })
        .await;
    let Some((letter, payload)) = letter.context("the dead letter cannot be read")? else {
        bail!("there is no dead letter {id}");
    };
    let mut shown = serde_json::to_value(Shown::of(&letter, &config.outbox))?;
    // What cannot be read may contain anything.
    let payload = serde_json::from_str::<Value>(&payload);
    shown["payload"] = payload.map_or(Value::Null, without_content);
    writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
    Ok(())
}

/// Carries `decision` out for each of `ids`, and says what became of each.
/// `Ok(false)`: some were not pending.
pub async fn decide(
    config: &JobConfig,
    decision: Decision,
    ids: &[i64],
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let store = open(&config.database, false).await?;
    let mut all = true;
    for id in ids.iter().copied() {
        if decision == Decision::Requeue {
            check_delivered(&store, &config.outbox, id).await?;
        }
        let changed: Result<bool, StoreError> = store
            .write(move |tx| {
                Box::pin(async move {
                    match decision {
                        Decision::Requeue => tx.outbox_requeue(id).await,
                        Decision::Discard => tx.outbox_discard(id).await,
                    }
                })
            })
            .await;
        let changed = changed.with_context(|| format!("dead letter {id} cannot be changed"))?;
        let became = match (changed, decision) {
            (true, Decision::Requeue) => {
                "is in its queue again, and will be delivered within seconds"
            }
            (true, Decision::Discard) => "is discarded",
            (false, _) => "is not pending; nothing was changed",
        };
        writeln!(out, "{id} {became}")?;
        all &= changed;
    }
    Ok(all)
}

/// A message in a queue that nobody delivers would keep processes from starting.
async fn check_delivered(store: &Store, outbox: &Outbox, id: i64) -> anyhow::Result<()> {
    let letter: Result<_, StoreError> = store
        .read(move |tx| Box::pin(async move { tx.outbox_dead_letter(id).await }))
        .await;
    let Some(letter) = letter.context("the dead letter cannot be read")? else {
        return Ok(());
    };
    let kind = outbox.kind(&letter.queue);
    if kind.is_some_and(|kind| OutboxKind::DELIVERED.contains(&kind)) {
        return Ok(());
    }
    bail!(
        "dead letter {id} belongs to the queue {}, which this configuration does not deliver. If serve has another configuration, write `--config FILE` with it: outbox.* names the queues. If the queue was renamed, start a process that serves first, which moves its dead letters to the new name. Or discard it",
        letter.queue
    );
}
