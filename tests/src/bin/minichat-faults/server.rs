//! A private PostgreSQL that can be stopped, frozen and turned into a standby.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use minichat_cluster::PackageUser;
use minichat_tests::postgres;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::processes::children_of;

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// When dropped, it is stopped and its files are removed.
pub(crate) struct Server {
    programs: PathBuf,
    pub(crate) user: PackageUser,
    data: PathBuf,
    pub(crate) port: u16,
    directory: TempDir,
}

/// How a standby that was not promoted behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standby {
    /// It accepts connections that only read.
    Reads,
    /// It refuses connections because it is starting.
    Refuses,
}

impl Server {
    pub(crate) async fn create(programs: &Path) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("minichat-faults-postgres-")?;
        let server = Self {
            programs: programs.to_owned(),
            user: PackageUser::find("postgres")?,
            data: directory.path().join("data"),
            port: crate::scene::free_port()?,
            directory,
        };
        server.user.own(server.directory.path())?;
        let mut initdb = server.command("initdb");
        initdb.arg("--pgdata").arg(&server.data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]);
        done(&mut initdb, "initdb")?;
        server.start().await?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        self.launch("")?;
        self.until_it_answers().await
    }

    /// Starts it as a standby that is not promoted.
    pub(crate) async fn start_standby(&self, standby: Standby) -> anyhow::Result<()> {
        let signal = self.data.join("standby.signal");
        done(self.user.command("touch").arg(signal), "touch")?;
        match standby {
            Standby::Reads => {
                self.launch("-c hot_standby=on")?;
                self.until_it_answers().await
            }
            Standby::Refuses => self.launch("-c hot_standby=off"),
        }
    }

    pub(crate) async fn promote(&self) -> anyhow::Result<()> {
        let mut promote = self.command("pg_ctl");
        promote.arg("-D").arg(&self.data).args(["-w", "promote"]);
        done(&mut promote, "pg_ctl promote")?;
        self.until_it_answers().await
    }

    /// Stops it like a crash.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        let mut stop = self.command("pg_ctl");
        let stop = stop.arg("-D").arg(&self.data);
        done(stop.args(["-m", "immediate", "-w", "stop"]), "pg_ctl stop")
    }

    /// Makes sessions read-only or not, including open ones.
    pub(crate) async fn set_read_only(&self, on: bool) -> anyhow::Result<()> {
        let sql = if on {
            "ALTER SYSTEM SET default_transaction_read_only = on"
        } else {
            "ALTER SYSTEM RESET default_transaction_read_only"
        };
        postgres::query(&self.url(), sql).await?;
        postgres::query(&self.url(), "SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// Suspends all its processes.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let first = file.lines().next().context("no process id")?.parse()?;
        let first = Pid::from_raw(first).context("no process id")?;
        let children = children_of(first)?.into_iter().map(|(id, _)| id);
        for process in std::iter::once(first).chain(children) {
            // A process that has ended needs no signal.
            let _ = kill_process(process, signal);
        }
        Ok(())
    }

    fn launch(&self, options: &str) -> anyhow::Result<()> {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c max_connections=300 -c fsync=off {options}",
            self.port,
            self.directory.path().display()
        );
        let mut start = self.command("pg_ctl");
        start.arg("-D").arg(&self.data).arg("-l").arg(self.log());
        done(start.args(["-W", "-o", &options, "start"]), "pg_ctl start")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    async fn until_it_answers(&self) -> anyhow::Result<()> {
        let polling = async {
            while postgres::query(&self.url(), "SELECT 1").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, polling).await.is_err() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            bail!("PostgreSQL does not answer: {log}");
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        self.user.command(self.programs.join(program))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.thaw();
        let mut stop = self.command("pg_ctl");
        let stop = stop.arg("-D").arg(&self.data);
        let _ = stop.args(["-m", "immediate", "-w", "stop"]).output();
    }
}

/// Runs `command` to its end.
pub(crate) fn done(command: &mut Command, name: &str) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{name} cannot be started"))?;
    ensure!(
        output.status.success(),
        "{name} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
