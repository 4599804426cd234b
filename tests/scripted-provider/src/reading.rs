//! Reads the bodies of requests, as a scenario demands.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::answer::take_release;
use super::scenario::Reading;
use super::stats::Stats;

/// Reads `body`. An error means that the connection is to be closed.
pub(super) async fn read(
    body: Incoming,
    reading: Reading,
    releases: &Arc<Semaphore>,
) -> io::Result<Bytes> {
    match reading {
        Reading::Whole => read_until(body, usize::MAX, Duration::ZERO).await,
        Reading::Held => {
            take_release(Arc::clone(releases)).await;
            read_until(body, usize::MAX, Duration::ZERO).await
        }
        Reading::Slow { pause_ms } => {
            read_until(body, usize::MAX, Duration::from_millis(pause_ms)).await
        }
        Reading::Dropped { after_bytes } => {
            read_until(body, after_bytes, Duration::ZERO).await?;
            Err(io::Error::other("dropped by the scenario"))
        }
        Reading::Late => {
            tokio::spawn(read_until(body, usize::MAX, Duration::ZERO));
            Ok(Bytes::new())
        }
    }
}

/// Reads `body` without keeping it.
pub(super) async fn drop_body(mut body: Incoming, stats: &Stats) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(io::Error::other)?.into_data() {
            stats.drop_bytes(piece.len());
        }
    }
    Ok(())
}

async fn read_until(mut body: Incoming, limit: usize, pause: Duration) -> io::Result<Bytes> {
    let mut read = BytesMut::new();
    while read.len() < limit {
        let Some(frame) = body.frame().await else {
            break;
        };
        if let Ok(piece) = frame.map_err(io::Error::other)?.into_data() {
            read.extend_from_slice(&piece);
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    Ok(read.freeze())
}
