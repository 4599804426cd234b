//! Finalization: the one transaction that moves a turn out of `running`, books
//! its charge, stores its answer and reports its usage (TURN-33). The
//! compare-and-set in it is the only arbiter between finalizers (TURN-42).

use std::sync::Arc;
use std::time::Duration;

use minichat_core::Timestamp;
use minichat_core::quota::{Cells, Reserve, Settlement, Tier, settle};
use minichat_core::turn::{
    BillingOutcome, Outcome, SettlementMethod, TurnErrorCode, Usage, billing,
};
use minichat_store::{
    BoxFuture, FinishedTurn, NewMessage, OutboxMessage, QuotaScope, Role, StoreError, TurnFinish,
    Tx,
};
use tokio::time::Instant;

use super::open::OpenTurn;
use super::record;
use super::usage_event::{self, Bill, Subject, UsageEvent};

const ATTEMPTS: u32 = 3;
const BACK_OFF: Duration = Duration::from_millis(50);

/// What the stream knows at its end.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) text: Arc<str>,
    /// As reported; not yet judged known.
    pub(super) usage: Option<Usage>,
    pub(super) response_id: Option<Arc<str>>,
    /// Whether the provider must be assumed to have worked (QUOTA-61).
    pub(super) provider_started: bool,
}

/// A finalization that this process won.
#[derive(Debug)]
pub(super) struct Finalized {
    /// What was committed; differs from the ending's when its answer could not
    /// be stored (TURN-37).
    pub(super) outcome: Outcome,
    pub(super) billing: BillingOutcome,
    pub(super) method: SettlementMethod,
    pub(super) settlement: Settlement,
    /// The user's cells of the reserve's periods after settlement.
    pub(super) cells: Cells,
    pub(super) now: Timestamp,
    pub(super) latency: Duration,
}

/// What became of a finalization.
#[derive(Debug)]
pub(super) enum Verdict {
    Won(Box<Finalized>),
    /// Another finalizer was first; nothing was changed.
    Lost,
    /// Nothing could be committed; the row stays `running` for the watchdog
    /// (TURN-38).
    Uncommitted,
}

enum Failure {
    Lost,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Ends `turn` as `ending` says. Tries three times; when the database refuses
/// the answer itself the turn ends without it (TURN-37).
pub(super) async fn finalize(turn: &Arc<OpenTurn>, mut ending: Ending) -> Verdict {
    let entered = Instant::now();
    for attempt in 1..=ATTEMPTS {
        match commit(turn, &ending).await {
            Ok(mut finalized) => {
                finalized.latency = entered.elapsed();
                return Verdict::Won(Box::new(finalized));
            }
            Err(Failure::Lost) => return Verdict::Lost,
            Err(Failure::Store(error)) => {
                tracing::error!(turn.id = %turn.ids().turn_id, attempt, error = %error, "a turn could not be finalized");
                if error.is_unavailable() {
                    tokio::time::sleep(BACK_OFF * attempt).await;
                } else {
                    ending = without_answer(ending);
                }
            }
        }
    }
    Verdict::Uncommitted
}

/// The same ending for a database that refuses the answer.
fn without_answer(mut ending: Ending) -> Ending {
    if matches!(ending.outcome, Outcome::Completed(_)) {
        ending.outcome = Outcome::Failed(TurnErrorCode::MessagePersistenceFailed);
    }
    ending.text = Arc::from("");
    ending
}

async fn commit(turn: &Arc<OpenTurn>, ending: &Ending) -> Result<Finalized, Failure> {
    let (turn, ending) = (Arc::clone(turn), ending.clone());
    let store = turn.app.store.clone();
    store
        .write(move |tx| -> BoxFuture<'_, Result<Finalized, Failure>> {
            let (turn, ending) = (Arc::clone(&turn), ending.clone());
            Box::pin(async move { transaction(tx, &turn, &ending).await })
        })
        .await
}

async fn transaction(tx: &mut Tx, turn: &OpenTurn, ending: &Ending) -> Result<Finalized, Failure> {
    let Ending {
        outcome,
        text: _,
        usage,
        response_id,
        provider_started,
    } = ending;
    let scope = QuotaScope {
        tenant_id: turn.caller.tenant_id,
        user_id: turn.caller.user_id,
        day: turn.plan.draft.started_at.date(),
    };
    let finish = TurnFinish {
        tenant_id: turn.caller.tenant_id,
        turn_id: turn.ids().turn_id,
        outcome: *outcome,
        provider_response_id: response_id.as_deref(),
        stale_at: None,
    };
    let finished = tx.turn_finish(&finish, scope).await?.ok_or(Failure::Lost)?;

    let usage = usage.and_then(Usage::known);
    let (billing, method) = billing(*outcome, *provider_started, usage.is_some());
    // A row that never held a reserve has nothing to settle (QUOTA-69).
    let reserve = finished.reserve.unwrap_or_default();
    let settlement = price(turn, &reserve, method, usage);
    if finished.reserve.is_some() {
        book(tx, turn, scope, &finished, (&reserve, &settlement))?;
    }
    store_answer(tx, turn, ending, usage, finished.now)?;
    report(
        tx,
        turn,
        &Bill {
            outcome: *outcome,
            billing,
            method,
            usage,
            settlement: &settlement,
            reserved_credits_micro: reserve.reserved_credits_micro,
            reserve_tokens: reserve.reserve_tokens,
            policy_version_applied: turn.plan.policy_version(),
            timestamp: finished.now,
        },
    )?;
    Ok(Finalized {
        outcome: *outcome,
        billing,
        method,
        cells: after(&finished, (&reserve, &settlement), turn.plan.model().tier),
        settlement,
        now: finished.now,
        latency: Duration::ZERO,
    })
}

