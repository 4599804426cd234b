//! The thread summary that a completed turn asks for with its end (CONT-131,
//! CONT-132).

use minichat_config::process::OutboxKind;
use minichat_core::Timestamp;
use minichat_core::summary::Trigger;
use minichat_core::turn::Outcome;
use minichat_metrics::SummaryTrigger;
use minichat_store::{OutboxMessage, StoreError, SummaryRequest, Tx};
use uuid::Uuid;

use super::account::Account;
use super::finalize::Ending;
use super::open::OpenTurn;
use crate::summary::{self, item};

/// When a turn of this process asks for a summary; `None`: none are made.
pub(super) fn trigger(turn: &OpenTurn) -> Option<Trigger> {
    let settings = &turn.app.config.thread_summary_worker;
    let tenant = &turn.caller.tenant;
    let own = tenant
        .config
        .document
        .thread_summary
        .compression_threshold_pct;
    let threshold = own.unwrap_or(settings.compression_threshold_pct);
    summary::is_enabled(settings, tenant)
        .then(|| turn.plan.context.context_use().trigger(threshold))
}

/// A request for a summary, if the turn's end asks for one.
pub(super) struct Request {
    only_first: bool,
    dedupe_key: String,
    /// The payload without its range and its closing brace.
    head: String,
}

/// `None`: no summary is considered.
fn considered(account: &Account, ending: &Ending) -> Option<Trigger> {
    let is_completed = matches!(ending.outcome, Outcome::Completed(_));
    account.summary.filter(|_| is_completed)
}

/// What the turn's end counts, if a request was enqueued or not.
pub(super) fn result(
    account: &Account,
    ending: &Ending,
    is_enqueued: bool,
) -> Option<SummaryTrigger> {
    considered(account, ending).map(|_| {
        if is_enqueued {
            SummaryTrigger::Scheduled
        } else {
            SummaryTrigger::NotNeeded
        }
    })
}

impl Request {
    /// `finalization` identifies the attempt, and names the task.
    pub(super) fn new(
        account: &Account,
        ending: &Ending,
        finalization: Uuid,
    ) -> Result<Option<Self>, StoreError> {
        let only_first = match considered(account, ending) {
            None | Some(Trigger::Never) => return Ok(None),
            Some(Trigger::WithoutSummary) => true,
            Some(Trigger::Always) => false,
        };
        let (tenant, chat) = (account.tenant_id, account.chat_id);
        let head = item::Item::head(tenant, chat, finalization);
        Ok(Some(Self {
            only_first,
            dedupe_key: item::dedupe_key(tenant, finalization),
            head: head.map_err(|_| StoreError::Parameter("payload"))?,
        }))
    }

    fn message<'a>(
        &'a self,
        account: &'a Account,
        payload: &'a str,
        now: Timestamp,
    ) -> OutboxMessage<'a> {
        OutboxMessage {
            queue: account.outbox.queue(OutboxKind::ThreadSummary),
            tenant_id: account.tenant_id,
            key: account.chat_id.0,
            partitions: account.outbox.partitions(),
            dedupe_key: Some(&self.dedupe_key),
            payload,
            created_at: now,
        }
    }

    /// The request for a statement that knows the range.
    pub(super) fn of_statement<'a>(
        &'a self,
        account: &'a Account,
        now: Timestamp,
    ) -> SummaryRequest<'a> {
        SummaryRequest {
            message: self.message(account, &self.head, now),
            only_first: self.only_first,
        }
    }

    /// Enqueues it in a transaction that has written the answer. Returns whether there
    /// was something to summarize.
    pub(super) async fn enqueue(
        &self,
        tx: &mut Tx,
        account: &Account,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let range = tx.summary_range(account.tenant_id, account.chat_id).await?;
        let range = range.filter(|range| range.base.is_none() || !self.only_first);
        let Some(range) = range else {
            return Ok(false);
        };
        let payload = item::Item::payload(&self.head, &range);
        let payload = payload.map_err(|_| StoreError::Parameter("payload"))?;
        tx.outbox_enqueue(&self.message(account, &payload, now))?;
        Ok(true)
    }
}

/// Whether the attempt `finalization`, whose commit was in doubt, enqueued a request.
pub(super) async fn was_enqueued(
    tx: &mut Tx,
    account: &Account,
    finalization: Uuid,
) -> Result<bool, StoreError> {
    let key = item::dedupe_key(account.tenant_id, finalization);
    let queue = account.outbox.queue(OutboxKind::ThreadSummary);
    tx.outbox_has(queue, account.tenant_id, &key).await
}

/// The turn's end is committed.
pub(super) fn committed(account: &Account, result: SummaryTrigger) {
    account.outbox.summary_considered(result);
    if result == SummaryTrigger::Scheduled {
        account.outbox.summary_enqueued(account.chat_id);
    }
}
