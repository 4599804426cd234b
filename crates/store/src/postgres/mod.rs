//! PostgreSQL: a pool, and transactions that cost few round trips.
//!
//! `BEGIN` travels with the first query of a transaction and `COMMIT` with the
//! statements posted last. A failed statement makes the server answer a
//! pipelined `COMMIT` by rolling back, so nothing can be committed by halves.

mod sessions;
mod stops;
mod tx;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use sessions::Sessions;
pub use stops::StopRequests;
pub(crate) use tx::PostgresTx;

use crate::settings::{MARK, MARKED, Servers};
use crate::{DatabaseSettings, StoreError, Tx, migrate};

/// Attempts of a write whose transaction collides with others (QUOTA-82): the
/// first and three more.
const ATTEMPTS: u32 = 4;
const BACK_OFF: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub(crate) struct Postgres {
    pool: Pool,
    sessions: Arc<Sessions>,
    job_timeout: Duration,
    /// For connections that are none of the pool's.
    direct: Arc<tokio_postgres::Config>,
}

impl Postgres {
    pub(crate) async fn open(
        servers: Servers,
        settings: &DatabaseSettings,
    ) -> Result<Self, StoreError> {
        let Servers { main, direct } = servers;
        let sessions = Arc::new(Sessions::new(settings));
        let pool = pool(main.clone(), settings, Arc::clone(&sessions))?;
        let mut first = pool.get().await.map_err(|error| refused(error, settings))?;
        if settings.listen_url.is_none() {
            check_session(&first).await?;
        }
        migrate::postgres(&mut first, settings.auto_migrate).await?;
        drop(first);
        Ok(Self {
            pool,
            sessions,
            job_timeout: settings.job_timeout,
            direct: Arc::new(direct.unwrap_or(main)),
        })
    }

    pub(crate) async fn stop_requests(&self) -> StopRequests {
        StopRequests::open((*self.direct).clone()).await
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
            let connection = self.session(deadline).await?;
            let sessions = Arc::clone(&self.sessions);
            let mut tx = Tx::postgres(PostgresTx::transaction(connection, sessions, deadline));
            let answer = job(&mut tx).await;
            let Some(transaction) = tx.as_postgres() else {
                return answer;
            };
            let result = match answer {
                Ok(value) => match transaction.commit().await {
                    Ok(()) => return Ok(value),
                    Err(error) => Err(error.into()),
                },
                Err(error) => Err(error),
            };
            transaction.rollback().await;
            // Lets the transaction that won go first.
            let next = Instant::now() + BACK_OFF * attempt;
            if !transaction.has_collided() || attempt == ATTEMPTS || next >= deadline {
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
        let connection = self.session(deadline).await?;
        let sessions = Arc::clone(&self.sessions);
        let mut tx = Tx::postgres(PostgresTx::reading(connection, sessions, deadline));
        job(&mut tx).await
    }

    async fn session(&self, deadline: Instant) -> Result<Object, StoreError> {
        match timeout_at(deadline, self.pool.get()).await {
            Ok(session) => Ok(session?),
            Err(_) => Err(StoreError::AcquireTimeout),
        }
    }
}

/// A pooler refuses what comes with a connection as a fault of the protocol.
fn refused(error: PoolError, settings: &DatabaseSettings) -> StoreError {
    match StoreError::from(error) {
        StoreError::Postgres(refused)
            if refused.code == SqlState::PROTOCOL_VIOLATION.code()
                && settings.listen_url.is_none() =>
        {
            StoreError::Pooler(refused.to_string())
        }
        error => error,
    }
}

/// Fails unless what was set with the connection is set, which a pooler may have
/// been told to ignore.
async fn check_session(session: &Object) -> Result<(), StoreError> {
    let sql = format!("SELECT current_setting('{MARK}', true) = '{MARKED}'");
    let row = session.query_one(&sql, &[]).await?;
    match row.try_get::<_, Option<bool>>(0) {
        Ok(Some(true)) => Ok(()),
        _ => Err(StoreError::Pooler("it ignores settings".to_owned())),
    }
}

fn pool(
    config: tokio_postgres::Config,
    settings: &DatabaseSettings,
    sessions: Arc<Sessions>,
) -> Result<Pool, StoreError> {
    let method = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let may_use = Hook::sync_fn(move |_, metrics| {
        if sessions.may_use(metrics.created) {
            Ok(())
        } else {
            Err(HookError::message("older than the last outage"))
        }
    });
    Pool::builder(Manager::from_config(config, NoTls, method))
        .max_size(settings.max_conns.max(1))
        .wait_timeout(Some(settings.acquire_timeout))
        .create_timeout(Some(settings.connect_timeout))
        .pre_recycle(may_use)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Pool(error.to_string()))
}
