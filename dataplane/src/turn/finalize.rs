//! Finalization: the transaction that moves a turn out of `running`, books its
//! charge, stores its answer and reports its usage (TURN-33). Its
//! compare-and-set alone decides between several finalizers (TURN-42).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use minichat_config::process::OutboxKind;
use minichat_core::quota::{Cells, Reserve, Settlement, Tier, settle};
use minichat_core::turn::{
    BillingOutcome, Outcome, SettlementMethod, TurnErrorCode, Usage, billing,
};
use minichat_core::{MessageId, Timestamp};
use minichat_metrics::SummaryTrigger;
use minichat_store::{
    BoxFuture, Finalization, FinishedTurn, NewMessage, OrphanRule, OutboxMessage, QuotaCells, Role,
    SettlementBooking, SettlementFault, Store, StoreError, TurnFinish, TurnSettlement, Tx,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::account::{Account, Price};
use super::audit_content::AuditContent;
use super::audit_event::{self, TurnEvent};
use super::in_doubt::{Attempted, PATIENCE, resolve};
use super::summary_request::{self, Request};
use super::tool_calls::CallCounts;
use super::usage_event::{Bill, UsageEvent};

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
    /// Calls of tools that ended, as this process saw them. The turn's row says what
    /// is charged; only the calls that have no column count from here.
    pub(crate) calls: CallCounts,
    /// End the turn only if it is an orphan by this rule (TURN-60).
    pub(crate) orphan: Option<OrphanRule>,
}

