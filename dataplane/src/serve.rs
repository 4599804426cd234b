//! A serving process: the order in which it starts and ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use minichat_config::ProcessConfig;
use minichat_core::{Clock, SystemClock, Timestamp};
use minichat_metrics::Metrics;
use minichat_provider::{ClientSettings, ProviderClient, check_ca_file};
use minichat_store::{DatabaseSettings, Store};
use minichat_telemetry::{
    Lifecycle, MetricsSettings, Runtimes, ServerTls, Signal, Terminations, Tracer, Workers, metrics,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::admin;
use crate::app::App;
use crate::cleanup::Cleanup;
use crate::config_source::{ConfigSource, StoredPolicyVersions};
use crate::database::{self, Probe};
use crate::drain;
use crate::heartbeat::Heartbeat;
use crate::http;
use crate::jobs::{CleanupHost, Watchdog, WatchdogHost};
use crate::open_turns::OpenTurns;
use crate::outbox::{self, Dispatcher, DispatcherHost, Outbox, Parts};
use crate::settings::{NO_SOURCE, client_settings, render_settings};
use crate::summary::Summarizer;
use crate::thumbnailer::Thumbnailer;
use crate::turn;
use crate::upload_permits::UploadPermits;

/// How long clients may take to read the end of their answers.
const GOODBYE: Duration = Duration::from_secs(2);

/// Aborts a task and waits until it has dropped its handles, the one on the database
/// among them.
async fn end<T>(task: JoinHandle<T>) {
    task.abort();
    // Being aborted is what it reports.
    let _ = task.await;
}

/// A data plane that serves.
pub struct Running {
    /// Where the application listens.
    pub app_addr: SocketAddr,
    /// Where health, metrics and `/configz` are served.
    pub admin_addr: SocketAddr,
    app: Arc<App>,
    application: Listener,
    admin: Listener,
    source: ConfigSource,
    /// The threads that serve the application's connections.
    workers: Workers,
    /// The watchdog of a process that owns a `SQLite` file (D16).
    watchdog: Option<WatchdogHost>,
    /// Deletes files at providers, and knows how many are left.
    cleanup: CleanupHost,
    /// Delivers events.
    dispatcher: DispatcherHost,
    /// Receives the stop requests of other processes on the same PostgreSQL
    /// (D3).
    stops: Option<JoinHandle<()>>,
    /// Says to other processes on the same PostgreSQL that this one lives.
    heartbeat: Option<Heartbeat>,
}

/// Time that a process may take to end in addition to its drain (K8S-50).
const DRAIN_MARGIN: Duration = Duration::from_secs(15);

/// Opens everything, loads the tenants of the source in `config`, and serves.
/// Faults of single tenants do not stop the start: they are logged, shown by
/// `/configz`, and affect only their tenants.
pub async fn start(config: ProcessConfig) -> anyhow::Result<Running> {
    start_traced(config, Tracer::without_export()).await
}

/// Like [`start`], with a tracer that exports traces.
pub async fn start_traced(config: ProcessConfig, tracer: Tracer) -> anyhow::Result<Running> {
    if let Some(file) = &config.outbound.ca_file {
        check_ca_file(file).with_context(|| format!("outbound.ca_file: {}", file.display()))?;
    }
    let tls = tls(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (metrics, exposition) = metrics::start(MetricsSettings {
        prefix: &config.metrics.prefix,
        max_label_values: config.metrics.max_label_values,
    })?;
    let store = Store::open(&database(&config), Arc::clone(&clock))
        .await
        .with_context(|| database::cannot_be_opened(&config.database.url))?;
    outbox::register(&store, &config.outbox).await?;
    // Before anything is served: a pooler would keep requests to stop from us.
    let stops = store.stop_requests().await?;
    let unrecovered = recover(&config, &store, &metrics, clock.now()).await?;
    let source = ConfigSource::start(
        config.source.as_ref().context(NO_SOURCE)?,
        render_settings(&config),
        StoredPolicyVersions::new(store.clone()),
    )
    .await?;
    let application = listen(config.server.bind_addr, "server.bind_addr").await?;
    let admin_listener = listen(config.metrics.bind_addr, "metrics.bind_addr").await?;
    let heartbeat = Heartbeat::start(&store, config.orphan_watchdog.process_timeout).await?;
    let outbox = Outbox::new(
        config.outbox.clone(),
        source.tenants(),
        Arc::clone(&metrics),
    );
    let app = Arc::new(App {
        outbox: Arc::new(outbox),
        survey: Arc::default(),
        tenants: source.tenants(),
        probe: Probe::of(store.clone()),
        store,
        provider: ProviderClient::new(&ClientSettings {
            own_ports: vec![
                application.local_addr()?.port(),
                admin_listener.local_addr()?.port(),
            ],
            ..client_settings(&config)
        }),
        metrics,
        clock,
        process: heartbeat.as_ref().map(Heartbeat::id),
        refusing: Signal::new(),
        turns: OpenTurns::default(),
        uploads: UploadPermits::new(config.uploads.max_concurrent),
        thumbnails: Thumbnailer::new(&config.thumbnails),
        config,
    });
    let lifecycle = Lifecycle::default();
    let admin_router = admin::router(&app, &source, exposition, &lifecycle);
    let workers = Workers::per_core().context("the threads for connections cannot be started")?;
    let running = Running {
        stops: stops.map(|stops| tokio::spawn(turn::obey(app.turns.clone(), stops))),
        heartbeat,
        app_addr: application.local_addr()?,
        admin_addr: admin_listener.local_addr()?,
        application: Listener::serve_on(
            workers.runtimes(),
            application,
            tls,
            http::router(Arc::clone(&app), tracer),
            lifecycle,
        ),
        admin: Listener::serve(admin_listener, admin_router, Lifecycle::default()),
        watchdog: host(&app, unrecovered),
        cleanup: cleanup_host(&app),
        dispatcher: DispatcherHost::start(dispatcher(&app)),
        app,
        source,
        workers,
    };
    log_serving(&running);
    Ok(running)
}

fn log_serving(running: &Running) {
    let default_tenant =
        admin::default_tenant(&running.app).and_then(|id| running.app.tenants.get(id));
    let default_tenant = default_tenant.map(|tenant| tenant.source.to_string());
    tracing::info!(app_addr = %running.app_addr, admin_addr = %running.admin_addr, default_tenant, "serving");
}

/// Ends the turns that the last owner of an `SQLite` file left running, before any
/// request is served (TURN-63). If the disk is full, this has to wait: returns the
/// instant since which turns are this process's own.
async fn recover(
    config: &ProcessConfig,
    store: &Store,
    metrics: &Arc<dyn Metrics>,
    now: Timestamp,
) -> anyhow::Result<Option<Timestamp>> {
    if !store.is_sqlite() {
        return Ok(None);
    }
    let watchdog = Watchdog {
        store: store.clone(),
        metrics: Arc::clone(metrics),
        timeout: config.orphan_watchdog.timeout,
        process_timeout: config.orphan_watchdog.process_timeout,
        open_turns: OpenTurns::default(),
        outbox: Arc::new(Outbox::without_dispatcher(config.outbox.clone())),
    };
    let report = watchdog.recover().await;
    let Some(error) = report.error else {
        return Ok(None);
    };
    match store.probe().await {
        Err(cause) if cause.is_unavailable() => {
            tracing::error!(%error, "turns that were left running cannot be ended yet");
            Ok(Some(now))
        }
        _ => anyhow::bail!("turns that were left running cannot be ended: {error}"),
    }
}

/// Delivers the events of this process, and those that others leave.
fn dispatcher(app: &App) -> Dispatcher {
    Dispatcher::new(Parts {
        store: app.store.clone(),
        outbox: Arc::clone(&app.outbox),
        config: app.config.outbox.clone(),
        tenants: Arc::clone(&app.tenants),
        metrics: Arc::clone(&app.metrics),
        clock: Arc::clone(&app.clock),
        client: app.provider.clone(),
        survey: Arc::clone(&app.survey),
        summarizer: Summarizer {
            store: app.store.clone(),
            client: app.provider.clone(),
            metrics: Arc::clone(&app.metrics),
            settings: app.config.thread_summary_worker.clone(),
            outbox: app.config.outbox.clone(),
        },
    })
}

fn host(app: &App, unrecovered: Option<Timestamp>) -> Option<WatchdogHost> {
    let settings = app.config.orphan_watchdog;
    let interval = (app.store.is_sqlite() && settings.enabled).then_some(settings.scan_interval);
    let is_needed = interval.is_some() || unrecovered.is_some();
    let hosted = || Watchdog {
        open_turns: app.turns.clone(),
        ..watchdog(app)
    };
    is_needed.then(|| WatchdogHost::start(hosted(), unrecovered, interval))
}

fn cleanup_host(app: &App) -> CleanupHost {
    let works = app.store.is_sqlite() && app.config.cleanup_worker.enabled;
    CleanupHost::start(cleanup(app), works)
}

fn cleanup(app: &App) -> Cleanup {
    Cleanup {
        store: app.store.clone(),
        metrics: Arc::clone(&app.metrics),
        tenants: Arc::clone(&app.tenants),
        client: app.provider.clone(),
        settings: app.config.cleanup_worker,
        retention: app.config.retention,
        outbox: Arc::clone(&app.outbox),
        clock: Arc::clone(&app.clock),
    }
}

/// A watchdog that knows no open turns.
fn watchdog(app: &App) -> Watchdog {
    Watchdog {
        store: app.store.clone(),
        metrics: Arc::clone(&app.metrics),
        timeout: app.config.orphan_watchdog.timeout,
        process_timeout: app.config.orphan_watchdog.process_timeout,
        open_turns: OpenTurns::default(),
        outbox: Arc::clone(&app.outbox),
    }
}

fn database(config: &ProcessConfig) -> DatabaseSettings {
    DatabaseSettings {
        // As long as a process that has the file may take to end.
        file_patience: config.drain.min + config.drain.max + DRAIN_MARGIN,
        ..database::settings(&config.database)
    }
}

/// Certificate and key of the application's listener, if the configuration names them (PLAT-168).
pub(crate) fn tls(config: &ProcessConfig) -> anyhow::Result<Option<Arc<ServerTls>>> {
    let Some(files) = &config.server.tls else {
        return Ok(None);
    };
    let tls = ServerTls::read(files.certificate.clone(), files.key.clone());
    Ok(Some(Arc::new(tls.context("server.tls")?)))
}

async fn listen(addr: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("{key}: cannot listen on {addr}"))
}

/// The task of one listener.
struct Listener {
    lifecycle: Lifecycle,
    task: JoinHandle<()>,
}

impl Listener {
    fn serve(listener: TcpListener, router: Router, lifecycle: Lifecycle) -> Self {
        Self::serve_on(Runtimes::default(), listener, None, router, lifecycle)
    }

    fn serve_on(
        runtimes: Runtimes,
        listener: TcpListener,
        tls: Option<Arc<ServerTls>>,
        router: Router,
        lifecycle: Lifecycle,
    ) -> Self {
        let task = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move {
                minichat_telemetry::serve_on(&runtimes, listener, tls, router, lifecycle).await;
            }
        });
        Self { lifecycle, task }
    }
}

