//! The caches of everything that the operator watches.

mod cache;
mod index;
mod watch;

use std::fmt::Debug;
use std::sync::{Arc, Weak};

use futures_util::Stream;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use minichat_core::TenantId;
use minichat_crds::rendered_secret::{self, CREDENTIALS_LABEL, POOL_LABEL};
use minichat_crds::{ChatQuota, ChatTenant};
use serde::de::DeserializeOwned;

use crate::settings::Settings;
use crate::tenant::full_name;
use cache::Watches;

pub(crate) use cache::{Cache, CacheEvent};
pub(crate) use index::Key;
pub(crate) use watch::SILENT;

/// Is called for each event of each cache, after the cache has taken it in.
pub(crate) trait Listener: Clone + Send + 'static {
    fn tenant(&self, event: &CacheEvent<'_, ChatTenant>);
    /// A tenant of another pool.
    fn tenant_of_other_pool(&self, event: &CacheEvent<'_, PartialObjectMeta<ChatTenant>>);
    fn quota(&self, event: &CacheEvent<'_, ChatQuota>);
    /// A Secret that tenants may name.
    fn secret(&self, event: &CacheEvent<'_, Secret>);
    fn rendered(&self, event: &CacheEvent<'_, Secret>);
    fn pod(&self, event: &CacheEvent<'_, Pod>);
    /// The `ConfigMap` that owns what the operator makes.
    fn managed(&self, event: &CacheEvent<'_, ConfigMap>);
}

/// The kinds that live with the tenants, in one namespace or in all.
pub(crate) struct Scope {
    /// Of the operator's pool.
    pub(crate) tenants: Arc<Cache<ChatTenant>>,
    /// Of other pools: quotas may name them, which another operator takes care of.
    tenants_of_other_pools: Arc<Cache<PartialObjectMeta<ChatTenant>>>,
    pub(crate) quotas: Arc<Cache<ChatQuota>>,
    pub(crate) secrets: Arc<Cache<Secret>>,
    /// `None` stands for all.
    namespace: Option<String>,
}

/// Everything that is watched.
pub(crate) struct Caches {
    pub(crate) scopes: Vec<Scope>,
    pool_namespace: String,
    /// Rendered Secrets of the pool.
    pub(crate) rendered: Arc<Cache<Secret>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    /// With the owner of the rendered Secrets alone; `None` if there is to be none.
    pub(crate) managed: Option<Arc<Cache<ConfigMap>>>,
    watches: Watches,
}

impl Caches {
    /// Starts every watch. `namespace` is the pool's; `listener_of` makes the listener
    /// of the caches, which are filled later.
    pub(crate) fn start<L: Listener>(
        client: &Client,
        settings: &Settings,
        namespace: &str,
        listener_of: impl FnOnce(Weak<Self>) -> L,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak| {
            let listener = listener_of(weak.clone());
            let watches = Watches::new(settings.reconcile_every());
            let scope = |scope| Scope::start(client, &watches, scope, &settings.pool, &listener);
            let scopes = settings.scopes().into_iter().map(scope).collect();
            let managed = settings.managed_config_map.as_deref();
            let managed =
                managed.map(|name| managed_cache(client, &watches, namespace, name, &listener));
            let (rendered, pods) = (listener.clone(), listener.clone());
            Self {
                scopes,
                pool_namespace: namespace.to_owned(),
                managed,
                rendered: Cache::start(
                    &watches,
                    Api::namespaced(client.clone(), namespace),
                    watcher::Config::default().labels(&format!("{POOL_LABEL}={}", settings.pool)),
                    format!("rendered secrets in namespace {namespace}"),
                    move |event| rendered.rendered(&event),
                ),
                pods: Cache::start(
                    &watches,
                    Api::namespaced(client.clone(), namespace),
                    watcher::Config::default().labels(&settings.pod_selector),
                    format!("pods in namespace {namespace}"),
                    move |event| pods.pod(&event),
                ),
                watches,
            }
        })
    }

    /// Returns once all caches have been filled.
    pub(crate) async fn synced(&self) {
        for scope in &self.scopes {
            scope.tenants.synced().await;
            scope.tenants_of_other_pools.synced().await;
            scope.quotas.synced().await;
            scope.secrets.synced().await;
        }
        self.rendered.synced().await;
        self.pods.synced().await;
        if let Some(managed) = &self.managed {
            managed.synced().await;
        }
    }

    /// What is not there, for people.
    pub(crate) fn missing(&self) -> Vec<String> {
        let watches = self.watches.statuses();
        watches.iter().filter_map(|watch| watch.missing()).collect()
    }

    /// The events of a watch that has no cache.
    pub(crate) fn followed<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        name: String,
    ) -> impl Stream<Item = Event<K>> + Send + use<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.watches.begin(api, config, name)
    }

    /// Whether tenants of `namespace` are seen.
    pub(crate) fn watches(&self, namespace: &str) -> bool {
        let mut scopes = self.scopes.iter().map(|scope| scope.namespace.as_deref());
        scopes.any(|scope| scope.is_none_or(|scope| scope == namespace))
    }

    /// Whether `namespace/name` is a tenant of another pool.
    pub(crate) fn is_in_another_pool(&self, namespace: &str, name: &str) -> bool {
        let key = ObjectRef::new(name).within(namespace);
        let mut scopes = self.scopes.iter();
        scopes.any(|scope| scope.tenants_of_other_pools.store.get(&key).is_some())
    }

    pub(crate) fn tenants(&self) -> Vec<Arc<ChatTenant>> {
        let scopes = self.scopes.iter();
        scopes
            .flat_map(|scope| scope.tenants.store.state())
            .collect()
    }

    pub(crate) fn quotas(&self) -> Vec<Arc<ChatQuota>> {
        let scopes = self.scopes.iter();
        scopes
            .flat_map(|scope| scope.quotas.store.state())
            .collect()
    }

    pub(crate) fn tenants_having(&self, key: &Key) -> Vec<Arc<ChatTenant>> {
        let scopes = self.scopes.iter();
        scopes.flat_map(|scope| scope.tenants.having(key)).collect()
    }

    /// `namespace/name` of a tenant of this id.
    pub(crate) fn name_of(&self, id: TenantId) -> Option<String> {
        let tenants = self.tenants_having(&Key::TenantId(id));
        Some(full_name(tenants.first()?.as_ref()))
    }

    /// Those that are not ending.
    pub(crate) fn quotas_of(&self, namespace: &str, tenant: &str) -> Vec<Arc<ChatQuota>> {
        let key = Key::Tenant(format!("{namespace}/{tenant}"));
        let scopes = self.scopes.iter();
        let quotas = scopes.flat_map(|scope| scope.quotas.having(&key));
        quotas
            .filter(|quota| quota.metadata.deletion_timestamp.is_none())
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

    /// The rendered Secret of a tenant, also while it is being deleted: pods serve it until it
    /// is gone.
    pub(crate) fn rendered_of(&self, id: TenantId) -> Option<Arc<Secret>> {
        let key = ObjectRef::new(&rendered_secret::name(id)).within(&self.pool_namespace);
        self.rendered.store.get(&key)
    }

    /// The rendered Secrets that were made of the tenant `namespace/name`.
    pub(crate) fn rendered_from(&self, tenant: &str) -> Vec<Arc<Secret>> {
        self.rendered.having(&Key::Tenant(tenant.to_owned()))
    }
}

impl Scope {
    fn start(
        client: &Client,
        watches: &Watches,
        namespace: Option<String>,
        pool: &str,
        listener: &impl Listener,
    ) -> Self {
        let within = namespace.as_deref();
        let place = within.map_or_else(String::new, |name| format!(" in namespace {name}"));
        let (tenants, others) = (listener.clone(), listener.clone());
        let (quotas, secrets) = (listener.clone(), listener.clone());
        // No tenant may name the others, and there may be many.
        let labelled = watcher::Config::default().labels(&format!("{CREDENTIALS_LABEL}=true"));
        Self {
            tenants: Cache::start(
                watches,
                api(client, within),
                watcher::Config::default().fields(&format!("spec.pool={pool}")),
                format!("chattenants{place}"),
                move |event| tenants.tenant(&event),
            ),
            tenants_of_other_pools: Cache::start(
                watches,
                api(client, within),
                watcher::Config::default().fields(&format!("spec.pool!={pool}")),
                format!("chattenants of other pools{place}"),
                move |event| others.tenant_of_other_pool(&event),
            ),
            quotas: Cache::start(
                watches,
                api(client, within),
                watcher::Config::default(),
                format!("chatquotas{place}"),
                move |event| quotas.quota(&event),
            ),
            secrets: Cache::start(
                watches,
                api(client, within),
                labelled,
                format!("secrets{place}"),
                move |event| secrets.secret(&event),
            ),
            namespace,
        }
    }
}

fn managed_cache(
    client: &Client,
    watches: &Watches,
    namespace: &str,
    name: &str,
    listener: &impl Listener,
) -> Arc<Cache<ConfigMap>> {
    let listener = listener.clone();
    Cache::start(
        watches,
        Api::namespaced(client.clone(), namespace),
        watcher::Config::default().fields(&format!("metadata.name={name}")),
        format!("configmaps called {name} in namespace {namespace}"),
        move |event| listener.managed(&event),
    )
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
