//! Runs the data plane in this process, on ephemeral ports, with a fresh
//! directory and database and a scripted provider.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_config::ProcessConfig;
use minichat_dataplane::Running;
use minichat_dataplane::cleanup::Cleanup;
use minichat_dataplane::jobs::Watchdog;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::client::{Answer, Api};
use crate::database::{Database, DatabaseKind};
use crate::exposition::Scrape;
use crate::manifest::Tenant;
use crate::postgres_proxy::PostgresProxy;
use crate::scripted_provider::{Ending, Scenario, ScriptedProvider};
use crate::sse::{Event, EventStream};

/// Maximum duration of one test.
const CLAIM_LIMIT: Duration = Duration::from_mins(3);
/// How long [`Stack::eventually`] waits.
const EVENTUALLY_LIMIT: Duration = Duration::from_secs(10);

/// The start of a test: an empty directory and a fresh database.
#[derive(Debug)]
pub struct Env {
    pub database: Database,
    directory: TempDir,
}

/// A running data plane.
pub struct Stack {
    /// A caller without identity on the application listener.
    pub api: Api,
    /// A caller on the admin listener.
    pub admin: Api,
    pub database: Database,
    manifests: PathBuf,
    running: Running,
}

/// A running data plane with one tenant and its provider.
pub struct Scene {
    pub provider: ScriptedProvider,
    pub tenant: Tenant,
    pub stack: Stack,
}

impl Env {
    async fn new(kind: DatabaseKind) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("minichat-test-")?;
        let database = Database::create(kind, directory.path()).await?;
        for name in ["manifests", "rendered"] {
            std::fs::create_dir(directory.path().join(name))?;
        }
        Ok(Self {
            database,
            directory,
        })
    }

    /// Another place with the same manifests and an empty database, which whoever asks
    /// for it removes.
    pub async fn another(&self) -> anyhow::Result<Self> {
        let another = Self::new(self.database.kind()).await?;
        for file in std::fs::read_dir(self.manifests())? {
            let file = file?;
            std::fs::copy(file.path(), another.manifests().join(file.file_name()))?;
        }
        Ok(another)
    }

    /// A file of the test, which nothing reads or writes by itself.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// The directory of rendered tenants.
    pub fn rendered(&self) -> PathBuf {
        self.directory.path().join("rendered")
    }

    /// Writes the rendered `tenant` to `file` atomically.
    pub fn write_rendered(&self, file: &str, tenant: &Tenant, version: u64) -> anyhow::Result<()> {
        write_file(&self.rendered(), file, &tenant.rendered(version)?)
    }

    /// Writes `name.yaml` into the manifests directory atomically.
    pub fn write_manifest(&self, name: &str, text: &str) -> anyhow::Result<()> {
        write_manifest(&self.manifests(), name, text)
    }

    /// Serves one tenant, the fixture of chapter 03.
    pub async fn scene(&self) -> anyhow::Result<Scene> {
        self.scene_with(|tenant| tenant).await
    }

    /// Serves one tenant after `change`.
    pub async fn scene_with(&self, change: impl FnOnce(Tenant) -> Tenant) -> anyhow::Result<Scene> {
        let provider = ScriptedProvider::start().await?;
        let tenant = change(Tenant::new("acme", provider.addr));
        let stack = self.serve(&[&tenant]).await?;
        Ok(Scene {
            provider,
            tenant,
            stack,
        })
    }

    /// Serves one tenant from a database behind a proxy; `settings` as for
    /// [`Self::serve_with`].
    pub async fn proxied_scene(&self, settings: &str) -> anyhow::Result<(Scene, PostgresProxy)> {
        let proxy = PostgresProxy::start(&self.database.url()).await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = format!("{settings}\nMINICHAT_DATABASE_URL={}", proxy.url());
        let stack = self.serve_with(&[&tenant], settings.trim()).await?;
        let scene = Scene {
            provider,
            tenant,
            stack,
        };
        Ok((scene, proxy))
    }

    /// Serves `tenants`, with identities from headers and without admission
    /// limits.
    pub async fn serve(&self, tenants: &[&Tenant]) -> anyhow::Result<Stack> {
        self.serve_with(tenants, "").await
    }

    /// The same; `settings` are further lines of the process configuration,
    /// which take precedence.
    pub async fn serve_with(&self, tenants: &[&Tenant], settings: &str) -> anyhow::Result<Stack> {
        for tenant in tenants {
            self.write_manifest(&tenant.name, &tenant.manifest())?;
        }
        let stack = self.start_with(&self.manifests(), settings).await?;
        stack
            .eventually("ready", async || {
                Ok(stack.admin.get_absolute("/readyz").await?.status == 200)
            })
            .await?;
        Ok(stack)
    }

    /// Serves the manifests of a directory, without waiting until it is ready.
    pub async fn start_with(&self, manifests: &Path, settings: &str) -> anyhow::Result<Stack> {
        let variables = variables(&self.database.url(), manifests, settings);
        self.start(variables, manifests).await
    }

    /// Serves the rendered tenants of [`Self::rendered`], without waiting until
    /// it is ready.
    pub async fn start_rendered(&self, settings: &str) -> anyhow::Result<Stack> {
        let directory = self.rendered();
        let source = (
            "MINICHAT_SOURCE_DIRECTORY".to_owned(),
            directory.display().to_string(),
        );
        let variables = variables_without_source(&self.database.url(), settings);
        self.start(std::iter::once(source).chain(variables), &directory)
            .await
    }

    async fn start(
        &self,
        variables: impl Iterator<Item = (String, String)>,
        manifests: &Path,
    ) -> anyhow::Result<Stack> {
        let config = ProcessConfig::load(None, variables);
        let config = config.map_err(|faults| anyhow::anyhow!("{faults}"))?;
        let running = minichat_dataplane::start(config).await?;
        Ok(Stack {
            api: Api::new(running.app_addr),
            admin: Api::new(running.admin_addr),
            database: self.database.clone(),
            manifests: manifests.to_owned(),
            running,
        })
    }
}

