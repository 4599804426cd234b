//! A running operator: what is started, and in which order it ends.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, Stream, StreamExt as _};
use kube::runtime::controller::{Action, Config as ControllerConfig, Error, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Config, Resource};
use minichat_core::{Clock, SystemClock};
use minichat_crds::{RenderSettings, Revisions};
use minichat_metrics::{ReconcileKind, ReconcileLoop};
use minichat_telemetry::{Lifecycle, metrics};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use crate::backoff::Backoff;
use crate::cache::{Caches, Queues, Telling, full_name};
use crate::context::{Context, DEADLINE, ReconcileError};
use crate::leader::{Election, Leadership};
use crate::numbers::Numbers;
use crate::pool::Pool;
use crate::propagation::Propagation;
use crate::settings::Settings;
use crate::write::Writer;
use crate::{admin, chat_quota, chat_tenant, garbage};

/// Tenants in work at once, in each loop. Waiting for pods costs nothing, so the
/// object loop may have many.
const RENDERED_AT_ONCE: u16 = 16;
const OBJECTS_AT_ONCE: u16 = 128;

/// An operator that works.
pub struct Running {
    /// Where health and metrics are served.
    pub admin_addr: SocketAddr,
    admin: Lifecycle,
    leadership: Leadership,
    tasks: JoinSet<()>,
}

/// Starts watching, and working once this process may write. The cluster is that
/// of the pod, or of `KUBECONFIG`.
pub async fn start(settings: Settings) -> anyhow::Result<Running> {
    let config = Config::infer()
        .await
        .context("no cluster: run in a pod, or set KUBECONFIG")?;
    start_with(config, settings).await
}

async fn start_with(config: Config, settings: Settings) -> anyhow::Result<Running> {
    let namespace = settings
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).context("no client for the API server")?;
    let (metrics, exposition) = metrics::start_operator(&settings.metrics_prefix)?;
    let propagation = Arc::new(Propagation::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = settings.identity();
    let (queues, receivers) = queues();
    let telling = Telling::new(
        queues.clone(),
        Arc::clone(&propagation),
        Arc::clone(&metrics),
    );
    let caches = Caches::start(&client, &settings, &namespace, &telling);
    let leadership = if settings.leader_election {
        Election::start(
            client.clone(),
            &namespace,
            identity.clone(),
            Arc::clone(&clock),
        )
    } else {
        Leadership::Alone
    };
    let listener = TcpListener::bind(settings.admin_addr)
        .await
        .with_context(|| format!("--admin-addr: cannot listen on {}", settings.admin_addr))?;
    let admin_addr = listener.local_addr()?;
    let admin = Lifecycle::default();
    let mut tasks = JoinSet::new();
    let router = admin::router(exposition, Arc::clone(&caches));
    tasks.spawn(minichat_telemetry::serve(listener, router, admin.clone()));
    let context = Arc::new(Context {
        writer: Writer::new(client, leadership.clone(), namespace.clone()),
        pool: Pool::start(Arc::clone(&caches), settings.pod_admin_port),
        caches,
        pool_name: settings.pool.clone(),
        pool_namespace: namespace.clone(),
        identity,
        settings: RenderSettings {
            allow_http: settings.allow_http,
            orphan_timeout: Duration::from_secs(settings.orphan_timeout_secs),
        },
        revisions: Revisions::new(),
        numbers: Numbers::default(),
        clock,
        queues,
        propagation,
        metrics,
        render_failures: Backoff::new(),
        object_failures: Backoff::new(),
        quota_failures: Backoff::new(),
    });
    tracing::info!(%admin_addr, namespace, pool = settings.pool, "started");
    tasks.spawn(work(context, settings, leadership.clone(), receivers));
    Ok(Running {
        admin_addr,
        admin,
        leadership,
        tasks,
    })
}

impl Running {
    /// Returns when the process must end by itself, with the reason.
    pub async fn ended(&self) -> anyhow::Error {
        let mut leadership = self.leadership.clone();
        leadership.acquired().await;
        leadership.lost().await;
        anyhow::anyhow!("the Lease is lost; another process leads now")
    }

    /// Stops working.
    pub async fn stop(mut self) {
        self.admin.stopping.fire();
        self.tasks.shutdown().await;
        tracing::info!("stopped");
    }
}

struct Receivers {
    render: UnboundedReceiver<ObjectRef<minichat_crds::ChatTenant>>,
    objects: UnboundedReceiver<ObjectRef<minichat_crds::ChatTenant>>,
    quotas: UnboundedReceiver<ObjectRef<minichat_crds::ChatQuota>>,
}

fn queues() -> (Queues, Receivers) {
    let (render, to_render) = mpsc::unbounded_channel();
    let (objects, to_objects) = mpsc::unbounded_channel();
    let (quotas, to_quotas) = mpsc::unbounded_channel();
    (
        Queues {
            render,
            objects,
            quotas,
        },
        Receivers {
            render: to_render,
            objects: to_objects,
            quotas: to_quotas,
        },
    )
}

