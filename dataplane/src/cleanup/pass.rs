//! One pass (CONT-171).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_store::{BoxFuture, CleanupTimes, StoreError, Tx};
use tokio::time::Instant;
use uuid::Uuid;

use super::provider::Providers;
use super::{Cleanup, Limits, Report, Stopped};

/// The part of a pass's time that is left to erasures: one of so many.
const ERASURES: u32 = 10;
/// The part of the time for calls that repairs may use: one of so many.
const REPAIRS: u32 = 4;

pub(super) struct Pass<'a> {
    pub(super) cleanup: &'a Cleanup,
    pub(super) limits: Limits<'a>,
    pub(super) providers: Providers,
    /// The time that is left to erasures, however much is due.
    pub(super) for_erasures: Duration,
    /// When repairs end, however much is to be repaired.
    repairs_until: Instant,
    /// Begins the tokens of this pass.
    pub(super) instance: String,
    report: Mutex<Report>,
    report_progress: &'a (dyn Fn() + Sync),
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        cleanup: &'a Cleanup,
        limits: Limits<'a>,
        report_progress: &'a (dyn Fn() + Sync),
    ) -> Self {
        let time = limits.deadline.saturating_duration_since(Instant::now());
        let for_calls = time.saturating_sub(cleanup.settings.call_timeout);
        Self {
            cleanup,
            limits,
            providers: Providers::default(),
            for_erasures: (time / ERASURES).min(for_calls / 2),
            repairs_until: Instant::now() + for_calls / REPAIRS,
            instance: Uuid::new_v4().as_simple().to_string(),
            report: Mutex::default(),
            report_progress,
        }
    }

    pub(super) async fn run(self) -> Report {
        // None waits for what another is to do, and one that fails holds up no other.
        self.ended("repairs", self.repair_drift().await);
        self.ended("messages", self.read_hints().await);
        self.purge_chats().await;
        self.ended("tenants", self.clean_tenants().await);
        self.ended("erasures", self.go_on_with_erasures().await);
        self.ended("backlog", self.count_backlog().await);
        self.progressed();
        let report = self.report();
        report.clone()
    }

    async fn count_backlog(&self) -> Result<(), StoreError> {
        let backlog = self.cleanup.backlog().await?;
        let mut report = self.report();
        report.remaining_pending = backlog.pending;
        report.remaining_failed = backlog.failed;
        Ok(())
    }

    fn ended(&self, step: &'static str, result: Result<(), StoreError>) {
        if let Err(error) = result {
            tracing::error!(%error, step, "what is left of deleted chats and attachments cannot be cleaned up");
            let mut report = self.report();
            report.stopped = Stopped::Error;
            report.error.get_or_insert(error.to_string());
        }
    }

    pub(super) async fn times(&self) -> Result<CleanupTimes, StoreError> {
        let settings = self.cleanup.settings;
        self.read(move |tx| {
            Box::pin(async move {
                let now = tx.now().await?;
                Ok(CleanupTimes {
                    now,
                    stale_before: now.plus_micros(-micros(settings.stale_timeout)),
                })
            })
        })
        .await
    }

    /// Whether no other call may begin, which the report then says. The last part of
    /// the time is left to erasures.
    pub(super) fn must_stop(&self) -> bool {
        self.is_over(self.for_erasures + self.cleanup.settings.call_timeout)
    }

    /// Whether nothing else may be repaired.
    pub(super) fn must_stop_repairs(&self) -> bool {
        self.must_stop() || Instant::now() >= self.repairs_until
    }

    /// Whether no other step of an erasure may begin, which calls nobody.
    pub(super) fn must_stop_erasing(&self) -> bool {
        self.is_over(Duration::ZERO)
    }

    fn is_over(&self, needed: Duration) -> bool {
        match self.limits.why_not(Duration::ZERO, needed) {
            None => false,
            Some(why) => {
                let mut report = self.report();
                if report.error.is_none() {
                    report.stopped = why;
                }
                true
            }
        }
    }

    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progressed(&self) {
        (self.report_progress)();
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.cleanup.store.read(job).await
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.cleanup.store.write(job).await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
