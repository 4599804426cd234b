//! A data plane as a separate process, with its database and provider.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use minichat_tests::books::check_balanced;
use minichat_tests::child::{Process, job, job_run, spawn, variables_of_a_pool};
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::disk::Disk;
use minichat_tests::manifest::Tenant;
use minichat_tests::pooler::Pooler;
use minichat_tests::postgres::PostgresDatabase;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::Arguments;
use crate::faults::Fault;
use crate::load::{Pace, Users};
use crate::readiness::{Observer, is_ready};
use crate::server::Server;

/// Size of the disk for a SQLite file.
const DISK: &str = "96m";
/// The pace of every answer: 15 words, one every 200 ms.
const ANSWER: &str = "paced-ttft50-chunks15-interval200";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
/// A settled turn has one usage event and no reserve.
const UNSETTLED: &str = "SELECT (SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0) + \
    abs((SELECT count(*) FROM chat_turns) - \
    (SELECT count(*) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot'))";
const STORED: &str = "SELECT t.request_id, m.content FROM chat_turns t JOIN messages m ON m.id = t.assistant_message_id \
    WHERE t.state = 'completed'";
const CHATS_AT_ONCE: usize = 20;
/// Connections of a pooler to the server: far fewer than clients.
const POOLED: u32 = 8;
/// Users of short answers, in addition to the streams.
const BRISK: usize = 20;

pub(crate) struct Scene {
    dataplane: String,
    process: Option<Process>,
    variables: Vec<(String, String)>,
    api: Api,
    admin: Api,
    tenant: Tenant,
    pub(crate) database: Database,
    logs: PathBuf,
    _provider: ScriptedProvider,
    _pooler: Option<Pooler>,
    server: Option<Server>,
    pub(crate) standby: Option<Server>,
    // Unmounted before the directory is removed.
    disk: Option<Disk>,
    directory: TempDir,
}

/// The contents of the database.
pub(crate) struct Rows {
    pub(crate) running: usize,
    /// Turns without a usage event, and quota rows with a reserve.
    pub(crate) unsettled: usize,
    /// Answers of completed turns, by request id.
    pub(crate) answers: BTreeMap<String, String>,
}

