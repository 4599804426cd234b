//! One pass (CONT-171).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use minichat_core::TenantId;
use minichat_store::{BoxFuture, CleanupClaim, CleanupTimes, DueChat, StoreError, Tx};
use uuid::Uuid;

use super::provider::Providers;
use super::{Cleanup, Limits, Report, Stopped};

/// Tenants that are cleaned side by side.
const TENANTS: usize = 8;

pub(super) struct Pass<'a> {
    pub(super) cleanup: &'a Cleanup,
    pub(super) limits: Limits<'a>,
    pub(super) providers: Providers,
    /// Begins the tokens of this pass.
    instance: String,
    report: Mutex<Report>,
    report_progress: &'a (dyn Fn() + Sync),
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        cleanup: &'a Cleanup,
        limits: Limits<'a>,
        report_progress: &'a (dyn Fn() + Sync),
    ) -> Self {
        Self {
            cleanup,
            limits,
            providers: Providers::default(),
            instance: Uuid::new_v4().as_simple().to_string(),
            report: Mutex::default(),
            report_progress,
        }
    }

    pub(super) async fn run(self) -> Report {
        let worked = self.work().await;
        let remaining = match worked {
            Ok(()) => self.cleanup.backlog().await,
            Err(error) => Err(error),
        };
        match remaining {
            Ok(backlog) => {
                let mut report = self.report();
                report.remaining_pending = backlog.pending;
                report.remaining_failed = backlog.failed;
            }
            Err(error) => {
                tracing::error!(%error, "what is left of deleted chats and attachments cannot be cleaned up");
                let mut report = self.report();
                report.stopped = Stopped::Error;
                report.error = Some(error.to_string());
            }
        }
        self.progressed();
        let report = self.report();
        report.clone()
    }

    async fn work(&self) -> Result<(), StoreError> {
        self.repair_drift().await?;
        self.read_hints().await?;
        self.purge_chats().await;
        let times = self.times().await?;
        let mut behind = None;
        while !self.must_stop() {
            let due = self.due(times, behind).await?;
            let Some(last) = due.last() else {
                break;
            };
            behind = Some(*last);
            self.clean_all(&due, times).await?;
        }
        self.go_on_with_erasures().await
    }

    pub(super) async fn times(&self) -> Result<CleanupTimes, StoreError> {
        let settings = self.cleanup.settings;
        self.read(move |tx| {
            Box::pin(async move {
                let now = tx.now().await?;
                Ok(CleanupTimes {
                    spaced_before: now.plus_micros(-micros(settings.poll_interval)),
                    stale_before: now.plus_micros(-micros(settings.stale_timeout)),
                })
            })
        })
        .await
    }

    async fn due(
        &self,
        times: CleanupTimes,
        behind: Option<DueChat>,
    ) -> Result<Vec<DueChat>, StoreError> {
        let limit = self.cleanup.settings.batch_size;
        self.read(move |tx| Box::pin(async move { tx.cleanup_due(times, behind, limit).await }))
            .await
    }

    /// Cleans those of `due` that nobody else has claimed.
    async fn clean_all(&self, due: &[DueChat], times: CleanupTimes) -> Result<(), StoreError> {
        let token = format!("{}/{}", self.instance, Uuid::new_v4().as_simple());
        let lease = 4 * self.cleanup.settings.call_timeout;
        let (chats, name) = (due.to_vec(), token.clone());
        let claimed = self.write(move |tx| {
            let (chats, name) = (chats.clone(), name.clone());
            Box::pin(async move { tx.cleanup_claim(&chats, &name, lease).await })
        });
        let claimed = claimed.await?;
        let mut tenants = HashMap::<TenantId, Vec<CleanupClaim>>::new();
        for chat in due.iter().filter(|it| claimed.contains(&it.chat_id)) {
            let claims = tenants.entry(chat.tenant_id).or_default();
            claims.push(CleanupClaim {
                tenant_id: chat.tenant_id,
                chat_id: chat.chat_id,
                token: token.clone(),
                lease,
            });
        }
        let cleaned = tenants
            .into_values()
            .map(|claims| self.clean_tenant(claims, times));
        let cleaned: Vec<_> = stream::iter(cleaned)
            .buffer_unordered(TENANTS)
            .collect()
            .await;
        cleaned.into_iter().collect()
    }

    /// Cleans chats of one tenant, one after the other, and gives their claims back.
    async fn clean_tenant(
        &self,
        claims: Vec<CleanupClaim>,
        times: CleanupTimes,
    ) -> Result<(), StoreError> {
        let mut cleaned = Ok(());
        for claim in claims {
            if cleaned.is_ok() && !self.must_stop() {
                cleaned = self.clean_chat(&claim, times).await;
            }
            let released = self.release(claim).await;
            if let Err(error) = released {
                // A claim that cannot be given back expires.
                tracing::debug!(%error, "a claim is not given back");
            }
        }
        cleaned
    }

    async fn release(&self, claim: CleanupClaim) -> Result<(), StoreError> {
        self.write(move |tx| {
            let released = tx.cleanup_release(&claim);
            Box::pin(async move { released })
        })
        .await
    }

    /// Whether no other call may begin, which the report then says.
    pub(super) fn must_stop(&self) -> bool {
        let call = self.cleanup.settings.call_timeout;
        match self.limits.why_not(Duration::ZERO, call) {
            None => false,
            Some(why) => {
                self.report().stopped = why;
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
