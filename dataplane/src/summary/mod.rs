//! Thread summaries (CONT-130 to CONT-141): older messages of a long chat are replaced
//! by a summary in the prompts of later turns.
//!
//! ```text
//! finalization of a turn -> item -> read the chat -> call the model -> commit
//! ```
//!
//! The turn that asks for a summary enqueues an [`item`] with its end; it never waits
//! for it. The dispatcher of any process hands the item to its [`Summarizer`]. What
//! decides is the commit: it changes nothing unless the chat is summarized up to the
//! item's base, and each message is there as it was read. So of any number of
//! attempts at one range, one commits.

mod commit;
mod generate;
pub(crate) mod item;
mod usage_event;

use minichat_config::process::{self, ThreadSummaryWorker};
use minichat_metrics::{Metrics, SummaryExecution};
use minichat_provider::ProviderClient;
use minichat_store::{BoxFuture, ChatToSummarize, Store, StoreError, Tx};
use std::sync::Arc;
use tokio::time::Instant;

use crate::config_source::TenantRuntime;
use commit::Committed;
use generate::Unusable;
use item::Item;

/// Makes the summaries that items ask for.
pub(crate) struct Summarizer {
    pub(crate) store: Store,
    pub(crate) client: ProviderClient,
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) settings: ThreadSummaryWorker,
    /// Where usage events are enqueued.
    pub(crate) outbox: process::Outbox,
}

/// How an item was handled. The texts are for operators; they contain nothing of a
/// conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Handled {
    /// There is nothing more to do for it. `has_event`: a usage event was enqueued.
    Done { has_event: bool },
    /// It may succeed later.
    Retry(String),
    /// It never will.
    Reject(&'static str),
}

const NOTHING_TO_DO: Handled = Handled::Done { has_event: false };

/// Whether summaries are made for a tenant.
pub(crate) fn is_enabled(settings: &ThreadSummaryWorker, tenant: &TenantRuntime) -> bool {
    settings.enabled && tenant.config.document.thread_summary.enabled
}

impl Summarizer {
    pub(crate) fn is_enabled(&self, tenant: &TenantRuntime) -> bool {
        is_enabled(&self.settings, tenant)
    }

    /// One attempt at the item `payload` of `tenant` (CONT-134). It is over at
    /// `deadline`.
    pub(crate) async fn handle(
        &self,
        tenant: &TenantRuntime,
        payload: &str,
        deadline: Instant,
    ) -> Handled {
        let Some(item) = Item::read(payload).filter(|it| it.tenant_id == tenant.config.tenant_id)
        else {
            return Handled::Reject("the payload is not an item of the tenant");
        };
        let chat = match self.read(&item).await {
            Ok(Some(chat)) => chat,
            Ok(None) => return NOTHING_TO_DO,
            Err(error) => return Handled::Retry(format!("the chat cannot be read: {error}")),
        };
        let stored = chat.summary.as_ref().map(|summary| summary.frontier);
        if stored != item.range().base {
            // Without a summary there is no one who was faster (CONT-141).
            if stored.is_some() {
                self.metrics.thread_summary_cas_conflict();
            }
            return NOTHING_TO_DO;
        }
        if chat.messages.is_empty() {
            return NOTHING_TO_DO;
        }
        match self.generate(tenant, &item, &chat, deadline).await {
            Ok(generated) => {
                let committed = self.commit(&item, &chat, &generated).await;
                self.committed(&item, &chat, committed)
            }
            Err(unusable) => self.failed(&unusable),
        }
    }

    async fn read(&self, item: &Item) -> Result<Option<ChatToSummarize>, StoreError> {
        let (tenant, chat, range) = (item.tenant_id, item.chat_id, item.range());
        self.store
            .read(move |tx: &mut Tx| -> BoxFuture<'_, _> {
                Box::pin(async move { tx.summary_read(tenant, chat, &range).await })
            })
            .await
    }

    fn committed(
        &self,
        item: &Item,
        chat: &ChatToSummarize,
        committed: Result<Committed, StoreError>,
    ) -> Handled {
        match committed {
            Ok(Committed::Won) => {
                self.metrics
                    .thread_summary_execution(SummaryExecution::Success);
                tracing::info!(
                    tenant_id = %item.tenant_id,
                    chat_id = %item.chat_id,
                    messages = chat.messages.len(),
                    "a chat was summarized"
                );
                Handled::Done { has_event: true }
            }
            Ok(Committed::Lost) => {
                self.metrics.thread_summary_cas_conflict();
                NOTHING_TO_DO
            }
            Err(error) => {
                self.metrics
                    .thread_summary_execution(SummaryExecution::Retry);
                Handled::Retry(format!("the summary cannot be committed: {error}"))
            }
        }
    }

    /// The previous summary, if there is one, stays (CONT-138).
    fn failed(&self, unusable: &Unusable) -> Handled {
        let (execution, error) = match unusable {
            Unusable::Failed(error) => (SummaryExecution::ProviderError, error.as_str()),
            Unusable::TimedOut(error) => (SummaryExecution::Timeout, error.as_str()),
            Unusable::Empty => (
                SummaryExecution::EmptySummary,
                "the model's answer has no summary",
            ),
            Unusable::NoModel(error) => (SummaryExecution::Retry, error.as_str()),
        };
        self.metrics.thread_summary_execution(execution);
        if execution != SummaryExecution::Retry {
            self.metrics.summary_fallback();
        }
        Handled::Retry(error.to_owned())
    }
}
