//! What the API server holds, as this process last saw it, and who must look
//! again when it changes.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use minichat_core::TenantId;
use minichat_crds::rendered_secret::{self, POOL_LABEL};
use minichat_crds::{ChatQuota, ChatTenant, render};
use minichat_metrics::OperatorMetrics;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use crate::issuers::{DeliveredIssuers, Listed, exclude_each_other};
use crate::propagation::Propagation;
use crate::settings::Settings;

/// One watched kind in one namespace, or in all.
pub(crate) struct Cache<K: Resource<DynamicType = ()> + 'static> {
    pub(crate) store: Store<K>,
    is_synced: AtomicBool,
    /// For people: `chattenants in namespace a`.
    name: String,
}

/// The kinds that live with the tenants, in one namespace or in all.
pub(crate) struct Scope {
    pub(crate) tenants: Arc<Cache<ChatTenant>>,
    pub(crate) quotas: Arc<Cache<ChatQuota>>,
    pub(crate) secrets: Arc<Cache<Secret>>,
}

/// Everything that is watched.
pub(crate) struct Caches {
    pub(crate) scopes: Vec<Scope>,
    /// Rendered Secrets of the pool.
    pub(crate) rendered: Arc<Cache<Secret>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    /// What the rendered Secrets list.
    pub(crate) issuers: Arc<DeliveredIssuers>,
}

/// Where those are told who must look again.
#[derive(Clone)]
pub(crate) struct Queues {
    pub(crate) render: UnboundedSender<ObjectRef<ChatTenant>>,
    pub(crate) objects: UnboundedSender<ObjectRef<ChatTenant>>,
    pub(crate) quotas: UnboundedSender<ObjectRef<ChatQuota>>,
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    fn start(
        api: Api<K>,
        config: watcher::Config,
        name: String,
        tell: impl Fn(Change<'_, K>) + Send + 'static,
    ) -> Arc<Self> {
        let (store, writer) = reflector::store();
        let cache = Arc::new(Self {
            store,
            is_synced: AtomicBool::new(false),
            name,
        });
        tokio::spawn(follow(Arc::clone(&cache), api, config, writer, tell));
        cache
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Acquire)
    }

    pub(crate) async fn synced(&self) {
        // Only a writer that is gone is an error, and then the process ends.
        let _ = self.store.wait_until_ready().await;
    }
}

/// What happened to a cache, told after the cache shows it.
enum Change<'a, K> {
    Set {
        old: Option<Arc<K>>,
        new: &'a K,
    },
    Gone(&'a K),
    /// Anything may have changed.
    Whole,
}

