//! What people see of the outbox: which sinks fail, and how many dead letters there
//! are. Read from the tables every ten seconds, and within a second after this
//! process changed it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use minichat_config::process::OutboxKind;
use minichat_core::{TenantId, Timestamp};
use minichat_metrics::Metrics;
use minichat_store::{DeadLetterBacklog, ParkedTenant, StoreError};
use tokio::sync::Notify;

use super::records::Records;
use super::{Outbox, label};
use crate::config_source::SinkState;

pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// PLAT-42: from this age on, a dead letter is a reason of its own.
const OLD: Duration = Duration::from_hours(1);

/// The newest findings.
#[derive(Default)]
pub struct Survey {
    findings: ArcSwap<Findings>,
    outdated: Notify,
}

#[derive(Default)]
struct Findings {
    failing: HashMap<(String, TenantId), ParkedTenant>,
    dead_letters: HashMap<String, DeadLetterBacklog>,
}

impl Survey {
    /// There is something new to see.
    pub(super) fn outdate(&self) {
        self.outdated.notify_one();
    }

    pub(super) async fn outdated(&self) {
        self.outdated.notified().await;
    }

    /// The state of a tenant's sink. One that is only slow is `ok`.
    pub(crate) fn sink(&self, queue: &str, tenant: TenantId) -> SinkState {
        let findings = self.findings.load();
        let parked = findings.failing.get(&(queue.to_owned(), tenant));
        match parked.and_then(|it| Some((it.failing_since, it.last_error.clone()?))) {
            None => SinkState::Ok,
            Some((failing_since, last_error)) => SinkState::Failing {
                failing_since,
                last_error,
            },
        }
    }

    /// Why the process is degraded (PLAT-42).
    pub(crate) fn reasons(&self, usage_queue: &str, now: Timestamp) -> Vec<String> {
        let findings = self.findings.load();
        let Some(letters) = findings.dead_letters.get(usage_queue) else {
            return Vec::new();
        };
        let mut reasons = vec![format!(
            "{} usage events are dead letters: their sinks refused them (minichat-dataplane dead-letter list)",
            letters.count
        )];
        let age = age(letters.oldest, now);
        if age > OLD {
            reasons.push(format!(
                "the oldest of them has waited for a decision for {} s",
                age.as_secs()
            ));
        }
        reasons
    }

    /// Reads the tables, and sets the gauges (PLAT-59).
    pub(super) async fn refresh(
        &self,
        records: &Records,
        outbox: &Outbox,
        metrics: &Arc<dyn Metrics>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let queues = OutboxKind::ENQUEUED.map(|kind| outbox.queue(kind).to_owned());
        let (parked, letters, oldest) = records
            .read(move |tx| {
                let queues = queues.clone();
                Box::pin(async move {
                    let mut oldest = Vec::new();
                    for queue in &queues {
                        oldest.push(tx.outbox_oldest(queue).await?);
                    }
                    let letters = tx.outbox_dead_letter_backlog().await?;
                    Ok((tx.outbox_parked().await?, letters, oldest))
                })
            })
            .await?;
        let letters = letters.into_iter().map(|it| (it.queue.clone(), it));
        let findings = Findings {
            failing: parked
                .into_iter()
                .map(|it| ((it.queue.clone(), it.tenant_id), it))
                .collect(),
            dead_letters: letters.collect(),
        };
        for (kind, oldest) in OutboxKind::ENQUEUED.into_iter().zip(oldest) {
            let waits = oldest.map_or(Duration::ZERO, |it| age(it, now));
            metrics.outbox_oldest_pending_age_seconds(label(kind), waits);
            let letters = findings.dead_letters.get(outbox.queue(kind));
            metrics.outbox_dead_letter_backlog(label(kind), letters.map_or(0, |it| it.count));
            let waits = letters.map_or(Duration::ZERO, |it| age(it.oldest, now));
            metrics.outbox_dead_letter_oldest_age_seconds(label(kind), waits);
        }
        self.findings.store(Arc::new(findings));
        Ok(())
    }
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    let micros = now.as_micros().saturating_sub(since.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
