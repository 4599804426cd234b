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

use crate::cache::{Caches, Change, full_name};
use crate::chat_tenant::contention;
use crate::index::Key;
use crate::issuers::{DeliveredIssuers, Listed, exclude_each_other};
use crate::numbers::Numbers;
use crate::propagation::Propagation;
use crate::queue::{Look, Queues};

/// From changes to the objects that they concern.
#[derive(Clone)]
pub(crate) struct EventHandlers {
    caches: Weak<Caches>,
    issuers: Arc<DeliveredIssuers>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) propagation: Arc<Propagation>,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) metrics: Arc<dyn OperatorMetrics>,
}

impl EventHandlers {
    pub(crate) fn new(queues: Queues, metrics: Arc<dyn OperatorMetrics>) -> Self {
        Self {
            caches: Weak::new(),
            issuers: Arc::default(),
            queues: Arc::new(queues),
            propagation: Arc::default(),
            numbers: Arc::default(),
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

    /// What the rendered Secrets list.
    pub(crate) fn issuers(&self) -> Arc<DeliveredIssuers> {
        Arc::clone(&self.issuers)
    }

    /// A status that this process wrote concerns only the tenant's quotas (K8S-10).
    pub(crate) fn tenant(&self, change: &Change<'_, ChatTenant>) {
        match change {
            Change::Set { old, new } => {
                if old
                    .as_ref()
                    .is_none_or(|old| is_asked_anew(old.as_ref(), new))
                {
                    self.look(new);
                    self.siblings(new);
                    let mut listed = Listed::by_tenant(new);
                    listed.extend(old.iter().flat_map(|old| Listed::by_tenant(old)));
                    self.rivals(render::tenant_id(new), &listed);
                } else if old
                    .as_ref()
                    .is_some_and(|old| contention::has_changed(old, new))
                {
                    self.look(new);
                }
                if new.metadata.deletion_timestamp.is_some() {
                    self.rendered_from(new);
                }
                if old.as_ref().is_none_or(|old| old.status != new.status) {
                    self.quotas_naming(new);
                    self.rivals(render::tenant_id(new), &Listed::by_tenant(new));
                }
            }
            Change::Gone(tenant) => {
                let id = render::tenant_id(tenant);
                self.propagation.forget(&ObjectRef::from_obj(*tenant));
                self.numbers.forget(tenant);
                self.issuers.forget_claims(tenant);
                self.siblings(tenant);
                self.rivals(id, &Listed::by_tenant(tenant));
                self.rendered_from(tenant);
                self.quotas_naming(tenant);
            }
            Change::Whole => self.everybody(),
        }
    }

    pub(crate) fn quota(&self, change: &Change<'_, ChatQuota>) {
        let quota = match change {
            Change::Set { old, new } => {
                if old
                    .as_ref()
                    .is_some_and(|old| !is_asked_anew(old.as_ref(), *new))
                {
                    return;
                }
                *new
            }
            Change::Gone(quota) => *quota,
            Change::Whole => return self.everybody(),
        };
        self.look_at_quota(quota);
        // Which of a tenant's quotas applies depends on all of them.
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        self.quotas_of(namespace, &quota.spec.tenant_ref.name);
        let tenant = ObjectRef::new(&quota.spec.tenant_ref.name).within(namespace);
        self.look_at(tenant);
    }

    /// Secrets concern the tenants of their namespace that name them.
    pub(crate) fn secret(&self, change: &Change<'_, Secret>) {
        let secret = match change {
            Change::Set { new, .. } => *new,
            Change::Gone(secret) => *secret,
            Change::Whole => return self.everybody(),
        };
        for tenant in self.having(&Key::Secret(full_name(secret))) {
            self.look(&tenant);
        }
    }

    pub(crate) fn rendered(&self, change: &Change<'_, Secret>) {
        if let Some(caches) = self.caches() {
            self.metrics.rendered_tenants(caches.rendered.store.len());
        }
        let (secret, before) = match change {
            Change::Set { new, .. } => {
                let secret = ObjectRef::from_obj(*new);
                self.queues.rendered.send(Look::Changed(secret));
                (*new, self.issuers.set(new))
            }
            Change::Gone(secret) => (*secret, self.issuers.remove(secret)),
            Change::Whole => {
                if let Some(caches) = self.caches() {
                    let secrets = caches.rendered.store.state();
                    self.issuers.replace(secrets.iter().map(AsRef::as_ref));
                }
                return self.everybody();
            }
        };
        let Some(id) = rendered_secret::tenant_of(&secret.name_any()) else {
            return;
        };
        for tenant in self.having(&Key::TenantId(id)) {
            self.look(&tenant);
        }
        let now = self.issuers.of(id);
        if before != now {
            self.rivals(id, &[before, now].concat());
        }
    }

    /// Of tenants of other pools only that they are there matters, to quotas that name
    /// them.
    pub(crate) fn foreign(&self, change: &Change<'_, PartialObjectMeta<ChatTenant>>) {
        let tenant = match change {
            Change::Set { old: Some(_), .. } => return,
            Change::Set { new, .. } => *new,
            Change::Gone(tenant) => *tenant,
            Change::Whole => return self.everybody(),
        };
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
        self.quotas_of(namespace, &tenant.name_any());
    }

    /// Every rendered Secret is owned by it.
    pub(crate) fn managed(&self, change: &Change<'_, ConfigMap>) {
        let is_the_same = matches!(
            change,
            Change::Set { old: Some(old), new } if old.metadata.uid == new.metadata.uid
        );
        if !is_the_same {
            self.everybody();
        }
    }

    /// Only who is asked for acknowledgements matters.
    pub(crate) fn pod(&self, change: &Change<'_, Pod>) {
        if let Change::Set {
            old: Some(old),
            new,
        } = change
            && crate::pool::endpoint(old, 0) == crate::pool::endpoint(new, 0)
        {
            return;
        }
        if let Some(caches) = self.caches() {
            caches.sweep_objects(&self.queues);
        }
    }

    fn everybody(&self) {
        if let Some(caches) = self.caches() {
            caches.sweep(&self.queues);
        }
    }

    fn look(&self, tenant: &ChatTenant) {
        self.look_at(ObjectRef::from_obj(tenant));
    }

    fn look_at(&self, tenant: ObjectRef<ChatTenant>) {
        // A quota may name a tenant that is not there.
        let namespace = tenant.namespace.as_deref().unwrap_or_default();
        let caches = self.caches();
        if caches.is_some_and(|caches| caches.tenant(namespace, &tenant.name).is_some()) {
            self.propagation.noticed(&tenant);
        }
        self.queues.render.send(Look::Changed(tenant.clone()));
        self.queues.objects.send(Look::Changed(tenant));
    }

    fn look_at_quota(&self, quota: &ChatQuota) {
        let quota = ObjectRef::from_obj(quota);
        self.queues.quotas.send(Look::Changed(quota));
    }

    /// Other tenants that ask for the same id.
    fn siblings(&self, tenant: &ChatTenant) {
        for other in self.having(&Key::TenantId(render::tenant_id(tenant))) {
            if other.metadata.uid != tenant.metadata.uid {
                self.look(&other);
            }
        }
    }

    /// Tenants other than `id` that cannot be delivered with one of `issuers`.
    fn rivals(&self, id: TenantId, issuers: &[Listed]) {
        let keys: HashSet<Key> = issuers.iter().map(Listed::key).collect();
        for other in keys.iter().flat_map(|key| self.having(key)) {
            if render::tenant_id(&other) != id
                && exclude_each_other(&Listed::by_tenant(&other), issuers)
            {
                self.look(&other);
            }
        }
    }

    fn quotas_naming(&self, tenant: &ChatTenant) {
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
        self.quotas_of(namespace, &tenant.name_any());
    }

    fn quotas_of(&self, namespace: &str, tenant: &str) {
        if let Some(caches) = self.caches() {
            for quota in caches.quotas_of(namespace, tenant) {
                self.look_at_quota(&quota);
            }
        }
    }

    /// What was made of a tenant that is gone, or about to.
    fn rendered_from(&self, tenant: &ChatTenant) {
        if let Some(caches) = self.caches() {
            for secret in caches.rendered_from(&full_name(tenant)) {
                let secret = ObjectRef::from_obj(secret.as_ref());
                self.queues.rendered.send(Look::Changed(secret));
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
