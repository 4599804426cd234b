//! What the API server holds, as this process last saw it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use minichat_core::TenantId;
use minichat_crds::rendered_secret::{self, CREDENTIALS_LABEL, POOL_LABEL};
use minichat_crds::{ChatQuota, ChatTenant};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::index::{Index, Key, Keyed};
use crate::issuers::DeliveredIssuers;
use crate::queue::{Look, Queues};
use crate::settings::Settings;
use crate::telling::Telling;

/// The whole object once more, of `kubectl apply`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One watched kind in one namespace, or in all.
pub(crate) struct Cache<K: Keyed> {
    pub(crate) store: Store<K>,
    index: Index<K>,
    /// Whether store and index have been filled, and that has been told.
    is_synced: watch::Sender<bool>,
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
    /// Of each scope, its namespace; `None` stands for all.
    namespaces: Vec<Option<String>>,
    pool_namespace: String,
    /// Rendered Secrets of the pool.
    pub(crate) rendered: Arc<Cache<Secret>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    /// What the rendered Secrets list.
    pub(crate) issuers: Arc<DeliveredIssuers>,
    /// Names of what is followed without a cache, until it has been read.
    unread: Mutex<BTreeSet<String>>,
}

impl<K> Cache<K>
where
    K: Keyed + DeserializeOwned,
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
            index: Index::default(),
            is_synced: watch::Sender::new(false),
            name,
        });
        tokio::spawn(follow(Arc::clone(&cache), api, config, writer, tell));
        cache
    }

    pub(crate) fn is_synced(&self) -> bool {
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
    api: Api<K>,
    config: watcher::Config,
    mut writer: reflector::store::Writer<K>,
    tell: impl Fn(Change<'_, K>),
) where
    K: Keyed + DeserializeOwned,
{
    let events = watched(api, config, cache.name.clone());
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

/// The events of a watch for ever; that it is interrupted is logged once, until it
/// is whole again. `name` is for people.
fn watched<K>(api: Api<K>, config: watcher::Config, name: String) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut is_well = true;
    let events = watcher::watcher(api, config).modify(trim).default_backoff();
    events.filter_map(move |event| {
        match &event {
            Ok(Event::InitDone) => is_well = true,
            Ok(_) => {}
            Err(error) => {
                if is_well {
                    tracing::warn!(%error, watch = name, "a watch is interrupted; it is tried again");
                }
                is_well = false;
            }
        }
        ready(event.ok())
    })
}

/// Drops what nobody here reads and what may be as large as everything else.
fn trim<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
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
        telling: &Telling,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak| {
            let tell = telling.about(weak.clone());
            let scope = |scope: &Option<String>| Scope::start(client, scope.as_deref(), &tell);
            let namespaces = settings.scopes();
            let scopes = namespaces.iter().map(scope).collect();
            let issuers = tell.issuers();
            let (tell, pods) = (tell.clone(), tell.clone());
            Self {
                scopes,
                namespaces,
                pool_namespace: namespace.to_owned(),
                issuers,
                unread: Mutex::default(),
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
        for name in self.unread().iter() {
            look(false, name, "");
        }
        missing
    }

    /// The events of a watch that has no cache: it is missing too until it has been read.
    pub(crate) fn followed<K>(
        self: &Arc<Self>,
        api: Api<K>,
        config: watcher::Config,
        name: String,
    ) -> impl Stream<Item = Event<K>> + use<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.unread().insert(name.clone());
        let caches = Arc::clone(self);
        watched(api, config, name.clone()).inspect(move |event| {
            if matches!(event, Event::InitDone) {
                caches.unread().remove(&name);
            }
        })
    }

    fn unread(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
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
    }

    /// Has looked at what every tenant is told.
    pub(crate) fn sweep_objects(&self, queues: &Queues) {
        for tenant in self.tenants() {
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            queues.objects.send(Look::Swept(tenant));
        }
    }

    /// Whether tenants of `namespace` are watched.
    pub(crate) fn watches(&self, namespace: &str) -> bool {
        let mut namespaces = self.namespaces.iter();
        namespaces.any(|watched| {
            watched
                .as_deref()
                .is_none_or(|watched| watched == namespace)
        })
    }

    pub(crate) fn tenants_having(&self, key: &Key) -> Vec<Arc<ChatTenant>> {
        let scopes = self.scopes.iter();
        scopes.flat_map(|scope| scope.tenants.having(key)).collect()
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
    fn start(client: &Client, namespace: Option<&str>, tell: &Telling) -> Self {
        let place = namespace.map_or_else(String::new, |name| format!(" in namespace {name}"));
        let (tenants, quotas, secrets) = (tell.clone(), tell.clone(), tell.clone());
        // Others concern nobody, and may be many.
        let labelled = watcher::Config::default().labels(&format!("{CREDENTIALS_LABEL}=true"));
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
                labelled,
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
