//! Starts the parts of an operator, and stops them in order.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};
use minichat_core::{Clock, SystemClock};
use minichat_lease::{Candidate, Election, Leadership};
use minichat_telemetry::metrics::MetricsSettings;
use minichat_telemetry::{Lifecycle, metrics};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::caches::{Caches, SILENT};
use crate::context::Context;
use crate::event_handlers::EventHandlers;
use crate::manifests::Manifests;
use crate::settings::Settings;
use crate::state::State;
use crate::work::Queues;
use crate::writer::MANAGER;
use crate::{admin, chat_tenant, controllers};

const CONNECT: Duration = Duration::from_secs(5);
/// A process that has to end takes no longer to withdraw as contender.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// An operator that works.
pub struct Running {
    /// Where health and metrics are served.
    pub admin_addr: SocketAddr,
    admin: Lifecycle,
    leadership: Leadership,
    election: Election,
    context: Arc<Context>,
    tasks: JoinSet<()>,
    /// Notified when a controller has ended, which none does by itself.
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
    let manifests = Manifests::read(&settings)?;
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
    let (queues, receivers) = Queues::new();
    let state = Arc::new(State::new(queues, metrics));
    let caches = Caches::start(&client, &settings, &namespace, |caches| {
        EventHandlers::new(caches, Arc::clone(&state))
    });
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
        (&settings, manifests),
        namespace,
        &client,
        leadership.clone(),
        caches,
        clock,
        state,
    ));
    let broken = Arc::new(Notify::new());
    let controllers = controllers::run(
        client,
        Arc::clone(&context),
        settings,
        leadership.clone(),
        receivers,
    );
    tasks.spawn(watched_over(controllers, Arc::clone(&broken)));
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

/// Notifies `broken` when `controllers` have ended.
async fn watched_over(controllers: impl Future<Output = ()>, broken: Arc<Notify>) {
    controllers.await;
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
            () = self.broken.notified() => anyhow::anyhow!("a controller has ended that never should"),
        }
    }

    /// Stops working, and lets another process begin at once.
    pub async fn stop(mut self) {
        self.admin.stopping.fire();
        self.tasks.shutdown().await;
        if self.leadership.holds() {
            let withdraw = chat_tenant::contention::withdraw(&self.context);
            let _ = tokio::time::timeout(WITHDRAWAL, withdraw).await;
        }
        self.election.resign().await;
        tracing::info!("stopped");
    }
}
