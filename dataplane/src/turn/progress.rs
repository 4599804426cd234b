//! Signs of life of a running turn (TURN-7).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minichat_core::{TenantId, TurnId};
use tokio::time::{Instant, sleep_until};

use super::open::OpenTurn;
use crate::app::App;

/// The row is refreshed at most this often.
const INTERVAL: Duration = Duration::from_secs(30);

/// Between two looks at a write that is still under way.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes `last_progress_at` beside the stream, never in its way.
pub(super) struct Progress {
    app: Arc<App>,
    tenant_id: TenantId,
    turn_id: TurnId,
    due: Instant,
    /// A write is under way; it clears the flag, and the next is due an
    /// interval after one that succeeded, at the next event after one that
    /// failed.
    writing: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
    /// A write was begun, so that `failed` may be set.
    has_written: bool,
}

impl Progress {
    pub(super) fn begin(turn: &OpenTurn) -> Self {
        Self {
            app: Arc::clone(&turn.app),
            tenant_id: turn.caller.tenant_id,
            turn_id: turn.ids().turn_id,
            due: Instant::now() + INTERVAL,
            writing: Arc::default(),
            failed: Arc::default(),
            has_written: false,
        }
    }

    /// Shows life whenever it is due, for as long as it is polled: while the turn
    /// waits for what no event of the provider ends (D44).
    pub(super) async fn keep_showing(&mut self) -> Infallible {
        loop {
            sleep_until(self.due.max(Instant::now() + PAUSE)).await;
            self.note();
        }
    }

    /// Notes an event read from the provider, whatever it was.
    pub(super) fn note(&mut self) {
        let now = Instant::now();
        let failed = self.has_written && self.failed.load(Ordering::Relaxed);
        if now < self.due && !failed {
            return;
        }
        if self.writing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.failed.store(false, Ordering::Relaxed);
        self.has_written = true;
        self.due = now + INTERVAL;
        tokio::spawn(write(
            Arc::clone(&self.app),
            self.tenant_id,
            self.turn_id,
            Arc::clone(&self.writing),
            Arc::clone(&self.failed),
        ));
    }
}

async fn write(
    app: Arc<App>,
    tenant_id: TenantId,
    turn_id: TurnId,
    writing: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
) {
    let written = app
        .store
        .write(move |tx| Box::pin(async move { tx.turn_progress(tenant_id, turn_id) }))
        .await;
    if let Err(error) = written {
        tracing::warn!(turn.id = %turn_id, error = %error, "a sign of life could not be stored");
        failed.store(true, Ordering::Relaxed);
    }
    writing.store(false, Ordering::Release);
}
