//! The sessions of a process.
//!
//! The pool of `sqlx` sends a `Sync` whenever a session comes back, waits for its
//! answer without limit, and repeats a connection that is refused until the time
//! to wait for one is over. Here a session that comes back costs nothing, one
//! that was idle is asked whether it lives, and what a server says is told at
//! once.

mod connect;
mod session;

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

pub(crate) use connect::silent;
pub(crate) use session::Session;

use crate::{DatabaseSettings, StoreError};

/// After which time a server that is full, or restarts, is asked for a connection again.
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
    /// Told when sessions are given up.
    given_up: Notify,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    /// By then the server ends every statement: one that says nothing for so long has
    /// vanished.
    statement_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those used last come last, and are used first.
    idle: Vec<Idle>,
    /// Sessions that were connected by then are given up.
    oldest: Option<Instant>,
    /// Those that are in use, being made, or being asked whether they live.
    taken: usize,
}

/// Counts as a session that is taken until it is dropped.
struct Taken(Pool);

impl Taken {
    fn new(pool: &Pool) -> Self {
        pool.lock().taken += 1;
        Self(pool.clone())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
    }
}

impl State {
    fn give_up_older(&mut self, asked: Instant) {
        self.oldest = self.oldest.max(Some(asked));
        self.idle.retain(|idle| idle.origin.connected > asked);
    }

    fn has_given_up(&self, origin: Origin) -> bool {
        self.oldest.is_some_and(|oldest| origin.connected <= oldest)
    }
}

struct Idle {
    connection: PgConnection,
    origin: Origin,
    since: Instant,
    /// Whether its server has ended another one since.
    is_doubted: bool,
}

impl Idle {
    /// Whether it is used without asking whether it lives.
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < ASKED_AFTER && !self.is_doubted
    }
}

