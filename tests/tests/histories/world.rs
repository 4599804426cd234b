//! The data plane of one history, in one process. It is assembled like a real
//! start, but the test controls time and order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use minichat_config::{Credentials, ProcessConfig, TenantConfig};
use minichat_core::{Clock, Timestamp};
use minichat_dataplane::app::App;
use minichat_dataplane::config_source::{StoredPolicyVersions, TenantRuntime, Tenants};
use minichat_dataplane::database::Probe;
use minichat_dataplane::drain;
use minichat_dataplane::jobs::Watchdog;
use minichat_dataplane::open_turns::OpenTurns;
use minichat_dataplane::outbox::Outbox;
use minichat_dataplane::thumbnailer::Thumbnailer;
use minichat_dataplane::upload_permits::UploadPermits;
use minichat_metrics::{Metrics, RecordingMetrics};
use minichat_provider::{ClientSettings, ProviderClient};
use minichat_store::testing::Turnstile;
use minichat_store::{DatabaseSettings, Store};
use minichat_telemetry::{Lifecycle, Signal, Tracer};
use minichat_tests::books::check_balanced;
use minichat_tests::database::Database;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::Place;
use crate::facts::Window;
use crate::model;
use crate::provider::Provider;

pub(crate) const TENANT: Uuid = Uuid::from_u128(0x1111_1111_1111_4111_8111_1111_1111_1111);

/// The owner of the tenant.
const OWNER: &str = "default/acme";

/// A clock that the test moves.
#[derive(Default)]
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn set(&self, micros: i64) {
        self.0.store(micros, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What survives the crashes of a history and is used for several histories.
pub(crate) struct World {
    pub(crate) clock: Arc<HandClock>,
    pub(crate) window: Window,
    config: ProcessConfig,
    tenants: Arc<Tenants>,
    database: Database,
    /// On SQLite it stays open between histories; a crash closes it.
    store: Option<Store>,
    _directory: TempDir,
}

/// One process, from its start to its crash or to the end of the history.
pub(crate) struct Life {
    pub(crate) router: Router,
    pub(crate) app: Arc<App>,
    pub(crate) metrics: Arc<RecordingMetrics>,
    pub(crate) provider: Provider,
    pub(crate) turnstile: Turnstile,
    /// It does not wait at the turnstile.
    pub(crate) recovery: Watchdog,
    idle: Arc<Notify>,
}

/// A process that received SIGTERM, until it ends.
pub(crate) struct Drain {
    pub(crate) run: JoinHandle<()>,
    /// The second signal.
    pub(crate) hurry: Signal,
}

impl World {
    pub(crate) fn create(place: Place) -> anyhow::Result<Self> {
        let directory = directory()?;
        let clock = Arc::<HandClock>::default();
        let tenant = tenant()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let database = runtime.block_on(async {
            let database = Database::create(place.kind, directory.path()).await?;
            let database = match place.plan {
                Some(plan) => database.with_settings(&plan.settings()),
                None => database,
            };
            prepare(&database, Arc::clone(&clock), &tenant).await?;
            for sql in place.plan.iter().flat_map(|plan| plan.statements()) {
                database.query(&sql).await?;
            }
            anyhow::Ok(database)
        })?;
        let served = TenantRuntime::new(OWNER.parse()?, tenant, 1, Credentials::default());
        let tenants = Arc::<Tenants>::default();
        tenants.replace(HashMap::from([(TENANT.into(), Arc::new(served))]), None);
        Ok(Self {
            config: process_config()?,
            tenants,
            window: Window::open(&database)?,
            clock,
            database,
            store: None,
            _directory: directory,
        })
    }

    /// Whether a start ends the turns of the previous process (TURN-63).
    pub(crate) fn recovers(&self) -> bool {
        matches!(self.database, Database::Sqlite(_))
    }

    pub(crate) const fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn set_time(&self, micros: i64) -> anyhow::Result<()> {
        self.clock.set(micros);
        self.window.set_time(micros)
    }

    /// Starts a process. Must be called inside its runtime.
    pub(crate) async fn start(&mut self, process: &Process) -> anyhow::Result<Life> {
        let clock: Arc<dyn Clock> = Arc::<HandClock>::clone(&self.clock);
        let store = match self.store.take() {
            Some(store) => store,
            None => open(&self.database, Arc::clone(&clock)).await?,
        };
        // Connections to a server belong to the runtime.
        self.store = self.recovers().then(|| store.clone());
        let metrics = Arc::<RecordingMetrics>::default();
        let provider = Provider::default();
        let outbox = Outbox::without_dispatcher(self.config.outbox.clone());
        let outbox = Arc::new(outbox);
        let recovery = Watchdog {
            store: store.clone(),
            metrics: Arc::<RecordingMetrics>::clone(&metrics) as Arc<dyn Metrics>,
            timeout: model::WATCHDOG_TIMEOUT,
            process_timeout: model::WATCHDOG_TIMEOUT,
            open_turns: OpenTurns::default(),
            outbox: Arc::clone(&outbox),
        };
        let app = Arc::new(App {
            config: self.config.clone(),
            tenants: Arc::clone(&self.tenants),
            probe: Probe::of(store.clone()),
            store: store.behind(process.turnstile.clone()),
            provider: ProviderClient::in_memory(&ClientSettings::default(), provider.dial()),
            metrics: Arc::<RecordingMetrics>::clone(&metrics) as Arc<dyn Metrics>,
            clock,
            process: None,
            outbox,
            survey: Arc::default(),
            refusing: Signal::new(),
            turns: OpenTurns::default(),
            uploads: UploadPermits::new(self.config.uploads.max_concurrent),
            thumbnails: Thumbnailer::new(&self.config.thumbnails),
        });
        Ok(Life {
            router: minichat_dataplane::http::router(Arc::clone(&app), Tracer::without_export()),
            app,
            metrics,
            provider,
            turnstile: process.turnstile.clone(),
            recovery,
            idle: Arc::clone(&process.idle),
        })
    }

    /// Checks that the books of all that happened balance, and removes what is not in
    /// the world's directory.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            check_balanced(&self.database).await?;
            self.database.remove().await
        })
    }

    /// The process ends at once, with its handle on the database.
    pub(crate) fn crash(&mut self) {
        self.store = None;
    }
}

