//! The process's one client of providers (PLAT-105).

mod body;
mod connection;
mod connector;
mod fetch;
mod head;
mod lookup;
mod open;
mod origin;
mod poller;
mod pool;
mod post;
mod proxy;
mod small;
mod tls;
mod transport;
mod whole;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use minichat_config::outbound::Outbound;
use tokio::time::{Instant, timeout_at};

pub(crate) use body::ArrivingBody;
pub use body::BodyError;
use connection::Connection;
pub(crate) use connection::Exchange;
pub use connector::ChosenBy;
use connector::{ConnectError, Connector};
pub use fetch::{FetchError, FetchLimits};
use origin::Origin;
pub(crate) use pool::ConnectionPool;
use pool::Place;
pub use post::{Post, PostAnswer, PostError};
pub(crate) use small::{SmallAnswer, SmallBody, SmallCall, SmallError};
pub use tls::{CaFileError, check_ca_file, encrypt};
pub use whole::WholeAnswer;

use crate::failure::{Failure, TimeoutStage};
use crate::request::ProviderCall;
use crate::stream::{ProviderStream, Sizes};

/// Settings of the client as a whole. The limits of a single call are its
/// provider's.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Idle connections kept per origin.
    pub max_idle_per_origin: usize,
    /// Age at which an idle connection is closed.
    pub idle_timeout: Duration,
    /// Maximum `Retry-After` that the client waits for (PLAT-119).
    pub retry_after_cap: Duration,
    /// Largest event of a stream in bytes; a larger one ends it as failed.
    pub max_event_bytes: usize,
    /// Largest answer in bytes of text and reasoning; a larger one ends as
    /// failed.
    pub max_answer_bytes: usize,
    /// Allowed addresses, trusted certificates and proxies.
    pub outbound: Outbound,
    /// Ports at which this process listens. The client never calls them.
    pub own_ports: Vec<u16>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            max_idle_per_origin: 1024,
            idle_timeout: Duration::from_secs(50),
            retry_after_cap: Duration::from_secs(10),
            max_event_bytes: 8 * 1024 * 1024,
            max_answer_bytes: 8 * 1024 * 1024,
            outbound: Outbound::default(),
            own_ports: Vec::new(),
        }
    }
}

/// Opens streams over one pool of kept-alive HTTP/1.1 connections. All tenants
/// share the pool; a credential belongs to a call, never to a connection. Cheap
/// to clone.
#[derive(Clone)]
pub struct ProviderClient {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<ConnectionPool>,
    connector: Connector,
    retry_after_cap: Duration,
    sizes: Sizes,
}

impl ProviderClient {
    /// A client with an empty pool.
    pub fn new(settings: &ClientSettings) -> Self {
        Self::connecting(settings, Connector::new(settings))
    }

    /// The same, but every connection is made by `dial` instead of the network,
    /// whatever the provider's address is.
    #[cfg(feature = "testing")]
    pub fn in_memory(settings: &ClientSettings, dial: crate::testing::Dial) -> Self {
        Self::connecting(settings, Connector::in_memory(settings, dial))
    }

    fn connecting(settings: &ClientSettings, connector: Connector) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool: Arc::new(ConnectionPool::new(settings)),
                connector,
                retry_after_cap: settings.retry_after_cap,
                sizes: Sizes {
                    event: settings.max_event_bytes,
                    answer: settings.max_answer_bytes,
                },
            }),
        }
    }

    /// Sends `call` and waits for the head of the answer, within the provider's
    /// limits (D28) and with at most one retry (PLAT-119). Dropping the future
    /// closes the connection at once.
    pub async fn open(&self, call: &ProviderCall<'_>) -> Result<ProviderStream, Failure> {
        open::open(self, call).await
    }

    async fn checkout(&self, call: &ProviderCall<'_>) -> Result<Connection, Failure> {
        let place = Place::here(Origin::of(call.provider));
        match self.inner.pool.take(&place) {
            Some(connection) => Ok(connection),
            None => self.establish(place, call).await,
        }
    }

    async fn establish(
        &self,
        place: Place,
        call: &ProviderCall<'_>,
    ) -> Result<Connection, Failure> {
        let expires_at = Instant::now() + call.provider.timeouts.connect;
        let chosen_by = ChosenBy::Tenant(call.request.metadata.tenant_id);
        let connection = self.connect_by(expires_at, place, chosen_by);
        connection.await.map_err(|error| match error {
            ConnectError::TimedOut => Failure::timed_out(TimeoutStage::Connect, expires_at),
            ConnectError::Refused(refusal) => Failure::refused_address(&refusal),
            other => Failure::connect(&other),
        })
    }

    /// A new connection, if it is there by `expires_at`.
    async fn connect_by(
        &self,
        expires_at: Instant,
        place: Place,
        chosen_by: ChosenBy,
    ) -> Result<Connection, ConnectError> {
        let connect = Connection::establish(place, chosen_by, &self.inner.connector);
        timeout_at(expires_at, connect)
            .await
            .unwrap_or(Err(ConnectError::TimedOut))
    }
}

impl fmt::Debug for ProviderClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderClient").finish_non_exhaustive()
    }
}
