//! Retry, edit and deletion of a chat's newest turn (TURN-54, TURN-55).
//! Retry and edit *replace* the turn: they begin a turn in another way and
//! continue like a send, but the reserve transaction also deletes the old turn.
//! So a refused replacement leaves it in place.

use std::sync::Arc;

use minichat_config::process::OutboxKind;
use minichat_core::turn::TurnState;
use minichat_core::{ChatId, ErrorCode, RequestId, TenantId, Timestamp, TurnId};
use minichat_metrics::{Metrics, MutationOp, MutationResult};
use minichat_store::{
    BoxFuture, DeletedTurn, MutationQuery, MutationTarget, StoreError, TargetTurn, Tx,
};
use tokio::time::Instant;
use tracing::Instrument;

use super::RequestContext;
use super::in_doubt::{Attempted, PATIENCE, resolve};
use super::mutation_event::TurnMutation;
use super::open::Draft;
use crate::app::App;
use crate::caller::Caller;
use crate::outbox::Outbox;
use crate::problem::Problem;

/// The kind of a replacement.
#[derive(Debug)]
pub enum Replacement {
    /// The same message again.
    Retry,
    /// A new message instead; not blank.
    Edit { content: String },
}

impl Replacement {
    pub(super) const fn op(&self) -> MutationOp {
        match self {
            Self::Retry => MutationOp::Retry,
            Self::Edit { .. } => MutationOp::Edit,
        }
    }
}

/// The turn that a draft replaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced {
    pub(super) op: MutationOp,
    pub(super) request_id: RequestId,
    pub(super) turn: DeletedTurn,
}

/// Checks conditions 1 to 5 of TURN-54 in their order.
pub(super) fn check(target: MutationTarget, caller: &Caller) -> Result<TargetTurn, Problem> {
    let turn = match target {
        MutationTarget::NoChat => return Err(Problem::chat_not_found()),
        MutationTarget::NoTurn => return Err(Problem::turn_not_found()),
        MutationTarget::Turn(turn) => turn,
    };
    if turn.requester_user_id != Some(caller.user_id) {
        return Err(Problem::new(
            ErrorCode::InsufficientPermissions,
            "Only the user who sent the message may change its turn.",
        ));
    }
    if turn.state == TurnState::Running {
        return Err(Problem::new(
            ErrorCode::InvalidTurnState,
            "The turn is running. Wait for it to end, or cancel it.",
        ));
    }
    if !turn.is_newest {
        return Err(not_latest_turn());
    }
    Ok(turn)
}

fn not_latest_turn() -> Problem {
    Problem::new(
        ErrorCode::NotLatestTurn,
        "Only the chat's newest turn can be retried, edited or deleted.",
    )
}

/// Deletes the turn that `query` names; `successor` replaces it if there is
/// one. The transaction has checked the turn and holds the lock of its chat.
fn displace<'a>(
    tx: &mut Tx,
    caller: &'a Caller,
    request: &'a RequestContext,
    query: &MutationQuery,
    turn: &DeletedTurn,
    successor: Option<RequestId>,
) -> Result<TurnMutation<'a>, StoreError> {
    tx.turn_delete(query, turn, successor)?;
    Ok(TurnMutation {
        caller,
        request,
        chat_id: query.chat_id,
        turn_id: turn.id,
        at: turn.at,
    })
}

/// Deletes the turn that the draft's turn replaces. The transaction has checked
/// it and holds the lock of its chat.
pub(super) fn replace(
    tx: &mut Tx,
    caller: &Caller,
    request: &RequestContext,
    draft: &Draft,
    replaced: &Replaced,
    outbox: &Outbox,
) -> Result<(), StoreError> {
    let query = query(caller, draft.ids.chat_id, replaced.request_id);
    let new = draft.ids.request_id;
    let change = displace(tx, caller, request, &query, &replaced.turn, Some(new))?;
    let event = change.replacement(replaced.op, replaced.request_id, new);
    event.enqueue(tx, outbox)
}

/// Deletes the chat's newest turn without a replacement (API-74).
pub async fn delete(
    app: Arc<App>,
    caller: Caller,
    chat_id: ChatId,
    request_id: RequestId,
    request: RequestContext,
) -> Result<(), Problem> {
    let attempt = Attempt::begin(&app, caller.tenant_id, MutationOp::Delete);
    let query = query(&caller, chat_id, request_id);
    // It runs in its own task, so that the commit is recorded even if the
    // client disconnects.
    let task = async move {
        let deleted = delete_once(&app, caller, request, query).await;
        attempt.end(&deleted);
        deleted
    };
    tokio::spawn(task.in_current_span())
        .await
        .unwrap_or_else(|_| {
            tracing::error!("the deletion of a turn ended before it answered");
            Err(Problem::internal())
        })
}

