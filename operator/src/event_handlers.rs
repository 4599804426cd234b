//! Handlers of watch events: a change of a cache is put into the queues of the objects that it concerns.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use minichat_core::TenantId;
use minichat_crds::{ChatQuota, ChatTenant, render, rendered_secret};
use minichat_metrics::OperatorMetrics;

use crate::caches::{CacheEvent, Caches, Key, Listener};
use crate::failures::AllFailures;
use crate::issuers::{DeliveredIssuers, Listed, exclude_each_other};
use crate::pool::{self, Propagation};
use crate::tenant::{PolicyVersions, full_name, is_asking, serving_has_changed};
use crate::work::{Queues, Request};

/// From changes to the objects that they concern.
#[derive(Clone)]
pub(crate) struct EventHandlers {
    caches: Weak<Caches>,
    pub(crate) issuers: Arc<DeliveredIssuers>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) propagation: Arc<Propagation>,
    pub(crate) policy_versions: Arc<PolicyVersions>,
    pub(crate) failures: Arc<AllFailures>,
    pub(crate) metrics: Arc<dyn OperatorMetrics>,
}

impl Listener for EventHandlers {
    /// A status that this process wrote concerns only the tenant's quotas (K8S-10), and who
    /// asks for what the tenant does not get.
    fn tenant(&self, change: &CacheEvent<'_, ChatTenant>) {
        match change {
            CacheEvent::Applied { old, new } => {
                if old
                    .as_ref()
                    .is_none_or(|old| is_asked_anew(old.as_ref(), new))
                {
                    self.enqueue(new);
                    self.enqueue_siblings(new);
                    let mut listed = Listed::by_tenant(new);
                    listed.extend(old.iter().flat_map(|old| Listed::by_tenant(old)));
                    self.enqueue_rivals(render::tenant_id(new), &listed);
                } else if old
                    .as_ref()
                    .is_some_and(|old| serving_has_changed(old, new))
                {
                    self.enqueue(new);
                    self.enqueue_rendered_from(new);
                }
                if old
                    .as_ref()
                    .is_some_and(|old| is_asking(old) != is_asking(new))
                {
                    self.enqueue_siblings(new);
                }
                if new.metadata.deletion_timestamp.is_some() {
                    self.enqueue_rendered_from(new);
                }
                if old.as_ref().is_none_or(|old| old.status != new.status) {
                    self.enqueue_quotas_naming(new);
                    self.enqueue_rivals(render::tenant_id(new), &Listed::by_tenant(new));
                }
            }
            CacheEvent::Deleted(tenant) => {
                let id = render::tenant_id(tenant);
                self.failures.forget_tenant(tenant);
                self.propagation.forget(&ObjectRef::from_obj(*tenant));
                self.policy_versions.forget(tenant);
                self.issuers.forget_claims(tenant);
                self.enqueue_siblings(tenant);
                self.enqueue_rivals(id, &Listed::by_tenant(tenant));
                self.enqueue_rendered_from(tenant);
                self.enqueue_quotas_naming(tenant);
            }
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
                self.failures.quotas.succeeded(&ObjectRef::from_obj(*quota));
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

    /// Secrets concern the tenants of their namespace that name them.
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
            self.metrics.rendered_tenants(caches.rendered.store.len());
        }
        let (secret, before) = match change {
            CacheEvent::Applied { new, .. } => {
                let secret = ObjectRef::from_obj(*new);
                self.queues.rendered.send(Request::Changed(secret));
                (*new, self.issuers.set(new))
            }
            CacheEvent::Deleted(secret) => {
                self.failures
                    .rendered
                    .succeeded(&ObjectRef::from_obj(*secret));
                (*secret, self.issuers.remove(secret))
            }
            CacheEvent::Resynced => {
                if let Some(caches) = self.caches() {
                    let secrets = caches.rendered.store.state();
                    self.issuers.replace(secrets.iter().map(AsRef::as_ref));
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
        let now = self.issuers.of(id);
        if before != now {
            self.enqueue_rivals(id, &[before, now].concat());
        }
    }

    /// Of tenants of other pools only that they are there matters, to quotas that name
    /// them.
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

    /// Every rendered Secret is owned by it.
    fn managed(&self, change: &CacheEvent<'_, ConfigMap>) {
        let is_the_same = matches!(
            change,
            CacheEvent::Applied { old: Some(old), new } if old.metadata.uid == new.metadata.uid
        );
        if !is_the_same {
            self.enqueue_everything();
        }
    }

    /// Only who is asked for acknowledgements matters.
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
            enqueue_status_of_all(&caches, &self.queues);
        }
    }
}

impl EventHandlers {
    pub(crate) fn new(queues: Queues, metrics: Arc<dyn OperatorMetrics>) -> Self {
        Self {
            caches: Weak::new(),
            issuers: Arc::default(),
            queues: Arc::new(queues),
            propagation: Arc::default(),
            policy_versions: Arc::default(),
            failures: Arc::default(),
            metrics,
        }
    }