impl Ending {
    /// The end of a turn whose process is gone (TURN-60).
    pub(crate) fn orphaned(orphan: Option<OrphanRule>) -> Self {
        Self {
            outcome: Outcome::Failed(TurnErrorCode::OrphanTimeout),
            answer: None,
            usage: None,
            response_id: None,
            provider_started: true,
            began: None,
            ttft: None,
            calls: CallCounts::default(),
            orphan,
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

/// The events of a turn that ends.
const KINDS: [OutboxKind; 2] = [OutboxKind::Usage, OutboxKind::Audit];

/// A finalization that this process won.
#[derive(Clone, Debug)]
pub(crate) struct Finalized {
    /// The attempt.
    id: Uuid,
    /// What was committed; differs from the ending's when its answer could not
    /// be stored (TURN-37).
    pub(crate) outcome: Outcome,
    pub(crate) billing: BillingOutcome,
    pub(crate) method: SettlementMethod,
    pub(crate) settlement: Settlement,
    /// The user's cells of the reserve's periods after settlement.
    pub(crate) cells: Cells,
    pub(crate) code_interpreter_calls: u32,
    /// Whether a thread summary was asked for; `None`: none was considered.
    summary: Option<SummaryTrigger>,
    pub(crate) now: Timestamp,
    pub(crate) latency: Duration,
}

/// The result of a finalization.
#[derive(Debug)]
pub(crate) enum Verdict {
    Won(Box<Finalized>),
    /// Another finalizer was first, or the turn is no orphan any more. Nothing was
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
    let mut content = AuditContent::new(account, &ending);
    let mut attempt = 0;
    let otherwise = loop {
        attempt += 1;
        let attempted = Attempted::default();
        match commit(store, account, &ending, &content, &attempted).await {
            Ok(finalized) => return won(account, finalized, entered),
            Err(Failure::Lost) => break Verdict::Lost,
            Err(Failure::Store(error)) => {
                if error.is_unanswered() {
                    in_doubt.push(attempted);
                }
                log_failed(account, &error, attempt);
                let is_tried_again = if error.is_unavailable() {
                    back_off(attempt, given_up.as_mut()).await
                } else {
                    let had_answer = ending.kept().is_some();
                    ending = ending.without_answer();
                    content.response = None;
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
    // A database that was waited for until the end is asked once more.
    let patience = match otherwise {
        Verdict::Uncommitted => Duration::ZERO,
        Verdict::Lost | Verdict::Won(_) => PATIENCE,
    };
    for attempt in in_doubt.iter().filter_map(Attempted::take) {
        if let Some(finalized) = won_in_doubt(store, account, attempt, patience).await {
            return won(account, finalized, entered);
        }
    }
    if matches!(otherwise, Verdict::Uncommitted) {
        account.outbox.not_enqueued(&KINDS);
    }
    otherwise
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

fn won(account: &Account, mut finalized: Finalized, entered: Instant) -> Verdict {
    account.outbox.enqueued(account.tenant_id, &KINDS);
    if let Some(result) = finalized.summary {
        summary_request::committed(account, result);
    }
    finalized.latency = entered.elapsed();
    Verdict::Won(Box::new(finalized))
}

/// A turn that ends.
#[derive(Clone, Copy)]
struct Ended<'a> {
    account: &'a Account,
    ending: &'a Ending,
    /// What its audit event tells of its texts.
    content: &'a AuditContent,
}

async fn commit(
    store: &Store,
    account: &Arc<Account>,
    ending: &Ending,
    content: &AuditContent,
    attempted: &Attempted<Finalized>,
) -> Result<Finalized, Failure> {
    let (account, ending) = (Arc::clone(account), ending.clone());
    let (content, attempted) = (content.clone(), attempted.clone());
    let id = Uuid::new_v4();
    store
        .write_closing(move |tx| -> BoxFuture<'_, Result<Finalized, Failure>> {
            let (account, ending) = (Arc::clone(&account), ending.clone());
            let (content, attempted) = (content.clone(), attempted.clone());
            Box::pin(async move {
                let ended = Ended {
                    account: &account,
                    ending: &ending,
                    content: &content,
                };
                let at_once = in_one_statement(tx, ended, id, &attempted);
                if let Some(finalized) = at_once.await? {
                    return Ok(finalized);
                }
                let finalized = under_locks(tx, ended, id).await?;
                attempted.note(finalized.clone());
                Ok(finalized)
            })
        })
        .await
}

/// What an attempt committed although its acknowledgement was lost: then the turn
/// was not lost to anybody else, and nobody else counts it (D1).
async fn won_in_doubt(
    store: &Store,
    account: &Arc<Account>,
    mut attempted: Finalized,
    patience: Duration,
) -> Option<Finalized> {
    let (scope, turn, id) = (account.scope(), account.turn_id, attempted.id);
    let (owner, asks) = (Arc::clone(account), attempted.summary.is_some());
    let found = resolve(store, turn, patience, move |tx| {
        let owner = Arc::clone(&owner);
        Box::pin(async move {
            let Some(at) = tx.turn_finalized_by(scope.tenant_id, turn, id).await? else {
                return Ok(None);
            };
            let scheduled = asks && summary_request::was_enqueued(tx, &owner, id).await?;
            Ok(Some((at, tx.quota_cells(scope).await?, scheduled)))
        })
    });
    let (at, cells, scheduled) = found.await??;
    if scheduled {
        attempted.summary = Some(SummaryTrigger::Scheduled);
    }
    attempted.now = at;
    attempted.cells = crate::quota::cells(&cells);
    Some(attempted)
}

/// Ends a turn of which this process knows everything that its row holds. `None`:
/// nothing was written, and the row has to be read.
async fn in_one_statement(
    tx: &mut Tx,
    ended: Ended<'_>,
    id: Uuid,
    attempted: &Attempted<Finalized>,
) -> Result<Option<Finalized>, Failure> {
    let Ended {
        account, ending, ..
    } = ended;
    let Some(reserve) = account.reserve else {
        return Ok(None);
    };
    // The statement books no calls.
    let has_calls = ending.calls != CallCounts::default();
    if ending.orphan.is_some() || has_calls || !tx.has_single_statements() {
        return Ok(None);
    }
    // The statement puts the instant and the cells in.
    let expected = FinishedTurn {
        now: Finalization::UNKNOWN,
        cells: QuotaCells::default(),
        reserve: Some(reserve),
        web_search_calls: 0,
        code_interpreter_calls: 0,
    };
    let records = Records::new(ended, &expected)?;
    let Some(booking) = records.booking(account, expected.now) else {
        return Ok(None);
    };
    attempted.note(records.finalized(ended, id, &expected, false));
    let request = Request::new(account, ending, id)?;
    let finalization = Finalization {
        finish: finish(account, ending, id),
        reserve,
        booking,
        method: records.method,
        answer: records.answer(account, ending, expected.now),
        events: records.events.messages(account, expected.now),
        summary: request
            .as_ref()
            .map(|request| request.of_statement(account, expected.now)),
    };
    let Some((finished, scheduled)) = tx.turn_finalize(&finalization).await? else {
        return Ok(None);
    };
    log_faults(account, booking.faults(&finished.cells));
    Ok(Some(records.finalized(ended, id, &finished, scheduled)))
}

async fn under_locks(tx: &mut Tx, ended: Ended<'_>, id: Uuid) -> Result<Finalized, Failure> {
    let Ended {
        account, ending, ..
    } = ended;
    let finish = finish(account, ending, id);
    let finished = tx.turn_finish(&finish, account.scope()).await?;
    let finished = finished.ok_or(Failure::Lost)?;
    let records = Records::new(ended, &finished)?;
    if let Some(booking) = records.booking(account, finished.now) {
        log_faults(account, tx.quota_settle(&booking, &finished.cells)?);
    }
    let answer = records.answer(account, ending, finished.now);
    if let Some(answer) = &answer {
        tx.message_insert(answer)?;
    }
    let settlement = records.settlement(answer.map(|it| it.id));
    tx.turn_set_settlement(account.tenant_id, account.turn_id, &settlement)?;
    for event in records.events.messages(account, finished.now) {
        tx.outbox_enqueue(&event)?;
    }
    let scheduled = match Request::new(account, ending, id)? {
        None => false,
        Some(request) => request.enqueue(tx, account, finished.now).await?,
    };
    Ok(records.finalized(ended, id, &finished, scheduled))
}

fn finish<'a>(account: &Account, ending: &'a Ending, id: Uuid) -> TurnFinish<'a> {
    TurnFinish {
        tenant_id: account.tenant_id,
        turn_id: account.turn_id,
        outcome: ending.outcome,
        provider_response_id: ending.response_id.as_deref(),
        finalization_id: id,
        orphan: ending.orphan,
    }
}

fn log_faults(account: &Account, faults: impl IntoIterator<Item = SettlementFault>) {
    for fault in faults {
        tracing::error!(turn.id = %account.turn_id, ?fault, "a quota row did not hold the turn's reserve");
    }
}

/// What is written with the end of a turn.
struct Records {
    billing: BillingOutcome,
    method: SettlementMethod,
    usage: Option<Usage>,
    charge: Charge,
    events: Events,
}

impl Records {
    fn new(ended: Ended<'_>, finished: &FinishedTurn) -> Result<Self, StoreError> {
        let Ended {
            account, ending, ..
        } = ended;
        let usage = ending.usage.and_then(Usage::known);
        let (billing, method) = billing(ending.outcome, ending.provider_started, usage.is_some());
        let calls = ended_calls(ending, finished);
        let charge = Charge::new(account, finished, (method, usage), calls);
        let bill = Bill {
            outcome: ending.outcome,
            billing,
            method,
            usage,
            settlement: &charge.settlement,
            reserve_day: finished.reserve.map(|_| account.day),
            reserved_credits_micro: charge.reserve.reserved_credits_micro,
            reserve_tokens: charge.reserve.reserve_tokens,
            calls: charge.calls,
            timestamp: finished.now,
        };
        let events = Events::new(ended, finished, &bill)?;
        Ok(Self {
            billing,
            method,
            usage,
            charge,
            events,
        })
    }

    /// `None`: nothing is booked.
    fn booking(&self, account: &Account, now: Timestamp) -> Option<SettlementBooking> {
        let (charge, settlement) = (&self.charge, &self.charge.settlement);
        Some(SettlementBooking {
            scope: account.scope(),
            premium: charge.price?.tier == Tier::Premium,
            reserved_credits_micro: charge.reserve.reserved_credits_micro.unsigned_abs(),
            committed_credits_micro: settlement.committed_credits_micro.unsigned_abs(),
            usage: Usage {
                input_tokens: settlement.input_tokens,
                output_tokens: settlement.output_tokens,
                ..Usage::default()
            },
            file_search_calls: charge.calls.file_search,
            web_search_calls: charge.calls.web_search,
            code_interpreter_calls: charge.calls.code_interpreter,
            now,
        })
    }

    fn settlement(&self, assistant_message_id: Option<MessageId>) -> TurnSettlement {
        let settlement = &self.charge.settlement;
        TurnSettlement {
            committed_credits_micro: settlement.committed_credits_micro.unsigned_abs(),
            method: self.method,
            assistant_message_id,
        }
    }

    /// The assistant's message (TURN-33 step 4).
    fn answer<'a>(
        &self,
        account: &'a Account,
        ending: &'a Ending,
        now: Timestamp,
    ) -> Option<NewMessage<'a>> {
        let (id, text) = ending.kept()?;
        Some(NewMessage {
            id: *id,
            tenant_id: account.tenant_id,
            chat_id: account.chat_id,
            request_id: account.request_id,
            role: Role::Assistant,
            content: text,
            provider_response_id: ending.response_id.as_deref(),
            usage: self.usage.unwrap_or_default(),
            model: Some(&account.effective_model),
            created_at: now,
        })
    }

    fn finalized(
        &self,
        ended: Ended<'_>,
        id: Uuid,
        finished: &FinishedTurn,
        scheduled: bool,
    ) -> Finalized {
        let Ended {
            account, ending, ..
        } = ended;
        Finalized {
            id,
            outcome: ending.outcome,
            billing: self.billing,
            method: self.method,
            cells: self.charge.after(finished),
            settlement: self.charge.settlement,
            code_interpreter_calls: self.charge.calls.code_interpreter,
            summary: summary_request::result(account, ending, scheduled),
            now: finished.now,
            latency: Duration::ZERO,
        }
    }
}

/// The calls that ended: those of the turn's row, and those that have no column.
const fn ended_calls(ending: &Ending, finished: &FinishedTurn) -> CallCounts {
    CallCounts {
        file_search: ending.calls.file_search,
        web_search: finished.web_search_calls,
        code_interpreter: finished.code_interpreter_calls,
    }
}

/// The charge of the turn.
struct Charge {
    /// `None`: the row never had a reserve, so there is nothing to settle
    /// (QUOTA-69).
    price: Option<Price>,
    reserve: Reserve,
    settlement: Settlement,
    /// Zeros if the reserve was released.
    calls: CallCounts,
}

impl Charge {
    /// Every amount comes from the row and from the policy that priced it
    /// (TURN-35).
    fn new(
        account: &Account,
        finished: &FinishedTurn,
        (method, usage): (SettlementMethod, Option<Usage>),
        ended: CallCounts,
    ) -> Self {
        let calls = match method {
            SettlementMethod::Released => CallCounts::default(),
            SettlementMethod::Actual | SettlementMethod::Estimated => ended,
        };
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
            calls,
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

/// The events that are enqueued with the end of a turn.
struct Events {
    dedupe_key: String,
    /// The usage event (QUOTA-85).
    usage: String,
    /// The audit event (TURN-33 step 6).
    audit: String,
}

impl Events {
    fn new(ended: Ended<'_>, finished: &FinishedTurn, bill: &Bill<'_>) -> Result<Self, StoreError> {
        let Ended {
            account,
            ending,
            content,
        } = ended;
        let end = audit_event::End {
            outcome: ending.outcome,
            usage: bill.usage,
            ttft: ending.ttft,
            total: ending.began.map(|began| began.elapsed()),
            calls: ended_calls(ending, finished),
            timestamp: finished.now,
        };
        let usage = UsageEvent::new(account, bill);
        Ok(Self {
            usage: audit_event::json(&usage)?,
            dedupe_key: usage.dedupe_key,
            audit: TurnEvent::new(account, &end, content).payload()?,
        })
    }

    fn messages<'a>(&'a self, account: &'a Account, now: Timestamp) -> [OutboxMessage<'a>; 2] {
        let tenant = account.tenant_id;
        let outbox = &account.outbox;
        let message = |kind, dedupe_key, payload| OutboxMessage {
            queue: outbox.queue(kind),
            tenant_id: tenant,
            key: tenant.0,
            partitions: outbox.partitions(),
            dedupe_key,
            payload,
            created_at: now,
        };
        let key = Some(self.dedupe_key.as_str());
        [
            message(OutboxKind::Usage, key, &self.usage),
            message(OutboxKind::Audit, None, &self.audit),
        ]
    }
}
