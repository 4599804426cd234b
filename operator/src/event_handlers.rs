//! Handlers of watch events. When a cache changes, its handler enqueues the objects that the
//! change affects.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use minichat_core::TenantId;
use minichat_crds::{ChatQuota, ChatTenant, rendered_secret};

use crate::caches::{CacheEvent, Caches, Key, Listener};
use crate::pool;
use crate::state::State;
use crate::tenant::{Listed, Subject, exclude_each_other, full_name, serving_has_changed};
use crate::work::{Queues, Request};

/// The handlers of all caches.
#[derive(Clone)]
pub(crate) struct EventHandlers {
    caches: Weak<Caches>,
    state: Arc<State>,
}

impl Listener for EventHandlers {
    fn tenant(&self, change: &CacheEvent<'_, ChatTenant>) {
        match change {
            CacheEvent::Applied { old, new } => {
                let old = old.as_deref().map(Subject::of);
                self.tenant_applied(old.as_ref(), &Subject::of(new));
            }
            CacheEvent::Deleted(tenant) => self.tenant_deleted(&Subject::of(tenant)),
            CacheEvent::Resynced => self.enqueue_everything(),
        }
    }

    fn quota(&self, change: &CacheEvent<'_, ChatQuota>) {
        let quota = match change {
            CacheEvent::Applied { old, new } => {
                if old
                    .as_ref()
                    .is_some_and(|old| !is_asked_anew(old.as_ref(), *new))
                {
                    return;
                }
                *new
            }
            CacheEvent::Deleted(quota) => {
                self.state
                    .failures
                    .quotas
                    .succeeded(&ObjectRef::from_obj(*quota));
                *quota
            }
            CacheEvent::Resynced => return self.enqueue_everything(),
        };
        self.enqueue_quota(quota);
        // Which of a tenant's quotas applies depends on all of them.
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        self.enqueue_quotas_of(namespace, &quota.spec.tenant_ref.name);
        let tenant = ObjectRef::new(&quota.spec.tenant_ref.name).within(namespace);
        self.enqueue_named(tenant);
    }

    /// A Secret affects the tenants of its namespace that name it.
    fn secret(&self, change: &CacheEvent<'_, Secret>) {
        let secret = match change {
            CacheEvent::Applied { new, .. } => *new,
            CacheEvent::Deleted(secret) => *secret,
            CacheEvent::Resynced => return self.enqueue_everything(),
        };
        for tenant in self.having(&Key::Secret(full_name(secret))) {
            self.enqueue(&tenant);
        }
    }

    fn rendered(&self, change: &CacheEvent<'_, Secret>) {
        if let Some(caches) = self.caches() {
            self.state
                .metrics
                .rendered_tenants(caches.rendered.store.len());
        }
        let (secret, before) = match change {
            CacheEvent::Applied { new, .. } => {
                let secret = ObjectRef::from_obj(*new);
                self.state.queues.rendered.send(Request::Changed(secret));
                (*new, self.state.issuers.set(new))
            }
            CacheEvent::Deleted(secret) => {
                self.state
                    .failures
                    .rendered
                    .succeeded(&ObjectRef::from_obj(*secret));
                (*secret, self.state.issuers.remove(secret))
            }
            CacheEvent::Resynced => {
                if let Some(caches) = self.caches() {
                    let secrets = caches.rendered.store.state();
                    self.state
                        .issuers
                        .replace(secrets.iter().map(AsRef::as_ref));
                }
                return self.enqueue_everything();
            }
        };
        let Some(id) = rendered_secret::tenant_of(&secret.name_any()) else {
            return;
        };
        for tenant in self.having(&Key::TenantId(id)) {
            self.enqueue(&tenant);
        }
        let now = self.state.issuers.of(id);
        if before != now {
            self.enqueue_rivals(id, &[before, now].concat());
        }
    }

    /// For quotas that name a tenant of another pool, only its existence matters.
    fn tenant_of_other_pool(&self, change: &CacheEvent<'_, PartialObjectMeta<ChatTenant>>) {
        let tenant = match change {
            CacheEvent::Applied { old: Some(_), .. } => return,
            CacheEvent::Applied { new, .. } => *new,
            CacheEvent::Deleted(tenant) => *tenant,
            CacheEvent::Resynced => return self.enqueue_everything(),
        };
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
        self.enqueue_quotas_of(namespace, &tenant.name_any());
    }

