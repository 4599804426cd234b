//! The commands of `docs/backup.md`, run as they are written there.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use minichat_cluster::programs::Program;
use minichat_cluster::{NodeTier, image};
use minichat_tests::client::Api;
use minichat_tests::cluster;
use minichat_tests::installation::{Installation, eventually};
use minichat_tests::pool::PostgresPool;
use minichat_tests::postgres_programs;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

const PAGE: &str = include_str!("../../../docs/backup.md");
/// The image on the page.
const BUSYBOX: &str = "busybox:1.37";

/// The commands in the section called `section`, one text per block.
fn blocks(section: &str) -> Vec<&'static str> {
    let text = PAGE.split(&format!("\n## {section}\n")).nth(1);
    let text = text.and_then(|text| text.split("\n## ").next());
    let blocks = text.unwrap_or_default().split("```console\n").skip(1);
    blocks
        .filter_map(|block| block.split("```").next())
        .collect()
}

/// A person's shell in a directory of its own, with `kubectl` for the cluster and PostgreSQL's programs.
struct Shell {
    directory: TempDir,
    /// What the page says, and what it is called here.
    here: Vec<(String, String)>,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    fn new(installation: &Installation) -> anyhow::Result<Self> {
        let kubectl = Program::Kubectl.ensure()?;
        let kubectl = kubectl.parent().context("kubectl has no directory")?;
        let postgres = postgres_programs::path()?;
        let directories = env::split_paths(&postgres);
        let path = env::join_paths(directories.chain([kubectl.to_owned()]))?;
        let path = path.into_string().ok().context("PATH is not UTF-8")?;
        let kubeconfig = cluster::node_kubeconfig()?.display().to_string();
        let namespace = |name: &str| format!("--namespace {name} ");
        Ok(Self {
            directory: tempfile::tempdir()?,
            here: vec![(namespace("minichat"), namespace(installation.namespace()))],
            variables: vec![("PATH", path), ("KUBECONFIG", kubeconfig)],
        })
    }

    /// Runs the commands of a block, up to the first that fails.
    fn run(&self, block: &str) -> anyhow::Result<()> {
        let script = self
            .here
            .iter()
            .fold(block.to_owned(), |script, (page, here)| {
                script.replace(page, here)
            });
        let mut shell = Command::new("sh");
        shell.args(["-ec", &script]).current_dir(&self.directory);
        let output = shell.envs(self.variables.iter().cloned()).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        eprintln!("{said}");
        ensure!(output.status.success(), "{script}\n{said}");
        Ok(())
    }
}

/// Gives the node of this machine the page's image; another cluster pulls it.
fn provide_busybox() -> anyhow::Result<()> {
    let Ok(tier) = NodeTier::open() else {
        return Ok(());
    };
    if tier.kubeconfig() != cluster::node_kubeconfig()? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let name = format!("docker.io/library/{BUSYBOX}");
    tier.load_image(&image::busybox(directory.path(), &name)?)
}

async fn says(api: &Api, chat: &str) -> anyhow::Result<Vec<Value>> {
    api.say(chat, "PING").await?.only("done")?;
    api.messages(chat).await
}

/// D16, K8S-50
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_on_sqlite_is_restored_by_the_commands_of_the_page() -> anyhow::Result<()> {
    provide_busybox()?;
    let installation = Installation::start("backup", json!({})).await?;
    let tenant = installation.tenant("acme");
    installation.admit(&tenant)?;
    let user = Uuid::new_v4();
    let api = installation.serving(tenant.id, user).await?;
    let chat = api.create_chat(Some("std")).await?;
    let backed_up = says(&api, &chat).await?;

    let shell = Shell::new(&installation)?;
    let [_, backup, restore, start] = blocks("SQLite")[..] else {
        anyhow::bail!("other blocks than these: {:?}", blocks("SQLite"));
    };
    ensure!(restore.contains(BUSYBOX), "{restore}");
    shell.run(backup)?;
    check_file(&shell.directory.path().join("minichat.db"))?;
    ensure!(says(&api, &chat).await?.len() == 4);
    shell.run(restore)?;
    shell.run(start)?;
    let pod = [
        "wait",
        "pod/minichat-pool-0",
        "--for=create",
        "--timeout=60s",
    ];
    installation.kubectl(&pod)?;
    let ready = [
        "wait",
        "pod/minichat-pool-0",
        "--for=condition=Ready",
        "--timeout=120s",
    ];
    installation.kubectl(&ready)?;

    let api = installation.serving(tenant.id, user).await?;
    assert_eq!(api.messages(&chat).await?, backed_up);
    ensure!(says(&api, &chat).await?.len() == 4);
    installation.remove().await
}

fn check_file(database: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(database)?;
    ensure!(
        bytes.starts_with(b"SQLite format 3\0"),
        "{} bytes",
        bytes.len()
    );
    Ok(())
}

/// The commands name a server, a user and a database, and the port is PostgreSQL's.
fn with_database(mut shell: Shell, url: &str) -> anyhow::Result<Shell> {
    let (server, name) = url.rsplit_once('/').context("a URL without a database")?;
    let (server, port) = server.rsplit_once(':').context("a URL without a port")?;
    let server = server
        .strip_prefix("postgres://")
        .context("another scheme")?;
    let (user, host) = server.split_once('@').context("a URL without a user")?;
    let here = [
        (
            "minichat@postgres.example/minichat",
            format!("{user}@{host}/{name}"),
        ),
        ("postgres.example", host.to_owned()),
        (
            "--username minichat minichat",
            format!("--username {user} {name}"),
        ),
        ("--username minichat", format!("--username {user}")),
        (
            "DATABASE minichat RENAME TO minichat_before",
            format!("DATABASE {name} RENAME TO {name}_before"),
        ),
    ];
    shell
        .here
        .extend(here.map(|(page, here)| (page.to_owned(), here)));
    shell.variables.push(("PGPORT", port.to_owned()));
    Ok(shell)
}

/// D16, TURN-59
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_on_postgres_is_restored_by_the_commands_of_the_page() -> anyhow::Result<()> {
    let pool = PostgresPool::start("backup-postgres", 2).await?;
    let PostgresPool {
        installation,
        tenant,
        database,
        ..
    } = &pool;
    let user = Uuid::new_v4();
    let api = installation.serving(tenant.id, user).await?;
    let chat = api.create_chat(Some("std")).await?;
    let backed_up = says(&api, &chat).await?;

    let shell = with_database(Shell::new(installation)?, database.url())?;
    let [backup, restore, stop, keep, start] = blocks("PostgreSQL")[..] else {
        anyhow::bail!("other blocks than these: {:?}", blocks("PostgreSQL"));
    };
    shell.run(backup)?;
    ensure!(says(&api, &chat).await?.len() == 4);
    shell.run(stop)?;
    let suspended = [
        "get",
        "cronjob",
        "minichat-pool-watchdog",
        "--output=jsonpath={.spec.suspend}",
    ];
    assert_eq!(installation.kubectl(&suspended)?, "true");
    ensure!(installation.pods("pool")?.is_empty());
    shell.run(keep)?;
    shell.run(restore)?;
    shell.run(start)?;
    eventually("resumed by the operator", async || {
        Ok(installation.kubectl(&suspended)? == "false")
    })
    .await?;
    let ready = [
        "rollout",
        "status",
        "deployment/minichat-pool",
        "--timeout=120s",
    ];
    installation.kubectl(&ready)?;

    let api = installation.serving(tenant.id, user).await?;
    assert_eq!(api.messages(&chat).await?, backed_up);
    ensure!(says(&api, &chat).await?.len() == 4);
    pool.remove().await
}
