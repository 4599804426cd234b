//! Requests to stop a turn, between the processes that share a database (D3).
//!
//! `LISTEN` belongs to a connection, so this one is none of the pool's. It is
//! made anew whenever it is lost; what was asked for meanwhile is read from the
//! rows of the turns. `PgListener` would connect again by itself, but at once and
//! without end, and without reading those rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use minichat_core::TurnId;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Acquire as _, AssertSqlSafe, Connection as _, Executor as _, Row as _};
use tokio::time::timeout;

use crate::StoreError;
use crate::error::PROTOCOL_VIOLATION;
use crate::settings::is_marked;

/// Also in the statement of [`crate::Tx::turn_request_stop`].
const CHANNEL: &str = "minichat_turn_stop";

/// Asked after `LISTEN`, so that nothing falls between.
const PENDING_STOPS: &str = "SELECT CAST(id AS TEXT) FROM chat_turns WHERE state = 'running' \
     AND deleted_at IS NULL AND stop_requested_at IS NOT NULL";

/// How long it may take until the server listens for us.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const MAX_BACK_OFF: Duration = Duration::from_secs(5);

/// A server that was silent for so long is asked whether it lives.
const ASKED_AFTER: Duration = Duration::from_secs(10);

/// What other processes want stopped.
pub struct StopRequests {
    servers: Arc<[PgConnectOptions]>,
    session: Option<Session>,
    back_off: Duration,
}

struct Session {
    listener: PgListener,
    /// Asked for before the connection was set up.
    early: VecDeque<TurnId>,
}

impl StopRequests {
    /// Listens, or will as soon as the database lets it. A pooler never will.
    pub(crate) async fn open(servers: Arc<[PgConnectOptions]>) -> Result<Self, StoreError> {
        let mut requests = Self {
            servers,
            session: None,
            back_off: FIRST_BACK_OFF,
        };
        match requests.connect().await {
            Err(error @ StoreError::ListenPooler(_)) => return Err(error),
            Err(error) => log_not_listening(&error),
            Ok(()) => {}
        }
        Ok(requests)
    }

    /// The next turn that shall be stopped. Waits out every outage.
    pub async fn next(&mut self) -> TurnId {
        loop {
            let Some(session) = &mut self.session else {
                tokio::time::sleep(self.back_off).await;
                self.back_off = (self.back_off * 2).min(MAX_BACK_OFF);
                if let Err(error) = self.connect().await {
                    log_not_listening(&error);
                }
                continue;
            };
            match session.next().await {
                Ok(Some(turn)) => return turn,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "requests to stop turns are not heard: the connection was lost"
                    );
                    self.session = None;
                }
            }
        }
    }

    /// Of several hosts the first that lets us listen; no standby does.
    async fn connect(&mut self) -> Result<(), StoreError> {
        let mut failure = StoreError::Closed;
        for server in &*self.servers {
            let begun = timeout(PATIENCE, Session::begin(server.clone())).await;
            match begun.unwrap_or(Err(StoreError::Deadline)) {
                Ok(session) => {
                    self.session = Some(session);
                    self.back_off = FIRST_BACK_OFF;
                    return Ok(());
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl Session {
    async fn begin(server: PgConnectOptions) -> Result<Self, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PATIENCE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(server);
        let listener = PgListener::connect_with(&pool).await;
        let mut listener = listener.map_err(|error| refused(error.into()))?;
        listener.eager_reconnect(false);
        check_own(&mut listener).await?;
        listener.listen(CHANNEL).await?;
        let rows = listener.fetch_all(PENDING_STOPS).await?;
        let ids = rows.iter().map(|row| row.try_get::<&str, _>(0));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let early = ids.iter().filter_map(|id| turn_of(id)).collect();
        Ok(Self { listener, early })
    }

    /// A turn to stop, if that is what came next.
    async fn next(&mut self) -> Result<Option<TurnId>, StoreError> {
        if let Some(turn) = self.early.pop_front() {
            return Ok(Some(turn));
        }
        let Ok(notification) = timeout(ASKED_AFTER, self.listener.try_recv()).await else {
            let lives = timeout(ASKED_AFTER, self.ask()).await;
            lives.map_err(|_| StoreError::Deadline)??;
            return Ok(None);
        };
        match notification? {
            Some(notification) => Ok(turn_of(notification.payload())),
            None => Err(StoreError::Connection("the server closed it".to_owned())),
        }
    }

    async fn ask(&mut self) -> Result<(), sqlx::Error> {
        self.listener.acquire().await?.ping().await
    }
}

fn log_not_listening(error: &StoreError) {
    tracing::warn!(%error, "requests to stop turns are not heard: no connection");
}

/// A pooler refuses what comes with a connection as a fault of the protocol.
fn refused(error: StoreError) -> StoreError {
    match error {
        StoreError::Postgres(refused) if refused.code == PROTOCOL_VIOLATION => {
            StoreError::ListenPooler(refused.to_string())
        }
        error => error,
    }
}

/// A session that forgets its settings is lent to others between statements.
async fn check_own(listener: &mut PgListener) -> Result<(), StoreError> {
    let sql = AssertSqlSafe(format!("SELECT {}", is_marked()));
    let row = listener.fetch_one(sqlx::raw_sql(sql)).await?;
    if row.try_get(0)? {
        Ok(())
    } else {
        Err(StoreError::ListenPooler("it ignores settings".to_owned()))
    }
}

fn turn_of(id: &str) -> Option<TurnId> {
    let id = id.parse().ok().map(TurnId);
    if id.is_none() {
        tracing::warn!("a request to stop a turn names none");
    }
    id
}
