//! What the operator remembers beyond its caches. It is in memory alone, and what it says of a
//! tenant ends with the tenant. Handlers of watch events and reconciles share it.

use std::sync::Arc;

use minichat_metrics::OperatorMetrics;
use tokio::sync::Notify;

use crate::failures::AllFailures;
use crate::issuers::DeliveredIssuers;
use crate::pool::Propagation;
use crate::status::SinksHealth;
use crate::tenant::{Decisions, PolicyVersions, RecordedOwners, Subject};
use crate::work::Queues;

pub(crate) struct State {
    /// The issuers in the rendered Secrets.
    pub(crate) issuers: DeliveredIssuers,
    pub(crate) policy_versions: PolicyVersions,
    pub(crate) owners: RecordedOwners,
    pub(crate) decisions: Decisions,
    pub(crate) propagation: Propagation,
    pub(crate) failures: AllFailures,
    /// What the pods said of sinks.
    pub(crate) sinks_health: SinksHealth,
    /// Notified when the `ConfigMap` that owns what the operator makes comes, goes or is another.
    pub(crate) owner_changed: Notify,
    pub(crate) queues: Queues,
    pub(crate) metrics: Arc<dyn OperatorMetrics>,
}

impl State {
    pub(crate) fn new(queues: Queues, metrics: Arc<dyn OperatorMetrics>) -> Self {
        Self {
            issuers: DeliveredIssuers::default(),
            policy_versions: PolicyVersions::default(),
            owners: RecordedOwners::default(),
            decisions: Decisions::default(),
            propagation: Propagation::default(),
            failures: AllFailures::default(),
            sinks_health: SinksHealth::default(),
            owner_changed: Notify::new(),
            queues,
            metrics,
        }
    }

    /// The tenant is gone. Owners stay: they are recorded in the database of the pool.
    pub(crate) fn forget_tenant(&self, subject: &Subject<'_>) {
        let key = subject.key();
        self.failures.forget_tenant(&key);
        self.propagation.forget(&key);
        self.policy_versions.forget(subject);
        self.decisions.forget(subject);
        self.issuers.forget_claims(subject);
    }
}