    /// The same for the caches that are about to be filled.
    pub(crate) fn about(&self, caches: Weak<Caches>) -> Self {
        Self {
            caches,
            ..self.clone()
        }
    }

    fn enqueue_everything(&self) {
        if let Some(caches) = self.caches() {
            enqueue_all(&caches, &self.queues);
        }
    }

    fn enqueue(&self, tenant: &ChatTenant) {
        self.enqueue_named(ObjectRef::from_obj(tenant));
    }

    fn enqueue_named(&self, tenant: ObjectRef<ChatTenant>) {
        // A quota may name a tenant that is not there.
        let namespace = tenant.namespace.as_deref().unwrap_or_default();
        let caches = self.caches();
        if caches.is_some_and(|caches| caches.tenant(namespace, &tenant.name).is_some()) {
            self.propagation.noticed(&tenant);
        }
        self.queues.render.send(Request::Changed(tenant.clone()));
        self.queues.objects.send(Request::Changed(tenant));
    }

    fn enqueue_quota(&self, quota: &ChatQuota) {
        let quota = ObjectRef::from_obj(quota);
        self.queues.quotas.send(Request::Changed(quota));
    }

    /// Other tenants that ask for the same id.
    fn enqueue_siblings(&self, tenant: &ChatTenant) {
        for other in self.having(&Key::TenantId(render::tenant_id(tenant))) {
            if other.metadata.uid != tenant.metadata.uid {
                self.enqueue(&other);
            }
        }
    }

    /// Tenants other than `id` that cannot be delivered with one of `issuers`.
    fn enqueue_rivals(&self, id: TenantId, issuers: &[Listed]) {
        let keys: HashSet<Key> = issuers.iter().map(Listed::key).collect();
        for other in keys.iter().flat_map(|key| self.having(key)) {
            if render::tenant_id(&other) != id
                && exclude_each_other(&Listed::by_tenant(&other), issuers)
            {
                self.enqueue(&other);
            }
        }
    }

    fn enqueue_quotas_naming(&self, tenant: &ChatTenant) {
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
        self.enqueue_quotas_of(namespace, &tenant.name_any());
    }

    fn enqueue_quotas_of(&self, namespace: &str, tenant: &str) {
        if let Some(caches) = self.caches() {
            for quota in caches.quotas_of(namespace, tenant) {
                self.enqueue_quota(&quota);
            }
        }
    }

    /// What was made of a tenant that is gone, or about to, or that another operator serves.
    fn enqueue_rendered_from(&self, tenant: &ChatTenant) {
        if let Some(caches) = self.caches() {
            for secret in caches.rendered_from(&full_name(tenant)) {
                let secret = ObjectRef::from_obj(secret.as_ref());
                self.queues.rendered.send(Request::Changed(secret));
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

/// Enqueues every object as a resync.
pub(crate) fn enqueue_all(caches: &Caches, queues: &Queues) {
    for tenant in caches.tenants() {
        let tenant = ObjectRef::from_obj(tenant.as_ref());
        queues.render.send(Request::Resync(tenant));
    }
    enqueue_status_of_all(caches, queues);
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

    /// K8S-10: what is made again under its name begins anew.
    #[test]
    fn failures_are_forgotten_with_their_object() {
        let handlers = EventHandlers::new(Queues::new().0, Arc::new(NoopMetrics));
        let failures = &handlers.failures;
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
