//! Finalization: the transaction that moves a turn out of `running`, books its
//! charge, stores its answer and reports its usage (TURN-33). Its
//! compare-and-set alone decides between several finalizers (TURN-42).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use minichat_core::quota::{Cells, Reserve, Settlement, Tier, settle};
use minichat_core::turn::{
    BillingOutcome, Outcome, SettlementMethod, TurnErrorCode, Usage, billing,
};
use minichat_core::{MessageId, Timestamp};
use minichat_store::{
    BoxFuture, FinishedTurn, NewMessage, OutboxMessage, Role, Store, StoreError, TurnFinish, Tx,
};
use serde::Serialize;
use tokio::time::Instant;

use super::account::{Account, Price};
use super::audit_event::{self, TurnEvent};
use super::in_doubt::{Attempted, resolve};
use super::usage_event::{self, Bill, UsageEvent};

/// The fewest attempts at a finalization that fails.
const ATTEMPTS: u32 = 3;
const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);

/// How a turn ends, as its finalizer knows it.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    /// The visible text, possibly empty, and the id that was announced for it.
    pub(crate) answer: Option<(MessageId, Arc<str>)>,
    /// As reported; it may count as unknown.
    pub(crate) usage: Option<Usage>,
    pub(crate) response_id: Option<Arc<str>>,
    /// Whether the provider may have worked (QUOTA-61): it received the request
    /// and did not refuse it (D54).
    pub(crate) provider_started: bool,
    /// When the turn's task began, and how long its first delta took.
    pub(crate) began: Option<Instant>,
    pub(crate) ttft: Option<Duration>,
    /// End the turn only if it made no progress after this instant (TURN-60).
    pub(crate) stale_at: Option<Timestamp>,
}

impl Ending {
    /// The end of a turn whose process is gone (TURN-60).
    pub(crate) const fn orphaned(stale_at: Option<Timestamp>) -> Self {
        Self {
            outcome: Outcome::Failed(TurnErrorCode::OrphanTimeout),
            answer: None,
            usage: None,
            response_id: None,
            provider_started: true,
            began: None,
            ttft: None,
            stale_at,
        }
    }

    /// The message to store, if TURN-36 demands it.
    fn kept(&self) -> Option<&(MessageId, Arc<str>)> {
        let answer = self.answer.as_ref();
        match self.outcome {
            Outcome::Completed(_) => answer,
            Outcome::Cancelled => answer.filter(|(_, text)| !text.is_empty()),
            Outcome::Failed(_) => None,
        }
    }

    /// The same ending without the answer, which the database refused
    /// (TURN-37).
    fn without_answer(mut self) -> Self {
        if matches!(self.outcome, Outcome::Completed(_)) {
            self.outcome = Outcome::Failed(TurnErrorCode::MessagePersistenceFailed);
        }
        self.answer = None;
        self
    }
}

/// A finalization that this process won.
#[derive(Clone, Debug)]
pub(crate) struct Finalized {
    /// The committed outcome. It differs from the ending's if the answer could
    /// not be stored (TURN-37).
    pub(crate) outcome: Outcome,
    pub(crate) billing: BillingOutcome,
    pub(crate) method: SettlementMethod,
    pub(crate) settlement: Settlement,
    /// The user's cells of the reserve's periods after settlement.
    pub(crate) cells: Cells,
    pub(crate) code_interpreter_calls: u32,
    pub(crate) now: Timestamp,
    pub(crate) latency: Duration,
}

