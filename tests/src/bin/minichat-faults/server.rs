//! A private PostgreSQL that can be stopped, frozen and turned into a standby.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use minichat_cluster::PackageUser;
use minichat_tests::postgres;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::processes::{children_of, reap};

const SYNCHRONOUS: &str = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE application_name = 'minichat'";
const SLOW: [&str; 2] = [
    "CREATE OR REPLACE FUNCTION slowly() RETURNS TRIGGER LANGUAGE plpgsql AS \
     'BEGIN PERFORM pg_sleep(4); RETURN NEW; END'",
    "CREATE TRIGGER slowly BEFORE INSERT OR UPDATE ON chat_turns FOR EACH ROW \
     EXECUTE FUNCTION slowly()",
];
const FAST: [&str; 1] = ["DROP TRIGGER slowly ON chat_turns"];

/// More than the data plane opens.
const CONNECTIONS: usize = 60;

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
        let server = Self::prepare(programs)?;
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

    fn prepare(programs: &Path) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("minichat-faults-postgres-")?;
        let server = Self {
            programs: programs.to_owned(),
            user: PackageUser::find("postgres")?,
            data: directory.path().join("data"),
            port: crate::scene::free_port()?,
            directory,
        };
        server.user.own(server.directory.path())?;
        Ok(server)
    }

    /// Another server that follows this one. From now on a commit of this one
    /// waits until it is on both.
    pub(crate) async fn create_standby(&self) -> anyhow::Result<Self> {
        let standby = Self::prepare(&self.programs)?;
        let mut copy = standby.command("pg_basebackup");
        copy.arg("--pgdata").arg(&standby.data);
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        done(copy.arg("--dbname").arg(self.url()), "pg_basebackup")?;
        standby.start().await?;
        let both = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        for sql in [both, "SELECT pg_reload_conf()"] {
            postgres::query(&self.url(), sql).await?;
        }
        let polling = async {
            while postgres::query(&self.url(), SYNCHRONOUS).await?.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        let follows = tokio::time::timeout(PATIENCE, polling).await;
        follows.context("the standby does not follow")??;
        Ok(standby)
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

    /// Kills all its processes, and waits until they are gone.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let killed = self.signal(Signal::KILL)?;
        reap(&killed).await
    }

    /// Ends the data plane's sessions for which `condition` holds.
    pub(crate) async fn end_sessions(&self, condition: &str) -> anyhow::Result<()> {
        postgres::query(&self.url(), &format!("{END} AND {condition}")).await?;
        Ok(())
    }

    /// All connections that there are but `kept`, which the data plane keeps. A connection
    /// that begins has no session that could be ended, so the data plane may win some at first.
    pub(crate) async fn take_every_connection(
        &self,
        kept: usize,
    ) -> anyhow::Result<Vec<PgConnection>> {
        let end = format!("{END} ORDER BY backend_start OFFSET {kept}");
        let mut taken = vec![PgConnection::connect(&self.url()).await?];
        let taking = async {
            while taken.len() < CONNECTIONS - kept {
                match PgConnection::connect(&self.url()).await {
                    Ok(connection) => taken.push(connection),
                    Err(_) => drop(postgres::query_on(&mut taken[0], &end).await?),
                }
            }
            anyhow::Ok(())
        };
        let took = tokio::time::timeout(PATIENCE, taking).await;
        took.context("others keep their connections")??;
        Ok(taken)
    }

    /// Makes every statement that writes a turn take longer than it may, or not.
    pub(crate) async fn set_slow(&self, on: bool) -> anyhow::Result<()> {
        for sql in if on { &SLOW[..] } else { &FAST } {
            postgres::query(&self.url(), sql).await?;
        }
        Ok(())
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
        self.signal(Signal::STOP).map(drop)
    }

    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT).map(drop)
    }

    /// Sends `signal` to all its processes. Returns them.
    fn signal(&self, signal: Signal) -> anyhow::Result<Vec<Pid>> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let first = file.lines().next().context("no process id")?.parse()?;
        let first = Pid::from_raw(first).context("no process id")?;
        let children = children_of(first)?.into_iter().map(|(id, _)| id);
        let processes: Vec<_> = std::iter::once(first).chain(children).collect();
        for &process in &processes {
            // A process that has ended needs no signal.
            let _ = kill_process(process, signal);
        }
        Ok(processes)
    }

    fn launch(&self, options: &str) -> anyhow::Result<()> {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c max_connections={CONNECTIONS} -c fsync=off {options}",
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
