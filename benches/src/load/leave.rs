//! Clients that leave: how soon the provider sees its connection closed.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::Notify;

use super::connection::Connection;
use super::events::EventReader;
use super::reading::latencies;
use crate::clock::monotonic_nanos;

/// Opens one stream after the other and leaves each at its first token. The times, in nanoseconds, are from closing
/// the client's connection to the provider's notice that it was left, which the provider is asked for in turn.
pub async fn leave(
    target: SocketAddr,
    provider: SocketAddr,
    requests: &[Bytes],
) -> anyhow::Result<Histogram<u64>> {
    let mut times = latencies()?;
    let mut observer = Observer {
        connection: Connection::new(provider),
        request: Bytes::from(format!(
            "GET /_control/stats HTTP/1.1\r\nhost: {provider}\r\n\r\n"
        )),
    };
    for request in requests {
        let before = observer.abandoned().await?;
        let left_at = open_and_leave(target, request).await?;
        while observer.abandoned().await? == before {
            let waited = monotonic_nanos() - left_at;
            ensure!(waited < times.high(), "the provider is never left");
        }
        times.saturating_record(monotonic_nanos() - left_at);
    }
    Ok(times)
}

/// When the connection was closed.
async fn open_and_leave(target: SocketAddr, request: &[u8]) -> anyhow::Result<u64> {
    let mut connection = Connection::new(target);
    let mut events = EventReader::default();
    let token = Notify::new();
    let exchange = connection.exchange(request, |bytes, _| {
        events.feed(bytes, |_| token.notify_one());
    });
    let mut exchange = Box::pin(exchange);
    tokio::select! {
        () = token.notified() => {}
        ended = &mut exchange => bail!("an answer ended before it was left: {ended:?}"),
    }
    let left_at = monotonic_nanos();
    drop(exchange);
    Ok(left_at)
}

/// Asks the provider for its counters.
struct Observer {
    connection: Connection,
    request: Bytes,
}

impl Observer {
    /// Answers that clients left before their end.
    async fn abandoned(&mut self) -> anyhow::Result<u64> {
        let mut body = Vec::new();
        self.connection
            .exchange(&self.request, |bytes, _| body.extend_from_slice(bytes))
            .await?;
        let stats: serde_json::Value = serde_json::from_slice(&body)?;
        let count = stats["answers_aborted"].as_u64();
        count.context("the provider does not count answers that were left")
    }
}
