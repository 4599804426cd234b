//! What the dispatcher, its passes and their deliveries share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_config::process::{self, OutboxKind};
use minichat_core::{Clock, TenantId};
use minichat_metrics::Metrics;
use minichat_provider::ProviderClient;
use minichat_store::Store;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::permits::Permits;
use super::records::Records;
use super::wake::Place;
use super::{Outbox, Survey};
use crate::config_source::Tenants;
use crate::summary::Summarizer;

/// What passes and deliveries share.
pub(super) struct Shared {
    pub(super) records: Records,
    /// No other process can have the database.
    pub(super) is_alone: bool,
    pub(super) outbox: Arc<Outbox>,
    pub(super) config: process::Outbox,
    pub(super) tenants: Arc<Tenants>,
    pub(super) metrics: Arc<dyn Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) client: ProviderClient,
    pub(super) survey: Arc<Survey>,
    pub(super) summarizer: Summarizer,
    pub(super) permits: Permits,
    /// Sinks whose last delivery by this process was slow.
    pub(super) slow: SlowSinks,
    pub(super) tasks: Tasks,
    /// Begins the tokens of this process.
    pub(super) instance: String,
    claims: AtomicU64,
}

impl Shared {
    pub(super) fn of(parts: Parts) -> Self {
        Self {
            is_alone: parts.store.is_sqlite(),
            records: Records::of(parts.store),
            outbox: parts.outbox,
            config: parts.config,
            tenants: parts.tenants,
            metrics: parts.metrics,
            clock: parts.clock,
            client: parts.client,
            survey: parts.survey,
            summarizer: parts.summarizer,
            permits: Permits::default(),
            slow: SlowSinks::default(),
            tasks: Tasks::default(),
            instance: Uuid::new_v4().as_simple().to_string(),
            claims: AtomicU64::new(0),
        }
    }

    /// A token that no other claim has.
    pub(super) fn next_token(&self) -> String {
        let claim = self.claims.fetch_add(1, Ordering::Relaxed);
        format!("{}/{claim}", self.instance)
    }

    pub(super) fn wake(&self, (kind, partition): Place) {
        if let Some(wake) = self.outbox.wake() {
            wake.want(kind, partition);
        }
    }

    /// Wakes when a parked tenant is due.
    pub(super) fn wake_after(self: &Arc<Self>, wait: Duration, place: Place) {
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(shared) = shared.upgrade() {
                shared.wake(place);
            }
        });
    }
}

/// What a dispatcher works with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) config: process::Outbox,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) client: ProviderClient,
    pub(crate) survey: Arc<Survey>,
    pub(crate) summarizer: Summarizer,
}

/// The deliveries that run, and the vacuum.
#[derive(Default)]
pub(super) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.lock();
        // Those that have ended leave.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(super) fn take(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sinks that are likely to be slow again.
#[derive(Default)]
pub(super) struct SlowSinks(Mutex<HashSet<(OutboxKind, TenantId)>>);

impl SlowSinks {
    pub(super) fn contains(&self, kind: OutboxKind, tenant: TenantId) -> bool {
        self.lock().contains(&(kind, tenant))
    }

    pub(super) fn note(&self, kind: OutboxKind, tenant: TenantId, is_slow: bool) {
        let mut slow = self.lock();
        if is_slow {
            slow.insert((kind, tenant));
        } else {
            slow.remove(&(kind, tenant));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(OutboxKind, TenantId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