    /// Every rendered Secret and every `CronJob` is owned by it.
    fn managed(&self, change: &CacheEvent<'_, ConfigMap>) {
        let is_the_same = matches!(
            change,
            CacheEvent::Applied { old: Some(old), new } if old.metadata.uid == new.metadata.uid
        );
        if !is_the_same {
            self.state.owner_changed.notify_one();
            self.enqueue_everything();
        }
    }

    /// Only pods that are polled for acknowledgements matter.
    fn pod(&self, change: &CacheEvent<'_, Pod>) {
        if let CacheEvent::Applied {
            old: Some(old),
            new,
        } = change
            && pool::endpoint(old, 0) == pool::endpoint(new, 0)
        {
            return;
        }
        if let Some(caches) = self.caches() {
            enqueue_status_of_all(&caches, &self.state.queues);
        }
    }
}

impl EventHandlers {
    /// For the caches that are about to be filled.
    pub(crate) fn new(caches: Weak<Caches>, state: Arc<State>) -> Self {
        Self { caches, state }
    }

    /// A status that this process wrote concerns only the tenant's quotas (K8S-10), and the
    /// tenants that compete with it for its id and its issuers.
    fn tenant_applied(&self, old: Option<&Subject<'_>>, new: &Subject<'_>) {
        let is_asked_anew = old.is_none_or(|old| is_asked_anew(old.tenant, new.tenant));
        if is_asked_anew {
            self.enqueue(new.tenant);
            self.enqueue_siblings(new);
            let before = old.map(|old| old.issuers.clone());
            let issuers = [new.issuers.clone(), before.unwrap_or_default()];
            self.enqueue_rivals(new.id, &issuers.concat());
        }
        if let Some(old) = old {
            if !is_asked_anew && serving_has_changed(old.tenant, new.tenant) {
                self.enqueue(new.tenant);
                self.enqueue_rendered_from(new);
            }
            if old.is_asking() != new.is_asking() {
                self.enqueue_siblings(new);
            }
        }
        if new.is_ending() {
            self.enqueue_rendered_from(new);
        }
        if old.is_none_or(|old| old.tenant.status != new.tenant.status) {
            self.enqueue_quotas_of(new.namespace, new.name);
            self.enqueue_rivals(new.id, &new.issuers);
        }
    }

    fn tenant_deleted(&self, tenant: &Subject<'_>) {
        self.state.forget_tenant(tenant);
        self.enqueue_siblings(tenant);
        self.enqueue_rivals(tenant.id, &tenant.issuers);
        self.enqueue_rendered_from(tenant);
        self.enqueue_quotas_of(tenant.namespace, tenant.name);
    }

    fn enqueue_everything(&self) {
        if let Some(caches) = self.caches() {
            enqueue_all(&caches, &self.state.queues);
        }
    }

    fn enqueue(&self, tenant: &ChatTenant) {
        self.enqueue_named(ObjectRef::from_obj(tenant));
    }

    /// Enqueues a tenant for the render loop, which brings it to the object loop.
    fn enqueue_named(&self, tenant: ObjectRef<ChatTenant>) {
        // A quota may name a tenant that is not there.
        let namespace = tenant.namespace.as_deref().unwrap_or_default();
        let caches = self.caches();
        if caches.is_some_and(|caches| caches.tenant(namespace, &tenant.name).is_some()) {
            self.state.propagation.noticed(&tenant);
        }
        self.state.queues.render.send(Request::Changed(tenant));
    }

    fn enqueue_quota(&self, quota: &ChatQuota) {
        let quota = ObjectRef::from_obj(quota);
        self.state.queues.quotas.send(Request::Changed(quota));
    }

    /// Other tenants that ask for the same id.
    fn enqueue_siblings(&self, tenant: &Subject<'_>) {
        for other in self.having(&Key::TenantId(tenant.id)) {
            if other.metadata.uid != tenant.tenant.metadata.uid {
                self.enqueue(&other);
            }
        }
    }

    /// Tenants other than `id` that cannot be delivered with one of `issuers`.
    fn enqueue_rivals(&self, id: TenantId, issuers: &[Listed]) {
        let issuer_keys = issuers.iter().map(|one| Key::Issuer(one.issuer.clone()));
        let keys: HashSet<Key> = issuer_keys.collect();
        for tenant in keys.iter().flat_map(|key| self.having(key)) {
            let other = Subject::of(&tenant);
            if other.id != id && exclude_each_other(&other.issuers, issuers) {
                self.enqueue(&tenant);
            }
        }
    }

