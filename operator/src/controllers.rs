//! The controllers. Each takes objects from one queue, calls one reconcile function for so
//! many of them at once, counts and logs failures, and requeues what failed with backoff.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};
use minichat_lease::Leadership;
use minichat_metrics::{ReconcileKind, ReconcileLoop};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use crate::context::Context;
use crate::cron_jobs::CronJobs;
use crate::failures::{DEADLINE, Failures, ReconcileError};
use crate::jobs::Jobs;
use crate::manifests::Task;
use crate::settings::Settings;
use crate::tenant::{Subject, full_name};
use crate::work::{self, Queue, QueueReceiver, QueueReceivers, Requeue, queue};
use crate::{chat_quota, chat_tenant, event_handlers, garbage, sinks};

/// Tenants in work at once, in each loop. Waiting for pods costs nothing, so the
/// object loop may have many.
const RENDERED_AT_ONCE: u16 = 16;
const OBJECTS_AT_ONCE: u16 = 128;

/// A process that has not got the Lease by then waits for another one to end.
const WAITS: Duration = Duration::from_secs(5);

/// Runs the controllers from the moment this process leads. Returns when one has ended.
pub(crate) async fn run(
    client: Client,
    context: Arc<Context>,
    settings: Settings,
    leadership: Leadership,
    mut receivers: QueueReceivers,
) {
    await_leadership(&context, &settings, leadership, &mut receivers).await;
    context.state.metrics.leader(true);
    context.caches.synced().await;
    tracing::info!(tenants = context.caches.tenants().len(), "leading");
    garbage::scan_other_pools(&context).await;
    context.state.propagation.begin();
    let mut controllers = JoinSet::new();
    for (task, selector) in [
        (Task::Watchdog, &settings.job_selector),
        (Task::Cleanup, &settings.cleanup_selector),
    ] {
        let jobs = Jobs::new(client.clone(), task, selector.clone(), Arc::clone(&context));
        controllers.spawn(jobs.follow());
    }
    if context.manifests.cron_jobs().is_some() {
        let cron_jobs = CronJobs::new(client.clone(), Arc::clone(&context));
        controllers.spawn(cron_jobs.follow());
    }
    controllers.spawn(sinks::follow(Arc::clone(&context)));
    event_handlers::enqueue_all(&context.caches, &context.state.queues);
    spawn(&mut controllers, &context, &settings.scopes(), receivers);
    if let Some(Err(error)) = controllers.join_next().await {
        tracing::error!(%error, "a controller has ended");
    }
}

/// Waits until this process leads. Until then it drops what is enqueued: once it leads it
/// reconciles everything.
async fn await_leadership(
    context: &Context,
    settings: &Settings,
    mut leadership: Leadership,
    receivers: &mut QueueReceivers,
) {
    let mut drop_requests = async || loop {
        tokio::select! {
            _ = receivers.render.recv() => {}
            _ = receivers.objects.recv() => {}
            _ = receivers.quotas.recv() => {}
            _ = receivers.rendered.recv() => {}
        }
    };
    let waits = async {
        tokio::time::sleep(WAITS).await;
        log_waiting(context, settings);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = leadership.acquired() => {}
        () = drop_requests() => {}
        () = waits => {}
    }
}

