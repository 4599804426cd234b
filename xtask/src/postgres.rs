//! A private PostgreSQL in a temporary directory.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::iter;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use minichat_cluster::packages::Package;
use minichat_cluster::{PackageUser, node};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{self, Running};

const STARTS_WITHIN: Duration = Duration::from_mins(1);

/// Variable with the URL of the server on which suites create their databases. The URL contains no database.
const URL: &str = "MINICHAT_TEST_POSTGRES_URL";
/// Variable with the URL at which pods of the node reach the same server.
const URL_OF_PODS: &str = "MINICHAT_TEST_POSTGRES_URL_OF_PODS";

/// Whether a crash of the machine may lose commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Debian's defaults: every commit waits for the disk.
    Durable,
    /// Nothing waits for the disk: for tests.
    Volatile,
}

/// From where connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Processes of this machine.
    Loopback,
    /// Also pods of this machine's node, which must be up.
    Pods,
}

/// A running server. When dropped, it is stopped and its files are deleted.
pub(crate) struct Postgres {
    _server: Running,
    port: u16,
    reach: Reach,
    /// Where its programs are, such as `psql`.
    programs: PathBuf,
    /// Declared last, so that the directory is deleted after the server has ended.
    _directory: TempDir,
}

impl Postgres {
    /// Installs Debian's package if necessary and starts a private server.
    pub(crate) fn start(durability: Durability, reach: Reach) -> anyhow::Result<Self> {
        let initdb = Package::new("initdb", "postgresql").ensure(debian_directories)?;
        let directory = tempfile::Builder::new()
            .prefix("minichat-postgres-")
            .tempdir()?;
        let owner = PackageUser::find("postgres")?;
        owner.own(directory.path())?;
        let data = directory.path().join("data");
        let mut command = owner.command(&initdb);
        command.arg("--pgdata").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
        ]);
        command.args(["--locale=C", "--no-sync", "--no-instructions"]);
        process::run("initdb", command.stdout(Stdio::null()))?;

        let mut addresses = "127.0.0.1".to_owned();
        if reach == Reach::Pods {
            addresses = format!("{addresses},{}", node::ADDRESS);
            let mut rules = OpenOptions::new()
                .append(true)
                .open(data.join("pg_hba.conf"))?;
            writeln!(rules, "host all all {} trust", node::PODS)?;
        }
        let port = free_port()?;
        let mut command = owner.command(initdb.with_file_name("postgres"));
        command.arg("-D").arg(&data).arg("-p").arg(port.to_string());
        command
            .arg("-k")
            .arg(directory.path())
            .arg("-c")
            .arg(format!("listen_addresses={addresses}"));
        command.args(["-c", "max_connections=500", "-c", "log_min_messages=fatal"]);
        if durability == Durability::Volatile {
            command.args([
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
            ]);
        }
        let log = fs::File::create(directory.path().join("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        // SIGINT is PostgreSQL's fast shutdown: it closes connections and leaves the files consistent.
        let mut server = Running::start("postgres", &mut command)?.stopped_by(Signal::INT);
        // A server that is still starting accepts connections, but refuses to serve them.
        let pg_isready = initdb.with_file_name("pg_isready");
        let accepts = || {
            let mut probe = Command::new(&pg_isready);
            probe.args(["--quiet", "--host=127.0.0.1", "--port"]);
            let answer = probe.arg(port.to_string()).status();
            answer.is_ok_and(|status| status.success())
        };
        server
            .wait_until("accepts connections", STARTS_WITHIN, accepts)
            .with_context(|| {
                fs::read_to_string(directory.path().join("log")).unwrap_or_default()
            })?;
        Ok(Self {
            _server: server,
            port,
            reach,
            programs: initdb.parent().context("initdb lies nowhere")?.to_owned(),
            _directory: directory,
        })
    }

    /// `postgres://user@host:port`, without a database.
    fn server_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}", self.port)
    }

    /// The environment variables through which suites find it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let of_pods = format!("postgres://postgres@{}:{}", node::ADDRESS, self.port);
        let of_pods = (self.reach == Reach::Pods).then_some((URL_OF_PODS, of_pods));
        iter::once((URL, self.server_url()))
            .chain(of_pods)
            .collect()
    }

    /// The directory of its programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// URL of the database that every server has.
    pub(crate) fn url(&self) -> String {
        format!("{}/postgres", self.server_url())
    }
}

/// Directories with PostgreSQL's programs, newest version first. Debian does not add them to the path.
pub(crate) fn debian_directories() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort_by_key(|&(version, _)| std::cmp::Reverse(version));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
