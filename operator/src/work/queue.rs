//! The work queue of one kind. Objects that have changed come first. Objects of a resync, and
//! requeued ones, wait for one of a few places. So an edit never waits behind a resync of a
//! thousand tenants (K8S-17), nor behind tenants that wait for a hanging pod. A failed reconcile
//! may have been for an edit, so it counts as changed when its backoff is over (K8S-10).

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use minichat_crds::{ChatQuota, ChatTenant};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use super::delay_queue::DelayQueue;

/// An object to reconcile, and why.
#[derive(Debug)]
pub(crate) enum Request<K: Resource<DynamicType = ()>> {
    /// It has changed, or what it depends on.
    Changed(ObjectRef<K>),
    /// It may have: everything is reconciled.
    Resync(ObjectRef<K>),
    /// After so long it is part of a resync, unless it is reconciled before.
    Requeue(ObjectRef<K>, Duration),
    /// A reconcile failed: after so long it counts as changed, unless it is reconciled
    /// before.
    Retry(ObjectRef<K>, Duration),
}

/// The sending end of a queue.
#[derive(Clone)]
pub(crate) struct Queue<K: Resource<DynamicType = ()>>(UnboundedSender<Request<K>>);

pub(crate) struct Queues {
    pub(crate) render: Queue<ChatTenant>,
    pub(crate) objects: Queue<ChatTenant>,
    pub(crate) quotas: Queue<ChatQuota>,
    /// Rendered Secrets, which may be left over.
    pub(crate) rendered: Queue<Secret>,
}

pub(crate) type QueueReceiver<K> = UnboundedReceiver<Request<K>>;

/// The other ends of the queues.
pub(crate) struct QueueReceivers {
    pub(crate) render: QueueReceiver<ChatTenant>,
    pub(crate) objects: QueueReceiver<ChatTenant>,
    pub(crate) quotas: QueueReceiver<ChatQuota>,
    pub(crate) rendered: QueueReceiver<Secret>,
}

impl Queues {
    pub(crate) fn new() -> (Self, QueueReceivers) {
        let (render, to_render) = queue();
        let (objects, to_objects) = queue();
        let (quotas, to_quotas) = queue();
        let (rendered, to_rendered) = queue();
        let queues = Self {
            render,
            objects,
            quotas,
            rendered,
        };
        let receivers = QueueReceivers {
            render: to_render,
            objects: to_objects,
            quotas: to_quotas,
            rendered: to_rendered,
        };
        (queues, receivers)
    }
}

pub(crate) fn queue<K: Resource<DynamicType = ()>>() -> (Queue<K>, QueueReceiver<K>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Queue(sender), receiver)
}

impl<K: Resource<DynamicType = ()>> Queue<K> {
    pub(crate) fn send(&self, request: Request<K>) {
        // The receiver is gone only while the process ends.
        let _ = self.0.send(request);
    }
}

impl<K: Resource<DynamicType = ()>> Request<K> {
    pub(crate) fn object(&self) -> &ObjectRef<K> {
        match self {
            Self::Changed(object)
            | Self::Resync(object)
            | Self::Requeue(object, _)
            | Self::Retry(object, _) => object,
        }
    }
}

/// The places for objects that have not changed: so many are reconciled at once.
pub(crate) struct ResyncLimit<K: Resource<DynamicType = ()>> {
    free: Semaphore,
    inside: Mutex<HashSet<ObjectRef<K>>>,
}