async fn follow<K>(
    cache: Arc<Cache<K>>,
    api: Api<K>,
    config: watcher::Config,
    mut writer: reflector::store::Writer<K>,
    tell: impl Fn(Change<'_, K>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watch(api, config).default_backoff();
    pin_mut!(events);
    let mut is_well = true;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if is_well {
                    tracing::warn!(%error, watch = cache.name, "a watch is interrupted; it is tried again");
                }
                is_well = false;
                continue;
            }
        };
        let old = match &event {
            Event::Apply(object) => cache.store.get(&ObjectRef::from_obj(object)),
            _ => None,
        };
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(new) => tell(Change::Set { old, new }),
            Event::Delete(object) => tell(Change::Gone(object)),
            Event::InitDone => {
                is_well = true;
                cache.is_synced.store(true, Ordering::Release);
                tell(Change::Whole);
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

impl Caches {
    /// Starts every watch. `namespace` is the pool's.
    pub(crate) fn start(
        client: &Client,
        settings: &Settings,
        namespace: &str,
        telling: &Telling,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak| {
            let tell = Telling {
                caches: weak.clone(),
                ..telling.clone()
            };
            let scope = |scope: &Option<String>| Scope::start(client, scope.as_deref(), &tell);
            let scopes = settings.scopes().iter().map(scope).collect();
            let issuers = Arc::clone(&tell.issuers);
            let (tell, pods) = (tell.clone(), tell.clone());
            Self {
                scopes,
                issuers,
                rendered: Cache::start(
                    Api::namespaced(client.clone(), namespace),
                    watcher::Config::default().labels(&format!("{POOL_LABEL}={}", settings.pool)),
                    format!("rendered secrets in namespace {namespace}"),
                    move |change| tell.rendered(&change),
                ),
                pods: Cache::start(
                    Api::namespaced(client.clone(), namespace),
                    watcher::Config::default().labels(&settings.pod_selector),
                    format!("pods in namespace {namespace}"),
                    move |change| pods.pod(&change),
                ),
            }
        })
    }

    /// Returns once all caches have been filled.
    pub(crate) async fn synced(&self) {
        for scope in &self.scopes {
            scope.tenants.synced().await;
            scope.quotas.synced().await;
            scope.secrets.synced().await;
        }
        self.rendered.synced().await;
        self.pods.synced().await;
    }

    /// What is not there yet, for people.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut look = |is_synced: bool, name: &str, hint: &str| {
            if !is_synced {
                missing.push(format!("{name} are not read yet{hint}"));
            }
        };
        let crd = "; is the custom resource definition installed?";
        for Scope {
            tenants,
            quotas,
            secrets,
        } in &self.scopes
        {
            look(tenants.is_synced(), &tenants.name, crd);
            look(quotas.is_synced(), &quotas.name, crd);
            look(secrets.is_synced(), &secrets.name, "");
        }
        look(self.rendered.is_synced(), &self.rendered.name, "");
        look(self.pods.is_synced(), &self.pods.name, "");
        missing
    }

    pub(crate) fn tenants(&self) -> Vec<Arc<ChatTenant>> {
        let scopes = self.scopes.iter();
        scopes
            .flat_map(|scope| scope.tenants.store.state())
            .collect()
    }

    pub(crate) fn quotas_of(&self, namespace: &str, tenant: &str) -> Vec<Arc<ChatQuota>> {
        let scopes = self.scopes.iter();
        scopes
            .flat_map(|scope| {
                scope.quotas.store.state_filter(|quota| {
                    quota.spec.tenant_ref.name == tenant
                        && quota.metadata.namespace.as_deref() == Some(namespace)
                        && quota.metadata.deletion_timestamp.is_none()
                })
            })
            .collect()
    }

    pub(crate) fn tenant(&self, namespace: &str, name: &str) -> Option<Arc<ChatTenant>> {
        let key = ObjectRef::new(name).within(namespace);
        self.scopes
            .iter()
            .find_map(|scope| scope.tenants.store.get(&key))
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        let key = ObjectRef::new(name).within(namespace);
        self.scopes
            .iter()
            .find_map(|scope| scope.secrets.store.get(&key))
    }

    /// The rendered Secret of a tenant.
    pub(crate) fn rendered_of(&self, id: TenantId) -> Option<Arc<Secret>> {
        let name = rendered_secret::name(id);
        let found = self.rendered.store.find(|secret| secret.name_any() == name);
        found.filter(|secret| secret.metadata.deletion_timestamp.is_none())
    }
}

