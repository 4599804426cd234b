//! The PostgreSQL server of a run, asked through its own programs: databases, `pgbench` and what sessions wait for.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::waits::Waits;

/// Sessions of `pgbench`, as many as the pool of a data plane has.
const CLIENTS: &str = "10";
/// Rows of its smallest table; with fewer than sessions these would wait for one another.
const SCALE: &str = "10";
const PGBENCH: &str = "minichat_pgbench";
/// Seconds between two samples of the waits.
const SAMPLE_EVERY: &str = "0.01";

/// What active sessions of a database wait for, and one row without a state for each sample. A session that is in a
/// transaction and waits for its client holds its locks meanwhile.
const WAITS: &str = "SELECT '', '', 1 UNION ALL \
    SELECT state, coalesce(wait_event_type || ':' || wait_event, 'running'), count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND backend_type = 'client backend' AND state <> 'idle' \
    AND pid <> pg_backend_pid() GROUP BY 1, 2";

/// A server on which databases may be created.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// `postgres://USER@HOST:PORT`
    server: String,
    /// Where `psql` and `pgbench` are; on the path if absent.
    programs: Option<PathBuf>,
}

impl Postgres {
    /// The server of `url`, which names any database of it.
    pub fn new(url: &str, programs: Option<PathBuf>) -> anyhow::Result<Self> {
        let (server, _) = url
            .rsplit_once('/')
            .context("the URL of PostgreSQL names no database")?;
        Ok(Self {
            server: server.to_owned(),
            programs,
        })
    }

    /// The same server, reached at another address.
    pub fn at(&self, address: SocketAddr) -> anyhow::Result<Self> {
        let (user, _) = self.server.rsplit_once('@').context("a URL with a user")?;
        Ok(Self {
            server: format!("{user}@{address}"),
            programs: self.programs.clone(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        let (_, address) = self.server.rsplit_once('@').context("a URL with a user")?;
        address
            .parse()
            .context("the host of PostgreSQL must be an IP address with a port")
    }

    /// URL of the database called `name`.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.server)
    }

    /// Creates the database called `name`, unless there is one; whether it did.
    pub fn ensure_database(&self, name: &str) -> anyhow::Result<bool> {
        let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        if !self.query(&exists)?.trim().is_empty() {
            return Ok(false);
        }
        self.query(&format!("CREATE DATABASE {name}"))?;
        Ok(true)
    }

    fn query(&self, sql: &str) -> anyhow::Result<String> {
        let mut psql = self.command("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        output(psql.arg(self.url("postgres")))
    }

    /// Transactions per second of `pgbench`'s default script, prepared, over some seconds.
    pub fn pgbench(&self, seconds: u32) -> anyhow::Result<f64> {
        let url = self.url(PGBENCH);
        if self.ensure_database(PGBENCH)? {
            let mut fill = self.command("pgbench");
            output(fill.args(["-i", "-q", "-s", SCALE]).arg(&url))?;
        }
        let mut run = self.command("pgbench");
        run.args(["-n", "-M", "prepared", "-c", CLIENTS, "-T"]);
        let said = output(run.arg(seconds.to_string()).arg(&url))?;
        transactions_per_second(&said).with_context(|| format!("pgbench says no rate: {said}"))
    }

    /// Begins to sample the waits of the database called `name`, into a file of `directory`.
    pub fn sample_waits(&self, name: &str, directory: &Path) -> anyhow::Result<Sampling> {
        let file = directory.join("waits");
        let mut psql = self.command("psql");
        psql.args(["-XAtq", "-F", "|"]).arg(self.url(name));
        let child = psql
            .stdin(Stdio::piped())
            .stdout(File::create(&file)?)
            .stderr(Stdio::null())
            .spawn()
            .context("psql cannot be started")?;
        let mut sampling = Sampling { child, file };
        let stdin = sampling.child.stdin.as_mut().context("no stdin")?;
        writeln!(stdin, "{WAITS} \\watch {SAMPLE_EVERY}")?;
        Ok(sampling)
    }

    fn command(&self, program: &str) -> Command {
        let program = match &self.programs {
            Some(directory) => directory.join(program),
            None => program.into(),
        };
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        command
    }
}

/// A running `psql`.
#[derive(Debug)]
pub struct Sampling {
    child: Child,
    file: PathBuf,
}

impl Sampling {
    /// Ends it; what was found.
    pub fn end(mut self) -> anyhow::Result<Waits> {
        self.stop();
        let waits = Waits::parse(&std::fs::read_to_string(&self.file)?);
        ensure!(!waits.is_empty(), "psql sampled nothing");
        Ok(waits)
    }

    fn stop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.stop();
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn transactions_per_second(said: &str) -> Option<f64> {
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    rate.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_pgbench_is_read() {
        let said = "latency average = 1.6 ms\ntps = 6218.5 (without initial connection time)\n";
        assert_eq!(transactions_per_second(said), Some(6218.5));
        assert_eq!(transactions_per_second("no"), None);
    }

    #[test]
    fn another_address_keeps_user_and_database() {
        let server = Postgres::new("postgres://u@127.0.0.1:5432/postgres", None).unwrap();
        assert_eq!(server.address().unwrap(), ([127, 0, 0, 1], 5432).into());
        let elsewhere = server.at(([127, 0, 0, 1], 7000).into()).unwrap();
        assert_eq!(elsewhere.url("d"), "postgres://u@127.0.0.1:7000/d");
    }
}
