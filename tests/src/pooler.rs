//! `PgBouncer` in transaction mode, in front of a PostgreSQL server.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use minichat_cluster::PackageUser;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(20);
const MISSING: &str =
    "these tests need PgBouncer: install it (Debian: `apt-get install pgbouncer`)";

/// A pooler for every database of the server. It is killed when dropped.
#[derive(Debug)]
pub struct Pooler {
    _process: Child,
    _directory: TempDir,
    /// `postgres://USER@HOST:PORT`
    url: String,
}

impl Pooler {
    /// Starts one in front of the server of `url`, with so many connections to it for each database. `settings` are
    /// further lines of its configuration.
    pub async fn start(url: &str, connections: u32, settings: &str) -> anyhow::Result<Self> {
        let (user, rest) = url.split_once('@').context("a URL without a user")?;
        let (server, _) = rest.split_once('/').context("a URL without a database")?;
        let (host, port) = server.rsplit_once(':').context("a URL without a port")?;
        let (_, name) = user.rsplit_once('/').context("a URL without a scheme")?;
        let name = name.split(':').next().unwrap_or_default();
        let directory = TempDir::with_prefix("minichat-pgbouncer-")?;
        let own_port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={port} user={name}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own_port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n\
             max_client_conn = 500\n{settings}\n"
        );
        std::fs::write(&config, text)?;
        // It refuses to run as root.
        let user_of_package = PackageUser::find("postgres")?;
        user_of_package.own(directory.path())?;
        let mut command = Command::from(user_of_package.command("pgbouncer"));
        command.arg("--quiet").arg(&config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.kill_on_drop(true).spawn().context(MISSING)?;
        let asking = async {
            while TcpStream::connect(("127.0.0.1", own_port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answers = tokio::time::timeout(PATIENCE, asking).await;
        answers.context("PgBouncer does not answer")?;
        Ok(Self {
            _process: process,
            _directory: directory,
            url: format!("{user}@127.0.0.1:{own_port}"),
        })
    }

    /// The database of `url` as it is reached through the pooler.
    pub fn url(&self, url: &str) -> anyhow::Result<String> {
        let (_, name) = url.rsplit_once('/').context("a URL without a database")?;
        Ok(format!("{}/{name}", self.url))
    }
}