fn price(
    turn: &OpenTurn,
    reserve: &Reserve,
    method: SettlementMethod,
    usage: Option<Usage>,
) -> Settlement {
    let limits = turn.caller.tenant.config.limits_for(turn.caller.user_id);
    let pricing = turn.plan.model().pricing;
    let settlement = settle(
        reserve,
        pricing,
        method,
        usage,
        limits.overshoot_tolerance_pct,
    );
    if settlement.usage_out_of_bounds {
        tracing::error!(turn.id = %turn.ids().turn_id, "the provider reported more tokens than can be priced");
    }
    settlement
}

fn book(
    tx: &mut Tx,
    turn: &OpenTurn,
    scope: QuotaScope,
    finished: &FinishedTurn,
    (reserve, settlement): (&Reserve, &Settlement),
) -> Result<(), StoreError> {
    let booking = minichat_store::Settlement {
        scope,
        premium: turn.plan.model().tier == Tier::Premium,
        reserved_credits_micro: reserve.reserved_credits_micro.unsigned_abs(),
        committed_credits_micro: settlement.committed_credits_micro.unsigned_abs(),
        usage: Usage {
            input_tokens: settlement.input_tokens,
            output_tokens: settlement.output_tokens,
            ..Usage::default()
        },
        file_search_calls: 0,
        web_search_calls: 0,
        code_interpreter_calls: 0,
        now: finished.now,
    };
    for fault in tx.quota_settle(&booking, &finished.cells)? {
        tracing::error!(turn.id = %turn.ids().turn_id, ?fault, "a quota row did not hold the turn's reserve");
    }
    Ok(())
}

/// Stores the assistant's message where TURN-36 says so.
fn store_answer(
    tx: &mut Tx,
    turn: &OpenTurn,
    ending: &Ending,
    usage: Option<Usage>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let kept = match ending.outcome {
        Outcome::Completed(_) => true,
        Outcome::Cancelled => !ending.text.is_empty(),
        Outcome::Failed(_) => false,
    };
    if !kept {
        return Ok(());
    }
    let ids = turn.ids();
    let tenant = turn.caller.tenant_id;
    tx.message_insert(&NewMessage {
        id: ids.assistant_message_id,
        tenant_id: tenant,
        chat_id: ids.chat_id,
        request_id: ids.request_id,
        role: Role::Assistant,
        content: &ending.text,
        provider_response_id: ending.response_id.as_deref(),
        usage: usage.unwrap_or_default(),
        model: Some(&turn.plan.model().id),
        created_at: now,
    })?;
    tx.turn_set_assistant_message(tenant, ids.turn_id, ids.assistant_message_id)
}

/// Enqueues the usage event with the settlement (QUOTA-85).
fn report(tx: &mut Tx, turn: &OpenTurn, bill: &Bill<'_>) -> Result<(), Failure> {
    let ids = turn.ids();
    let tenant = turn.caller.tenant_id;
    let subject = Subject {
        tenant_id: tenant,
        user_id: turn.caller.user_id,
        chat_id: ids.chat_id,
        turn_id: ids.turn_id,
        request_id: ids.request_id,
        requester_type: turn.caller.requester_type.as_str(),
        selected_model: &turn.plan.draft.selected_model,
        effective_model: &turn.plan.model().id,
        downgrade_reason: record::reason_text(turn.plan.downgrade_reason()),
    };
    let event = UsageEvent::new(&subject, bill);
    let payload = serde_json::to_string(&event).map_err(|_| StoreError::Parameter("payload"))?;
    tx.outbox_enqueue(&OutboxMessage {
        queue: usage_event::QUEUE,
        tenant_id: tenant,
        key: tenant.0,
        partitions: usage_event::PARTITIONS,
        dedupe_key: Some(&event.dedupe_key),
        payload: &payload,
        created_at: bill.timestamp,
    })?;
    Ok(())
}

/// The locked cells with this settlement applied: what the same rows hold
/// after the commit.
fn after(
    finished: &FinishedTurn,
    (reserve, settlement): (&Reserve, &Settlement),
    tier: Tier,
) -> Cells {
    use minichat_core::quota::Period;
    let mut cells = crate::quota::cells(&finished.cells);
    for bucket in tier.buckets() {
        for period in Period::ALL {
            let cell = cells.of_mut(*bucket, period);
            cell.reserved = cell
                .reserved
                .saturating_sub(reserve.reserved_credits_micro)
                .max(0);
            cell.spent = cell
                .spent
                .saturating_add(settlement.committed_credits_micro);
        }
    }
    cells
}