/// Starts one controller for rendered Secrets, and three for each scope.
fn spawn(
    controllers: &mut JoinSet<()>,
    context: &Arc<Context>,
    scopes: &[Option<String>],
    receivers: QueueReceivers,
) {
    controllers.spawn(controller(
        Arc::clone(context),
        context.caches.rendered.store.clone(),
        receivers.rendered,
        RENDERED_AT_ONCE,
        (ReconcileKind::RenderedSecret, ReconcileLoop::Object),
        |secret, context| async move { garbage::reconcile(&secret, &context).await },
        |context| {
            (
                &context.state.queues.rendered,
                &context.state.failures.rendered,
            )
        },
    ));
    let render = by_scope(receivers.render, scopes);
    let objects = by_scope(receivers.objects, scopes);
    let quotas = by_scope(receivers.quotas, scopes);
    let receivers = render.into_iter().zip(objects).zip(quotas);
    for (scope, ((render, objects), quotas)) in context.caches.scopes.iter().zip(receivers) {
        let (tenants, all_quotas) = (scope.tenants.store.clone(), scope.quotas.store.clone());
        controllers.spawn(controller(
            Arc::clone(context),
            tenants.clone(),
            render,
            RENDERED_AT_ONCE,
            (ReconcileKind::ChatTenant, ReconcileLoop::Render),
            |tenant, context| async move { chat_tenant::render(&Subject::of(&tenant), &context).await },
            |context| (&context.state.queues.render, &context.state.failures.render),
        ));
        controllers.spawn(controller(
            Arc::clone(context),
            tenants,
            objects,
            OBJECTS_AT_ONCE,
            (ReconcileKind::ChatTenant, ReconcileLoop::Object),
            |tenant, context| async move {
                chat_tenant::reconcile(&Subject::of(&tenant), &context).await
            },
            |context| {
                (
                    &context.state.queues.objects,
                    &context.state.failures.objects,
                )
            },
        ));
        controllers.spawn(controller(
            Arc::clone(context),
            all_quotas,
            quotas,
            RENDERED_AT_ONCE,
            (ReconcileKind::ChatQuota, ReconcileLoop::Object),
            |quota, context| async move { chat_quota::reconcile(&quota, &context).await },
            |context| (&context.state.queues.quotas, &context.state.failures.quotas),
        ));
    }
}

/// Logs that this process waits for the end of another one.
fn log_waiting(context: &Context, settings: &Settings) {
    tracing::info!(
        pool = context.pool_name,
        namespace = context.pool_namespace,
        lease = settings.lease(),
        "another process holds the Lease and serves the pool; this one only waits for its end. If that one is of \
         another release, this release serves nobody: give it another pool.name"
    );
}

/// One receiver for each scope: a request goes to the scope of its namespace.
fn by_scope<K>(mut all: QueueReceiver<K>, scopes: &[Option<String>]) -> Vec<QueueReceiver<K>>
where
    K: Resource<DynamicType = ()> + 'static,
{
    let (queues, receivers): (Vec<_>, Vec<_>) = scopes.iter().map(|_| queue()).unzip();
    let scopes = scopes.to_vec();
    tokio::spawn(async move {
        while let Some(request) = all.recv().await {
            let namespace = &request.object().namespace;
            let position = scopes
                .iter()
                .position(|scope| scope.is_none() || scope == namespace);
            if let Some(queue) = position.and_then(|position| queues.get(position)) {
                queue.send(request);
            }
        }
    });
    receivers
}

/// Reconciles each object that `receiver` names, within a deadline. A failed one is requeued with backoff.
async fn controller<K, F>(
    context: Arc<Context>,
    store: Store<K>,
    receiver: QueueReceiver<K>,
    at_once: u16,
    (kind, of): (ReconcileKind, ReconcileLoop),
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Copy + Send + Sync + 'static,
    queue_and_failures: impl Fn(&Context) -> (&Queue<K>, &Failures<K>) + Copy + Send + Sync + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Requeue, ReconcileError>> + Send + 'static,
{
    let queue = queue_and_failures(&context).0.clone();
    let reconcile = move |object: Arc<K>| {
        let context = Arc::clone(&context);
        let span = span(kind, of, object.as_ref());
        let work = async move {
            let key = ObjectRef::from_obj(object.as_ref());
            let begun = Instant::now();
            let done =
                tokio::time::timeout(DEADLINE, reconcile(object, Arc::clone(&context))).await;
            context.state.metrics.reconcile(kind, of, begun.elapsed());
            let (_, failures) = queue_and_failures(&context);
            done.unwrap_or(Err(ReconcileError::Deadline))
                .inspect(|_| failures.succeeded(&key))
                .map_err(|error| {
                    context.state.metrics.reconcile_error(kind, error.label());
                    let words = error.to_string();
                    let delay = failures.failed(key.clone(), error);
                    let again_in_ms = delay.as_millis();
                    tracing::warn!(error = words, again_in_ms, "a reconcile failed");
                    delay
                })
        };
        work.instrument(span)
    };
    work::run(store, (queue, receiver), at_once, reconcile).await;
}

/// The span of a reconcile: every line of its log says these.
fn span<K: Resource<DynamicType = ()>>(kind: ReconcileKind, of: ReconcileLoop, object: &K) -> Span {
    let object = full_name(object);
    tracing::info_span!(
        "reconcile",
        kind = kind.as_str(),
        object,
        r#loop = of.as_str()
    )
}
