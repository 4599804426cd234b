//! Where the database is and how much of it a process may use.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::SslMode;

use crate::StoreError;

/// `database.*` of the process configuration.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// `sqlite:///absolute/path`, `sqlite://relative/path` or `postgres://…`.
    pub url: String,
    /// Connections of the PostgreSQL pool, readers on `SQLite`; at least 1.
    pub max_conns: usize,
    /// How long a caller waits for a connection of the PostgreSQL pool.
    pub acquire_timeout: Duration,
    /// How long opening waits for a `SQLite` file that another process has open.
    pub file_patience: Duration,
    /// Whether opening brings an older schema up to date. `SQLite` always does
    /// (K8S-43).
    pub auto_migrate: bool,
}

/// A parsed `url`.
pub(crate) enum Location {
    Sqlite(PathBuf),
    Postgres(Box<tokio_postgres::Config>),
}

impl DatabaseSettings {
    /// Settings with the documented defaults: 10 connections, 30 s, migrate, and
    /// no waiting for a file.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_conns: 10,
            acquire_timeout: Duration::from_secs(30),
            file_patience: Duration::ZERO,
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
        if self.url.starts_with("postgres://") || self.url.starts_with("postgresql://") {
            return postgres(&self.url).map(Location::Postgres);
        }
        Err(StoreError::Url("must begin with sqlite:// or postgres://"))
    }
}

/// The parser's own message may quote the url, which may hold a password.
fn postgres(url: &str) -> Result<Box<tokio_postgres::Config>, StoreError> {
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| StoreError::Url("not a postgres:// url that can be understood"))?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(StoreError::Url(
            "sslmode=require is not supported: this build has no TLS for databases",
        ));
    }
    config.ssl_mode(SslMode::Disable);
    config.application_name("minichat");
    config.tcp_user_timeout(Duration::from_secs(30));
    Ok(Box::new(config))
}

impl std::fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("max_conns", &self.max_conns)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("file_patience", &self.file_patience)
            .field("auto_migrate", &self.auto_migrate)
            .finish_non_exhaustive()
    }
}