impl<K: Resource<DynamicType = ()>> ResyncLimit<K> {
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            free: Semaphore::new(at_once),
            inside: Mutex::default(),
        }
    }

    /// Waits for room.
    async fn free_place(&self) {
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
    }

    fn hold(&self, object: ObjectRef<K>) {
        let is_new = self.inside().insert(object);
        if !is_new {
            self.free.add_permits(1);
        }
    }

    /// `object` was reconciled, for whatever reason.
    pub(crate) fn release(&self, object: &ObjectRef<K>) {
        if self.inside().remove(object) {
            self.free.add_permits(1);
        }
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, HashSet<ObjectRef<K>>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects that wait for a place, each once.
struct ResyncQueue<K: Resource<DynamicType = ()>> {
    order: VecDeque<ObjectRef<K>>,
    waiting: HashSet<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()>> ResyncQueue<K> {
    fn new() -> Self {
        Self {
            order: VecDeque::new(),
            waiting: HashSet::new(),
        }
    }

    fn add(&mut self, object: ObjectRef<K>) {
        if self.waiting.insert(object.clone()) {
            self.order.push_back(object);
        }
    }

    fn next(&mut self) -> Option<ObjectRef<K>> {
        let object = self.order.pop_front()?;
        self.waiting.remove(&object);
        Some(object)
    }
}

/// The objects of `receiver` in the order in which they are to be reconciled.
pub(crate) fn prioritized<K>(
    receiver: QueueReceiver<K>,
    limit: Arc<ResyncLimit<K>>,
) -> impl Stream<Item = Result<ObjectRef<K>, Infallible>>
where
    K: Resource<DynamicType = ()>,
{
    let order = PriorityQueue {
        receiver,
        limit,
        resync: ResyncQueue::new(),
        later: DelayQueue::new(),
    };
    stream::unfold(order, async |mut order| {
        let next = order.next().await?;
        Some((Ok(next), order))
    })
}

/// The requests that have come, and those that wait.
struct PriorityQueue<K: Resource<DynamicType = ()>> {
    receiver: QueueReceiver<K>,
    limit: Arc<ResyncLimit<K>>,
    resync: ResyncQueue<K>,
    later: DelayQueue<ObjectRef<K>, Delayed>,
}

/// Why an object is reconciled later.
enum Delayed {
    Unsettled,
    Failed,
}

impl<K: Resource<DynamicType = ()>> PriorityQueue<K> {
    /// `None` once all senders are gone.
    async fn next(&mut self) -> Option<ObjectRef<K>> {
        loop {
            let first = self.later.first();
            tokio::select! {
                biased;
                request = self.receiver.recv() => match request? {
                    Request::Changed(object) => {
                        self.later.clear(&object);
                        return Some(object);
                    }
                    Request::Resync(object) => self.resync.add(object),
                    Request::Requeue(object, delay) => self.later(object, Delayed::Unsettled, delay),
                    Request::Retry(object, delay) => self.later(object, Delayed::Failed, delay),
                },
                () = sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                    while let Some((object, why)) = self.later.due(Instant::now()) {
                        match why {
                            Delayed::Failed => return Some(object),
                            Delayed::Unsettled => self.resync.add(object),
                        }
                    }
                }
                () = self.limit.free_place(), if !self.resync.order.is_empty() => {
                    if let Some(object) = self.resync.next() {
                        self.later.clear(&object);
                        self.limit.hold(object.clone());
                        return Some(object);
                    }
                }
            }
        }
    }

    fn later(&mut self, object: ObjectRef<K>, delayed: Delayed, delay: Duration) {
        self.later.set(object, delayed, Instant::now() + delay);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use tokio::task::unconstrained;

    use super::*;

    const AGAIN: Duration = Duration::from_secs(2);

    fn tenant(name: &str) -> ObjectRef<ChatTenant> {
        ObjectRef::new(name).within("a")
    }

    /// Names what is reconciled next, if that is to be done now.
    fn names(
        receiver: QueueReceiver<ChatTenant>,
        limit: &Arc<ResyncLimit<ChatTenant>>,
    ) -> impl FnMut() -> Option<String> {
        let mut prioritized = Box::pin(prioritized(receiver, Arc::clone(limit)));
        move || {
            // A poll takes as many as there are.
            let next = unconstrained(prioritized.next()).now_or_never();
            next.map(|object| object.map_or("the end".to_owned(), |Ok(object)| object.name))
        }
    }

    /// K8S-17
    #[tokio::test]
    async fn what_changed_passes_a_sweep_that_waits_for_room() {
        let (queue, receiver) = queue();
        let limit = Arc::new(ResyncLimit::new(1));
        let mut next = names(receiver, &limit);
        for name in ["one", "two", "one"] {
            queue.send(Request::Resync(tenant(name)));
        }
        queue.send(Request::Changed(tenant("new")));
        assert_eq!(next().as_deref(), Some("new"));
        assert_eq!(next().as_deref(), Some("one"));
        assert_eq!(next(), None, "the first of the resync is in work");
        queue.send(Request::Changed(tenant("two")));
        assert_eq!(next().as_deref(), Some("two"));
        limit.release(&tenant("two"));
        assert_eq!(next(), None, "it was not let in by the limit");
        limit.release(&tenant("one"));
        assert_eq!(next().as_deref(), Some("two"));
        limit.release(&tenant("two"));
        assert_eq!(next(), None, "each is swept once");
        queue.send(Request::Resync(tenant("one")));
        assert_eq!(next().as_deref(), Some("one"), "and again when asked again");
        drop(queue);
        assert_eq!(next().as_deref(), Some("the end"));
    }

    /// K8S-17: a thousand tenants wait for a pod that hangs, and each is requeued again and again.
    #[tokio::test(start_paused = true)]
    async fn what_asks_for_another_look_holds_up_nothing_that_changed() {
        let (queue, receiver) = queue();
        let limit = Arc::new(ResyncLimit::new(2));
        let mut next = names(receiver, &limit);
        let unsettled: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        for name in &unsettled {
            queue.send(Request::Requeue(tenant(name), AGAIN));
        }
        assert_eq!(next(), None, "it is not time yet");
        tokio::time::advance(AGAIN).await;
        assert_eq!(next().as_deref(), Some("0"));
        assert_eq!(next().as_deref(), Some("1"));
        assert_eq!(next(), None, "the others wait for room");
        queue.send(Request::Changed(tenant("new")));
        assert_eq!(next().as_deref(), Some("new"));
        // Each is in work once at a time, however long it takes.
        for name in &unsettled {
            limit.release(&tenant(name));
            queue.send(Request::Requeue(tenant(name), AGAIN));
            let following = name.parse::<usize>().unwrap() + 2;
            assert_eq!(next(), unsettled.get(following).cloned());
        }
    }

    /// K8S-10, K8S-11: an edit whose request failed is not queued behind others.
    #[tokio::test(start_paused = true)]
    async fn what_failed_comes_back_before_a_sweep_that_waits_for_room() {
        let (queue, receiver) = queue();
        let limit = Arc::new(ResyncLimit::new(1));
        let mut next = names(receiver, &limit);
        for name in ["one", "two"] {
            queue.send(Request::Resync(tenant(name)));
        }
        assert_eq!(next().as_deref(), Some("one"));
        queue.send(Request::Requeue(tenant("waits"), AGAIN));
        for name in ["failed", "failed too", "mended", "settles"] {
            queue.send(Request::Retry(tenant(name), AGAIN));
        }
        queue.send(Request::Changed(tenant("mended")));
        assert_eq!(next().as_deref(), Some("mended"));
        queue.send(Request::Requeue(tenant("settles"), AGAIN * 2));
        assert_eq!(next(), None, "it is not time yet");
        tokio::time::advance(AGAIN).await;
        assert_eq!(next().as_deref(), Some("failed"));
        assert_eq!(next().as_deref(), Some("failed too"));
        assert_eq!(next(), None, "the others wait for room");
        for (done, following) in [
            ("one", Some("two")),
            ("two", Some("waits")),
            ("waits", None),
        ] {
            limit.release(&tenant(done));
            assert_eq!(next().as_deref(), following, "after {done}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_for_whatever_reason_is_the_one_that_was_asked_for() {
        let (queue, receiver) = queue();
        let limit = Arc::new(ResyncLimit::new(9));
        let mut next = names(receiver, &limit);
        for name in ["changed", "swept", "twice", "twice"] {
            queue.send(Request::Requeue(tenant(name), AGAIN));
        }
        queue.send(Request::Changed(tenant("changed")));
        queue.send(Request::Resync(tenant("swept")));
        assert_eq!(next().as_deref(), Some("changed"));
        assert_eq!(next().as_deref(), Some("swept"));
        tokio::time::advance(AGAIN).await;
        assert_eq!(next().as_deref(), Some("twice"));
        assert_eq!(next(), None);
    }
}
