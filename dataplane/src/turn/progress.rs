//! Progress of a running turn (TURN-7).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minichat_core::{TenantId, TurnId};
use tokio::time::{Instant, sleep_until};

use super::open::OpenTurn;
use crate::app::App;

/// Minimum time between two writes.
const INTERVAL: Duration = Duration::from_secs(30);

/// Wait after a failed write, and between two checks of a write in progress.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes `last_progress_at` in parallel to the stream and never delays it.
pub(super) struct Progress {
    app: Arc<App>,
    tenant_id: TenantId,
    turn_id: TurnId,
    schedule: Schedule,
}

impl Progress {
    pub(super) fn begin(turn: &OpenTurn) -> Self {
        Self {
            app: Arc::clone(&turn.app),
            tenant_id: turn.caller.tenant_id,
            turn_id: turn.ids().turn_id,
            schedule: Schedule::new(Instant::now()),
        }
    }

    /// Writes whenever it is due, as long as it is polled: while the turn waits
    /// for something other than the provider's events (D44).
    pub(super) async fn keep_showing(&mut self) -> Infallible {
        loop {
            sleep_until(self.schedule.next_look(Instant::now())).await;
            self.note();
        }
    }

    /// Records any event that was read from the provider.
    pub(super) fn note(&mut self) {
        if self.schedule.begin_write(Instant::now()) {
            tokio::spawn(write(
                Arc::clone(&self.app),
                self.tenant_id,
                self.turn_id,
                Arc::clone(&self.schedule.latest),
            ));
        }
    }
}

/// When the next write is due.
struct Schedule {
    due: Instant,
    has_written: bool,
    latest: Arc<LatestWrite>,
}

/// The write that was started last.
#[derive(Default)]
struct LatestWrite {
    is_under_way: AtomicBool,
    has_failed: AtomicBool,
}

impl LatestWrite {
    fn end(&self, has_failed: bool) {
        self.has_failed.store(has_failed, Ordering::Relaxed);
        self.is_under_way.store(false, Ordering::Release);
    }
}

impl Schedule {
    fn new(now: Instant) -> Self {
        Self {
            due: now + INTERVAL,
            has_written: false,
            latest: Arc::default(),
        }
    }

    /// Whether to start a write at `now`: an interval after the last one, or a
    /// pause after it failed. While the database is down, it is not called at
    /// every event.
    fn begin_write(&mut self, now: Instant) -> bool {
        if self.has_written && self.latest.has_failed.swap(false, Ordering::Relaxed) {
            self.due = self.due.min(now + PAUSE);
        }
        if now < self.due || self.latest.is_under_way.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.has_written = true;
        self.due = now + INTERVAL;
        true
    }

    /// When to check again. A write that has not succeeded may have to be
    /// repeated before its interval is over.
    fn next_look(&self, now: Instant) -> Instant {
        let latest = &self.latest;
        let is_open = latest.is_under_way.load(Ordering::Relaxed)
            || latest.has_failed.load(Ordering::Relaxed);
        let soon = now + PAUSE;
        if is_open { soon } else { self.due.max(soon) }
    }
}

async fn write(app: Arc<App>, tenant_id: TenantId, turn_id: TurnId, this: Arc<LatestWrite>) {
    let written = app
        .store
        .write(move |tx| Box::pin(async move { tx.turn_progress(tenant_id, turn_id) }))
        .await;
    if let Err(error) = &written {
        tracing::warn!(turn.id = %turn_id, error = %error, "the progress of a turn could not be stored");
    }
    this.end(written.is_err());
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_write_that_failed_is_repeated_after_a_pause_and_no_sooner() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        assert!(!schedule.begin_write(began + INTERVAL - MOMENT));
        let mut now = began + INTERVAL;
        assert!(schedule.begin_write(now));
        for _ in 0..3 {
            assert!(!schedule.begin_write(now + PAUSE), "one at a time");
            assert_eq!(schedule.next_look(now), now + PAUSE);
            schedule.latest.end(true);
            assert_eq!(schedule.next_look(now), now + PAUSE);
            assert!(!schedule.begin_write(now));
            assert!(!schedule.begin_write(now + PAUSE - MOMENT));
            now += PAUSE;
            assert!(schedule.begin_write(now));
        }
        schedule.latest.end(false);
        assert_eq!(schedule.next_look(now), now + INTERVAL);
        assert!(!schedule.begin_write(now + INTERVAL - MOMENT));
        assert!(schedule.begin_write(now + INTERVAL));
    }
}