/// Where a session comes from. No session outlives its server: a server that
/// crashes, or fails over, ends all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// When its connection was made.
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
    pub(super) async fn acquire(&self, deadline: Instant) -> Result<Session, StoreError> {
        let permit = self.permit(deadline).await?;
        if let Some((idle, taken)) = self.take_if(Idle::is_fresh) {
            return Ok(Session::new(idle.connection, idle.origin, taken, permit));
        }
        let (found, session) = oneshot::channel();
        let finding = self.clone();
        self.0.runtime.spawn(async move {
            // One that comes too late for its job is for the next. Otherwise, if all take
            // longer than jobs can wait, no job would ever have one.
            let session = finding.find(permit, deadline, || found.is_closed()).await;
            drop(found.send(session));
        });
        let session = timeout_at(deadline, session).await;
        let session = session.map_err(|_| StoreError::Deadline)?;
        session.unwrap_or(Err(StoreError::Closed))
    }

    /// A place among the sessions that there may be. A job spends at most two thirds of its
    /// time on the wait: with one that it got at the last moment, it could do nothing.
    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, StoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = self.0.acquire_timeout.min(left * 2 / 3);
        let permit = Arc::clone(&self.0.permits).acquire_owned();
        let permit = timeout(limit, permit).await;
        let permit = permit.map_err(|_| StoreError::AcquireTimeout)?;
        permit.map_err(|_| StoreError::Closed)
    }

    /// A session for a place. What it has begun it ends, but it does not begin anew for a
    /// job that `is_gone`.
    async fn find(
        self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
        is_gone: impl Fn() -> bool,
    ) -> Result<Session, StoreError> {
        let mut has_met_restart = false;
        loop {
            let returned = self.0.returned.notified();
            let refused = match self.open().await {
                Ok((connection, origin, taken)) => {
                    return Ok(Session::new(connection, origin, taken, permit));
                }
                Err(refused) => refused,
            };
            let (has_idle, taken) = self.counts();
            // Also after another refusal: what others have given back meanwhile may live.
            let may_wait = has_idle || refused.is_crowded_server() && taken > 0;
            let may_retry =
                refused.is_restarting_server() && !mem::replace(&mut has_met_restart, true);
            if !(may_wait || may_retry) || Instant::now() >= deadline || is_gone() {
                return Err(refused);
            }
            if may_retry {
                // However often sessions come back meanwhile.
                sleep_until(deadline.min(Instant::now() + TRIED_AGAIN)).await;
            } else if !has_idle {
                // Others may have been told of the one that came back, and what other
                // processes give back is not told at all.
                let again = deadline.min(Instant::now() + TRIED_AGAIN);
                let _ = timeout_at(again, returned).await;
            }
        }
    }

    /// Whether a session is idle, and how many are taken.
    fn counts(&self) -> (bool, usize) {
        let state = self.lock();
        (!state.idle.is_empty(), state.taken)
    }

    /// A connection that lives, and where it comes from.
    async fn open(&self) -> Result<(PgConnection, Origin, Taken), StoreError> {
        while let Some((mut idle, taken)) = self.take_if(|_| true) {
            if idle.is_fresh() || self.lives(&mut idle.connection).await {
                return Ok((idle.connection, idle.origin, taken));
            }
        }
        let taken = Taken::new(self);
        let (connection, server) = self.connect().await?;
        let origin = Origin {
            connected: Instant::now(),
            server,
        };
        Ok((connection, origin, taken))
    }

    /// Notes a failure of what was asked at `asked`; whether its session must not be used
    /// again. One that may only be read, that was lost, or whose server is silent
    /// is a sign of what the others are which were there then: all are made anew, so that
    /// the pool finds the server that serves now. If a session was ended, those that are
    /// left are asked before they are used. A job whose time was over when it began says
    /// nothing.
    pub(super) fn note(&self, error: &StoreError, asked: Instant) -> bool {
        let is_late = matches!(error, StoreError::Deadline);
        let is_silent = is_late && asked.elapsed() >= self.0.statement_timeout;
        let is_lost = matches!(error, StoreError::Connection(_));
        if is_silent || is_lost || error.is_read_only_server() {
            self.give_up_older(asked);
        }
        let is_over = error.spoils_session();
        if is_over && !is_late {
            self.doubt_all();
        }
        is_over
    }

    /// Gives up all sessions that were there when a server was asked that turned out to be
    /// away. Those connected since have had an answer later.
    fn give_up_older(&self, asked: Instant) {
        self.lock().give_up_older(asked);
        self.0.given_up.notify_waiters();
    }

    /// Returns when the session of `origin` is given up.
    async fn given_up(&self, origin: Origin) {
        loop {
            let told = self.0.given_up.notified();
            if self.lock().has_given_up(origin) {
                return;
            }
            told.await;
        }
    }

    /// Asks all idle sessions whether they live, each before it is used.
    fn doubt_all(&self) {
        for idle in &mut self.lock().idle {
            idle.is_doubted = true;
        }
    }

    async fn lives(&self, connection: &mut PgConnection) -> bool {
        let (asked, limit) = (Instant::now(), self.0.connect_timeout);
        let answer = timeout(limit, connection.ping()).await;
        let answer = answer.map_or_else(
            |_| Err(silent(limit)),
            |answer| answer.map_err(StoreError::from),
        );
        answer.map_err(|error| self.note(&error, asked)).is_ok()
    }

    /// The idle session that was used last, if it `may` be taken.
    fn take_if(&self, may: impl FnOnce(&Idle) -> bool) -> Option<(Idle, Taken)> {
        let mut state = self.lock();
        let idle = state.idle.pop_if(|idle| may(idle))?;
        state.taken += 1;
        Some((idle, Taken(self.clone())))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// API-132: a flush after a crash or a failover says nothing about what was
    /// committed before.
    #[test]
    fn only_an_older_session_of_the_same_server_vouches_for_a_commit() {
        let sent = Instant::now();
        let moment = Duration::from_millis(1);
        let session = |connected, server| Origin { connected, server };
        let committed = session(sent - moment, 1);
        assert!(session(sent, 1).vouches_for(committed, sent));
        assert!(!session(sent + moment, 1).vouches_for(committed, sent));
        assert!(!session(sent, 2).vouches_for(committed, sent));
    }

    /// D43: a job that got the place of a session at its last moment could only give the
    /// session up, and so would each of those that wait behind it.
    #[tokio::test(start_paused = true)]
    async fn a_job_does_not_wait_for_a_place_until_its_end() {
        let mut settings = DatabaseSettings::new("postgres://nowhere/none");
        settings.max_conns = 1;
        let pool = Pool::new(Vec::new(), &settings, false);
        let began = Instant::now();
        let deadline = began + Duration::from_secs(15);
        let _taken = pool.permit(deadline).await.unwrap();
        let refused = pool.acquire(deadline).await;
        assert!(matches!(refused, Err(StoreError::AcquireTimeout)));
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}