/// The result of a finalization.
#[derive(Debug)]
pub(crate) enum Verdict {
    Won(Box<Finalized>),
    /// Another finalizer was first, or the turn made progress. Nothing was
    /// changed.
    Lost,
    /// Nothing could be committed. The row stays `running` for the watchdog
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

/// Ends the turn of `account` as `ending` says (TURN-38), in at least three
/// attempts if they fail. What the database refuses with the answer is tried
/// without it (TURN-37). A database that cannot serve is asked until `given_up`
/// is ready.
pub(crate) async fn finalize(
    store: &Store,
    account: &Arc<Account>,
    mut ending: Ending,
    given_up: impl Future<Output = ()>,
) -> Verdict {
    let entered = Instant::now();
    // Attempts whose commit was not acknowledged.
    let mut in_doubt = Vec::new();
    let mut given_up = pin!(given_up);
    let mut attempt = 0;
    let otherwise = loop {
        attempt += 1;
        let attempted = Attempted::default();
        match commit(store, account, &ending, &attempted).await {
            Ok(finalized) => return won(finalized, entered),
            Err(Failure::Lost) => break Verdict::Lost,
            Err(Failure::Store(error)) => {
                if error.is_unanswered() {
                    in_doubt.push(attempted);
                } else if attempted.take().is_some() {
                    // This attempt found the turn running, so no earlier
                    // attempt has ended it.
                    in_doubt.clear();
                }
                log_failed(account, &error, attempt);
                let is_tried_again = if error.is_unavailable() {
                    back_off(attempt, given_up.as_mut()).await
                } else {
                    let had_answer = ending.kept().is_some();
                    ending = ending.without_answer();
                    had_answer || attempt < ATTEMPTS
                };
                if !is_tried_again {
                    let turn = account.turn_id;
                    tracing::error!(turn.id = %turn, attempt, %error, "a turn could not be finalized; the watchdog will end it");
                    break Verdict::Uncommitted;
                }
            }
        }
    };
    let in_doubt = in_doubt.iter().rev().find_map(Attempted::take);
    let in_doubt = won_in_doubt(store, account, in_doubt).await;
    in_doubt.map_or(otherwise, |finalized| won(finalized, entered))
}

/// An outage may take hundreds of attempts, of which the first ones tell all.
fn log_failed(account: &Account, error: &StoreError, attempt: u32) {
    let turn = account.turn_id;
    if !error.is_unavailable() {
        tracing::error!(turn.id = %turn, attempt, %error, "the database refused to finalize a turn");
    } else if attempt <= ATTEMPTS {
        tracing::warn!(turn.id = %turn, attempt, %error, "a turn cannot be finalized yet");
    }
}

/// Waits after an attempt that the database could not serve; false if there is
/// none after it.
async fn back_off(attempt: u32, given_up: impl Future<Output = ()>) -> bool {
    let doubled = FIRST_BACK_OFF.saturating_mul(1 << (attempt - 1).min(16));
    let pause = tokio::time::sleep(doubled.min(MAX_BACK_OFF));
    if attempt < ATTEMPTS {
        pause.await;
        return true;
    }
    tokio::select! {
        // What is due is tried, even if the time is over as well.
        biased;
        () = pause => true,
        () = given_up => false,
    }
}

fn won(mut finalized: Finalized, entered: Instant) -> Verdict {
    finalized.latency = entered.elapsed();
    Verdict::Won(Box::new(finalized))
}

async fn commit(
    store: &Store,
    account: &Arc<Account>,
    ending: &Ending,
    attempted: &Attempted<Finalized>,
) -> Result<Finalized, Failure> {
    let (account, ending) = (Arc::clone(account), ending.clone());
    let attempted = attempted.clone();
    store
        .write_closing(move |tx| -> BoxFuture<'_, Result<Finalized, Failure>> {
            let (account, ending) = (Arc::clone(&account), ending.clone());
            let attempted = attempted.clone();
            Box::pin(async move {
                let finalized = transaction(tx, &account, &ending).await?;
                attempted.note(finalized.clone());
                Ok(finalized)
            })
        })
        .await
}

