//! The sessions of a process.
//!
//! The pool of `sqlx` sends a `Sync` whenever a session comes back, waits for its
//! answer without limit, and repeats a connection that is refused until the time
//! to wait for one is over. Here a session that comes back costs nothing, one
//! that was idle is asked whether it lives, and what a server says is told at
//! once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlStr};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{PROTOCOL_VIOLATION, Refused};
use crate::settings::is_marked;
use crate::{DatabaseSettings, StoreError};

/// After which time a full server is asked for a connection again.
const TRIED_AGAIN: Duration = Duration::from_millis(100);

/// After this time an idle session is asked whether it still lives: its server
/// may have ended it, or may have vanished.
const ASKED_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    /// Where the sockets of sessions are watched: a session outlives the thread
    /// that asked for it.
    runtime: Handle,
    /// One for each host.
    servers: Vec<PgConnectOptions>,
    /// Whether a session must keep what is set with it.
    keeps_settings: bool,
    permits: Arc<Semaphore>,
    /// Told when a session is used no more.
    returned: Notify,
    /// Told when all sessions are given up.
    given_up: Notify,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    /// By then the server ends every statement.
    statement_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those used last come last, and are used first.
    idle: Vec<Idle>,
    /// Sessions that are not younger than this are given up.
    oldest: Option<Instant>,
    in_use: usize,
}

impl State {
    fn has_given_up(&self, origin: Origin) -> bool {
        self.oldest.is_some_and(|oldest| origin.created <= oldest)
    }
}

struct Idle {
    connection: PgConnection,
    origin: Origin,
    since: Instant,
    /// Whether its server has ended another one since.
    is_doubted: bool,
}

/// Where a session comes from. No session outlives its server: a server that
/// crashes, or fails over, ends all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// When its connection was begun, and when it was made.
    created: Instant,
    connected: Instant,
    /// When the server started, in microseconds since 1970, which tells one server
    /// from another.
    server: i64,
}

impl Origin {
    /// Whether this session, as long as it lives, proves that nothing is lost of
    /// what a session of `other` has been told since `since`: both have the same
    /// server, and it has not crashed.
    pub(super) fn vouches_for(&self, other: Self, since: Instant) -> bool {
        self.server == other.server && self.connected <= since
    }
}

/// A session in use, which goes back when it is dropped.
pub(crate) struct Session {
    connection: Option<PgConnection>,
    origin: Origin,
    is_busy: bool,
    place: Option<Place>,
}