impl Scope {
    fn start(client: &Client, namespace: Option<&str>, tell: &Telling) -> Self {
        let place = namespace.map_or_else(String::new, |name| format!(" in namespace {name}"));
        let (tenants, quotas, secrets) = (tell.clone(), tell.clone(), tell.clone());
        // Rendered Secrets have a cache of their own; tokens and releases concern nobody.
        let opaque = watcher::Config::default()
            .fields("type!=minichat.dev/tenant-config,type!=helm.sh/release.v1");
        Self {
            tenants: Cache::start(
                api(client, namespace),
                watcher::Config::default(),
                format!("chattenants{place}"),
                move |change| tenants.tenant(&change),
            ),
            quotas: Cache::start(
                api(client, namespace),
                watcher::Config::default(),
                format!("chatquotas{place}"),
                move |change| quotas.quota(&change),
            ),
            secrets: Cache::start(
                api(client, namespace),
                opaque,
                format!("secrets{place}"),
                move |change| secrets.secret(&change),
            ),
        }
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// From changes to those whom they concern.
#[derive(Clone)]
pub(crate) struct Telling {
    caches: Weak<Caches>,
    issuers: Arc<DeliveredIssuers>,
    queues: Queues,
    propagation: Arc<Propagation>,
    metrics: Arc<dyn OperatorMetrics>,
}

impl Telling {
    pub(crate) fn new(
        queues: Queues,
        propagation: Arc<Propagation>,
        metrics: Arc<dyn OperatorMetrics>,
    ) -> Self {
        Self {
            caches: Weak::new(),
            issuers: Arc::default(),
            queues,
            propagation,
            metrics,
        }
    }

    /// A status that this process wrote concerns only the tenant's quotas (K8S-10).
    fn tenant(&self, change: &Change<'_, ChatTenant>) {
        match change {
            Change::Set { old, new } => {
                if old
                    .as_ref()
                    .is_none_or(|old| is_asked_anew(old.as_ref(), new))
                {
                    self.look(new);
                    self.siblings(new);
                    let before = old.as_deref().map(Listed::by_tenant);
                    self.rivals(new, &before.unwrap_or_default());
                }
                if old.as_ref().is_none_or(|old| old.status != new.status) {
                    self.quotas_of(new);
                    self.rivals(new, &Listed::by_tenant(new));
                }
            }
            Change::Gone(tenant) => {
                self.propagation.forget(&ObjectRef::from_obj(*tenant));
                self.issuers.forget_claim(render::tenant_id(tenant));
                self.siblings(tenant);
                self.rivals(tenant, &Listed::by_tenant(tenant));
                self.quotas_of(tenant);
            }
            Change::Whole => self.everybody(),
        }
    }

    fn quota(&self, change: &Change<'_, ChatQuota>) {
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
        self.send(&self.queues.quotas, ObjectRef::from_obj(quota));
        let tenant = ObjectRef::new(&quota.spec.tenant_ref.name)
            .within(quota.metadata.namespace.as_deref().unwrap_or_default());
        self.look_at(tenant);
    }

    /// Secrets concern the tenants of their namespace that name them.
    fn secret(&self, change: &Change<'_, Secret>) {
        let secret = match change {
            Change::Set { new, .. } => *new,
            Change::Gone(secret) => *secret,
            Change::Whole => return self.everybody(),
        };
        let name = secret.name_any();
        for tenant in self.caches().iter().flat_map(|caches| caches.tenants()) {
            if tenant.metadata.namespace == secret.metadata.namespace
                && crate::chat_tenant::secret_names(&tenant).contains(&name)
            {
                self.look(&tenant);
            }
        }
    }

    fn rendered(&self, change: &Change<'_, Secret>) {
        if let Some(caches) = self.caches() {
            self.metrics.rendered_tenants(caches.rendered.store.len());
        }
        let (secret, before) = match change {
            Change::Set { new, .. } => (*new, self.issuers.set(new)),
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
        let now = self.issuers.of(id);
        for tenant in self.caches().iter().flat_map(|caches| caches.tenants()) {
            let is_rival = || {
                let listed = Listed::by_tenant(&tenant);
                before != now
                    && (exclude_each_other(&listed, &before) || exclude_each_other(&listed, &now))
            };
            if render::tenant_id(&tenant) == id || is_rival() {
                self.look(&tenant);
            }
        }
    }

    /// Only who is asked for acknowledgements matters.
    fn pod(&self, change: &Change<'_, Pod>) {
        if let Change::Set {
            old: Some(old),
            new,
        } = change
            && crate::pool::endpoint(old, 0) == crate::pool::endpoint(new, 0)
        {
            return;
        }
        for tenant in self.caches().iter().flat_map(|caches| caches.tenants()) {
            self.send(&self.queues.objects, ObjectRef::from_obj(tenant.as_ref()));
        }
    }

    fn everybody(&self) {
        if let Some(caches) = self.caches() {
            for scope in &caches.scopes {
                for tenant in scope.tenants.store.state() {
                    self.look(&tenant);
                }
                for quota in scope.quotas.store.state() {
                    self.send(&self.queues.quotas, ObjectRef::from_obj(quota.as_ref()));
                }
            }
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
        self.send(&self.queues.render, tenant.clone());
        self.send(&self.queues.objects, tenant);
    }

    /// Other tenants that ask for the same id.
    fn siblings(&self, tenant: &ChatTenant) {
        let id = render::tenant_id(tenant);
        for other in self.caches().iter().flat_map(|caches| caches.tenants()) {
            if other.metadata.uid != tenant.metadata.uid && render::tenant_id(&other) == id {
                self.look(&other);
            }
        }
    }

    /// Other tenants that cannot be delivered with an issuer of `tenant`, or with
    /// one that it listed `before`.
    fn rivals(&self, tenant: &ChatTenant, before: &[Listed]) {
        let now = Listed::by_tenant(tenant);
        if now.is_empty() && before.is_empty() {
            return;
        }
        let id = render::tenant_id(tenant);
        for other in self.caches().iter().flat_map(|caches| caches.tenants()) {
            let listed = Listed::by_tenant(&other);
            if render::tenant_id(&other) != id
                && (exclude_each_other(&listed, &now) || exclude_each_other(&listed, before))
            {
                self.look(&other);
            }
        }
    }

    fn quotas_of(&self, tenant: &ChatTenant) {
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(caches) = self.caches() {
            for quota in caches.quotas_of(namespace, &tenant.name_any()) {
                self.send(&self.queues.quotas, ObjectRef::from_obj(quota.as_ref()));
            }
        }
    }

    fn caches(&self) -> Option<Arc<Caches>> {
        self.caches.upgrade()
    }

    #[expect(clippy::unused_self, reason = "it reads as what it does")]
    fn send<T>(&self, queue: &UnboundedSender<T>, item: T) {
        // Nobody listens any more only while the process ends.
        let _ = queue.send(item);
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

/// `namespace/name` of everything in `tenants`.
pub(crate) fn names(tenants: &[Arc<ChatTenant>]) -> BTreeSet<String> {
    tenants
        .iter()
        .map(|tenant| full_name(tenant.as_ref()))
        .collect()
}

/// `namespace/name`.
pub(crate) fn full_name<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}
