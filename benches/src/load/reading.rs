//! What one run of the load generator measured.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;

use super::connection::Exchange;
use super::events::{EventReader, Terminal};

/// Maximum latency of a histogram: one minute in nanoseconds.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// An empty histogram of times in nanoseconds.
pub(super) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_max(LONGEST_NANOS, 3).context("histogram bounds")
}

/// Counters and histograms of one run; all times in nanoseconds.
#[derive(Debug)]
pub struct Reading {
    /// Streams that were started.
    pub streams: u64,
    /// Streams with a correct answer: status 200, every chunk in order, one successful terminal event.
    pub faithful: u64,
    /// Chunks received.
    pub chunks: u64,
    /// From handing the request to the kernel to reading the first chunk.
    pub first_token: Histogram<u64>,
    /// From the provider writing a chunk to the client reading it.
    pub chunk: Histogram<u64>,
    /// From the first request to the end of the last stream.
    pub elapsed: Duration,
    /// What was wrong with the first incorrect stream.
    pub first_fault: Option<String>,
}

impl Reading {
    /// An empty reading.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            streams: 0,
            faithful: 0,
            chunks: 0,
            first_token: latencies()?,
            chunk: latencies()?,
            elapsed: Duration::ZERO,
            first_fault: None,
        })
    }

    /// An error if one stream was not correct.
    pub fn ensure_faithful(&self) -> anyhow::Result<()> {
        ensure!(
            self.faithful == self.streams,
            "{} of {} answers were not faithful, the first: {}",
            self.streams - self.faithful,
            self.streams,
            self.first_fault.as_deref().unwrap_or("unknown")
        );
        Ok(())
    }

    pub(super) fn record_chunk(&mut self, nanos: u64) {
        self.chunks += 1;
        self.chunk.saturating_record(nanos);
    }

    pub(super) fn record_first_token(&mut self, nanos: u64) {
        self.first_token.saturating_record(nanos);
    }

    pub(super) fn record_end(&mut self, exchange: Exchange, events: &EventReader, expected: u32) {
        self.streams += 1;
        let Exchange {
            status,
            complete,
            sent_at: _,
        } = exchange;
        let faithful = status == 200
            && complete
            && events.in_order()
            && events.stamps() == expected
            && events.terminal() == Terminal::Completed;
        if faithful {
            self.faithful += 1;
        } else {
            self.record_fault(|| {
                format!(
                    "status {status}, framed to the end: {complete}, in order: {}, {} of {expected} chunks, terminal {:?}",
                    events.in_order(),
                    events.stamps(),
                    events.terminal()
                )
            });
        }
    }

    pub(super) fn record_error(&mut self, error: &std::io::Error) {
        self.streams += 1;
        self.record_fault(|| error.to_string());
    }

    fn record_fault(&mut self, describe: impl FnOnce() -> String) {
        self.first_fault.get_or_insert_with(describe);
    }
}
