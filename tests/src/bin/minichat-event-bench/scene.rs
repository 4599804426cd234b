//! One run: processes on a database, tenants with webhooks, and turns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_tests::child::{job, job_run};
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::manifest::Tenant;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::load::Load;
use crate::pods::Pods;
use crate::receiver::{Receivers, Sickness};

/// How long the remaining events may take once everything is healthy.
const DRAIN: Duration = Duration::from_mins(4);
const POLL: Duration = Duration::from_millis(500);
const WATCH: Duration = Duration::from_secs(5);
/// Dead letters that one command requeues.
const AT_ONCE: usize = 1000;
const PENDING: &str = "SELECT count(*) FROM outbox_messages WHERE done_at IS NULL";
const PARKED: &str = "SELECT count(*) FROM outbox_parked";
const LETTERS: &str = "SELECT count(*) FROM outbox_dead_letters WHERE status = 'pending'";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) database: DatabaseKind,
    pub(crate) processes: usize,
    pub(crate) tenants: usize,
    pub(crate) turns: usize,
    /// Turns in a second.
    pub(crate) rate: usize,
    /// Whether every fifth tenant's receivers are sick until the turns have ended.
    pub(crate) sick: bool,
    pub(crate) kill_every: Option<Duration>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Result {
    pub(crate) ledger: Ledger,
    pub(crate) answered: usize,
    pub(crate) kills: usize,
    pub(crate) dead_letters: usize,
}

pub(crate) struct Scene {
    plan: Plan,
    program: PathBuf,
    database: Database,
    receivers: Receivers,
    tenants: Vec<Tenant>,
    pods: Pods,
    _provider: ScriptedProvider,
    _directory: TempDir,
}

impl Scene {
    pub(crate) async fn open(programs: &Path, plan: Plan) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("minichat-events-")?;
        let database = Database::create(plan.database, directory.path()).await?;
        let receivers = Receivers::start(plan.sick).await?;
        let provider = ScriptedProvider::start().await?;
        let manifests = directory.path().join("manifests");
        std::fs::create_dir(&manifests)?;
        let mut tenants = Vec::new();
        for place in 0..plan.tenants {
            let mut tenant = Tenant::new(&format!("tenant-{place}"), provider.addr);
            let sink = |name: &str, more: Value| {
                let mut webhook = json!({"url": receivers.url(place, name)});
                if let (Some(webhook), Some(more)) = (webhook.as_object_mut(), more.as_object()) {
                    webhook.extend(more.clone());
                }
                json!({"type": "Webhook", "webhook": webhook})
            };
            tenant.spec()["usageSink"] = sink("usage", json!({}));
            let batch =
                json!({"format": "CloudEvents", "batch": {"maxEvents": 50, "maxSeconds": 0}});
            tenant.spec()["auditSink"] = sink("audit", batch);
            tenant.model("std")["providerModelId"] = json!("paced-ttft0-chunks1-interval0");
            let generous = (1_000_000_000_000, 1_000_000_000_000);
            let tenant = tenant.with_limits(generous, generous);
            let file = manifests.join(format!("{}.yaml", tenant.name));
            std::fs::write(file, tenant.manifest())?;
            tenants.push(tenant);
        }
        let program = programs.join("minichat-dataplane");
        let pods = Pods::start(&program, &database.url(), directory.path(), plan.processes).await?;
        Ok(Self {
            plan,
            program,
            database,
            receivers,
            tenants,
            pods,
            _provider: provider,
            _directory: directory,
        })
    }

    pub(crate) async fn run(self) -> anyhow::Result<Result> {
        let Self {
            plan,
            program,
            database,
            mut receivers,
            tenants,
            pods,
            _provider,
            _directory,
        } = self;
        let answered = Arc::new(AtomicUsize::new(0));
        let load = Load {
            tenants: tenants.iter().map(|tenant| tenant.id).collect(),
            apis: pods.apis.clone(),
            turns: plan.turns,
            rate: plan.rate,
            answered: Arc::clone(&answered),
        };
        let began = Instant::now();
        // Ends when it is dropped.
        let mut watching = JoinSet::new();
        watching.spawn(watch(database.clone(), Arc::clone(&answered), began));
        let (pods, kills) = if let Some(interval) = plan.kill_every {
            let killing = pods.killed_every(interval);
            load.run().await?;
            killing.stop().await?
        } else {
            load.run().await?;
            (pods, 0)
        };
        let answered = answered.load(Ordering::Relaxed);
        eprintln!(
            "{:.0?}: the turns have ended, {kills} kills",
            began.elapsed()
        );
        let program = program.to_str().context("the path is no text")?;
        if let Database::Postgres(server) = &database {
            database.age_turns("state = 'running'").await?;
            let run = job_run(job(program, &["watchdog"], server.url())?).await?;
            ensure!(run.status.success(), "{run:?}");
        }
        ensure!(database.number(RUNNING).await? == 0, "a turn is open");
        receivers.heal()?;
        let dead_letters = requeue_all(program, &database).await?;
        // What was on its way to a receiver that refused it became a dead letter later.
        let draining = async {
            until_delivered(&database).await?;
            while requeue_all(program, &database).await? > 0 {
                until_delivered(&database).await?;
            }
            anyhow::Ok(())
        };
        let drained = tokio::time::timeout(DRAIN, draining).await;
        drained.context("events are left")??;
        pods.end().await?;
        let named = |wanted: fn(Sickness) -> bool| -> BTreeSet<String> {
            let places = tenants.iter().enumerate();
            let places = places.filter(|(place, _)| receivers.sickness(*place).is_some_and(wanted));
            places.map(|(_, tenant)| tenant.id.to_string()).collect()
        };
        let received = receivers.received();
        let refusing = named(|sickness| sickness == Sickness::Status(410));
        let ledger = Ledger::read(&database, &received, &named(|_| true), &refusing).await?;
        database.remove().await?;
        Ok(Result {
            ledger,
            answered,
            kills,
            dead_letters,
        })
    }
}

/// Says every few seconds how far a run is.
async fn watch(database: Database, answered: Arc<AtomicUsize>, began: Instant) {
    loop {
        tokio::time::sleep(WATCH).await;
        let answered = answered.load(Ordering::Relaxed);
        let count = async |sql| database.number(sql).await.unwrap_or(-1);
        let (pending, parked) = (count(PENDING).await, count(PARKED).await);
        let letters = count(LETTERS).await;
        eprintln!(
            "{:.0?}: {answered} turns answered, {pending} events wait, {parked} sinks are parked, {letters} dead letters",
            began.elapsed()
        );
    }
}

async fn until_delivered(database: &Database) -> anyhow::Result<()> {
    while database.number(PENDING).await? > 0 {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Puts all dead letters back into their queues; returns how many there were.
async fn requeue_all(program: &str, database: &Database) -> anyhow::Result<usize> {
    let pending = "SELECT id FROM outbox_dead_letters WHERE status = 'pending'";
    let pending = database
        .query(pending)
        .await?
        .into_iter()
        .flatten()
        .flatten();
    let ids: Vec<String> = pending.collect();
    for some in ids.chunks(AT_ONCE) {
        let mut arguments = vec!["dead-letter", "requeue"];
        arguments.extend(some.iter().map(String::as_str));
        let requeue = job(program, &arguments, &database.url())?.wait_with_output();
        let output = requeue.await?;
        ensure!(output.status.success(), "{output:?}");
    }
    Ok(ids.len())
}
