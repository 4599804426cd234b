//! Reconciles the objects of a queue: many at once, but never the same one twice at a time.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use kube::Resource;
use kube::runtime::controller::{Action, Config, Error, applier};
use kube::runtime::reflector::{ObjectRef, Store};

use super::queue::{Queue, QueueReceiver, Request, ResyncLimit, prioritized};

/// One of so many places is for objects that have not changed: a resync or a requeue.
const RESYNCED: u16 = 4;

/// After how long the object is requeued although nothing has changed.
pub(crate) type Requeue = Option<Duration>;

/// How a reconcile ended: one that failed says after how long it is tried again.
pub(crate) type Outcome = Result<Requeue, Duration>;

/// Reconciles what `receiver` names, while it is open. What is to be requeued goes to `queue`,
/// the other end of the receiver: kube's own scheduler would start it before objects that
/// have changed.
pub(crate) async fn run<K, F>(
    store: Store<K>,
    (queue, receiver): (Queue<K>, QueueReceiver<K>),
    at_once: u16,
    reconcile: impl Fn(Arc<K>) -> F + Clone + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let limit = Arc::new(ResyncLimit::new(usize::from(at_once / RESYNCED)));
    let requests = prioritized(receiver, Arc::clone(&limit));
    let released = Arc::clone(&limit);
    let reconcile = move |object: Arc<K>, _: Arc<()>| {
        let (reconcile, queue, limit) = (reconcile.clone(), queue.clone(), Arc::clone(&released));
        Box::pin(async move {
            let key = ObjectRef::from_obj(object.as_ref());
            let outcome = reconcile(object).await;
            limit.release(&key);
            match outcome {
                Ok(None) => {}
                Ok(Some(delay)) => queue.send(Request::Requeue(key, delay)),
                Err(delay) => queue.send(Request::Retry(key, delay)),
            }
            Ok::<_, Infallible>(Action::await_change())
        })
    };
    let never = |_, never: &Infallible, _| match *never {};
    let config = Config::default().concurrency(at_once);
    let done = applier(reconcile, never, Arc::default(), store, requests, config);
    pin_mut!(done);
    while let Some(done) = done.next().await {
        match done {
            // It needs nothing any more.
            Err(Error::ObjectNotFound(object)) => {
                let namespace = object.namespace.as_deref().unwrap_or_default();
                limit.release(&ObjectRef::new(&object.name).within(namespace));
            }
            Err(Error::RunnerError(error)) => tracing::error!(%error, "a loop has ended"),
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt as _;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::work::queue;

    const AGAIN: Duration = Duration::from_secs(2);
    /// As long as a reconcile waits for a pod.
    const SLOW: Duration = Duration::from_secs(1);
    const AT_ONCE: u16 = 128;

    fn object(number: usize) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(number.to_string());
        object.metadata.namespace = Some("a".to_owned());
        object
    }

    /// K8S-11, K8S-17: a pod hangs, and a thousand tenants wait for it.
    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_are_looked_at_again_and_again_hold_up_no_change() {
        let (store, mut writer) = reflector::store();
        let objects: Vec<_> = (0..1000).map(object).collect();
        writer.apply_watcher_event(&Event::Init);
        for object in &objects {
            writer.apply_watcher_event(&Event::InitApply(object.clone()));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let seen: Arc<Mutex<BTreeMap<String, Vec<Instant>>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let reconcile = move |object: Arc<ConfigMap>| {
            let mut noted = noted.lock().unwrap();
            noted
                .entry(object.name_any())
                .or_default()
                .push(Instant::now());
            async {
                sleep(SLOW).await;
                Ok(Some(AGAIN))
            }
        };
        let looks = |name: &str| seen.lock().unwrap().get(name).map_or(0, Vec::len);
        let (queue, receiver) = queue::queue();
        tokio::spawn(run(store, (queue.clone(), receiver), AT_ONCE, reconcile));
        for object in &objects {
            queue.send(Request::Resync(ObjectRef::from_obj(object)));
        }
        sleep(SLOW * 60).await;
        for edited in [object(0), object(500), object(999)] {
            // Not one that is in work just then.
            sleep(SLOW / 2).await;
            let before = looks(&edited.name_any());
            queue.send(Request::Changed(ObjectRef::from_obj(&edited)));
            sleep(SLOW + Duration::from_millis(10)).await;
            assert!(looks(&edited.name_any()) > before, "{:?}", edited.metadata);
        }
        let fewest = seen.lock().unwrap().values().map(Vec::len).min();
        assert!(fewest >= Some(2), "{fewest:?}");
        assert_eq!(seen.lock().unwrap().len(), 1000);
    }
}