/// The loops, from the moment this process leads.
async fn work(
    context: Arc<Context>,
    settings: Settings,
    mut leadership: Leadership,
    mut receivers: Receivers,
) {
    // A follower forgets what changes: when it leads it looks at everything.
    let mut forget = async || loop {
        tokio::select! {
            _ = receivers.render.recv() => {}
            _ = receivers.objects.recv() => {}
            _ = receivers.quotas.recv() => {}
        }
    };
    tokio::select! {
        () = leadership.acquired() => {}
        () = forget() => {}
    }
    context.metrics.leader(true);
    context.caches.synced().await;
    tracing::info!(tenants = context.caches.tenants().len(), "leading");
    garbage::scan(&context.caches, &settings.scopes(), &context.writer).await;
    let scopes = settings.scopes();
    context.propagation.begin();
    let render = routed(receivers.render, &scopes);
    let objects = routed(receivers.objects, &scopes);
    let quotas = routed(receivers.quotas, &scopes);
    let mut loops = JoinSet::new();
    let lanes = render.into_iter().zip(objects).zip(quotas);
    for (scope, ((render, objects), quotas)) in context.caches.scopes.iter().zip(lanes) {
        for tenant in scope.tenants.store.state() {
            let _ = render.0.send(ObjectRef::from_obj(tenant.as_ref()));
            let _ = objects.0.send(ObjectRef::from_obj(tenant.as_ref()));
        }
        for quota in scope.quotas.store.state() {
            let _ = quotas.0.send(ObjectRef::from_obj(quota.as_ref()));
        }
        let (tenants, all_quotas) = (scope.tenants.store.clone(), scope.quotas.store.clone());
        loops.spawn(follow(
            Arc::clone(&context),
            tenants.clone(),
            render.1,
            RENDERED_AT_ONCE,
            (ReconcileKind::ChatTenant, ReconcileLoop::Render),
            |tenant, context| async move { chat_tenant::render(&tenant, &context).await },
            |context| &context.render_failures,
        ));
        loops.spawn(follow(
            Arc::clone(&context),
            tenants,
            objects.1,
            OBJECTS_AT_ONCE,
            (ReconcileKind::ChatTenant, ReconcileLoop::Object),
            |tenant, context| async move { chat_tenant::reconcile(&tenant, &context).await },
            |context| &context.object_failures,
        ));
        loops.spawn(follow(
            Arc::clone(&context),
            all_quotas,
            quotas.1,
            RENDERED_AT_ONCE,
            (ReconcileKind::ChatQuota, ReconcileLoop::Object),
            |quota, context| async move { chat_quota::reconcile(&quota, &context).await },
            |context| &context.quota_failures,
        ));
    }
    while loops.join_next().await.is_some() {}
}

type Lane<K> = (
    UnboundedSender<ObjectRef<K>>,
    UnboundedReceiver<ObjectRef<K>>,
);

/// One lane for each scope; each object goes to the lane of its namespace.
fn routed<K>(mut all: UnboundedReceiver<ObjectRef<K>>, scopes: &[Option<String>]) -> Vec<Lane<K>>
where
    K: Resource<DynamicType = ()> + 'static,
{
    let lanes: Vec<Lane<K>> = scopes.iter().map(|_| mpsc::unbounded_channel()).collect();
    let senders: Vec<_> = lanes.iter().map(|(sender, _)| sender.clone()).collect();
    let scopes = scopes.to_vec();
    tokio::spawn(async move {
        while let Some(object) = all.recv().await {
            let lane = scopes
                .iter()
                .position(|scope| scope.is_none() || *scope == object.namespace);
            if let Some(sender) = lane.and_then(|lane| senders.get(lane)) {
                let _ = sender.send(object);
            }
        }
    });
    lanes
}

/// Reconciles what `queue` names, each object once at a time, with a deadline.
async fn follow<K, F>(
    context: Arc<Context>,
    store: Store<K>,
    queue: UnboundedReceiver<ObjectRef<K>>,
    at_once: u16,
    (kind, of): (ReconcileKind, ReconcileLoop),
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Copy + Send + Sync + 'static,
    failures: impl Fn(&Context) -> &Backoff<ObjectRef<K>> + Copy + Send + Sync + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    let reconcile = move |object: Arc<K>, context: Arc<Context>| {
        let span = span(kind, of, object.as_ref());
        let reconciled = async move {
            let key = ObjectRef::from_obj(object.as_ref());
            let begun = Instant::now();
            let done =
                tokio::time::timeout(DEADLINE, reconcile(object, Arc::clone(&context))).await;
            context.metrics.reconcile(kind, of, begun.elapsed());
            let action = done.map_err(|_| ReconcileError::Deadline)??;
            failures(&context).succeeded(&key);
            Ok(action)
        };
        Box::pin(reconciled.instrument(span))
    };
    let retry = move |object: Arc<K>, error: &ReconcileError, context: Arc<Context>| {
        let key = ObjectRef::from_obj(object.as_ref());
        let delay = failures(&context).failed(key, error.to_string());
        context.metrics.reconcile_error(kind, error.label());
        let _span = span(kind, of, object.as_ref()).entered();
        tracing::warn!(%error, again_in_ms = delay.as_millis(), "a reconcile failed");
        Action::requeue(delay)
    };
    let config = ControllerConfig::default().concurrency(at_once);
    let done = applier(reconcile, retry, context, store, received(queue), config);
    done.for_each(|done| async move {
        // An object that is gone needs nothing; failures are told by `retry`.
        if let Err(Error::RunnerError(error)) = done {
            tracing::error!(%error, "a loop has ended");
        }
    })
    .await;
}

/// What every line of a reconcile says.
fn span<K: Resource<DynamicType = ()>>(kind: ReconcileKind, of: ReconcileLoop, object: &K) -> Span {
    let object = full_name(object);
    tracing::info_span!(
        "reconcile",
        kind = kind.as_str(),
        object,
        r#loop = of.as_str()
    )
}

fn received<T>(queue: UnboundedReceiver<T>) -> impl Stream<Item = Result<T, Infallible>> {
    stream::unfold(queue, |mut queue| async move {
        queue.recv().await.map(|item| (Ok(item), queue))
    })
}
