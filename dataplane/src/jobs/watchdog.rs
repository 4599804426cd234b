//! The orphan watchdog: ends turns whose process is gone (TURN-56 to TURN-64).
//! A turn is orphaned if and only if its row is `running`, is not deleted, and
//! either its `last_progress_at` is at least `orphan_watchdog.timeout_secs` old by
//! the database's clock (TURN-57), or its process is dead (TURN-69). The task of a
//! live turn makes sure that its row never gets that old. It stores progress every
//! 30 s: while the provider is called, while the provider sends, and while the turn
//! waits for its reader. It ends the call to a silent provider `timeout_secs` - 60 s
//! after the last event (TURN-1). When the owner of an embedded database starts,
//! every running turn is orphaned, because no other process could be running it
//! (TURN-63).
//!
//! A watchdog in the same process as the turns does not rely on stored progress
//! alone, because on a full disk none can be stored. It skips a turn that is open
//! in this process for as long as its task may take ([`OpenTurns::is_live`]): the
//! provider's `totalSeconds` and twice `timeout_secs`. A task that takes longer
//! hangs, and its turn is orphaned like any other. If the task continues after
//! all, it loses the compare-and-set.
//!
//! A process is dead if its last heartbeat is at least
//! `orphan_watchdog.process_timeout_secs` old, and another process, the witness, had
//! its heartbeats in time all the while. After an outage of the database all
//! heartbeats are old, but there is no witness, so nobody is dead. A process that
//! lives and cannot reach the database may be taken for dead. Then its turns are
//! ended here, and it loses the compare-and-set of each.
//!
//! The watchdog needs only the database. It lists rows first and ends them
//! afterwards. If a row ends or makes progress in between, the compare-and-set
//! of its finalization changes nothing. So any number of watchdogs and live
//! processes may work on the same rows (TURN-61).

use std::sync::Arc;
use std::time::Duration;

use minichat_core::Timestamp;
use minichat_metrics::{AbortTrigger, Metrics};
use minichat_store::{Orphan, OrphanKey, OrphanQuery, OrphanRule, Silence, Store, StoreError};
use minichat_telemetry::Signal;
use serde::Serialize;
use tokio::time::Instant;

use super::stored_policy::{PolicyError, StoredPolicies};
use crate::heartbeat;
use crate::open_turns::OpenTurns;
use crate::outbox::Outbox;
use crate::turn::account::Account;
use crate::turn::finalize::{Ending, Finalized, Verdict, finalize};
use crate::turn::instrumentation;
use crate::turn::relay::Labels;

/// Number of rows per selection (TURN-58).
const BATCH: u32 = 100;

/// How long to retry ending one turn while the database cannot serve. The next
/// run tries again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The label of a turn whose row names no provider or model.
const UNKNOWN: &str = "other";

/// Finalizes orphans.
#[derive(Clone)]
pub struct Watchdog {
    pub store: Store,
    pub metrics: Arc<dyn Metrics>,
    /// Age of the last progress from which a turn is an orphan (TURN-57).
    pub timeout: Duration,
    /// Age of the last heartbeat from which a process is dead (TURN-69).
    pub process_timeout: Duration,
    /// Turns of this process. While they are live they are not orphans.
    pub open_turns: OpenTurns,
    /// Where ends are reported.
    pub outbox: Arc<Outbox>,
}

/// The result of one run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Rows that were selected.
    pub detected: u32,
    /// Turns that this run ended.
    pub finalized: u32,
    /// Turns that had ended or were no orphans any more since their selection, or
    /// that are live in this process.
    pub skipped: u32,
    /// Rows that are still `running` although they should have ended. The log
    /// says why.
    pub failed: u32,
    /// A stop signal ended the run before its work was done.
    pub stopped: bool,
    /// Why the database could not serve, which ended the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report {
    /// Whether every selection succeeded and no row was left (TURN-62).
    pub const fn is_success(&self) -> bool {
        self.failed == 0 && self.error.is_none()
    }
}

/// The running turns that a run selects.
#[derive(Clone, Copy)]
enum Selection {
    /// Turns without progress for the timeout, and those of dead processes.
    Stale,
    /// All turns. Only their process could have been running them, and it is
    /// gone (TURN-63).
    All,
    /// Like `All`, if other turns run by now: turns without progress since this
    /// instant.
    Before(Timestamp),
}

impl Watchdog {
    /// Ends every orphan, in batches, the oldest first. `stop` is checked
    /// between rows.
    pub async fn run_once(&self, stop: &Signal) -> Report {
        self.run_reporting(stop, || ()).await
    }

    /// Like [`run_once`](Self::run_once). Calls `report_progress` after every
    /// row and every batch, when metrics were recorded.
    pub async fn run_reporting(&self, stop: &Signal, report_progress: impl FnMut()) -> Report {
        self.run(Selection::Stale, stop, report_progress).await
    }

    /// Ends every running turn. Only for the owner of an embedded database,
    /// before it serves.
    pub async fn recover(&self) -> Report {
        self.run(Selection::All, &Signal::new(), || ()).await
    }

    /// Like [`recover`](Self::recover), for an owner that serves already: ends
    /// the turns without progress since it opened the database.
    pub async fn recover_before(&self, opened_at: Timestamp, stop: &Signal) -> Report {
        self.run(Selection::Before(opened_at), stop, || ()).await
    }

