//! The location of the database, and limits on its use.

use std::path::PathBuf;
use std::time::Duration;

use minichat_config::PostgresUrl;
use minichat_config::postgres_url::is_postgres;

use crate::StoreError;

/// `database.*` of the process configuration.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// `sqlite:///absolute/path`, `sqlite://relative/path` or `postgres://…`.
    pub url: String,
    /// `postgres://…` of the server itself, if `url` leads through a pooler in
    /// transaction mode.
    pub listen_url: Option<String>,
    /// Connections of the PostgreSQL pool, or readers on `SQLite`; at least 1.
    pub max_conns: usize,
    /// How long a caller waits for a connection of the PostgreSQL pool.
    pub acquire_timeout: Duration,
    /// How long `open` waits for a `SQLite` file that another process has open.
    pub file_patience: Duration,
    /// How long PostgreSQL may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long PostgreSQL may work on one statement.
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock; on `SQLite`, for a lock of
    /// another process.
    pub lock_timeout: Duration,
    /// Maximum duration of a job, including the wait for a connection and all
    /// attempts.
    pub job_timeout: Duration,
    /// Whether `open` migrates an older schema. `SQLite` always does (K8S-43).
    pub auto_migrate: bool,
}

/// A parsed `url`.
pub(crate) enum Location {
    Sqlite(PathBuf),
    Postgres(Box<Servers>),
}

/// The PostgreSQL servers to connect to.
pub(crate) struct Servers {
    pub(crate) main: PostgresUrl,
    /// The server itself, if `main` is a pooler in transaction mode.
    pub(crate) direct: Option<PostgresUrl>,
}

impl DatabaseSettings {
    /// Settings with the documented defaults. `open` does not wait for a file.
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
                "" => Err(refused("url", "sqlite:// needs the path of a file")),
                path => Ok(Location::Sqlite(PathBuf::from(path))),
            };
        }
        if !is_postgres(&self.url) {
            let text = "must begin with sqlite:// or postgres://";
            return Err(refused("url", text));
        }
        let direct = self.listen_url.as_deref();
        Ok(Location::Postgres(Box::new(Servers {
            main: postgres("url", &self.url)?,
            direct: direct.map(|url| postgres("listen_url", url)).transpose()?,
        })))
    }

    /// Reads the files that the URLs of PostgreSQL name, as opening would.
    pub fn check_files(&self) -> Result<(), StoreError> {
        let Location::Postgres(servers) = self.location()? else {
            return Ok(());
        };
        crate::postgres::check_files("url", &servers.main)?;
        let direct = servers.direct.as_ref();
        direct.map_or(Ok(()), |url| {
            crate::postgres::check_files("listen_url", url)
        })
    }

    /// The settings of each session. A statement is planned once, not for each of
    /// its values, because planning the large statements costs more than it saves.
    pub(crate) fn of_session(&self) -> Vec<(&'static str, String)> {
        let limits = self.limits().into_iter();
        let mut settings: Vec<_> = limits
            .map(|(name, millis)| (name, millis.to_string()))
            .collect();
        settings.push((MARK, MARKED.to_owned()));
        settings.push(("plan_cache_mode", "force_generic_plan".to_owned()));
        settings.extend(self.of_every_session());
        settings
    }

    /// The settings of the session that listens.
    pub(crate) fn of_listener(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![(MARK, MARKED.to_owned())];
        settings.extend(self.of_every_session());
        settings
    }

    /// Settings by which the server detects that this process has vanished.
    fn of_every_session(&self) -> Vec<(&'static str, String)> {
        let seconds = KEEPALIVE.as_secs().to_string();
        vec![
            ("tcp_keepalives_idle", seconds.clone()),
            ("tcp_keepalives_interval", seconds),
            ("tcp_keepalives_count", "2".to_owned()),
            ("tcp_user_timeout", self.job_timeout.as_millis().to_string()),
        ]
    }

    /// The time limits of a session, in milliseconds. A session that is idle inside
    /// a transaction was abandoned by its process.
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

fn postgres(key: &str, url: &str) -> Result<PostgresUrl, StoreError> {
    PostgresUrl::parse(url).map_err(|fault| refused(key, &fault.to_string()))
}

fn refused(key: &str, fault: &str) -> StoreError {
    StoreError::Url(format!("database.{key}: {fault}"))
}

/// A custom setting that identifies a session that keeps its settings.
const MARK: &str = "minichat.session";
const MARKED: &str = "own";

/// An expression: whether a session has kept its [`MARK`].
pub(crate) fn is_marked() -> String {
    format!("COALESCE(current_setting('{MARK}', true) = '{MARKED}', false)")
}

const KEEPALIVE: Duration = Duration::from_secs(10);

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
