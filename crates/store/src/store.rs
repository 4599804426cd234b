//! The store: a cheap handle on one database.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use minichat_core::Clock;

use crate::postgres::{Postgres, StopRequests};
use crate::settings::Location;
use crate::sqlite::{InstanceLock, Limits, Sqlite};
use crate::{DatabaseSettings, StoreError, Tx};

/// A handle on one database, cheap to clone. The last clone that is dropped
/// ends the threads of a `SQLite` store and gives its file free.
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

/// What a write is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Any,
    Closing,
}

impl Store {
    /// Opens the database and brings its schema up to date (PLAT-1). A schema
    /// newer than this release is [`StoreError::NewerSchema`]; a `SQLite` file
    /// that another process has open for longer than the settings allow is
    /// [`StoreError::InUse`].
    ///
    /// `clock` tells the time of `SQLite` transactions (TURN-6).
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

    /// The same database, every transaction of which waits at `turnstile`.
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

    /// The requests of other processes to stop a turn (D3), heard from the
    /// return on. `None` on `SQLite`, whose file has one process.
    pub async fn stop_requests(&self) -> Option<StopRequests> {
        match &self.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(postgres) => Some(postgres.stop_requests().await),
        }
    }

    /// Runs `job` in one transaction: committed when it answers `Ok`, rolled
    /// back when it answers `Err`, which comes back unchanged.
    ///
    /// `job` may run again after a collision with another transaction, so it
    /// must not change anything but the database, and must await nothing but
    /// its transaction: [`StoreError::JobSuspended`] on `SQLite`. Dropping the
    /// returned future leaves no open transaction; whether it committed is
    /// then unknown.
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_for(job, Purpose::Any).await
    }

    /// [`write`](Self::write) for what ends a turn that is open, or looks how it
    /// ended: on a full disk only such jobs have the room that is left.
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

    /// Runs `job` for reading: against one snapshot on `SQLite`, statement by
    /// statement on PostgreSQL. Statements that change anything are refused.
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

/// Runs `open` in a thread of its own: it may wait for long, and a process that
/// ends meanwhile must not wait for it.
async fn in_a_thread<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (opened, is_opened) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("sqlite-open".to_owned())
        .spawn(move || {
            // Nobody needs it any more when this fails.
            let _ = opened.send(open());
        })?;
    is_opened.await.map_err(|_| StoreError::Closed)?
}
