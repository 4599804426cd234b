//! The cache of one watched kind: a store that a watch keeps up to date, and an index over it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, pin_mut};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::index::{Index, Key, Keyed};
use super::watch::{WatchStatus, watched};

/// One watched kind in one namespace, or in all.
pub(crate) struct Cache<K: Keyed> {
    pub(crate) store: Store<K>,
    index: Index<K>,
    /// Whether store and index have been filled, and the listener knows.
    is_synced: watch::Sender<bool>,
}

/// How all watches fare.
#[derive(Clone)]
pub(super) struct Watches {
    statuses: Arc<Mutex<Vec<Arc<WatchStatus>>>>,
    /// How often each lists everything again.
    every: Duration,
}

impl Watches {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            statuses: Arc::default(),
            every,
        }
    }

    /// The events of one more; `name` is for people: `chattenants in namespace a`.
    pub(super) fn begin<K>(
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

    pub(super) fn statuses(&self) -> MutexGuard<'_, Vec<Arc<WatchStatus>>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Cache<K>
where
    K: Keyed + DeserializeOwned,
{
    pub(super) fn start(
        watches: &Watches,
        api: Api<K>,
        config: watcher::Config,
        name: String,
        listener: impl Fn(CacheEvent<'_, K>) + Send + 'static,
    ) -> Arc<Self> {
        let (store, writer) = reflector::store();
        let cache = Arc::new(Self {
            store,
            index: Index::default(),
            is_synced: watch::Sender::new(false),
        });
        let events = watches.begin(api, config, name);
        tokio::spawn(follow(Arc::clone(&cache), events, writer, listener));
        cache
    }

    fn is_synced(&self) -> bool {
        *self.is_synced.borrow()
    }

    pub(crate) async fn synced(&self) {
        // The sender lives as long as the cache.
        let _ = self.is_synced.subscribe().wait_for(|is| *is).await;
    }

    pub(super) fn having(&self, key: &Key) -> Vec<Arc<K>> {
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

/// What happened to a cache, passed to its listener after the cache shows it.
pub(crate) enum CacheEvent<'a, K> {
    Applied {
        old: Option<Arc<K>>,
        new: &'a K,
    },
    Deleted(&'a K),
    /// Everything was listed: anything may have changed.
    Resynced,
}

async fn follow<K>(
    cache: Arc<Cache<K>>,
    events: impl Stream<Item = Event<K>>,
    mut writer: reflector::store::Writer<K>,
    listener: impl Fn(CacheEvent<'_, K>),
) where
    K: Keyed + DeserializeOwned,
{
    pin_mut!(events);
    while let Some(event) = events.next().await {
        // A new list does not say what has changed since the last one.
        let is_anew = matches!(event, Event::InitDone) && cache.is_synced();
        let before = is_anew.then(|| cache.store.state());
        let old = cache.take(&event, &mut writer);
        match &event {
            Event::Apply(new) => listener(CacheEvent::Applied { old, new }),
            Event::Delete(object) => listener(CacheEvent::Deleted(object)),
            Event::InitDone => {
                if let Some(before) = before {
                    report_missed(before, cache.store.state(), &listener);
                }
                listener(CacheEvent::Resynced);
                cache.is_synced.send_replace(true);
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// Reports the changes between two lists.
fn report_missed<K: Keyed>(
    before: Vec<Arc<K>>,
    now: Vec<Arc<K>>,
    listener: &impl Fn(CacheEvent<'_, K>),
) {
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
            listener(CacheEvent::Applied { old, new: &new });
        }
    }
    for gone in before.values() {
        listener(CacheEvent::Deleted(gone));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use minichat_crds::{ChatQuota, cases};
    use serde_json::json;

    use super::*;

    fn quota(name: &str, version: u64) -> Arc<ChatQuota> {
        let mut object = cases::quota();
        object["metadata"] =
            json!({"name": name, "namespace": "a", "resourceVersion": version.to_string()});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    /// K8S-11: an edit that no watch has shown reaches the listener as any other.
    #[test]
    fn of_a_list_that_is_read_anew_the_differences_are_told() {
        let told = RefCell::new(Vec::new());
        let listener = |change: CacheEvent<'_, ChatQuota>| {
            told.borrow_mut().push(match change {
                CacheEvent::Applied { old, new } => {
                    let what = if old.is_some() { "changed" } else { "new" };
                    format!("{what} {}", new.metadata.name.clone().unwrap_or_default())
                }
                CacheEvent::Deleted(old) => {
                    format!("gone {}", old.metadata.name.clone().unwrap_or_default())
                }
                CacheEvent::Resynced => "whole".to_owned(),
            });
        };
        let before = vec![quota("same", 1), quota("edited", 1), quota("deleted", 1)];
        let now = vec![quota("same", 1), quota("edited", 2), quota("made", 1)];
        report_missed(before, now, &listener);
        assert_eq!(
            *told.borrow(),
            ["changed edited", "new made", "gone deleted"]
        );
    }
}
