//! Where the database is and how much of it a process may use.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use crate::StoreError;

/// `database.*` of the process configuration.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// `sqlite:///absolute/path`, `sqlite://relative/path` or `postgres://…`.
    pub url: String,
    /// `postgres://…` of the server itself, when `url` leads through a pooler in
    /// transaction mode.
    pub listen_url: Option<String>,
    /// Connections of the PostgreSQL pool, readers on `SQLite`; at least 1.
    pub max_conns: usize,
    /// How long a caller waits for a connection of the PostgreSQL pool.
    pub acquire_timeout: Duration,
    /// How long opening waits for a `SQLite` file that another process has open.
    pub file_patience: Duration,
    /// How long PostgreSQL may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long PostgreSQL works on one statement.
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock, on `SQLite` for that of another
    /// process.
    pub lock_timeout: Duration,
    /// How long a job takes at most, with its wait for a connection and its
    /// attempts.
    pub job_timeout: Duration,
    /// Whether opening brings an older schema up to date. `SQLite` always does
    /// (K8S-43).
    pub auto_migrate: bool,
}

/// A parsed `url`.
pub(crate) enum Location {
    Sqlite(PathBuf),
    Postgres(Box<Servers>),
}

/// How PostgreSQL is reached.
pub(crate) struct Servers {
    pub(crate) main: tokio_postgres::Config,
    /// The server itself, where `main` is a pooler in transaction mode.
    pub(crate) direct: Option<tokio_postgres::Config>,
}

impl DatabaseSettings {
    /// Settings with the documented defaults, and no waiting for a file.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            listen_url: None,
            max_conns: 10,
            acquire_timeout: Duration::from_secs(30),
            file_patience: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
            job_timeout: Duration::from_secs(15),
            auto_migrate: true,
        }
    }

    pub(crate) fn location(&self) -> Result<Location, StoreError> {
        if let Some(path) = self.url.strip_prefix("sqlite://") {
            return match path {
                "" => Err(StoreError::Url("sqlite:// needs the path of a file")),
                path => Ok(Location::Sqlite(PathBuf::from(path))),
            };
        }
        if !is_postgres(&self.url) {
            return Err(StoreError::Url("must begin with sqlite:// or postgres://"));
        }
        let mut servers = Servers {
            main: self.postgres(&self.url)?,
            direct: None,
        };
        match &self.listen_url {
            // A pooler refuses settings that come with a connection.
            Some(url) if is_postgres(url) => servers.direct = Some(self.postgres(url)?),
            Some(_) => {
                return Err(StoreError::Url(
                    "database.listen_url must begin with postgres://",
                ));
            }
            None => self.limit(&mut servers.main),
        }
        Ok(Location::Postgres(Box::new(servers)))
    }

    /// The parser's own message may quote the url, which may hold a password.
    fn postgres(&self, url: &str) -> Result<tokio_postgres::Config, StoreError> {
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|_| StoreError::Url("not a postgres:// url that can be understood"))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(StoreError::Url(
                "sslmode=require is not supported: this build has no TLS for databases",
            ));
        }
        config
            .ssl_mode(SslMode::Disable)
            .application_name("minichat")
            // A standby can only be read; of several hosts the primary is found.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(self.connect_timeout)
            // A peer that vanished without a word is noticed by its silence.
            .keepalives(true)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE)
            .keepalives_retries(2)
            .tcp_user_timeout(self.job_timeout);
        Ok(config)
    }

    /// Sets the limits of time of each session; what the url itself says wins.
    fn limit(&self, config: &mut tokio_postgres::Config) {
        let given = config.get_options().unwrap_or_default().to_owned();
        let limits = self.limits();
        let options = limits
            .iter()
            .fold(String::new(), |options, (name, millis)| {
                format!("{options}-c {name}={millis} ")
            });
        config.options(format!("-c {MARK}={MARKED} {options}{given}"));
    }

    /// The settings of a session, in milliseconds. One that is idle in the
    /// middle of a transaction has been left by its process.
    pub(crate) fn limits(&self) -> [(&'static str, u128); 3] {
        [
            ("statement_timeout", self.statement_timeout.as_millis()),
            ("lock_timeout", self.lock_timeout.as_millis()),
            (
                "idle_in_transaction_session_timeout",
                self.job_timeout.as_millis(),
            ),
        ]
    }
}

/// A setting of our own, by which a session is known that keeps its settings.
pub(crate) const MARK: &str = "minichat.session";
pub(crate) const MARKED: &str = "own";

const KEEPALIVE: Duration = Duration::from_secs(10);

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

impl std::fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("max_conns", &self.max_conns)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("file_patience", &self.file_patience)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("job_timeout", &self.job_timeout)
            .field("auto_migrate", &self.auto_migrate)
            .finish_non_exhaustive()
    }
}
