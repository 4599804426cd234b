//! A running operator: what is started, and in which order it ends.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Config, Resource};
use minichat_core::{Clock, SystemClock};
use minichat_lease::{Candidate, Election, Leadership};
use minichat_metrics::{ReconcileKind, ReconcileLoop};
use minichat_telemetry::metrics::MetricsSettings;
use minichat_telemetry::{Lifecycle, metrics};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use crate::cache::{Caches, full_name};
use crate::context::{Context, DEADLINE, Failures, ReconcileError};
use crate::handlers::EventHandlers;
use crate::jobs::Jobs;
use crate::looks::{self, Again};
use crate::queue::{Lane, Lanes, Queue, Queues, queue};
use crate::settings::Settings;
use crate::watch::SILENT;
use crate::write::MANAGER;
use crate::{admin, chat_quota, chat_tenant, garbage};

/// Tenants in work at once, in each loop. Waiting for pods costs nothing, so the
/// object loop may have many.
const RENDERED_AT_ONCE: u16 = 16;
const OBJECTS_AT_ONCE: u16 = 128;

/// Who has not got the Lease by then waits for another process to end.
const WAITS: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// A process that is told to end takes no longer for its last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// An operator that works.
pub struct Running {
    /// Where health and metrics are served.
    pub admin_addr: SocketAddr,
    admin: Lifecycle,
    leadership: Leadership,
    election: Election,
    context: Arc<Context>,
    tasks: JoinSet<()>,
    /// Told when a loop has ended, which none does by itself.
    broken: Arc<Notify>,
}

/// Starts watching, and working once this process may write. The cluster is that
/// of the pod, or of `KUBECONFIG`.
pub async fn start(settings: Settings) -> anyhow::Result<Running> {
    let config = Config::infer()
        .await
        .context("no cluster: run in a pod, or set KUBECONFIG")?;
    start_with(config, settings).await
}

/// A client for everything, and one for the Lease alone, so that no other request's
/// dead connection costs it.
fn clients(mut config: Config) -> anyhow::Result<(Client, Client)> {
    config.connect_timeout = Some(CONNECT);
    // A connection that was cut without a word is noticed, whatever waits for it.
    config.read_timeout = Some(SILENT);
    config.reset_reader_on_write = true;
    let client = |config| Client::try_from(config).context("no client for the API server");
    Ok((client(config.clone())?, client(config)?))
}

