//! What the API server holds, as this process last saw it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use minichat_core::TenantId;
use minichat_crds::rendered_secret::{self, CREDENTIALS_LABEL, POOL_LABEL};
use minichat_crds::{ChatQuota, ChatTenant};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::handlers::EventHandlers;
use crate::index::{Index, Key, Keyed};
use crate::issuers::DeliveredIssuers;
use crate::queue::{Look, Queues};
use crate::settings::Settings;
use crate::watch::{WatchStatus, watched};

/// One watched kind in one namespace, or in all.
pub(crate) struct Cache<K: Keyed> {
    pub(crate) store: Store<K>,
    index: Index<K>,
    /// Whether store and index have been filled, and that has been told.
    is_synced: watch::Sender<bool>,
}

/// The kinds that live with the tenants, in one namespace or in all.
pub(crate) struct Scope {
    /// Of the operator's pool.
    pub(crate) tenants: Arc<Cache<ChatTenant>>,
    /// Of other pools: quotas may name them, which another operator takes care of.
    foreign: Arc<Cache<PartialObjectMeta<ChatTenant>>>,
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
    /// What the rendered Secrets list.
    pub(crate) issuers: Arc<DeliveredIssuers>,
    watches: Watches,
}

/// How all watches fare.
#[derive(Clone)]
struct Watches {
    statuses: Arc<Mutex<Vec<Arc<WatchStatus>>>>,
    /// How often each lists everything anew.
    every: Duration,
}

impl Watches {
    fn new(every: Duration) -> Self {
        Self {
            statuses: Arc::default(),
            every,
        }
    }

    /// The events of one more; `name` is for people: `chattenants in namespace a`.
    fn begin<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        name: String,
    ) -> impl Stream<Item = Event<K>> + Send + use<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let status = WatchStatus::new(name);
        self.statuses().push(Arc::clone(&status));
        watched(api, config, self.every, status)
    }

    fn statuses(&self) -> std::sync::MutexGuard<'_, Vec<Arc<WatchStatus>>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Cache<K>
