//! Delivery of the outbox (PLAT-30 to PLAT-42): usage and audit events go to the
//! sinks of their tenants, at least once, and those of one tenant in their order.
//!
//! ```text
//! commit -> wake -> claim a partition -> list who is due -> deliver -> acknowledge
//! ```
//!
//! [`wake`] says which partitions have new messages. The [`dispatcher`] claims them,
//! and once a second whatever is due. A [`pass`] works on one partition while it has
//! its lease; in it, each tenant has its own [`delivery`], so that none waits for
//! another's sink. One that fails is *parked*: the tenant waits, for longer each
//! time. One that is slow is parked while it runs, so that the pass can end.

mod backoff;
mod delivery;
mod dispatcher;
mod handler;
mod pass;
mod permits;
mod queues;
mod records;
mod shared;
mod survey;
mod turns;
mod vacuum;
mod wake;
mod webhook;

use std::fmt;
use std::sync::Arc;

use minichat_config::process::{self, OutboxKind};
use minichat_config::tenant::Sink;
use minichat_core::{ChatId, TenantId};
use minichat_metrics::{Metrics, OutboxKindLabel, OutboxResult, SummaryTrigger};
use minichat_store::partition_of;

pub(crate) use dispatcher::{Dispatcher, DispatcherHost};
pub(crate) use queues::register;
pub(crate) use shared::Parts;
pub use survey::Survey;

use crate::config_source::Tenants;
use wake::Wake;

/// Where events are enqueued, and who delivers them.
pub struct Outbox {
    config: process::Outbox,
    dispatcher: Option<LocalDispatcher>,
}

/// The process's own dispatcher.
struct LocalDispatcher {
    wake: Wake,
    tenants: Arc<Tenants>,
    metrics: Arc<dyn Metrics>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// The label of a kind.
pub(crate) const fn label(kind: OutboxKind) -> OutboxKindLabel {
    match kind {
        OutboxKind::Usage => OutboxKindLabel::Usage,
        OutboxKind::Audit => OutboxKindLabel::Audit,
        OutboxKind::ChatCleanup => OutboxKindLabel::ChatCleanup,
        OutboxKind::AttachmentCleanup => OutboxKindLabel::AttachmentCleanup,
        OutboxKind::ThreadSummary => OutboxKindLabel::ThreadSummary,
    }
}

impl Outbox {
    /// Of a process that delivers.
    pub(crate) fn new(
        config: process::Outbox,
        tenants: Arc<Tenants>,
        metrics: Arc<dyn Metrics>,
    ) -> Self {
        let dispatcher = Some(LocalDispatcher {
            wake: Wake::default(),
            tenants,
            metrics,
        });
        Self { config, dispatcher }
    }

    /// Of a process that only enqueues; others find its events.
    pub const fn without_dispatcher(config: process::Outbox) -> Self {
        Self {
            config,
            dispatcher: None,
        }
    }

    /// The queue of a kind of event.
    pub(crate) fn queue(&self, kind: OutboxKind) -> &str {
        self.config.queue(kind)
    }

    pub(crate) const fn partitions(&self) -> u32 {
        self.config.num_partitions
    }

    /// Events of `tenant` were committed. Of tenants without a sink, whose events
    /// nobody waits for, the dispatcher finds them later.
    pub(crate) fn enqueued(&self, tenant: TenantId, kinds: &[OutboxKind]) {
        let Some(dispatcher) = &self.dispatcher else {
            return;
        };
        for kind in kinds {
            dispatcher
                .metrics
                .outbox_enqueue(label(*kind), OutboxResult::Ok);
        }
        let Some(runtime) = dispatcher.tenants.get(tenant) else {
            return;
        };
        let partition = partition_of(tenant.0, self.partitions());
        for kind in kinds {
            if handler::sink(&runtime, *kind).is_some_and(|sink| *sink != Sink::None) {
                dispatcher.wake.want(*kind, partition);
            }
        }
    }

    /// A completed turn was checked for a thread summary.
    pub(crate) fn summary_considered(&self, result: SummaryTrigger) {
        if let Some(dispatcher) = &self.dispatcher {
            dispatcher.metrics.thread_summary_trigger(result);
        }
    }

    /// A request for a summary of `chat` was committed.
    pub(crate) fn summary_enqueued(&self, chat: ChatId) {
        if let Some(dispatcher) = &self.dispatcher {
            let kind = OutboxKind::ThreadSummary;
            let metrics = &dispatcher.metrics;
            metrics.outbox_enqueue(label(kind), OutboxResult::Ok);
            let partition = partition_of(chat.0, self.partitions());
            dispatcher.wake.want(kind, partition);
        }
    }

    /// A change could not be committed, and neither could its events.
    pub(crate) fn not_enqueued(&self, kinds: &[OutboxKind]) {
        let dispatcher = self.dispatcher.iter();
        for (dispatcher, kind) in dispatcher.flat_map(|it| kinds.iter().map(move |kind| (it, kind)))
        {
            let metrics = &dispatcher.metrics;
            metrics.outbox_enqueue(label(*kind), OutboxResult::Error);
        }
    }

    fn wake(&self) -> Option<&Wake> {
        self.dispatcher.as_ref().map(|it| &it.wake)
    }
}
