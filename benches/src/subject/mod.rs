//! The measured servers: the provider itself, and each server in front of it.

mod dataplane;
mod pace;
mod process;
mod relay;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tempfile::TempDir;

use crate::load::Stoppable;
use crate::network::Network;
use crate::postgres::Postgres;
pub use dataplane::Upload;
pub use pace::Pace;
use process::{Process, free_address};

/// One of the servers that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The scripted provider, called directly.
    Direct,
    /// nginx with `proxy_buffering off` (N).
    Nginx,
    /// The bare hyper relay (H).
    BareRelay,
    /// The data plane on `SQLite`.
    Sqlite,
    /// The data plane on PostgreSQL.
    Postgres,
    /// The data plane with a network between it and PostgreSQL.
    Remote,
    /// The data plane of an earlier commit on `SQLite`.
    SqliteBefore,
    /// The data plane of an earlier commit on PostgreSQL.
    PostgresBefore,
    /// The data plane of an earlier commit with a network between it and PostgreSQL.
    RemoteBefore,
}

impl Subject {
    /// Every subject.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Nginx,
        Self::BareRelay,
        Self::Sqlite,
        Self::Postgres,
        Self::Remote,
        Self::SqliteBefore,
        Self::PostgresBefore,
        Self::RemoteBefore,
    ];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::BareRelay => "bare-relay",
            Self::Sqlite => "minichat-sqlite",
            Self::Postgres => "minichat-postgres",
            Self::Remote => "minichat-remote",
            Self::SqliteBefore => "before-sqlite",
            Self::PostgresBefore => "before-postgres",
            Self::RemoteBefore => "before-remote",
        }
    }

    /// The subject whose earlier commit this one is.
    pub fn after(self) -> Option<Self> {
        match self {
            Self::SqliteBefore => Some(Self::Sqlite),
            Self::PostgresBefore => Some(Self::Postgres),
            Self::RemoteBefore => Some(Self::Remote),
            _ => None,
        }
    }

    /// Whether it keeps its data on PostgreSQL.
    pub fn is_on_postgres(self) -> bool {
        let current = self.after().unwrap_or(self);
        matches!(current, Self::Postgres | Self::Remote)
    }

    /// Whether there is a network between it and PostgreSQL.
    pub fn is_remote(self) -> bool {
        matches!(self, Self::Remote | Self::RemoteBefore)
    }

    /// Whether it is minichat.
    pub fn is_dataplane(self) -> bool {
        !matches!(self, Self::Direct | Self::Nginx | Self::BareRelay)
    }

    /// Its database on the server of PostgreSQL. Two commits may have different schemas.
    pub(crate) fn database(self) -> String {
        self.name().replace('-', "_")
    }
}

/// The settings to start the subjects.
#[derive(Debug)]
pub struct Setup {
    /// Directory of the release binaries.
    pub binaries: PathBuf,
    /// Server for the data planes on PostgreSQL.
    pub postgres: Option<Postgres>,
    /// The data plane of an earlier commit.
    pub before: Option<PathBuf>,
    /// Subjects to start. The scripted provider always starts.
    pub subjects: Vec<Subject>,
}

/// One way between a remote data plane and PostgreSQL.
const NETWORK_DELAY: Duration = Duration::from_micros(500);

/// The running subjects of one round. They are started for the round and end when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    running: Vec<Running>,
    provider: SocketAddr,
    /// Kept until every process that uses it has ended.
    _directory: TempDir,
}

/// One running subject.
#[derive(Debug)]
pub struct Running {
    /// Which one.
    pub subject: Subject,
    address: SocketAddr,
    process: Process,
    /// What stands between it and PostgreSQL.
    pub network: Option<Network>,
}

impl Fleet {
    /// Starts the provider and the subjects of `setup`.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let provider = start_provider(setup, &directory)?;
        let upstream = provider.address;
        let mut running = vec![provider];
        for &subject in &setup.subjects {
            if subject != Subject::Direct {
                running.push(start_subject(subject, upstream, setup, &directory)?);
            }
        }
        Ok(Self {
            running,
            provider: upstream,
            _directory: directory,
        })
    }

    /// Where the scripted provider listens.
    pub fn provider(&self) -> SocketAddr {
        self.provider
    }

    /// The running subjects, direct first.
    pub fn running(&self) -> &[Running] {
        &self.running
    }
}

