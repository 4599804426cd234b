//! Measures how long a change takes from its watch event to all pods (K8S-15, K8S-24).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use minichat_crds::ChatTenant;

/// Per tenant, when a change was noticed that is not on every pod yet.
#[derive(Debug, Default)]
pub(crate) struct Propagation(Mutex<HashMap<ObjectRef<ChatTenant>, Pending>>);

#[derive(Debug, Default)]
struct Pending {
    /// When a change was noticed that the render loop has not handled.
    noticed: Option<Instant>,
    /// When the change was noticed that was delivered and not acknowledged yet.
    delivered: Option<Instant>,
}

impl Propagation {
    /// Something that concerns the tenant has changed.
    pub(crate) fn noticed(&self, tenant: &ObjectRef<ChatTenant>) {
        let mut changes = self.changes();
        let change = changes.entry(tenant.clone()).or_default();
        change.noticed.get_or_insert_with(Instant::now);
    }

    /// Whether something has changed that the render loop has not dealt with.
    pub(crate) fn is_noticed(&self, tenant: &ObjectRef<ChatTenant>) -> bool {
        let changes = self.changes();
        changes
            .get(tenant)
            .is_some_and(|change| change.noticed.is_some())
    }

    /// The render loop has run; `delivers` says whether it had something to deliver.
    pub(crate) fn rendered(&self, tenant: &ObjectRef<ChatTenant>, delivers: bool) {
        let mut changes = self.changes();
        let Some(change) = changes.get_mut(tenant) else {
            return;
        };
        let noticed = change.noticed.take();
        if delivers {
            change.delivered = noticed;
        }
        if change.delivered.is_none() {
            changes.remove(tenant);
        }
    }

    /// Every ready pod runs what was delivered. The time it took, once.
    pub(crate) fn arrived(&self, tenant: &ObjectRef<ChatTenant>) -> Option<Duration> {
        let mut changes = self.changes();
        let change = changes.get_mut(tenant)?;
        let delivered = change.delivered.take()?;
        if change.noticed.is_none() {
            changes.remove(tenant);
        }
        Some(delivered.elapsed())
    }

    /// Forgets what was noticed while another process led.
    pub(crate) fn begin(&self) {
        self.changes().clear();
    }

    /// The tenant is gone.
    pub(crate) fn forget(&self, tenant: &ObjectRef<ChatTenant>) {
        self.changes().remove(tenant);
    }

    fn changes(&self) -> MutexGuard<'_, HashMap<ObjectRef<ChatTenant>, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> ObjectRef<ChatTenant> {
        ObjectRef::new("acme").within("a")
    }

    #[test]
    fn only_what_was_delivered_arrives_and_once() {
        let (propagation, tenant) = (Propagation::default(), tenant());
        propagation.noticed(&tenant);
        propagation.rendered(&tenant, false);
        assert_eq!(
            propagation.arrived(&tenant),
            None,
            "nothing was to be delivered"
        );
        propagation.noticed(&tenant);
        propagation.rendered(&tenant, true);
        // The write of the Secret is noticed too, and is no change.
        propagation.noticed(&tenant);
        propagation.rendered(&tenant, false);
        assert!(propagation.arrived(&tenant).is_some());
        assert_eq!(propagation.arrived(&tenant), None);
        assert!(propagation.changes().is_empty(), "nothing is kept");
    }

    #[test]
    fn a_change_during_a_delivery_is_measured_from_its_own_notice() {
        let (propagation, tenant) = (Propagation::default(), tenant());
        propagation.noticed(&tenant);
        propagation.rendered(&tenant, true);
        propagation.noticed(&tenant);
        assert!(propagation.arrived(&tenant).is_some());
        propagation.rendered(&tenant, true);
        assert!(propagation.arrived(&tenant).is_some());
        propagation.noticed(&tenant);
        propagation.forget(&tenant);
        propagation.noticed(&tenant);
        propagation.begin();
        propagation.rendered(&tenant, true);
        assert_eq!(propagation.arrived(&tenant), None);
    }
}
