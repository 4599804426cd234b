//! How a connection to PostgreSQL is made.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Executor as _, Row as _};
use tokio::time::timeout;

use super::Pool;
use crate::StoreError;
use crate::error::{PROTOCOL_VIOLATION, Refused};
use crate::settings::is_marked;

impl Pool {
    /// Of several hosts the first that can be written to, and when it started.
    pub(super) async fn connect(&self) -> Result<(PgConnection, i64), StoreError> {
        let mut failure = StoreError::Closed;
        for server in &self.0.servers {
            let connection = timeout(self.0.connect_timeout, self.connect_to(server)).await;
            match connection.unwrap_or_else(|_| Err(silent(self.0.connect_timeout))) {
                Ok(connected) => return Ok(connected),
                // A standby behind a server that is full says nothing new.
                Err(error) if !failure.is_crowded_server() => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn connect_to(
        &self,
        server: &PgConnectOptions,
    ) -> Result<(PgConnection, i64), StoreError> {
        let connected = server.connect().await.map_err(StoreError::from);
        let mut connection = connected.map_err(|error| self.refused(error))?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT current_setting('transaction_read_only') = 'on', {}, \
             CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000 AS BIGINT)",
            is_marked()
        ));
        let row = connection.fetch_one(sqlx::raw_sql(sql)).await?;
        let (is_read_only, is_marked): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        if is_read_only {
            return Err(StoreError::Postgres(Refused::read_only()));
        }
        if self.0.keeps_settings && !is_marked {
            return Err(StoreError::Pooler("it ignores settings".to_owned()));
        }
        let started = row.try_get(2)?;
        Ok((connection, started))
    }

    /// A pooler refuses what comes with a connection as a fault of the protocol.
    fn refused(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Postgres(refused)
                if refused.code == PROTOCOL_VIOLATION && self.0.keeps_settings =>
            {
                StoreError::Pooler(refused.to_string())
            }
            error => error,
        }
    }
}

/// The failure of a server that says nothing for `limit`.
pub(crate) fn silent(limit: Duration) -> StoreError {
    StoreError::Connection(format!("no answer within {} s", limit.as_secs_f32()))
}