/// Finds out whether an earlier attempt was committed although its
/// acknowledgement was lost. If so, this process won, and no other one counts
/// the turn (D1).
async fn won_in_doubt(
    store: &Store,
    account: &Account,
    attempted: Option<Finalized>,
) -> Option<Finalized> {
    let attempted = attempted?;
    let (tenant, turn) = (account.tenant_id, account.turn_id);
    let (state, at) = (attempted.outcome.state(), attempted.now);
    let ended = resolve(store, turn, move |tx| {
        Box::pin(async move { tx.turn_ended_at(tenant, turn, state, at).await })
    });
    (ended.await == Some(true)).then_some(attempted)
}

async fn transaction(
    tx: &mut Tx,
    account: &Account,
    ending: &Ending,
) -> Result<Finalized, Failure> {
    let outcome = ending.outcome;
    let finish = TurnFinish {
        tenant_id: account.tenant_id,
        turn_id: account.turn_id,
        outcome,
        provider_response_id: ending.response_id.as_deref(),
        stale_at: ending.stale_at,
    };
    let finished = tx.turn_finish(&finish, account.scope()).await?;
    let finished = finished.ok_or(Failure::Lost)?;

    let usage = ending.usage.and_then(Usage::known);
    let (billing, method) = billing(outcome, ending.provider_started, usage.is_some());
    let charge = Charge::new(account, &finished, method, usage);
    if let Some(price) = charge.price {
        book(tx, account, price.tier, &finished, &charge)?;
    }
    store_answer(tx, account, ending, usage, finished.now)?;
    report(
        tx,
        account,
        &Bill {
            outcome,
            billing,
            method,
            usage,
            settlement: &charge.settlement,
            reserved_credits_micro: charge.reserve.reserved_credits_micro,
            reserve_tokens: charge.reserve.reserve_tokens,
            web_search_calls: charge.web_search_calls,
            code_interpreter_calls: charge.code_interpreter_calls,
            timestamp: finished.now,
        },
    )?;
    audit(tx, account, ending, usage, &finished)?;
    Ok(Finalized {
        outcome,
        billing,
        method,
        cells: charge.after(&finished),
        settlement: charge.settlement,
        code_interpreter_calls: charge.code_interpreter_calls,
        now: finished.now,
        latency: Duration::ZERO,
    })
}

/// The charge of the turn.
struct Charge {
    /// `None`: the row never had a reserve, so there is nothing to settle
    /// (QUOTA-69).
    price: Option<Price>,
    reserve: Reserve,
    settlement: Settlement,
    web_search_calls: u32,
    code_interpreter_calls: u32,
}

impl Charge {
    /// Every amount comes from the row and from the policy that priced it
    /// (TURN-35).
    fn new(
        account: &Account,
        finished: &FinishedTurn,
        method: SettlementMethod,
        usage: Option<Usage>,
    ) -> Self {
        let is_released = method == SettlementMethod::Released;
        let calls = |completed: u32| if is_released { 0 } else { completed };
        let priced = account.price.zip(finished.reserve);
        if priced.is_none() {
            tracing::warn!(turn.id = %account.turn_id, "a turn without a reserve is ended without settlement");
        }
        let settlement = priced.map(|(price, reserve)| {
            settle(
                &reserve,
                price.pricing,
                method,
                usage,
                price.overshoot_tolerance_pct,
            )
        });
        let settlement = settlement.unwrap_or_default();
        if settlement.usage_out_of_bounds {
            tracing::error!(turn.id = %account.turn_id, "the provider reported more tokens than can be priced");
        }
        Self {
            price: priced.map(|(price, _)| price),
            reserve: priced.map(|(_, reserve)| reserve).unwrap_or_default(),
            settlement,
            web_search_calls: calls(finished.web_search_calls),
            code_interpreter_calls: calls(finished.code_interpreter_calls),
        }
    }

