//! Connections without a network, for simulations that control a provider's
//! behaviour and timing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::DuplexStream;

/// Opens one connection; the caller keeps the other end.
pub type Dial = Arc<dyn Fn() -> Dialing + Send + Sync>;

/// A connection that is being opened.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;
