//! Counters of connections and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(super) struct Stats {
    connections_total: AtomicU64,
    connections_open: AtomicU64,
    answers_started: AtomicU64,
    answers_finished: AtomicU64,
    answers_aborted: AtomicU64,
    chunks_written: AtomicU64,
    bytes_dropped: AtomicU64,
    changed: Changed,
}

#[derive(Debug)]
struct Changed(watch::Sender<()>);

impl Default for Changed {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatsSnapshot {
    /// Number of accepted connections.
    pub connections_total: u64,
    /// Connections that are open now.
    pub connections_open: u64,
    /// Requests that were read completely, except control requests.
    pub answers_started: u64,
    /// Answers whose last byte was handed to the connection.
    pub answers_finished: u64,
    /// Answers whose client disconnected before their end.
    pub answers_aborted: u64,
    /// Answers that are neither finished nor aborted.
    pub answers_open: u64,
    /// Pieces of text handed to connections.
    pub chunks_written: u64,
    /// Bytes of bodies that were read and not kept.
    pub bytes_dropped: u64,
}

impl Stats {
    pub(super) fn snapshot(&self) -> StatsSnapshot {
        let started = self.answers_started.load(Ordering::SeqCst);
        let finished = self.answers_finished.load(Ordering::SeqCst);
        let aborted = self.answers_aborted.load(Ordering::SeqCst);
        StatsSnapshot {
            connections_total: self.connections_total.load(Ordering::SeqCst),
            connections_open: self.connections_open.load(Ordering::SeqCst),
            answers_started: started,
            answers_finished: finished,
            answers_aborted: aborted,
            answers_open: started.saturating_sub(finished + aborted),
            chunks_written: self.chunks_written.load(Ordering::SeqCst),
            bytes_dropped: self.bytes_dropped.load(Ordering::SeqCst),
        }
    }

    pub(super) async fn wait_until(
        &self,
        condition: impl Fn(&StatsSnapshot) -> bool,
    ) -> StatsSnapshot {
        let mut changes = self.changed.0.subscribe();
        loop {
            changes.borrow_and_update();
            let snapshot = self.snapshot();
            if condition(&snapshot) {
                return snapshot;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Resets past counts. Open connections and answers stay counted.
    pub(super) fn reset(&self) {
        let open = self.snapshot().answers_open;
        self.connections_total.store(
            self.connections_open.load(Ordering::SeqCst),
            Ordering::SeqCst,
        );
        self.answers_started.store(open, Ordering::SeqCst);
        self.answers_finished.store(0, Ordering::SeqCst);
        self.answers_aborted.store(0, Ordering::SeqCst);
        self.chunks_written.store(0, Ordering::SeqCst);
        self.bytes_dropped.store(0, Ordering::SeqCst);
        self.notify();
    }

    pub(super) fn chunk(&self) {
        self.chunks_written.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn drop_bytes(&self, bytes: usize) {
        self.bytes_dropped
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn notify(&self) {
        self.changed.0.send_replace(());
    }
}

/// Counts one connection while it lives.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    stats: Arc<Stats>,
    is_forgotten: AtomicBool,
}

impl ConnectionGuard {
    pub(super) fn new(stats: &Arc<Stats>) -> Self {
        stats.connections_total.fetch_add(1, Ordering::SeqCst);
        stats.connections_open.fetch_add(1, Ordering::SeqCst);
        stats.notify();
        Self {
            stats: Arc::clone(stats),
            is_forgotten: AtomicBool::new(false),
        }
    }

    /// Removes the connection from all counters: it is one of the test itself.
    pub(super) fn forget(&self) {
        if !self.is_forgotten.swap(true, Ordering::SeqCst) {
            self.stats.connections_total.fetch_sub(1, Ordering::SeqCst);
            self.stats.connections_open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if !self.is_forgotten.load(Ordering::SeqCst) {
            self.stats.connections_open.fetch_sub(1, Ordering::SeqCst);
            self.stats.notify();
        }
    }
}

/// Counts one answer: finished, or aborted if it is dropped earlier.
#[derive(Debug)]
pub(super) struct AnswerGuard {
    stats: Arc<Stats>,
    is_finished: bool,
}

impl AnswerGuard {
    pub(super) fn new(stats: &Arc<Stats>) -> Self {
        stats.answers_started.fetch_add(1, Ordering::SeqCst);
        stats.notify();
        Self {
            stats: Arc::clone(stats),
            is_finished: false,
        }
    }

    pub(super) fn finish(&mut self) {
        if !self.is_finished {
            self.is_finished = true;
            self.stats.answers_finished.fetch_add(1, Ordering::SeqCst);
            self.stats.notify();
        }
    }

    pub(super) fn chunk(&self) {
        self.stats.chunk();
    }
}

impl Drop for AnswerGuard {
    fn drop(&mut self) {
        if !self.is_finished {
            self.stats.answers_aborted.fetch_add(1, Ordering::SeqCst);
            self.stats.notify();
        }
    }
}