impl Scene {
    pub(crate) async fn open(arguments: &Arguments, fault: Fault) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("minichat-faults-")?;
        let (mut server, mut standby, mut pooler, mut disk) = (None, None, None, None);
        let database = match fault.database() {
            DatabaseKind::Sqlite => {
                let path = directory.path().join("disk");
                let file = path.join("minichat.db");
                if fault.needs_disk() {
                    disk = Some(Disk::mount(path, DISK)?);
                } else {
                    std::fs::create_dir(path)?;
                }
                Database::Sqlite(file)
            }
            DatabaseKind::Postgres => {
                let started = Server::create(&arguments.postgres).await?;
                let database = Database::Postgres(PostgresDatabase::at(started.url()));
                if fault == Fault::Pooler {
                    pooler = Some(Pooler::start(&started.url(), POOLED, "").await?);
                }
                if fault == Fault::Promoted {
                    standby = Some(started.create_standby().await?);
                }
                server = Some(started);
                database
            }
        };
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        tenant.model(Pace::Steady.model())["providerModelId"] = json!(ANSWER);
        let manifests = directory.path().join("manifests");
        std::fs::create_dir(&manifests)?;
        std::fs::write(manifests.join("acme.yaml"), tenant.manifest())?;
        let (app, admin) = (free_port()?, free_port()?);
        let url = match (&pooler, &standby) {
            (Some(pooler), _) => pooler.url(&database.url())?,
            (None, Some(standby)) => url_of_both(&database.url(), standby)?,
            (None, None) => database.url(),
        };
        let mut settings = settings(app, admin, &manifests.display().to_string());
        if pooler.is_some() {
            check_refused(arguments, &url, &settings).await?;
            settings.push_str("\nMINICHAT_DATABASE_LISTEN_URL=");
            settings.push_str(&database.url());
        }
        let mut scene = Self {
            dataplane: arguments.dataplane.display().to_string(),
            process: None,
            variables: variables_of_a_pool(&url, &settings),
            api: Api::new(([127, 0, 0, 1], app).into()),
            admin: Api::new(([127, 0, 0, 1], admin).into()),
            tenant,
            database,
            logs: arguments.logs.join(format!("{fault:?}.log")),
            server,
            standby,
            directory,
            disk,
            _provider: provider,
            _pooler: pooler,
        };
        std::fs::create_dir_all(&arguments.logs)?;
        File::create(&scene.logs)?;
        scene.serve().await?;
        scene.until_ready().await?;
        Ok(scene)
    }

    pub(crate) fn server(&self) -> anyhow::Result<&Server> {
        self.server.as_ref().context("no PostgreSQL")
    }

    /// Starts the data plane.
    pub(crate) async fn serve(&mut self) -> anyhow::Result<()> {
        let mut process = Process::start(&self.dataplane, self.variables.clone()).await?;
        process.write_logs(OpenOptions::new().append(true).open(&self.logs)?);
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("no process")?;
        process.kill().await
    }

    /// Starts users that send messages.
    pub(crate) async fn load(&self, streams: usize) -> anyhow::Result<Users> {
        let create = async |pace: Pace| {
            let user = self.api.acting_as(self.tenant.id, Uuid::new_v4())?;
            let chat = user.create_chat(Some(pace.model())).await?;
            anyhow::Ok((user, chat, pace))
        };
        let steady = std::iter::repeat_n(Pace::Steady, streams);
        let brisk = std::iter::repeat_n(Pace::Brisk, BRISK);
        let users = stream::iter(steady.chain(brisk))
            .map(create)
            .buffer_unordered(CHATS_AT_ONCE);
        Ok(Users::start(users.try_collect().await?))
    }

    pub(crate) fn observe(&self) -> Observer {
        Observer::start(self.admin.clone())
    }

    pub(crate) async fn until_ready(&self) -> anyhow::Result<()> {
        let polling = async {
            while !is_ready(&self.admin).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let ready = tokio::time::timeout(Duration::from_mins(1), polling).await;
        ready.with_context(|| format!("not ready within a minute: see {}", self.logs.display()))
    }

    /// Fills the disk completely. Returns the file that fills it.
    pub(crate) fn fill_disk(&self) -> anyhow::Result<PathBuf> {
        self.disk.as_ref().context("no disk")?.fill()
    }

    pub(crate) async fn rows(&self) -> anyhow::Result<Rows> {
        let stored = self.database.query(STORED).await?.into_iter();
        let answers = stored.filter_map(|row| {
            let [request, answer] = <[_; 2]>::try_from(row).ok()?;
            Some((request?, answer?))
        });
        Ok(Rows {
            running: usize::try_from(self.database.number(RUNNING).await?)?,
            unsettled: usize::try_from(self.database.number(UNSETTLED).await?)?,
            answers: answers.collect(),
        })
    }

    /// Runs the watchdog on the remaining turns, as if they were old enough, and checks
    /// that the books balance.
    pub(crate) async fn end_orphans(&self) -> anyhow::Result<()> {
        self.database.age_turns("state = 'running'").await?;
        match &self.database {
            Database::Postgres(database) => {
                let job = job(&self.dataplane, &["watchdog"], database.url())?;
                let run = job_run(job).await?;
                ensure!(run.status.success(), "{run:?}");
            }
            Database::Sqlite(_) => {
                for _ in 0..100 {
                    if self.database.number(RUNNING).await? == 0 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        check_balanced(&self.database).await
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.kill().await?;
        drop(self.disk.take());
        self.directory.close()?;
        Ok(())
    }
}

/// A pooler in transaction mode is refused with a message that says what to
/// write.
async fn check_refused(arguments: &Arguments, url: &str, settings: &str) -> anyhow::Result<()> {
    let variables = variables_of_a_pool(url, settings);
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let program = arguments.dataplane.display().to_string();
    let output = spawn(&program, &["serve"], &variables)?
        .wait_with_output()
        .await?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let is_refused = !output.status.success() && said.contains("database.listen_url");
    ensure!(is_refused, "a pooler without database.listen_url: {said}");
    Ok(())
}

/// The database of `url`, on that server or on `standby`.
fn url_of_both(url: &str, standby: &Server) -> anyhow::Result<String> {
    let (server, name) = url.rsplit_once('/').context("a URL without a database")?;
    Ok(format!("{server},127.0.0.1:{}/{name}", standby.port))
}

/// Time limits that are shorter than a fault.
fn settings(app: u16, admin: u16, manifests: &str) -> String {
    format!(
        "MINICHAT_SOURCE_MANIFESTS={manifests}\n\
         MINICHAT_SERVER_BIND_ADDR=127.0.0.1:{app}\n\
         MINICHAT_METRICS_BIND_ADDR=127.0.0.1:{admin}\n\
         MINICHAT_DATABASE_MAX_CONNS=20\n\
         MINICHAT_DATABASE_JOB_TIMEOUT_SECS=5\n\
         MINICHAT_DATABASE_STATEMENT_TIMEOUT_SECS=3\n\
         MINICHAT_DATABASE_LOCK_TIMEOUT_SECS=2\n\
         MINICHAT_DATABASE_CONNECT_TIMEOUT_SECS=2\n\
         MINICHAT_ORPHAN_WATCHDOG_SCAN_INTERVAL_SECS=1"
    )
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