    /// The locked cells with this charge applied, as the rows will be after the
    /// commit.
    fn after(&self, finished: &FinishedTurn) -> Cells {
        use minichat_core::quota::Period;
        let mut cells = crate::quota::cells(&finished.cells);
        let buckets = self.price.map_or(&[][..], |price| price.tier.buckets());
        for bucket in buckets {
            for period in Period::ALL {
                let cell = cells.of_mut(*bucket, period);
                cell.reserved = cell
                    .reserved
                    .saturating_sub(self.reserve.reserved_credits_micro)
                    .max(0);
                cell.spent = cell
                    .spent
                    .saturating_add(self.settlement.committed_credits_micro);
            }
        }
        cells
    }
}

fn book(
    tx: &mut Tx,
    account: &Account,
    tier: Tier,
    finished: &FinishedTurn,
    charge: &Charge,
) -> Result<(), StoreError> {
    let settlement = &charge.settlement;
    let booking = minichat_store::SettlementBooking {
        scope: account.scope(),
        premium: tier == Tier::Premium,
        reserved_credits_micro: charge.reserve.reserved_credits_micro.unsigned_abs(),
        committed_credits_micro: settlement.committed_credits_micro.unsigned_abs(),
        usage: Usage {
            input_tokens: settlement.input_tokens,
            output_tokens: settlement.output_tokens,
            ..Usage::default()
        },
        file_search_calls: 0,
        web_search_calls: charge.web_search_calls,
        code_interpreter_calls: charge.code_interpreter_calls,
        now: finished.now,
    };
    for fault in tx.quota_settle(&booking, &finished.cells)? {
        tracing::error!(turn.id = %account.turn_id, ?fault, "a quota row did not hold the turn's reserve");
    }
    Ok(())
}

/// Stores the assistant's message (TURN-33 step 4).
fn store_answer(
    tx: &mut Tx,
    account: &Account,
    ending: &Ending,
    usage: Option<Usage>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some((id, text)) = ending.kept() else {
        return Ok(());
    };
    let tenant = account.tenant_id;
    tx.message_insert(&NewMessage {
        id: *id,
        tenant_id: tenant,
        chat_id: account.chat_id,
        request_id: account.request_id,
        role: Role::Assistant,
        content: text,
        provider_response_id: ending.response_id.as_deref(),
        usage: usage.unwrap_or_default(),
        model: Some(&account.effective_model),
        created_at: now,
    })?;
    tx.turn_set_assistant_message(tenant, account.turn_id, *id)
}

/// Enqueues the usage event with the settlement (QUOTA-85).
fn report(tx: &mut Tx, account: &Account, bill: &Bill<'_>) -> Result<(), StoreError> {
    let event = UsageEvent::new(account, bill);
    let payload = json(&event)?;
    tx.outbox_enqueue(&OutboxMessage {
        queue: usage_event::QUEUE,
        tenant_id: account.tenant_id,
        key: account.tenant_id.0,
        partitions: usage_event::PARTITIONS,
        dedupe_key: Some(&event.dedupe_key),
        payload: &payload,
        created_at: bill.timestamp,
    })
}

/// Enqueues the audit event (TURN-33 step 6).
fn audit(
    tx: &mut Tx,
    account: &Account,
    ending: &Ending,
    usage: Option<Usage>,
    finished: &FinishedTurn,
) -> Result<(), StoreError> {
    let end = audit_event::End {
        outcome: ending.outcome,
        usage,
        ttft: ending.ttft,
        total: ending.began.map(|began| began.elapsed()),
        web_search_calls: finished.web_search_calls,
        code_interpreter_calls: finished.code_interpreter_calls,
        timestamp: finished.now,
    };
    let payload = json(&TurnEvent::new(account, &end))?;
    tx.outbox_enqueue(&OutboxMessage {
        queue: audit_event::QUEUE,
        tenant_id: account.tenant_id,
        key: account.tenant_id.0,
        partitions: audit_event::PARTITIONS,
        dedupe_key: None,
        payload: &payload,
        created_at: finished.now,
    })
}

fn json(event: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(event).map_err(|_| StoreError::Parameter("payload"))
}
