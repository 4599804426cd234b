//! The store: a cheap handle on one database.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use minichat_core::Clock;

use crate::postgres::{Postgres, StopRequests};
use crate::settings::Location;
use crate::sqlite::{InstanceLock, Limits, Sqlite};
use crate::{DatabaseSettings, StoreError, Tx};

/// A handle on one database, cheap to clone. Dropping the last clone ends the
/// threads of a `SQLite` store and releases its file.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    #[cfg(feature = "testing")]
    turnstile: Option<crate::testing::Turnstile>,
}

#[derive(Clone)]
enum Backend {
    Sqlite(Arc<Sqlite>),
    Postgres(Postgres),
}

/// The purpose of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Any,
    Closing,
}

impl Store {
    /// Opens the database and migrates its schema (PLAT-1). A schema newer than
    /// this release is [`StoreError::NewerSchema`]. A `SQLite` file that
    /// another process keeps open for longer than the settings allow is
    /// [`StoreError::InUse`].
    /// `clock` gives the time of `SQLite` transactions (TURN-6).
    pub async fn open(
        settings: &DatabaseSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let backend = match settings.location()? {
            Location::Sqlite(path) => {
                let limits = Limits {
                    readers: settings.max_conns,
                    lock_timeout: settings.lock_timeout,
                    job_timeout: settings.job_timeout,
                };
                let patience = settings.file_patience;
                let sqlite = in_a_thread(move || {
                    let lock = InstanceLock::acquire(&path, patience, || clock.now())?;
                    Sqlite::open(&path, lock, limits, &clock)
                });
                let sqlite = sqlite.await?;
                Backend::Sqlite(Arc::new(sqlite))
            }
            Location::Postgres(servers) => {
                Backend::Postgres(Postgres::open(*servers, settings).await?)
            }
        };
        Ok(Self {
            backend,
            #[cfg(feature = "testing")]
            turnstile: None,
        })
    }

    /// The same database. Every transaction waits at `turnstile`.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn behind(mut self, turnstile: crate::testing::Turnstile) -> Self {
        self.turnstile = Some(turnstile);
        self
    }

    /// Whether the database is one file that this process owns (D16).
    pub fn is_sqlite(&self) -> bool {
        matches!(self.backend, Backend::Sqlite(_))
    }

    /// Other processes' requests to stop a turn (D3), received from now on.
    /// `None` on `SQLite`, whose file has one process. Fails only if
    /// `listen_url` leads through a pooler; a server that cannot be reached is
    /// tried again.
    pub async fn stop_requests(&self) -> Result<Option<StopRequests>, StoreError> {
        Ok(match &self.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(postgres) => Some(postgres.stop_requests().await?),
        })
    }

    /// Runs `job` in one transaction. It is committed if the job returns `Ok`,
    /// and rolled back if it returns `Err`, which is returned unchanged.
    /// `job` may run again after a conflict with another transaction, or if the
    /// server ended the session. So it
    /// must change nothing but the database, and await nothing but its
    /// transaction; otherwise `SQLite` returns [`StoreError::JobSuspended`].
    /// Dropping the returned future leaves no open transaction, but the
    /// transaction may have been committed.
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_for(job, Purpose::Any).await
    }

    /// [`write`](Self::write) for a job that ends an open turn or reads how it
    /// ended. When the disk is full, only such jobs may use the remaining room.
    pub async fn write_closing<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_for(job, Purpose::Closing).await
    }

    async fn write_for<T, E, F>(&self, job: F, purpose: Purpose) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        #[cfg(feature = "testing")]
        if let Some(turnstile) = &self.turnstile {
            let passage = turnstile.enter(crate::testing::Access::Write).await;
            let answer = self.run_write(job, purpose).await;
            return passage.leave(answer).await;
        }
        self.run_write(job, purpose).await
    }

    /// Runs `job` for reading. On `SQLite` it reads one snapshot; on PostgreSQL
    /// each statement has its own, and the job may run again if the server ended
    /// the session. Statements that change anything are refused.
    pub async fn read<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        #[cfg(feature = "testing")]
        if let Some(turnstile) = &self.turnstile {
            let passage = turnstile.enter(crate::testing::Access::Read).await;
            let answer = self.run_read(job).await;
            return passage.leave(answer).await;
        }
        self.run_read(job).await
    }

    /// The writer of a `SQLite` store.
    #[cfg(any(test, feature = "testing"))]
    pub fn writer(&self) -> Option<crate::testing::Writer> {
        match &self.backend {
            Backend::Sqlite(sqlite) => Some(sqlite.writer()),
            Backend::Postgres(_) => None,
        }
    }

    async fn run_write<T, E, F>(&self, job: F, purpose: Purpose) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        match &self.backend {
            Backend::Sqlite(sqlite) if purpose == Purpose::Closing => {
                sqlite.write_closing(job).await
            }
            Backend::Sqlite(sqlite) => sqlite.write(job).await,
            Backend::Postgres(postgres) => postgres.write(job).await,
        }
    }

    async fn run_read<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.read(job).await,
            Backend::Postgres(postgres) => postgres.read(job).await,
        }
    }
}

/// Runs `open` in its own thread. It may wait for long, and a process that
/// exits must not wait for it.
async fn in_a_thread<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (opened, is_opened) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("sqlite-open".to_owned())
        .spawn(move || {
            // If this fails, the caller no longer waits.
            let _ = opened.send(open());
        })?;
    is_opened.await.map_err(|_| StoreError::Closed)?
}
