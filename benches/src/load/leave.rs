//! Measures how soon the provider connection is closed after a client disconnects or stops its answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::Notify;

use super::connection::Connection;
use super::events::EventReader;
use super::reading::latencies;
use crate::clock::monotonic_nanos;

/// A stream that can be stopped by another request.
#[derive(Debug)]
pub struct Stoppable {
    /// The request that opens it.
    pub stream: Bytes,
    /// The request that stops it.
    pub stop: Bytes,
}

/// Opens one stream after the other and disconnects at the first token of each. Returns the times, in nanoseconds, from
/// closing the client's connection until the provider has noticed that its own was closed. Polls the provider for this.
pub async fn leave(
    target: SocketAddr,
    provider: SocketAddr,
    requests: &[Bytes],
) -> anyhow::Result<Histogram<u64>> {
    let mut times = latencies()?;
    let mut observer = Observer::new(provider, times.high());
    for request in requests {
        let before = observer.abandoned().await?;
        let left_at = open_and_leave(target, request).await?;
        times.saturating_record(observer.abandoned_since(before, left_at).await?);
    }
    Ok(times)
}

/// The same for streams that are stopped and read to their end. The times are from sending the request that stops a
/// stream.
pub async fn stop(
    target: SocketAddr,
    provider: SocketAddr,
    streams: &[Stoppable],
) -> anyhow::Result<Histogram<u64>> {
    let mut times = latencies()?;
    let mut observer = Observer::new(provider, times.high());
    let mut canceller = Connection::new(target);
    for stream in streams {
        let before = observer.abandoned().await?;
        let token = Notify::new();
        let stopping = async {
            token.notified().await;
            let stopped_at = monotonic_nanos();
            let stopped = canceller.exchange(&stream.stop, |_, _| ());
            let aborted = observer.abandoned_since(before, stopped_at);
            let (stopped, aborted) = tokio::join!(stopped, aborted);
            let status = stopped?.status;
            ensure!(status == 202, "a stop was answered with {status}");
            aborted
        };
        let mut connection = Connection::new(target);
        let mut events = EventReader::default();
        let has_token = AtomicBool::new(false);
        let exchange = connection.exchange(&stream.stream, |bytes, _| {
            events.feed(bytes, |_| {
                has_token.store(true, Ordering::Relaxed);
                token.notify_one();
            });
        });
        let reading = async {
            let ended = exchange.await?;
            ensure!(
                has_token.load(Ordering::Relaxed),
                "no token was there to stop at: {ended:?}"
            );
            Ok(())
        };
        let ((), time) = tokio::try_join!(reading, stopping)?;
        times.saturating_record(time);
    }
    Ok(times)
}

/// Returns when the connection was closed.
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

/// Reads the provider's counters.
struct Observer {
    connection: Connection,
    request: Bytes,
    /// Nanoseconds.
    patience: u64,
}

impl Observer {
    fn new(provider: SocketAddr, patience: u64) -> Self {
        let request = format!("GET /_control/stats HTTP/1.1\r\nhost: {provider}\r\n\r\n");
        Self {
            connection: Connection::new(provider),
            request: Bytes::from(request),
            patience,
        }
    }

    /// Nanoseconds from `left_at` until the provider has counted more than `before` disconnects.
    async fn abandoned_since(&mut self, before: u64, left_at: u64) -> anyhow::Result<u64> {
        while self.abandoned().await? == before {
            let waited = monotonic_nanos() - left_at;
            ensure!(waited < self.patience, "the provider is never left");
        }
        Ok(monotonic_nanos() - left_at)
    }

    /// Answers whose client disconnected before their end.
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
