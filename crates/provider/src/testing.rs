//! Connections without a network, for simulations that decide what a provider
//! does and when.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::DuplexStream;

/// Makes one connection; the caller keeps its other end.
pub type Dial = Arc<dyn Fn() -> Dialing + Send + Sync>;

/// A connection in the making.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;