impl Stack {
    /// `user` of `tenant`.
    pub fn caller(&self, tenant: &Tenant, user: Uuid) -> anyhow::Result<Api> {
        self.api.acting_as(tenant.id, user)
    }

    /// A new user of `tenant`.
    pub fn new_user(&self, tenant: &Tenant) -> anyhow::Result<Api> {
        self.caller(tenant, Uuid::new_v4())
    }

    /// Address of the application listener.
    pub fn app_addr(&self) -> SocketAddr {
        self.running.app_addr
    }

    /// Address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.running.admin_addr
    }

    /// The watchdog of the data plane's database. The test runs it.
    pub fn watchdog(&self) -> Watchdog {
        self.running.watchdog()
    }

    /// The clean-up of the data plane. The test runs it.
    pub fn cleanup(&self) -> Cleanup {
        self.running.cleanup()
    }

    /// Writes or replaces a manifest file while the data plane runs.
    pub fn write_manifest(&self, name: &str, text: &str) -> anyhow::Result<()> {
        write_manifest(&self.manifests, name, text)
    }

    /// Replaces a tenant by `tenant`, and waits until it is served so.
    pub async fn apply(&self, tenant: &Tenant) -> anyhow::Result<()> {
        let before = self.configz(tenant).await?["revision"].clone();
        self.write_manifest(&tenant.name, &tenant.manifest())?;
        let is_applied = async || Ok(self.configz(tenant).await?["revision"] != before);
        self.eventually("applied", is_applied).await
    }

    pub async fn scrape(&self) -> anyhow::Result<Scrape> {
        let answer = self.admin.get_absolute("/metrics").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let media_type = answer.header("content-type");
        ensure!(
            media_type.starts_with("text/plain; version=0.0.4"),
            "{media_type}"
        );
        Scrape::parse(std::str::from_utf8(&answer.body)?)
    }

    /// The entry of `tenant` in `/configz` (K8S-22).
    pub async fn configz(&self, tenant: &Tenant) -> anyhow::Result<Value> {
        let entries = self.admin.get_absolute("/configz").await?.expect(200)?;
        let id = tenant.id.to_string();
        let entry = entries
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["tenant_id"] == id.as_str());
        entry
            .cloned()
            .with_context(|| format!("{id} is not in {entries}"))
    }

    /// Waits until `condition` holds, for what the data plane does in the
    /// background.
    pub async fn eventually(
        &self,
        what: &str,
        condition: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let polling = async {
            while !condition().await? {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        tokio::time::timeout(EVENTUALLY_LIMIT, polling)
            .await
            .with_context(|| format!("not {what} within {EVENTUALLY_LIMIT:?}"))?
    }

    /// Stops the data plane as SIGTERM does.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.running.stop().await;
        Ok(())
    }
}

/// A turn whose provider has sent text and holds the end back until
/// `scene.provider.release(1)`.
pub struct Held {
    pub user: Api,
    pub chat: String,
    pub started: Event,
    pub stream: EventStream,
}

impl Scene {
    /// A turn of a new user that lasts as long as the test needs.
    pub async fn held(&self) -> anyhow::Result<Held> {
        self.held_with("std", "hello").await
    }

