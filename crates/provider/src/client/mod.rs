//! The process's one client of providers (PLAT-105).

use std::time::Duration;

use minichat_config::tenant::Provider;

use crate::failure::Failure;
use crate::request::ProviderCall;
use crate::stream::ProviderStream;

/// Settings of the client as a whole; limits of a single call are its
/// provider's.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Idle connections kept per origin.
    pub max_idle_per_origin: usize,
    /// Age at which an idle connection is closed.
    pub idle_timeout: Duration,
    /// Longest `Retry-After` that is waited for (PLAT-119).
    pub retry_after_cap: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            max_idle_per_origin: 1024,
            idle_timeout: Duration::from_secs(50),
            retry_after_cap: Duration::from_secs(10),
        }
    }
}

/// Opens streams over one pool of kept-alive HTTP/1.1 connections, shared by
/// all tenants; credentials belong to the call, never to the connection.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProviderClient {
    settings: ClientSettings,
}

/// An established connection that waits for its call. Dropping it unused gives
/// it back to the pool.
#[derive(Debug)]
pub struct ReadyConnection {}

impl ProviderClient {
    /// A client with an empty pool.
    pub fn new(settings: ClientSettings) -> Self {
        Self { settings }
    }

    /// Takes an idle connection to `provider` or makes one, before the request
    /// is known to be wanted. Nothing is sent.
    pub async fn connect_ahead(&self, provider: &Provider) -> Result<ReadyConnection, Failure> {
        todo!("{provider:?} {:?}", self.settings)
    }

    /// Sends `call` and waits for the head of the answer. Dropping the future
    /// closes the connection at once.
    pub async fn open(&self, call: &ProviderCall<'_>) -> Result<ProviderStream, Failure> {
        todo!("{call:?}")
    }

    /// [`open`](Self::open) over a connection made ahead.
    pub async fn open_on(
        &self,
        ready: ReadyConnection,
        call: &ProviderCall<'_>,
    ) -> Result<ProviderStream, Failure> {
        todo!("{ready:?} {call:?}")
    }
}
