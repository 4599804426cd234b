//! The clean-up after deletions (CONT-160 to CONT-177): deletes the files of deleted
//! attachments, and the files and the vector store of deleted chats, at their
//! providers. Deletions only mark rows; nobody waits for a provider.
//!
//! A *pass* repairs what no deletion has marked ([`drift`], [`deleted_chats`]), reads
//! the messages of deletions ([`hints`]), removes what was deleted long ago ([`purge`]),
//! works on whatever is due ([`pass`], [`chat`]), until nothing is due or its time is
//! over, and goes on with what waits for it ([`erasures`]). The rows say everything:
//! what is left to do, how often it failed, and what is done. So a pass may be killed
//! at any instruction, several may run at once, and a message may be lost or read
//! twice. It is written that something is gone only after its provider said so, and
//! counted only by the process that wrote it.
//!
//! The time of one tenant is not another's: tenants are cleaned side by side, and a
//! provider that does not answer is left to the next pass ([`provider`]).

mod backoff;
mod chat;
mod deleted_chats;
mod drift;
mod erasures;
mod hints;
mod pass;
mod provider;
mod purge;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use minichat_config::process::{CleanupWorker, Retention};
use minichat_core::Clock;
use minichat_metrics::{BacklogState, Metrics};
use minichat_provider::ProviderClient;
use minichat_store::{CleanupBacklog, Store, StoreError};
use minichat_telemetry::Signal;
use serde::Serialize;
use tokio::time::Instant;

use crate::config_source::Tenants;
use crate::outbox::Outbox;
use pass::Pass;

/// Cleans up after deletions.
#[derive(Clone)]
pub struct Cleanup {
    pub store: Store,
    pub metrics: Arc<dyn Metrics>,
    /// Whose providers can be called. What belongs to others waits.
    pub tenants: Arc<Tenants>,
    pub client: ProviderClient,
    pub settings: CleanupWorker,
    pub retention: Retention,
    /// Whose queues have the messages of deletions.
    pub outbox: Arc<Outbox>,
    pub clock: Arc<dyn Clock>,
}

/// The result of a pass.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Files and vector stores that were tried, and attachments without a file.
    pub processed: u64,
    /// Files and vector stores that this pass deleted or found deleted.
    pub completed: u64,
    /// Failures that will be tried again.
    pub retried: u64,
    /// Files that were given up.
    pub failed: u64,
    /// Deleted chats that were removed from the database.
    pub purged: u64,
    /// Attachments whose file is still to be deleted.
    pub remaining_pending: u64,
    /// Attachments whose file was given up, in this pass or earlier.
    pub remaining_failed: u64,
    /// Why the pass ended.
    pub stopped: Stopped,
    /// Why the database could not serve, which ended the pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a pass ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// Nothing more was due.
    #[default]
    Done,
    /// The time was not enough for another call.
    Budget,
    /// It was asked to stop.
    Signal,
    /// The database could not serve.
    Error,
}

/// What ends a pass before its work is done.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Checked before each call.
    pub stop: &'a Signal,
    /// When the last call must be over.
    pub deadline: Instant,
}

impl Limits<'_> {
    /// Why no call that takes up to `call` may begin after `wait`.
    fn why_not(&self, wait: Duration, call: Duration) -> Option<Stopped> {
        if self.stop.is_fired() {
            return Some(Stopped::Signal);
        }
        (Instant::now() + wait + call > self.deadline).then_some(Stopped::Budget)
    }
}

impl Cleanup {
    /// Runs one pass.
    pub async fn run_once(&self, limits: Limits<'_>) -> Report {
        self.run_reporting(limits, &|| ()).await
    }

    /// The same. Calls `report_progress` after every change, when metrics were
    /// recorded.
    pub async fn run_reporting(
        &self,
        limits: Limits<'_>,
        report_progress: &(dyn Fn() + Sync),
    ) -> Report {
        Pass::new(self, limits, report_progress).run().await
    }

    /// Sets the gauge of the backlog, in a process whose metrics are scraped (CONT-169).
    pub async fn export_backlog(&self) -> Result<(), StoreError> {
        let CleanupBacklog { pending, failed } = self.backlog().await?;
        self.metrics.cleanup_backlog(BacklogState::Pending, pending);
        self.metrics.cleanup_backlog(BacklogState::Failed, failed);
        Ok(())
    }

    async fn backlog(&self) -> Result<CleanupBacklog, StoreError> {
        self.store
            .read(|tx| Box::pin(async move { tx.cleanup_backlog().await }))
            .await
    }
}