impl Running {
    /// A watchdog on this process's database, for tests that control when it
    /// runs. Like a watchdog in another process, it knows no open turns.
    pub fn watchdog(&self) -> Watchdog {
        watchdog(&self.app)
    }

    /// The clean-up of this process, for tests that control when it runs.
    pub fn cleanup(&self) -> Cleanup {
        cleanup(&self.app)
    }

    /// Ends the process in the order of K8S-50.
    pub async fn drain(self, mut signals: Terminations) {
        drain::finish(&self.app, &self.application.lifecycle, signals.next()).await;
        self.stop().await;
    }

    /// Cuts the open streams, waits for their finalization, and ends.
    pub async fn stop(self) {
        let Self {
            app_addr: _,
            admin_addr: _,
            app,
            mut application,
            admin,
            source,
            workers,
            watchdog,
            cleanup,
            dispatcher,
            stops,
            heartbeat,
        } = self;
        drain::cut(&app, &application.lifecycle).await;
        // The listener logs its own failure.
        if tokio::time::timeout(GOODBYE, &mut application.task)
            .await
            .is_err()
        {
            tracing::warn!("some clients did not read the end of their answers in time");
            end(application.task).await;
        }
        // A request that was being admitted at the cut may have opened its turn
        // since then.
        drain::finalized(&app.turns, GOODBYE).await;
        drain::uploads_recorded(&app).await;
        drop(workers);
        // From here on this process ends no turn.
        if let Some(heartbeat) = heartbeat {
            heartbeat.stop().await;
        }
        if let Some(stops) = stops {
            end(stops).await;
        }
        if let Some(watchdog) = watchdog {
            watchdog.stop().await;
        }
        cleanup.stop().await;
        // After the last turns, so that their events have a chance (PLAT-36).
        dispatcher.stop().await;
        admin.lifecycle.stopping.fire();
        end(admin.task).await;
        drop(source);
        tracing::info!("stopped");
    }
}