/// The turn to delete, and the instant of its deletion.
type Deletion = (TurnId, Timestamp);

/// If the commit of a deletion is in doubt, it is looked up, because a second
/// deletion would be refused.
async fn delete_once(
    app: &App,
    caller: Caller,
    request: RequestContext,
    query: MutationQuery,
) -> Result<(), Problem> {
    let attempted = Attempted::default();
    let last = attempted.clone();
    let outbox = Arc::clone(&app.outbox);
    let deleted = app
        .store
        .write(move |tx| -> BoxFuture<'_, Result<(), DeleteError>> {
            let (caller, request) = (caller.clone(), request.clone());
            let (last, outbox) = (last.clone(), Arc::clone(&outbox));
            let task = async move {
                let event = delete_in(tx, &caller, &request, &query, &last).await?;
                Ok(event.deletion(query.request_id).enqueue(tx, &outbox)?)
            };
            Box::pin(task)
        })
        .await;
    match deleted {
        Err(DeleteError::Store(error)) if error.is_unanswered() => match attempted.take() {
            Some(it) if deleted_in_doubt(app, query, it).await => Ok(()),
            _ => Err(error.into()),
        },
        answered => answered.map_err(DeleteError::into_problem),
    }
}

async fn deleted_in_doubt(app: &App, query: MutationQuery, (turn_id, at): Deletion) -> bool {
    let found = resolve(&app.store, turn_id, PATIENCE, move |tx| {
        Box::pin(async move { tx.turn_deleted_at(&query, turn_id, at).await })
    });
    found.await == Some(true)
}

async fn delete_in<'a>(
    tx: &mut Tx,
    caller: &'a Caller,
    request: &'a RequestContext,
    query: &MutationQuery,
    attempted: &Attempted<Deletion>,
) -> Result<TurnMutation<'a>, DeleteError> {
    let turn = check(tx.turn_mutation_lock(query).await?, caller).map_err(DeleteError::Answer)?;
    attempted.note((turn.id, turn.now));
    Ok(displace(tx, caller, request, query, &deleted(&turn), None)?)
}

/// `turn`, to be deleted at the instant at which it was checked.
pub(super) const fn deleted(turn: &TargetTurn) -> DeletedTurn {
    DeletedTurn {
        id: turn.id,
        at: turn.now,
        is_summarized: turn.is_summarized,
    }
}

pub(super) const fn query(
    caller: &Caller,
    chat_id: ChatId,
    request_id: RequestId,
) -> MutationQuery {
    MutationQuery {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        chat_id,
        request_id,
    }
}

/// Why a change was rolled back.
enum DeleteError {
    /// The turn cannot be changed, or no longer.
    Answer(Problem),
    Store(StoreError),
}

impl From<StoreError> for DeleteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl DeleteError {
    fn into_problem(self) -> Problem {
        match self {
            Self::Answer(problem) => problem,
            Self::Store(error) => error.into(),
        }
    }
}

/// One authorized attempt to change a turn. It is counted once, however it ends
/// (API-74). If it is dropped without an answer, it counts as an error.
pub(super) struct Attempt {
    metrics: Arc<dyn Metrics>,
    outbox: Arc<Outbox>,
    tenant_id: TenantId,
    op: MutationOp,
    began: Instant,
    result: MutationResult,
}

impl Attempt {
    pub(super) fn begin(app: &App, tenant_id: TenantId, op: MutationOp) -> Self {
        Self {
            metrics: Arc::clone(&app.metrics),
            outbox: Arc::clone(&app.outbox),
            tenant_id,
            op,
            began: Instant::now(),
            result: MutationResult::Error,
        }
    }

    /// The change was committed, or refused with the problem in `answer`.
    pub(super) fn end<T>(mut self, answer: &Result<T, Problem>) {
        match answer {
            Ok(_) => self.outbox.enqueued(self.tenant_id, &[OutboxKind::Audit]),
            Err(problem) if problem.is_fault() => self.outbox.not_enqueued(&[OutboxKind::Audit]),
            Err(_) => {}
        }
        self.result = match answer {
            Ok(_) => MutationResult::Ok,
            Err(problem) => match problem.code {
                ErrorCode::InsufficientPermissions => MutationResult::Forbidden,
                ErrorCode::InvalidTurnState => MutationResult::InvalidState,
                ErrorCode::NotLatestTurn => MutationResult::NotLatest,
                ErrorCode::GenerationInProgress => MutationResult::GenerationInProgress,
                _ => MutationResult::Error,
            },
        };
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.metrics.turn_mutation(self.op, self.result);
        self.metrics
            .turn_mutation_latency_ms(self.op, self.began.elapsed());
    }
}
