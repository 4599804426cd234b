//! The measured servers: the provider itself, and each server in front of it.

mod dataplane;
mod pace;
mod process;
mod relay;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use tempfile::TempDir;

use crate::load::Stoppable;
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
}

impl Subject {
    /// Every subject.
    pub const ALL: [Self; 5] = [
        Self::Direct,
        Self::Nginx,
        Self::BareRelay,
        Self::Sqlite,
        Self::Postgres,
    ];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::BareRelay => "bare-relay",
            Self::Sqlite => "minichat-sqlite",
            Self::Postgres => "minichat-postgres",
        }
    }

    fn is_dataplane(self) -> bool {
        matches!(self, Self::Sqlite | Self::Postgres)
    }
}

/// The settings to start the subjects.
#[derive(Debug)]
pub struct Setup {
    /// Directory of the release binaries.
    pub binaries: PathBuf,
    /// Database for the data plane on PostgreSQL. Without it, this subject is left out.
    pub postgres_url: Option<String>,
    /// Subjects to start. The scripted provider always starts.
    pub subjects: Vec<Subject>,
}

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

    /// Requests that open `streams` streams of `pace`, prepared before the measurement.
    pub async fn prepare_streams(&self, pace: &Pace, streams: usize) -> anyhow::Result<Vec<Bytes>> {
        if self.subject.is_dataplane() {
            return dataplane::prepare_streams(self.address, pace, streams).await;
        }
        let request = pace.provider_request(&self.address.to_string());
        Ok(vec![request; streams])
    }

    /// The same with the requests that stop them; empty for subjects without such a request.
    pub async fn prepare_stops(
        &self,
        pace: &Pace,
        streams: usize,
    ) -> anyhow::Result<Vec<Stoppable>> {
        if self.subject.is_dataplane() {
            return dataplane::prepare_stops(self.address, pace, streams).await;
        }
        Ok(Vec::new())
    }
}

fn start_provider(setup: &Setup, directory: &TempDir) -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut command = Command::new(setup.binaries.join("minichat-scripted-provider"));
    command.arg("--listen").arg(address.to_string());
    let mut process = Process::start("scripted-provider", command, directory.path())?;
    process.wait_until_listening(address)?;
    Ok(Running {
        subject: Subject::Direct,
        address,
        process,
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
    let dataplane = |database_url: &str| {
        let settings = dataplane::Settings {
            listen: address,
            admin: free_address()?,
            provider,
            database_url,
        };
        dataplane::start(subject.name(), settings, &setup.binaries, path)
    };
    let process = match subject {
        Subject::Direct => anyhow::bail!("the provider is running already"),
        Subject::Nginx => relay::start_nginx(address, provider, path)?,
        Subject::BareRelay => relay::start_bare_relay(address, provider, &setup.binaries, path)?,
        Subject::Sqlite => dataplane(&format!("sqlite://{}", path.join("minichat.db").display()))?,
        Subject::Postgres => {
            let url = setup.postgres_url.as_deref();
            dataplane(url.ok_or_else(|| anyhow::anyhow!("no PostgreSQL to measure on"))?)?
        }
    };
    Ok(Running {
        subject,
        address,
        process,
    })
}