    async fn run(
        &self,
        selection: Selection,
        stop: &Signal,
        mut report_progress: impl FnMut(),
    ) -> Report {
        let mut run = Run {
            watchdog: self,
            selection,
            policies: StoredPolicies::new(self.store.clone()),
            behind: None,
            report: Report::default(),
        };
        loop {
            let began = Instant::now();
            let scanned = run.scan(stop, &mut report_progress).await;
            if matches!(selection, Selection::Stale) {
                self.metrics.orphan_scan_duration_seconds(began.elapsed());
            }
            report_progress();
            match scanned {
                Ok(selected) if selected == BATCH && !run.report.stopped => {}
                Ok(_) => return run.report,
                Err(error) => {
                    tracing::error!(%error, "orphaned turns cannot be ended");
                    run.report.error = Some(error.to_string());
                    return run.report;
                }
            }
        }
    }
}

struct Run<'a> {
    watchdog: &'a Watchdog,
    selection: Selection,
    policies: StoredPolicies,
    /// The last row that was handled. Failed rows come before it, so they
    /// cannot block the rest (TURN-58).
    behind: Option<OrphanKey>,
    report: Report,
}

impl Run<'_> {
    /// Selects and handles one batch. Returns the number of selected rows.
    async fn scan(
        &mut self,
        stop: &Signal,
        report_progress: &mut impl FnMut(),
    ) -> Result<u32, StoreError> {
        let (rule, orphans) = self.select().await?;
        let selected = u32::try_from(orphans.len()).unwrap_or(u32::MAX);
        self.report.detected += selected;
        if matches!(self.selection, Selection::Stale) {
            for _ in orphans.iter().filter(|orphan| !self.is_live_here(orphan)) {
                self.watchdog.metrics.orphan_detected();
            }
        }
        for orphan in orphans {
            if stop.is_fired() {
                self.report.stopped = true;
                break;
            }
            self.behind = Some(orphan.key);
            if self.is_live_here(&orphan) {
                self.report.skipped += 1;
                continue;
            }
            let failed = self.report.failed;
            self.end(&orphan, rule).await;
            report_progress();
            if self.report.failed > failed {
                // If the database cannot serve, the run ends instead of trying
                // each row.
                self.watchdog.store.probe().await?;
            }
        }
        Ok(selected)
    }

    fn is_live_here(&self, orphan: &Orphan) -> bool {
        self.watchdog.open_turns.is_live(orphan.key.turn_id)
    }

    /// The next rows, and the rule by which they were selected. The database's
    /// clock decides (TURN-57).
    async fn select(&self) -> Result<(Option<OrphanRule>, Vec<Orphan>), StoreError> {
        let (selection, after) = (self.selection, self.behind);
        let Watchdog {
            timeout,
            process_timeout,
            ..
        } = *self.watchdog;
        self.watchdog
            .store
            .read(move |tx| {
                Box::pin(async move {
                    let rule = match selection {
                        Selection::Stale => Some(rule(tx.now().await?, timeout, process_timeout)),
                        Selection::All => None,
                        Selection::Before(opened_at) => Some(OrphanRule {
                            stale_at: opened_at,
                            silence: None,
                        }),
                    };
                    let query = OrphanQuery {
                        rule,
                        after,
                        limit: BATCH,
                    };
                    Ok((rule, tx.orphan_list(&query).await?))
                })
            })
            .await
    }

    async fn end(&mut self, orphan: &Orphan, rule: Option<OrphanRule>) {
        let turn_id = orphan.key.turn_id;
        let account = match self.account(orphan).await {
            Ok(account) => Arc::new(account),
            Err(error) => {
                tracing::error!(turn.id = %turn_id, %error, "an orphaned turn cannot be priced");
                self.report.failed += 1;
                return;
            }
        };
        let ending = Ending::orphaned(rule);
        // The time counts from the first failed attempt.
        let given_up = async { tokio::time::sleep(PATIENCE).await };
        match finalize(&self.watchdog.store, &account, ending, given_up).await {
            Verdict::Won(finalized) => {
                self.report.finalized += 1;
                self.record(orphan, &account, &finalized);
            }
            Verdict::Lost => self.report.skipped += 1,
            Verdict::Uncommitted => self.report.failed += 1,
        }
    }

    async fn account(&mut self, orphan: &Orphan) -> Result<Account, PolicyError> {
        let price = self.policies.price(orphan).await?;
        let prompt = self.policies.audited_prompt(orphan).await?;
        let outbox = Arc::clone(&self.watchdog.outbox);
        Ok(Account::of_row(orphan, price, prompt, outbox))
    }

    fn record(&self, orphan: &Orphan, account: &Account, finalized: &Finalized) {
        let metrics = &self.watchdog.metrics;
        let labels = Labels {
            metrics: Arc::clone(metrics),
            provider: orphan.provider_name.as_deref().unwrap_or(UNKNOWN).into(),
            model: orphan.effective_model.as_deref().unwrap_or(UNKNOWN).into(),
        };
        let trigger = match self.selection {
            Selection::Stale => AbortTrigger::OrphanTimeout,
            Selection::All | Selection::Before(_) => AbortTrigger::PodCrash,
        };
        instrumentation::finalized(&labels, finalized, trigger);
        if matches!(self.selection, Selection::Stale) {
            metrics.orphan_finalized();
        }
        tracing::warn!(
            chat_id = %account.chat_id,
            turn_id = %account.turn_id,
            request_id = %account.request_id,
            trigger = trigger.as_str(),
            "a turn was left running and is ended"
        );
    }
}

/// Which turns are orphans `now`.
fn rule(now: Timestamp, timeout: Duration, process_timeout: Duration) -> OrphanRule {
    let ago = |age: Duration| {
        let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        now.plus_micros(-micros)
    };
    OrphanRule {
        stale_at: ago(timeout),
        silence: Some(Silence {
            since: ago(process_timeout),
            witnessed_after: ago(heartbeat::gap(process_timeout)),
        }),
    }
}
