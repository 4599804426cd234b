//! `PgBouncer` in transaction mode.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::postgres;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::server::Server;

/// Connections to the server: far fewer than there are clients.
const SERVER_CONNECTIONS: u32 = 8;

/// It is killed when dropped.
pub(crate) struct Pooler {
    _process: Child,
    _directory: TempDir,
    port: u16,
}

impl Pooler {
    pub(crate) async fn start(server: &Server) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("minichat-faults-pgbouncer-")?;
        let port = crate::scene::free_port()?;
        let config = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n\
             max_client_conn = 500\n",
            server.port
        );
        std::fs::write(&config, text)?;
        server.user.own(directory.path())?;
        let mut command = Command::from(server.user.command("pgbouncer"));
        command.arg("--quiet").arg(&config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.kill_on_drop(true).spawn().context("no pgbouncer")?;
        let pooler = Self {
            _process: process,
            _directory: directory,
            port,
        };
        let polling = async {
            while postgres::query(&pooler.url(), "SELECT 1").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answers = tokio::time::timeout(Duration::from_secs(20), polling).await;
        answers.context("PgBouncer does not answer")?;
        Ok(pooler)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}