impl Running {
    /// Where the subject listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process whose processor time and memory are measured.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Requests that open `streams` streams of `pace`, of so many users, prepared before the measurement.
    pub async fn prepare_streams(
        &self,
        pace: &Pace,
        streams: usize,
        users: usize,
    ) -> anyhow::Result<Vec<Bytes>> {
        if self.subject.is_dataplane() {
            return dataplane::prepare_streams(self.address, pace, streams, users).await;
        }
        let request = pace.provider_request(&self.address.to_string());
        Ok(vec![request; streams])
    }

    /// A chat for each of so many uploads, all of different users; empty for subjects without chats.
    pub async fn prepare_uploads(&self, uploads: usize) -> anyhow::Result<Vec<Upload>> {
        if self.subject.is_dataplane() {
            return dataplane::prepare_uploads(self.address, uploads).await;
        }
        Ok(Vec::new())
    }

    /// Requests that open streams, with the requests that stop them; empty for subjects without such a request.
    pub async fn prepare_stops(
        &self,
        pace: &Pace,
        streams: usize,
        users: usize,
    ) -> anyhow::Result<Vec<Stoppable>> {
        if self.subject.is_dataplane() {
            return dataplane::prepare_stops(self.address, pace, streams, users).await;
        }
        Ok(Vec::new())
    }
}

fn start_provider(setup: &Setup, directory: &TempDir) -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut command = Command::new(setup.binaries.join("minichat-scripted-provider"));
    command.arg("--listen").arg(address.to_string());
    command.arg("--drop-files");
    let mut process = Process::start("scripted-provider", command, directory.path())?;
    process.wait_until_listening(address)?;
    Ok(Running {
        subject: Subject::Direct,
        address,
        process,
        network: None,
    })
}

fn start_subject(
    subject: Subject,
    provider: SocketAddr,
    setup: &Setup,
    directory: &TempDir,
) -> anyhow::Result<Running> {
    let address = free_address()?;
    let path = directory.path();
    let (process, network) = match subject {
        Subject::Direct => anyhow::bail!("the provider is running already"),
        Subject::Nginx => (relay::start_nginx(address, provider, path)?, None),
        Subject::BareRelay => {
            let relay = relay::start_bare_relay(address, provider, &setup.binaries, path)?;
            (relay, None)
        }
        _ => start_dataplane(subject, address, provider, setup, path)?,
    };
    Ok(Running {
        subject,
        address,
        process,
        network,
    })
}

fn start_dataplane(
    subject: Subject,
    listen: SocketAddr,
    provider: SocketAddr,
    setup: &Setup,
    directory: &Path,
) -> anyhow::Result<(Process, Option<Network>)> {
    let current = setup.binaries.join("minichat-dataplane");
    let program = match subject.after() {
        None => &current,
        Some(_) => setup
            .before
            .as_ref()
            .context("no data plane of an earlier commit")?,
    };
    let (database_url, network) = database(subject, setup, directory)?;
    let settings = dataplane::Settings {
        program,
        listen,
        admin: free_address()?,
        provider,
        database_url: &database_url,
    };
    let process = dataplane::start(subject.name(), settings, directory)?;
    Ok((process, network))
}

/// The URL of a subject's database, and the network that leads to it.
fn database(
    subject: Subject,
    setup: &Setup,
    directory: &Path,
) -> anyhow::Result<(String, Option<Network>)> {
    if !subject.is_on_postgres() {
        let file = directory.join(format!("{}.db", subject.name()));
        return Ok((format!("sqlite://{}", file.display()), None));
    }
    let server = setup.postgres.as_ref();
    let server = server.context("no PostgreSQL to measure on")?;
    let database = subject.database();
    server.ensure_database(&database)?;
    if !subject.is_remote() {
        return Ok((server.url(&database), None));
    }
    let network = Network::before(server.address()?, NETWORK_DELAY)?;
    let url = server.at(network.address())?.url(&database);
    Ok((url, Some(network)))
}
