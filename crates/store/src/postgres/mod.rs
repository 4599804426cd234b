//! PostgreSQL: a pool of sessions, and transactions on them.

mod flush;
mod options;
mod pool;
mod sessions;
mod stops;
mod tx;
pub(crate) mod types;
mod under_way;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use minichat_config::PostgresUrl;
use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;

pub(crate) use options::check_files;
use pool::Pool;
pub(crate) use pool::silent;
use sessions::Sessions;
pub use stops::StopRequests;
pub(crate) use tx::{Commits, PostgresTx};

use crate::settings::Servers;
use crate::{DatabaseSettings, StoreError, Tx, migrate};

/// Attempts of a job whose transaction collides with others (QUOTA-82), or whose
/// session the server had ended: the first and three more.
const ATTEMPTS: u32 = 4;
const BACK_OFF: Duration = Duration::from_millis(10);

/// Statements that a session keeps prepared: more than there are.
const STATEMENTS: usize = 200;

/// Options of a connection to each host of `url` that is none of a pool's.
pub(crate) fn connections(url: &PostgresUrl) -> Vec<PgConnectOptions> {
    options::of_url(url, &[], 0)
}

#[derive(Clone)]
pub(crate) struct Postgres {
    pool: Pool,
    sessions: Arc<Sessions>,
    job_timeout: Duration,
    /// For connections that are none of the pool's, one for each host.
    direct: Arc<[PgConnectOptions]>,
}

impl Postgres {
    pub(crate) async fn open(
        servers: Servers,
        settings: &DatabaseSettings,
    ) -> Result<Self, StoreError> {
        let Servers { main, direct } = servers;
        settings.check_files()?;
        let is_pooled = direct.is_some();
        let (of_session, statements) = if is_pooled {
            (Vec::new(), 0)
        } else {
            (settings.of_session(), STATEMENTS)
        };
        let main_options = options::of_url(&main, &of_session, statements);
        let pool = Pool::new(main_options, settings, !is_pooled);
        let direct = direct.as_ref().unwrap_or(&main);
        let direct = options::of_url(direct, &settings.of_listener(), STATEMENTS);
        let patience = settings.acquire_timeout.max(settings.job_timeout);
        let mut first = pool.acquire(Instant::now() + patience).await?;
        migrate::postgres(first.connection()?, settings.auto_migrate).await?;
        drop(first);
        Ok(Self {
            sessions: Arc::new(Sessions::new(settings, pool.clone())),
            pool,
            job_timeout: settings.job_timeout,
            direct: direct.into(),
        })
    }

    pub(crate) async fn stop_requests(&self) -> Result<StopRequests, StoreError> {
        StopRequests::open(Arc::clone(&self.direct)).await
    }

    pub(crate) async fn write<T, E, F>(&self, mut job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        T: Send,
        E: From<StoreError> + Send,
    {
        let deadline = Instant::now() + self.job_timeout;
        let mut attempt = 1;
        loop {
            let session = self.pool.acquire(deadline).await?;
            let sessions = Arc::clone(&self.sessions);
            let mut tx = Tx::postgres(PostgresTx::transaction(session, sessions, deadline));
            let answer = job(&mut tx).await;
            let Some(mut transaction) = tx.into_postgres() else {
                return answer;
            };
            let result = match answer {
                Ok(value) => match transaction.commit().await {
                    Ok(()) => {
                        transaction.flushed().await?;
                        return Ok(value);
                    }
                    Err(error) => Err(error.into()),
                },
                Err(error) => Err(error),
            };
            transaction.rollback().await;
            let may_run_again = transaction.may_run_again();
            // Others use the session meanwhile.
            drop(transaction);
            // Lets the transaction that won go first.
            let next = Instant::now() + BACK_OFF * attempt;
            if !may_run_again || attempt == ATTEMPTS || next >= deadline {
                return result;
            }
            tokio::time::sleep_until(next).await;
            attempt += 1;
        }
    }

    pub(crate) async fn read<T, E, F>(&self, mut job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        T: Send,
        E: From<StoreError> + Send,
    {
        let deadline = Instant::now() + self.job_timeout;
        let mut attempt = 1;
        loop {
            let session = self.pool.acquire(deadline).await?;
            let sessions = Arc::clone(&self.sessions);
            let mut tx = Tx::postgres(PostgresTx::reading(session, sessions, deadline));
            let answer = job(&mut tx).await;
            let Some(transaction) = tx.as_postgres() else {
                return answer;
            };
            transaction.rollback().await;
            if answer.is_ok() || !transaction.may_run_again() || attempt == ATTEMPTS {
                return answer;
            }
            attempt += 1;
        }
    }
}
