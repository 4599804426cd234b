//! PostgreSQL: a pool, and transactions that cost few round trips.
//!
//! `BEGIN` travels with the first query of a transaction and `COMMIT` with the
//! statements posted last. A failed statement makes the server answer a
//! pipelined `COMMIT` by rolling back, so nothing can be committed by halves.

mod stops;
mod tx;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::future::BoxFuture;
use tokio_postgres::NoTls;

pub use stops::StopRequests;
pub(crate) use tx::PostgresTx;

use crate::{DatabaseSettings, StoreError, Tx, migrate};

/// Attempts of a write whose transaction collides with others (QUOTA-82): the
/// first and three more.
const ATTEMPTS: u32 = 4;
const BACK_OFF: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub(crate) struct Postgres {
    pool: Pool,
    /// For connections that are none of the pool's.
    config: Arc<tokio_postgres::Config>,
}

impl Postgres {
    pub(crate) async fn open(
        config: tokio_postgres::Config,
        settings: &DatabaseSettings,
    ) -> Result<Self, StoreError> {
        let manager = Manager::from_config(
            config.clone(),
            NoTls,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let timeout = Some(settings.acquire_timeout);
        let pool = Pool::builder(manager)
            .max_size(settings.max_conns.max(1))
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Pool(error.to_string()))?;
        migrate::postgres(&mut *pool.get().await?, settings.auto_migrate).await?;
        Ok(Self {
            pool,
            config: Arc::new(config),
        })
    }

    pub(crate) async fn stop_requests(&self) -> StopRequests {
        StopRequests::open((*self.config).clone()).await
    }

    pub(crate) async fn write<T, E, F>(&self, mut job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        T: Send,
        E: From<StoreError> + Send,
    {
        let mut attempt = 1;
        loop {
            let connection = self.pool.get().await.map_err(StoreError::from)?;
            let mut tx = Tx::postgres(PostgresTx::transaction(connection));
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
            if !transaction.has_collided() || attempt == ATTEMPTS {
                return result;
            }
            // Lets the transaction that won go first.
            tokio::time::sleep(BACK_OFF * attempt).await;
            attempt += 1;
        }
    }

    pub(crate) async fn read<T, E, F>(&self, mut job: F) -> Result<T, E>
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        T: Send,
        E: From<StoreError> + Send,
    {
        let connection = self.pool.get().await.map_err(StoreError::from)?;
        let mut tx = Tx::postgres(PostgresTx::reading(connection));
        job(&mut tx).await
    }
}