    fn enqueue_quotas_of(&self, namespace: &str, tenant: &str) {
        if let Some(caches) = self.caches() {
            for quota in caches.quotas_of(namespace, tenant) {
                self.enqueue_quota(&quota);
            }
        }
    }

    /// The rendered Secrets of a tenant that is deleted or being deleted, or that another
    /// operator serves.
    fn enqueue_rendered_from(&self, tenant: &Subject<'_>) {
        if let Some(caches) = self.caches() {
            for secret in caches.rendered_from(&tenant.full_name) {
                let secret = ObjectRef::from_obj(secret.as_ref());
                self.state.queues.rendered.send(Request::Changed(secret));
            }
        }
    }

    fn having(&self, key: &Key) -> Vec<Arc<ChatTenant>> {
        let caches = self.caches();
        caches.map_or_else(Vec::new, |caches| caches.tenants_having(key))
    }

    fn caches(&self) -> Option<Arc<Caches>> {
        self.caches.upgrade()
    }
}

/// Enqueues every object as a resync. The render loop brings tenants to the object loop.
pub(crate) fn enqueue_all(caches: &Caches, queues: &Queues) {
    for tenant in caches.tenants() {
        let tenant = ObjectRef::from_obj(tenant.as_ref());
        queues.render.send(Request::Resync(tenant));
    }
    for quota in caches.quotas() {
        let quota = ObjectRef::from_obj(quota.as_ref());
        queues.quotas.send(Request::Resync(quota));
    }
    for secret in caches.rendered.store.state() {
        let secret = ObjectRef::from_obj(secret.as_ref());
        queues.rendered.send(Request::Resync(secret));
    }
}

/// Enqueues the status of every tenant as a resync.
pub(crate) fn enqueue_status_of_all(caches: &Caches, queues: &Queues) {
    for tenant in caches.tenants() {
        let tenant = ObjectRef::from_obj(tenant.as_ref());
        queues.objects.send(Request::Resync(tenant));
    }
}

/// Whether the object asks for something else than before; a changed status does not.
fn is_asked_anew<K: Resource>(old: &K, new: &K) -> bool {
    let asked = |object: &K| {
        let meta = object.meta();
        (
            meta.uid.clone(),
            meta.generation,
            meta.deletion_timestamp.clone(),
            meta.finalizers.clone(),
        )
    };
    asked(old) != asked(new)
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;
    use minichat_metrics::NoopMetrics;
    use serde_json::json;

    use super::*;
    use crate::failures::ReconcileError;

    fn object<K: serde::de::DeserializeOwned>(mut object: serde_json::Value) -> K {
        object["metadata"] = json!({"name": "one", "namespace": "a", "uid": "u"});
        serde_json::from_value(object).unwrap()
    }

    /// K8S-10: an object that is created again under its name begins anew.
    #[test]
    fn failures_are_forgotten_with_their_object() {
        let state = Arc::new(State::new(Queues::new().0, Arc::new(NoopMetrics)));
        let handlers = EventHandlers::new(Weak::new(), Arc::clone(&state));
        let failures = &state.failures;
        let tenant: ChatTenant = object(cases::tenant());
        let quota: ChatQuota = object(cases::quota());
        let secret: Secret = object(json!({}));
        let of_tenant = ObjectRef::from_obj(&tenant);
        let (of_quota, of_secret) = (ObjectRef::from_obj(&quota), ObjectRef::from_obj(&secret));
        for failures in [&failures.render, &failures.objects] {
            failures.failed(of_tenant.clone(), ReconcileError::Deadline);
        }
        failures
            .quotas
            .failed(of_quota.clone(), ReconcileError::Deadline);
        failures
            .rendered
            .failed(of_secret.clone(), ReconcileError::Deadline);
        handlers.tenant(&CacheEvent::Deleted(&tenant));
        handlers.quota(&CacheEvent::Deleted(&quota));
        handlers.rendered(&CacheEvent::Deleted(&secret));
        assert!(failures.render.fails_with(&of_tenant).is_none());
        assert!(failures.objects.fails_with(&of_tenant).is_none());
        assert!(failures.quotas.fails_with(&of_quota).is_none());
        assert!(failures.rendered.fails_with(&of_secret).is_none());
    }
}
