//! Idle connections by origin and runtime. Each runtime has its own: a
//! connection that belongs to another runtime would wake two threads for every
//! piece of an answer.
//! No task waits on an idle connection. A sweeper checks all of them every few
//! seconds, and drops those that the server closed or that are too old. A
//! connection is checked again when it is taken.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime;
use tokio::time::Instant;

use super::ClientSettings;
use super::connection::{Connection, Exchange};
use super::origin::Origin;

/// Maximum time to read the rest of an answer after its terminal event
/// (PLAT-105).
const DRAIN: Duration = Duration::from_secs(2);

const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct ConnectionPool {
    idle: Mutex<HashMap<Place, Vec<Idle>>>,
    sweeper: Once,
    max_idle_per_origin: usize,
    idle_timeout: Duration,
}

/// The origin of a connection and the runtime that owns it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    pub(super) origin: Arc<Origin>,
    pub(super) runtime: Option<runtime::Id>,
}

impl Place {
    /// `origin` in the current runtime.
    pub(super) fn here(origin: Origin) -> Self {
        let runtime = runtime::Handle::try_current().ok();
        Self {
            origin: Arc::new(origin),
            runtime: runtime.map(|it| it.id()),
        }
    }
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl ConnectionPool {
    pub(super) fn new(settings: &ClientSettings) -> Self {
        Self {
            idle: Mutex::default(),
            sweeper: Once::new(),
            max_idle_per_origin: settings.max_idle_per_origin,
            idle_timeout: settings.idle_timeout,
        }
    }

    /// Takes the most recently used connection to `place`.
    pub(super) fn take(&self, place: &Place) -> Option<Connection> {
        let mut idle = self.lock();
        let connections = idle.get_mut(place)?;
        while let Some(mut idle) = connections.pop() {
            if idle.since.elapsed() < self.idle_timeout && idle.connection.is_usable() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps `connection` if it can serve another call.
    pub(super) fn put(self: &Arc<Self>, mut connection: Connection) {
        if !connection.is_usable() {
            return;
        }
        let mut idle = self.lock();
        let connections = idle.entry(connection.place.clone()).or_default();
        if connections.len() < self.max_idle_per_origin {
            connections.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
        drop(idle);
        self.start_sweeper();
    }

    /// Takes back a connection after the part of its answer that was needed. The
    /// rest of the body, at most `left` bytes, is read in the background.
    pub(crate) fn put_after_drain(self: &Arc<Self>, mut exchange: Exchange, mut left: usize) {
        let cx = &mut Context::from_waker(Waker::noop());
        let now = exchange.poll_drain(cx, &mut left);
        match now {
            Poll::Ready(true) => self.put(exchange.connection),
            Poll::Ready(false) => {}
            Poll::Pending => {
                let pool = Arc::clone(self);
                tokio::spawn(async move {
                    let drained = poll_fn(|cx| exchange.poll_drain(cx, &mut left));
                    if let Ok(true) = tokio::time::timeout(DRAIN, drained).await {
                        pool.put(exchange.connection);
                    }
                });
            }
        }
    }

    fn start_sweeper(self: &Arc<Self>) {
        self.sweeper.call_once(|| {
            let pool = Arc::downgrade(self);
            tokio::spawn(sweep(pool));
        });
    }

    fn drop_unusable(&self) {
        self.lock().retain(|_, connections| {
            connections.retain_mut(|idle| {
                idle.since.elapsed() < self.idle_timeout && idle.connection.is_usable()
            });
            !connections.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sweep(pool: Weak<ConnectionPool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        match pool.upgrade() {
            Some(pool) => pool.drop_unusable(),
            None => return,
        }
    }
}