impl Life {
    pub(crate) fn watchdog(&self) -> Watchdog {
        Watchdog {
            store: self.app.store.clone(),
            ..self.recovery.clone()
        }
    }

    /// What a process does after SIGTERM, including the end of its listener.
    pub(crate) fn terminate(&self) -> Drain {
        let (app, hurry) = (Arc::clone(&self.app), Signal::new());
        let again = hurry.clone();
        let run = tokio::spawn(async move {
            let lifecycle = Lifecycle::default();
            drain::finish(&app, &lifecycle, again.fired()).await;
            drain::cut(&app, &lifecycle).await;
        });
        Drain { run, hurry }
    }

    /// Returns when nothing can continue by itself.
    pub(crate) async fn settle(&self) {
        // The first may be left from an earlier idle period. Due timers fire
        // after the second, and the tasks that they wake have run at the third.
        for _ in 0..3 {
            self.idle.notified().await;
        }
    }
}

/// The runtime of one process: one thread, whose time stands still.
pub(crate) struct Process {
    runtime: Option<Runtime>,
    turnstile: Turnstile,
    idle: Arc<Notify>,
    /// While a blocking task runs, the runtime does not move the time forward.
    /// This task ends with the sender.
    brake: Option<mpsc::Sender<()>>,
}

impl Process {
    pub(crate) fn spawn() -> anyhow::Result<Self> {
        let turnstile = Turnstile::default();
        let idle = Arc::<Notify>::default();
        let (at_turnstile, notified) = (turnstile.clone(), Arc::clone(&idle));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .on_thread_park(move || {
                if at_turnstile.inside() == 0 {
                    notified.notify_one();
                }
            })
            .build()?;
        let (brake, held) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || held.recv());
        Ok(Self {
            runtime: Some(runtime),
            turnstile,
            idle,
            brake: Some(brake),
        })
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let runtime = self.runtime.as_ref().context("the process is gone")?;
        Ok(runtime.block_on(work))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.brake.take());
        drop(self.runtime.take());
    }
}

async fn prepare(
    database: &Database,
    clock: Arc<HandClock>,
    tenant: &TenantConfig,
) -> anyhow::Result<()> {
    if let Database::Postgres(_) = database {
        for sql in CLOCK_OF_POSTGRES {
            database.query(sql).await?;
        }
    }
    let store = open(database, clock).await?;
    StoredPolicyVersions::new(store)
        .store(&OWNER.parse()?, tenant, 1)
        .await?;
    Ok(())
}