/// One of the sessions that there may be, until this is dropped.
struct Place {
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(
        servers: Vec<PgConnectOptions>,
        settings: &DatabaseSettings,
        keeps_settings: bool,
    ) -> Self {
        Self(Arc::new(Shared {
            runtime: Handle::current(),
            servers,
            keeps_settings,
            permits: Arc::new(Semaphore::new(settings.max_conns.max(1))),
            returned: Notify::new(),
            given_up: Notify::new(),
            acquire_timeout: settings.acquire_timeout,
            connect_timeout: settings.connect_timeout,
            statement_timeout: settings.statement_timeout,
            state: Mutex::default(),
        }))
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub(super) fn has_free(&self) -> bool {
        self.0.permits.available_permits() > 0
    }

    /// A session that lives, made if none is idle. If others have all connections of
    /// the server, the next one that comes back.
    pub(super) async fn acquire(&self) -> Result<Session, StoreError> {
        let permit = Arc::clone(&self.0.permits).acquire_owned();
        let permit = timeout(self.0.acquire_timeout, permit).await;
        let permit = permit.map_err(|_| StoreError::AcquireTimeout)?;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let deadline = Instant::now() + self.0.acquire_timeout;
        loop {
            let returned = self.0.returned.notified();
            let refused = match self.open().await {
                Ok((connection, origin)) => return Ok(self.session(connection, origin, permit)),
                Err(refused) => refused,
            };
            let (has_idle, in_use) = self.counts();
            let may_wait = refused.is_crowded_server() && (has_idle || in_use > 0);
            if !may_wait || Instant::now() >= deadline {
                return Err(refused);
            }
            if !has_idle {
                // Others may have been told of the one that came back, and what other
                // processes give back is not told at all.
                let again = deadline.min(Instant::now() + TRIED_AGAIN);
                let _ = timeout_at(again, returned).await;
            }
        }
    }

    /// Whether a session is idle, and how many are in use.
    fn counts(&self) -> (bool, usize) {
        let state = self.lock();
        (!state.idle.is_empty(), state.in_use)
    }

    /// A connection that lives, and where it comes from.
    async fn open(&self) -> Result<(PgConnection, Origin), StoreError> {
        while let Some(mut idle) = self.pop() {
            let is_fresh = idle.since.elapsed() < ASKED_AFTER && !idle.is_doubted;
            if is_fresh || self.lives(&mut idle.connection).await {
                return Ok((idle.connection, idle.origin));
            }
        }
        let created = Instant::now();
        let pool = self.clone();
        let connecting = async move { pool.connect().await };
        let connection = self.0.runtime.spawn(connecting).await;
        let (connection, server) = connection.map_err(|_| StoreError::Closed)??;
        let origin = Origin {
            created,
            connected: Instant::now(),
            server,
        };
        Ok((connection, origin))
    }

    fn session(
        &self,
        connection: PgConnection,
        origin: Origin,
        permit: OwnedSemaphorePermit,
    ) -> Session {
        self.lock().in_use += 1;
        let pool = self.clone();
        Session {
            connection: Some(connection),
            origin,
            is_busy: false,
            place: Some(Place {
                pool,
                _permit: permit,
            }),
        }
    }

    /// Gives up all sessions that there are.
    pub(super) fn give_up_all(&self) {
        let mut state = self.lock();
        state.oldest = Some(Instant::now());
        state.idle.clear();
        drop(state);
        self.0.given_up.notify_waiters();
    }

    /// Asks all idle sessions whether they live, each before it is used.
    pub(super) fn doubt_all(&self) {
        for idle in &mut self.lock().idle {
            idle.is_doubted = true;
        }
    }

    async fn lives(&self, connection: &mut PgConnection) -> bool {
        let answer = timeout(self.0.connect_timeout, connection.ping()).await;
        if answer.is_err() {
            // Its server is silent, and so it will be to the others.
            self.give_up_all();
        }
        matches!(answer, Ok(Ok(())))
    }

    /// Of several hosts the first that can be written to, and when it started.
    async fn connect(&self) -> Result<(PgConnection, i64), StoreError> {
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

    fn pop(&self) -> Option<Idle> {
        self.lock().idle.pop()
    }

    fn put_back(&self, connection: PgConnection, origin: Origin) {
        let mut state = self.lock();
        if !state.has_given_up(origin) {
            state.idle.push(Idle {
                connection,
                origin,
                since: Instant::now(),
                is_doubted: false,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code runs under the lock that could leave the state broken.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent(limit: Duration) -> StoreError {
    StoreError::Connection(format!("no answer within {} s", limit.as_secs_f32()))
}

impl Session {
    /// Runs statements without parameters in one round trip.
    pub(super) async fn command(&mut self, sql: SqlStr) -> Result<(), StoreError> {
        self.is_busy = true;
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let answer = connection.execute(sqlx::raw_sql(sql)).await;
        self.is_busy = false;
        answer?;
        Ok(())
    }

    /// Runs one statement; the server keeps it prepared if `keep`.
    pub(super) async fn query(
        &mut self,
        sql: SqlStr,
        arguments: PgArguments,
        keep: bool,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.is_busy = true;
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let query = sqlx::query_with(sql, arguments).persistent(keep);
        let answer = connection.fetch_all(query).await;
        self.is_busy = false;
        Ok(answer?)
    }

    pub(super) const fn origin(&self) -> Origin {
        self.origin
    }

    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }

    /// Closes the connection, which makes the server roll back.
    pub(super) fn give_up(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.is_busy
            && let Some(place) = self.place.take()
        {
            let runtime = place.pool.0.runtime.clone();
            runtime.spawn(place.outlast(connection, self.origin));
        }
    }
}

impl Drop for Session {
    /// A session on which a statement is under way does not go back: nobody knows
    /// what its server will say next.
    fn drop(&mut self) {
        if self.is_busy {
            self.give_up();
        } else if let (Some(connection), Some(place)) = (self.connection.take(), &self.place) {
            place.pool.put_back(connection, self.origin);
        }
    }
}

impl Place {
    /// Keeps a place until the server is done with a statement whose answer nobody
    /// waits for. It notices a closed connection only then, and meanwhile would have
    /// one session more than there may be. A silent server, once it is given up, is not
    /// waited for.
    async fn outlast(self, mut connection: PgConnection, origin: Origin) {
        let pool = &self.pool;
        let given_up = pool.0.given_up.notified();
        if pool.lock().has_given_up(origin) {
            return;
        }
        tokio::select! {
            () = given_up => {}
            _ = timeout(pool.0.statement_timeout, connection.ping()) => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.lock().in_use -= 1;
        self.pool.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-132: a flush after a crash or a failover says nothing about what was
    /// committed before.
    #[test]
    fn only_an_older_session_of_the_same_server_vouches_for_a_commit() {
        let sent = Instant::now();
        let moment = Duration::from_millis(1);
        let session = |connected, server| Origin {
            created: sent - moment,
            connected,
            server,
        };
        let committed = session(sent - moment, 1);
        assert!(session(sent, 1).vouches_for(committed, sent));
        assert!(!session(sent + moment, 1).vouches_for(committed, sent));
        assert!(!session(sent, 2).vouches_for(committed, sent));
    }
}