where
    K: Keyed + DeserializeOwned,
{
    fn start(
        watches: &Watches,
        api: Api<K>,
        config: watcher::Config,
        name: String,
        tell: impl Fn(Change<'_, K>) + Send + 'static,
    ) -> Arc<Self> {
        let (store, writer) = reflector::store();
        let cache = Arc::new(Self {
            store,
            index: Index::default(),
            is_synced: watch::Sender::new(false),
        });
        let events = watches.begin(api, config, name);
        tokio::spawn(follow(Arc::clone(&cache), events, writer, tell));
        cache
    }

    fn is_synced(&self) -> bool {
        *self.is_synced.borrow()
    }

    pub(crate) async fn synced(&self) {
        // The sender lives as long as the cache.
        let _ = self.is_synced.subscribe().wait_for(|is| *is).await;
    }

    fn having(&self, key: &Key) -> Vec<Arc<K>> {
        let objects = self.index.of(key);
        let objects = objects.iter();
        objects
            .filter_map(|object| self.store.get(object))
            .collect()
    }

    /// Writes what the event says, and what the cache showed of its object before.
    fn take(&self, event: &Event<K>, writer: &mut reflector::store::Writer<K>) -> Option<Arc<K>> {
        let old = match event {
            Event::Apply(object) | Event::Delete(object) => {
                self.store.get(&ObjectRef::from_obj(object))
            }
            _ => None,
        };
        writer.apply_watcher_event(event);
        match event {
            Event::Apply(new) => self.index.replace(old.as_deref(), Some(new)),
            Event::Delete(_) => self.index.replace(old.as_deref(), None),
            Event::InitDone => {
                self.index
                    .fill(self.store.state().iter().map(AsRef::as_ref));
            }
            Event::Init | Event::InitApply(_) => {}
        }
        old
    }
}

/// What happened to a cache, told after the cache shows it.
pub(crate) enum Change<'a, K> {
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
    events: impl Stream<Item = Event<K>>,
    mut writer: reflector::store::Writer<K>,
    tell: impl Fn(Change<'_, K>),
) where
    K: Keyed + DeserializeOwned,
{
    pin_mut!(events);
    while let Some(event) = events.next().await {
        // Of a list that is read anew nobody says what has changed.
        let is_anew = matches!(event, Event::InitDone) && cache.is_synced();
        let before = is_anew.then(|| cache.store.state());
        let old = cache.take(&event, &mut writer);
        match &event {
            Event::Apply(new) => tell(Change::Set { old, new }),
            Event::Delete(object) => tell(Change::Gone(object)),
            Event::InitDone => {
                if let Some(before) = before {
                    tell_missed(before, cache.store.state(), &tell);
                }
                tell(Change::Whole);
                cache.is_synced.send_replace(true);
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// Tells what happened while nobody watched.
fn tell_missed<K: Keyed>(before: Vec<Arc<K>>, now: Vec<Arc<K>>, tell: &impl Fn(Change<'_, K>)) {
    let version = |object: &K| {
        let meta = object.meta();
        (meta.uid.clone(), meta.resource_version.clone())
    };
    let before = before.into_iter();
    let mut before: HashMap<_, _> = before
        .map(|object| (ObjectRef::from_obj(object.as_ref()), object))
        .collect();
    for new in now {
        let old = before.remove(&ObjectRef::from_obj(new.as_ref()));
        if old.as_ref().is_none_or(|old| version(old) != version(&new)) {
            tell(Change::Set { old, new: &new });
        }
    }
    for gone in before.values() {
        tell(Change::Gone(gone));
    }
}

impl Caches {
    /// Starts every watch. `namespace` is the pool's.
    pub(crate) fn start(
        client: &Client,
        settings: &Settings,
        namespace: &str,
        handlers: &EventHandlers,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak| {
            let tell = handlers.about(weak.clone());
            let watches = Watches::new(settings.reconcile_every());
            let scope = |scope| Scope::start(client, &watches, scope, &settings.pool, &tell);
            let scopes = settings.scopes().into_iter().map(scope).collect();
            let managed = settings.managed_config_map.as_deref();
            let managed =
                managed.map(|name| managed_cache(client, &watches, namespace, name, &tell));
            let issuers = tell.issuers();
            let (tell, pods) = (tell.clone(), tell.clone());
            Self {
                scopes,
                pool_namespace: namespace.to_owned(),
                issuers,
                managed,
                rendered: Cache::start(
                    &watches,
                    Api::namespaced(client.clone(), namespace),
                    watcher::Config::default().labels(&format!("{POOL_LABEL}={}", settings.pool)),
                    format!("rendered secrets in namespace {namespace}"),
                    move |change| tell.rendered(&change),
                ),
                pods: Cache::start(
                    &watches,
                    Api::namespaced(client.clone(), namespace),
                    watcher::Config::default().labels(&settings.pod_selector),
                    format!("pods in namespace {namespace}"),
                    move |change| pods.pod(&change),
                ),
                watches,
            }
        })
    }

    /// Returns once all caches have been filled.
    pub(crate) async fn synced(&self) {
        for scope in &self.scopes {
            scope.tenants.synced().await;
            scope.foreign.synced().await;
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
        scopes.any(|scope| scope.foreign.store.get(&key).is_some())
    }

    pub(crate) fn tenants(&self) -> Vec<Arc<ChatTenant>> {
        let scopes = self.scopes.iter();
        scopes
            .flat_map(|scope| scope.tenants.store.state())
            .collect()
    }

    /// Has everything looked at.
    pub(crate) fn sweep(&self, queues: &Queues) {
        for tenant in self.tenants() {
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            queues.render.send(Look::Swept(tenant));
        }
        self.sweep_objects(queues);
        for quota in self
            .scopes
            .iter()
            .flat_map(|scope| scope.quotas.store.state())
        {
            let quota = ObjectRef::from_obj(quota.as_ref());
            queues.quotas.send(Look::Swept(quota));
        }
        for secret in self.rendered.store.state() {
            let secret = ObjectRef::from_obj(secret.as_ref());
            queues.rendered.send(Look::Swept(secret));
        }
    }

    /// Has looked at what every tenant is told.
    pub(crate) fn sweep_objects(&self, queues: &Queues) {
        for tenant in self.tenants() {
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            queues.objects.send(Look::Swept(tenant));
        }
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

    /// The rendered Secret of a tenant.
    pub(crate) fn rendered_of(&self, id: TenantId) -> Option<Arc<Secret>> {
        let key = ObjectRef::new(&rendered_secret::name(id)).within(&self.pool_namespace);
        let found = self.rendered.store.get(&key);
        found.filter(|secret| secret.metadata.deletion_timestamp.is_none())
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
        tell: &EventHandlers,
    ) -> Self {
        let within = namespace.as_deref();
        let place = within.map_or_else(String::new, |name| format!(" in namespace {name}"));
        let (tenants, foreign) = (tell.clone(), tell.clone());
        let (quotas, secrets) = (tell.clone(), tell.clone());
        // Others concern nobody, and may be many.
        let labelled = watcher::Config::default().labels(&format!("{CREDENTIALS_LABEL}=true"));
        Self {
            tenants: Cache::start(
                watches,
                api(client, within),
                watcher::Config::default().fields(&format!("spec.pool={pool}")),
                format!("chattenants{place}"),
                move |change| tenants.tenant(&change),
            ),
            foreign: Cache::start(
                watches,
                api(client, within),
                watcher::Config::default().fields(&format!("spec.pool!={pool}")),
                format!("chattenants of other pools{place}"),
                move |change| foreign.foreign(&change),
            ),
            quotas: Cache::start(
                watches,
                api(client, within),
                watcher::Config::default(),
                format!("chatquotas{place}"),
                move |change| quotas.quota(&change),
            ),
            secrets: Cache::start(
                watches,
                api(client, within),
                labelled,
                format!("secrets{place}"),
                move |change| secrets.secret(&change),
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
    tell: &EventHandlers,
) -> Arc<Cache<ConfigMap>> {
    let tell = tell.clone();
    Cache::start(
        watches,
        Api::namespaced(client.clone(), namespace),
        watcher::Config::default().fields(&format!("metadata.name={name}")),
        format!("configmaps called {name} in namespace {namespace}"),
        move |change| tell.managed(&change),
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

/// `namespace/name`.
pub(crate) fn full_name<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use minichat_crds::cases;
    use serde_json::json;

    use super::*;

    fn quota(name: &str, version: u64) -> Arc<ChatQuota> {
        let mut object = cases::quota();
        object["metadata"] =
            json!({"name": name, "namespace": "a", "resourceVersion": version.to_string()});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    /// K8S-11: an edit that no watch has shown is told as any other.
    #[test]
    fn of_a_list_that_is_read_anew_the_differences_are_told() {
        let told = RefCell::new(Vec::new());
        let tell = |change: Change<'_, ChatQuota>| {
            told.borrow_mut().push(match change {
                Change::Set { old, new } => {
                    let what = if old.is_some() { "changed" } else { "new" };
                    format!("{what} {}", new.metadata.name.clone().unwrap_or_default())
                }
                Change::Gone(old) => {
                    format!("gone {}", old.metadata.name.clone().unwrap_or_default())
                }
                Change::Whole => "whole".to_owned(),
            });
        };
        let before = vec![quota("same", 1), quota("edited", 1), quota("deleted", 1)];
        let now = vec![quota("same", 1), quota("edited", 2), quota("made", 1)];
        tell_missed(before, now, &tell);
        assert_eq!(
            *told.borrow(),
            ["changed edited", "new made", "gone deleted"]
        );
    }
}