/// Replaces the server's clock by one that stands still.
const CLOCK_OF_POSTGRES: [&str; 6] = [
    "CREATE SCHEMA simulated",
    "CREATE TABLE simulated.clock (now TIMESTAMPTZ NOT NULL)",
    "INSERT INTO simulated.clock VALUES (TIMESTAMPTZ 'epoch')",
    "CREATE FUNCTION simulated.statement_timestamp() RETURNS TIMESTAMPTZ \
     LANGUAGE SQL STABLE AS 'SELECT now FROM simulated.clock'",
    "CREATE FUNCTION simulated.clock_timestamp() RETURNS TIMESTAMPTZ \
     LANGUAGE SQL STABLE AS 'SELECT now FROM simulated.clock'",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = \
     public, simulated, pg_catalog', current_database()); END $$",
];

async fn open(database: &Database, clock: Arc<dyn Clock>) -> anyhow::Result<Store> {
    let settings = DatabaseSettings {
        max_conns: if matches!(database, Database::Sqlite(_)) {
            1
        } else {
            4
        },
        ..DatabaseSettings::new(database.url())
    };
    Ok(Store::open(&settings, clock).await?)
}

/// In memory if the machine has a directory for it, because a flush to disk
/// takes longer than everything else together.
fn directory() -> anyhow::Result<TempDir> {
    let memory = TempDir::with_prefix_in("minichat-histories-", "/dev/shm");
    Ok(memory.or_else(|_| TempDir::with_prefix("minichat-histories-"))?)
}

fn process_config() -> anyhow::Result<ProcessConfig> {
    let yaml = format!(
        "auth: {{mode: trusted_headers, trusted_peers: [127.0.0.1]}}\n\
         server: {{rate_limit: {{per_second: 0, burst: 0}}}}\n\
         provider_http: {{allow_http: true}}\n\
         drain: {{min_secs: {}, max_secs: {}}}\n",
        model::DRAIN_MIN.as_secs(),
        model::DRAIN_MAX.as_secs()
    );
    ProcessConfig::from_yaml(&yaml, []).map_err(|faults| anyhow::anyhow!("{faults}"))
}

fn tenant() -> anyhow::Result<TenantConfig> {
    let seconds = |limit: Duration| limit.as_secs();
    let document = json!({
        "schema": 1,
        "tenant_id": TENANT,
        "max_output_tokens": model::MAX_OUTPUT,
        "providers": {"llm": {
            "kind": "openai_responses", "host": "provider", "port": 1, "use_http": true,
            "timeouts": {
                "first_byte_seconds": seconds(model::FIRST_BYTE_LIMIT),
                "idle_seconds": seconds(model::IDLE_LIMIT),
                "total_seconds": seconds(model::TOTAL_LIMIT),
            },
        }},
        "model_catalog": [{
            "id": "std",
            "provider_model_id": "std-at-provider",
            "display_name": "Standard",
            "provider_id": "llm",
            "tier": "standard",
            "enabled": true,
            "context_window": 128_000,
            "max_output_tokens": model::MAX_OUTPUT,
            "max_input_tokens": 120_000,
            "input_tokens_credit_multiplier_micro": 1_000_000,
            "output_tokens_credit_multiplier_micro": 3_000_000,
            "multimodal_capabilities": ["VISION_INPUT"],
            "estimation_budgets": {
                "image_token_budget": model::IMAGE_TOKENS,
                "web_search_surcharge_tokens": model::WEB_SEARCH_TOKENS,
                "code_interpreter_surcharge_tokens": model::CODE_INTERPRETER_TOKENS,
            },
            "general_config": {"tool_support": {"web_search": true, "code_interpreter": true}},
            "preference": {"is_default": true, "sort_order": 0},
        }],
        "images": {"max_per_message": model::MAX_IMAGES},
        "context": {"web_search_guard": ""},
        "user_limits": {"default": {
            "standard": {
                "limit_daily_credits_micro": model::DAILY_LIMIT,
                "limit_monthly_credits_micro": model::MONTHLY_LIMIT,
            },
            "premium": {"limit_daily_credits_micro": 0, "limit_monthly_credits_micro": 0},
            "overshoot_tolerance_pct": model::OVERSHOOT_PCT,
            "web_search_max_calls_per_message": model::MAX_CALLS,
            "web_search_daily_quota": model::DAILY_CALLS,
            "code_interpreter_max_calls_per_message": model::MAX_CALLS,
            "code_interpreter_daily_quota": model::DAILY_CALLS,
        }},
    });
    TenantConfig::from_json(&document.to_string()).map_err(|faults| anyhow::anyhow!("{faults}"))
}