    /// The same, with a model and a message.
    pub async fn held_with(&self, model: &str, content: &str) -> anyhow::Result<Held> {
        self.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&["part"], Ending::Completed)
        });
        let user = self.new_user()?;
        let chat = user.create_chat(Some(model)).await?;
        let mut stream = user.open(&chat, &json!({"content": content})).await?;
        let started = stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        Ok(Held {
            user,
            chat,
            started,
            stream,
        })
    }

    /// A new user.
    pub fn new_user(&self) -> anyhow::Result<Api> {
        self.stack.new_user(&self.tenant)
    }

    pub fn database(&self) -> &Database {
        &self.stack.database
    }

    /// Fails if refused requests left anything behind (API-65).
    pub async fn check_nothing_written(&self) -> anyhow::Result<()> {
        for table in ["chat_turns", "messages", "quota_usage", "outbox_messages"] {
            let rows = self
                .database()
                .number(&format!("SELECT count(*) FROM {table}"))
                .await?;
            let reserved = table == "quota_usage" && rows > 0;
            if reserved {
                let sum = "SELECT CAST(sum(reserved_credits_micro + spent_credits_micro) AS BIGINT) \
                    FROM quota_usage";
                ensure!(self.database().number(sum).await? == 0, "a reserve is left");
            } else {
                ensure!(rows == 0, "{rows} rows in {table}");
            }
        }
        ensure!(
            self.provider.requests().is_empty(),
            "the provider was called"
        );
        Ok(())
    }
}

/// The whole `answer` as text, to check for texts anywhere in it.
pub fn whole_text(answer: &Answer) -> String {
    format!(
        "{:?}\n{}",
        answer.headers,
        String::from_utf8_lossy(&answer.body)
    )
}

/// Makes the file appear at once, with its whole content.
fn write_file(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let draft = directory.join(format!(".{name}.draft"));
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, directory.join(name))?;
    Ok(())
}

fn write_manifest(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    write_file(directory, &format!("{name}.yaml"), text)
}

/// The process configuration of tests as environment variables. Those of
/// `settings`, one per line, take precedence.
pub(crate) fn variables(
    database_url: &str,
    manifests: &Path,
    settings: &str,
) -> impl Iterator<Item = (String, String)> + use<> {
    let manifests = manifests.display().to_string();
    let source = ("MINICHAT_SOURCE_MANIFESTS".to_owned(), manifests);
    std::iter::once(source).chain(variables_without_source(database_url, settings))
}

/// The same without a tenant source.
pub(crate) fn variables_without_source(
    database_url: &str,
    settings: &str,
) -> impl Iterator<Item = (String, String)> + use<> {
    let settings_of_tests = [
        ("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:0"),
        ("MINICHAT_METRICS_BIND_ADDR", "127.0.0.1:0"),
        ("MINICHAT_SERVER_RATE_LIMIT_PER_SECOND", "0"),
        ("MINICHAT_SERVER_RATE_LIMIT_BURST", "0"),
        ("MINICHAT_DATABASE_URL", database_url),
        ("MINICHAT_AUTH_MODE", "trusted_headers"),
        ("MINICHAT_AUTH_TRUSTED_PEERS", "127.0.0.0/8"),
        ("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP", "true"),
        ("MINICHAT_OUTBOUND_ALLOW_PRIVATE", "127.0.0.0/8"),
        ("MINICHAT_LOGGING_LEVEL", "warn"),
        ("MINICHAT_DRAIN_MAX_SECS", "1"),
    ];
    let given = settings.lines().filter_map(|line| line.split_once('='));
    let env: Vec<_> = settings_of_tests
        .into_iter()
        .chain(given)
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect();
    env.into_iter()
}

/// Runs `claim` on a fresh database of `kind`.
pub fn run<F, Fut>(kind: DatabaseKind, claim: F) -> anyhow::Result<()>
where
    F: FnOnce(Env) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let env = Env::new(kind).await?;
        let database = env.database.clone();
        let result = tokio::time::timeout(CLAIM_LIMIT, claim(env))
            .await
            .with_context(|| format!("the claim takes longer than {CLAIM_LIMIT:?}"))?;
        let removed = database.remove().await;
        result.and(removed)
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Makes two tests of each function, `name::sqlite` and `name::postgres`.
/// A function is an `async fn` that takes an [`Env`] and returns
/// `anyhow::Result<()>`.
#[macro_export]
macro_rules! on_each_database {
    ($($(#[$meta:meta])* async fn $name:ident($env:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn claim($env: $crate::harness::Env) -> anyhow::Result<()> {
                $body
                Ok(())
            }

            #[test]
            fn sqlite() -> anyhow::Result<()> {
                $crate::harness::run($crate::database::DatabaseKind::Sqlite, claim)
            }

            #[test]
            fn postgres() -> anyhow::Result<()> {
                $crate::harness::run($crate::database::DatabaseKind::Postgres, claim)
            }
        }
    )*};
}