async fn start_with(config: Config, mut settings: Settings) -> anyhow::Result<Running> {
    if settings.leader_election.is_some() {
        tracing::warn!(
            "--leader-election is ignored: an operator always works only while it holds its Lease"
        );
    }
    settings.identity = Some(settings.identity());
    let namespace = settings
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let (client, electing) = clients(config)?;
    let (metrics, exposition) = metrics::start_operator(MetricsSettings {
        prefix: &settings.metrics_prefix,
        max_label_values: settings.metrics_max_label_values,
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (queues, lanes) = Queues::new();
    let handlers = EventHandlers::new(queues, metrics);
    let caches = Caches::start(&client, &settings, &namespace, &handlers);
    let candidate = Candidate {
        client: electing,
        namespace: namespace.clone(),
        name: settings.lease(),
        identity: settings.identity(),
        manager: MANAGER,
    };
    let election = candidate.run(&clock);
    let leadership = election.leadership();
    let listener = TcpListener::bind(settings.admin_addr)
        .await
        .with_context(|| format!("--admin-addr: cannot listen on {}", settings.admin_addr))?;
    let admin_addr = listener.local_addr()?;
    let admin = Lifecycle::default();
    let mut tasks = JoinSet::new();
    let router = admin::router(exposition, Arc::clone(&caches));
    tasks.spawn(minichat_telemetry::serve(listener, router, admin.clone()));
    tracing::info!(%admin_addr, namespace, pool = settings.pool, "started");
    let context = Arc::new(Context::new(
        &settings,
        namespace,
        &client,
        leadership.clone(),
        caches,
        clock,
        &handlers,
    ));
    let broken = Arc::new(Notify::new());
    let work = work(
        client,
        Arc::clone(&context),
        settings,
        leadership.clone(),
        lanes,
    );
    tasks.spawn(watched_over(work, Arc::clone(&broken)));
    Ok(Running {
        admin_addr,
        admin,
        leadership,
        election,
        context,
        tasks,
        broken,
    })
}

/// Tells `broken` when `work` has ended.
async fn watched_over(work: impl Future<Output = ()>, broken: Arc<Notify>) {
    work.await;
    broken.notify_one();
}

impl Running {
    /// Returns when the process must end by itself, with the reason.
    pub async fn ended(&self) -> anyhow::Error {
        let mut leadership = self.leadership.clone();
        let lost = async {
            leadership.acquired().await;
            leadership.lost().await;
        };
        tokio::select! {
            () = lost => anyhow::anyhow!("the Lease is lost; another process leads now"),
            () = self.leadership.over() => anyhow::anyhow!("the election has ended, which it never should"),
            () = self.broken.notified() => anyhow::anyhow!("a loop has ended that never should"),
        }
    }

    /// Stops working, and lets another process begin at once.
    pub async fn stop(mut self) {
        self.admin.stopping.fire();
        self.tasks.shutdown().await;
        if self.leadership.holds() {
            let withdraw = chat_tenant::contention::withdraw(&self.context);
            let _ = tokio::time::timeout(LAST_WORDS, withdraw).await;
        }
        self.election.resign().await;
        tracing::info!("stopped");
    }
}

/// The loops, from the moment this process leads. Returns when one has ended.
async fn work(
    client: Client,
    context: Arc<Context>,
    settings: Settings,
    mut leadership: Leadership,
    mut lanes: Lanes,
) {
    // A follower forgets what changes: when it leads it looks at everything.
    let mut forget = async || loop {
        tokio::select! {
            _ = lanes.render.recv() => {}
            _ = lanes.objects.recv() => {}
            _ = lanes.quotas.recv() => {}
            _ = lanes.rendered.recv() => {}
        }
    };
    let waits = async {
        tokio::time::sleep(WAITS).await;
        tell_waiting(&context, &settings);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = leadership.acquired() => {}
        () = forget() => {}
        () = waits => {}
    }
    context.metrics.leader(true);
    context.caches.synced().await;
    tracing::info!(tenants = context.caches.tenants().len(), "leading");
    garbage::scan_other_pools(&context).await;
    let scopes = settings.scopes();
    context.propagation.begin();
    let render = routed(lanes.render, &scopes);
    let objects = routed(lanes.objects, &scopes);
    let quotas = routed(lanes.quotas, &scopes);
    let mut loops = JoinSet::new();
    let jobs = Jobs::new(client, settings.job_selector, Arc::clone(&context));
    loops.spawn(jobs.follow());
    context.caches.sweep(&context.queues);
    loops.spawn(reconciled(
        Arc::clone(&context),
        context.caches.rendered.store.clone(),
        lanes.rendered,
        RENDERED_AT_ONCE,
        (ReconcileKind::RenderedSecret, ReconcileLoop::Object),
        |secret, context| async move { garbage::reconcile(&secret, &context).await },
        |context| (&context.queues.rendered, &context.rendered_failures),
    ));
    let lanes = render.into_iter().zip(objects).zip(quotas);
    for (scope, ((render, objects), quotas)) in context.caches.scopes.iter().zip(lanes) {
        let (tenants, all_quotas) = (scope.tenants.store.clone(), scope.quotas.store.clone());
        loops.spawn(reconciled(
            Arc::clone(&context),
            tenants.clone(),
            render,
            RENDERED_AT_ONCE,
            (ReconcileKind::ChatTenant, ReconcileLoop::Render),
            |tenant, context| async move { chat_tenant::render(&tenant, &context).await },
            |context| (&context.queues.render, &context.render_failures),
        ));
        loops.spawn(reconciled(
            Arc::clone(&context),
            tenants,
            objects,
            OBJECTS_AT_ONCE,
            (ReconcileKind::ChatTenant, ReconcileLoop::Object),
            |tenant, context| async move { chat_tenant::reconcile(&tenant, &context).await },
            |context| (&context.queues.objects, &context.object_failures),
        ));
        loops.spawn(reconciled(
            Arc::clone(&context),
            all_quotas,
            quotas,
            RENDERED_AT_ONCE,
            (ReconcileKind::ChatQuota, ReconcileLoop::Object),
            |quota, context| async move { chat_quota::reconcile(&quota, &context).await },
            |context| (&context.queues.quotas, &context.quota_failures),
        ));
    }
    if let Some(Err(error)) = loops.join_next().await {
        tracing::error!(%error, "a loop has ended");
    }
}

/// Says that nothing is done here before another process ends.
fn tell_waiting(context: &Context, settings: &Settings) {
    tracing::info!(
        pool = context.pool_name,
        namespace = context.pool_namespace,
        lease = settings.lease(),
        "another process holds the Lease and serves the pool; this one only waits for its end. If that one is of \
         another release, this release serves nobody: give it another pool.name"
    );
}

/// One lane for each scope; each object goes to the lane of its namespace.
fn routed<K>(mut all: Lane<K>, scopes: &[Option<String>]) -> Vec<Lane<K>>
where
    K: Resource<DynamicType = ()> + 'static,
{
    let (queues, lanes): (Vec<_>, Vec<_>) = scopes.iter().map(|_| queue()).unzip();
    let scopes = scopes.to_vec();
    tokio::spawn(async move {
        while let Some(look) = all.recv().await {
            let namespace = &look.object().namespace;
            let lane = scopes
                .iter()
                .position(|scope| scope.is_none() || scope == namespace);
            if let Some(queue) = lane.and_then(|lane| queues.get(lane)) {
                queue.send(look);
            }
        }
    });
    lanes
}

/// Reconciles what `lane` names, with a deadline. What failed is tried again.
async fn reconciled<K, F>(
    context: Arc<Context>,
    store: Store<K>,
    lane: Lane<K>,
    at_once: u16,
    (kind, of): (ReconcileKind, ReconcileLoop),
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Copy + Send + Sync + 'static,
    its: impl Fn(&Context) -> (&Queue<K>, &Failures<K>) + Copy + Send + Sync + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Again, ReconcileError>> + Send + 'static,
{
    let queue = its(&context).0.clone();
    let look = move |object: Arc<K>| {
        let context = Arc::clone(&context);
        let span = span(kind, of, object.as_ref());
        let look = async move {
            let key = ObjectRef::from_obj(object.as_ref());
            let begun = Instant::now();
            let done =
                tokio::time::timeout(DEADLINE, reconcile(object, Arc::clone(&context))).await;
            context.metrics.reconcile(kind, of, begun.elapsed());
            let (_, failures) = its(&context);
            done.unwrap_or(Err(ReconcileError::Deadline))
                .inspect(|_| failures.succeeded(&key))
                .map_err(|error| {
                    context.metrics.reconcile_error(kind, error.label());
                    let words = error.to_string();
                    let delay = failures.failed(key.clone(), error);
                    let again_in_ms = delay.as_millis();
                    tracing::warn!(error = words, again_in_ms, "a reconcile failed");
                    delay
                })
        };
        look.instrument(span)
    };
    looks::follow(store, (queue, lane), at_once, look).await;
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
