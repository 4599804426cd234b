//! The reserve: the transaction that opens a turn (TURN-11).
//!
//! Under the locks of the user's quota rows the decision is made again; what
//! comes out there is authoritative (QUOTA-52). User message, turn row and
//! reserve commit together, before the provider is called; so does the deletion
//! of the turn whose place the new one takes (TURN-55).

use std::sync::Arc;

use minichat_core::ErrorCode;
use minichat_core::quota::{Cells, Decision, Tier};
use minichat_store::{
    BoxFuture, Constraint, NewMessage, NewTurn, QuotaScope, Role, StoreError, Tx,
};

use super::open::{Draft, Ids, Plan};
use super::plan::{decide, input_too_long, plan, quota_exceeded};
use super::{RequestContext, admit, mutation, record};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::quota;

/// How often the locked rows may show another picture than the one a plan was
/// made from before the request is refused (QUOTA-52).
const ATTEMPTS: usize = 3;

/// What the transaction decided.
enum Refusal {
    /// The locked rows admit nothing.
    Rejected(Decision),
    /// The locked rows lead to another model: plan again.
    Changed(Cells),
    /// Beyond the bounds of the arithmetic; the plan would have said so.
    TooLong,
    /// The turn to replace is not what it was.
    Replacement(Problem),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<mutation::Refusal> for Refusal {
    fn from(refusal: mutation::Refusal) -> Self {
        match refusal {
            mutation::Refusal::Answer(problem) => Self::Replacement(problem),
            mutation::Refusal::Store(error) => Self::Store(error),
        }
    }
}

/// Plans and reserves. The answer is the plan of a turn that is now open, or a
/// refusal that left nothing behind.
pub(super) async fn reserve(
    app: &Arc<App>,
    caller: &Caller,
    request: &RequestContext,
    draft: Draft,
    mut cells: Cells,
) -> Result<Plan, Problem> {
    let config = &caller.tenant.config;
    for _ in 0..ATTEMPTS {
        let planned = plan(app, caller, draft.clone(), &cells)?;
        match write(app, caller, request, &planned).await {
            Ok(()) => {
                record::preflight(app, config, &draft.selected_model, &planned.decision);
                record::reserved(app);
                return Ok(planned);
            }
            Err(Refusal::Changed(locked)) => cells = locked,
            Err(Refusal::TooLong) => return Err(input_too_long()),
            Err(Refusal::Rejected(decision)) => {
                record::preflight(app, config, &draft.selected_model, &decision);
                return Err(quota_exceeded(&decision));
            }
            Err(Refusal::Replacement(problem)) => {
                record::preflight(app, config, &draft.selected_model, &planned.decision);
                return Err(problem);
            }
            Err(Refusal::Store(error))
                if error.is_unanswered() && opened_unheard(app, caller, &planned).await =>
            {
                record::preflight(app, config, &draft.selected_model, &planned.decision);
                record::reserved(app);
                return Ok(planned);
            }
            Err(Refusal::Store(error)) => {
                record::preflight(app, config, &draft.selected_model, &planned.decision);
                return Err(conflict(app, caller, draft.ids, error).await);
            }
        }
    }
    let decision = decide(caller, &draft, &cells).map_err(|_| input_too_long())?;
    record::preflight(app, config, &draft.selected_model, &decision);
    Err(quota_exceeded(&decision))
}

async fn write(
    app: &Arc<App>,
    caller: &Caller,
    request: &RequestContext,
    plan: &Plan,
) -> Result<(), Refusal> {
    let (caller, request) = (caller.clone(), request.clone());
    let plan = Arc::new(plan.clone());
    app.store
        .write(move |tx| -> BoxFuture<'_, Result<(), Refusal>> {
            let (caller, request, plan) = (caller.clone(), request.clone(), Arc::clone(&plan));
            Box::pin(async move { transaction(tx, &caller, &request, &plan).await })
        })
        .await
}

/// Whether the turn is open although the answer to the commit was lost: then it
/// must not be left without a task (TURN-15).
async fn opened_unheard(app: &App, caller: &Caller, plan: &Plan) -> bool {
    let (scope, ids) = (scope(caller, plan), *plan.ids());
    let found: Result<_, StoreError> = app
        .store
        .write(move |tx| {
            Box::pin(async move {
                // Waits for the lost transaction's end, if that is yet to come.
                tx.quota_lock(scope).await?;
                tx.turn_get(scope.tenant_id, scope.user_id, ids.chat_id, ids.request_id)
                    .await
            })
        })
        .await;
    match found {
        Ok(turn) => turn.is_some_and(|turn| turn.id == ids.turn_id),
        Err(error) => {
            tracing::error!(turn.id = %ids.turn_id, %error, "it is not known whether a turn was opened; if it was, the watchdog ends it");
            false
        }
    }
}

fn scope(caller: &Caller, plan: &Plan) -> QuotaScope {
    QuotaScope {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        day: plan.draft.started_at.date(),
    }
}

async fn transaction(
    tx: &mut Tx,
    caller: &Caller,
    request: &RequestContext,
    plan: &Plan,
) -> Result<(), Refusal> {
    let scope = scope(caller, plan);
    let cells = quota::cells(&tx.quota_lock(scope).await?);
    if let Some(replaced) = plan.draft.replaces {
        // Before the decision: whose turn was replaced meanwhile learns that,
        // whatever the quota says.
        mutation::replace(tx, caller, request, &plan.draft, replaced).await?;
    }
    let decision = decide(caller, &plan.draft, &cells).map_err(|_| Refusal::TooLong)?;
    match decision.admitted() {
        None => return Err(Refusal::Rejected(decision)),
        Some((model, _)) if model != plan.model_index() => return Err(Refusal::Changed(cells)),
        Some(_) => {}
    }
    Ok(insert(tx, caller, plan, scope)?)
}

fn insert(tx: &mut Tx, caller: &Caller, plan: &Plan, scope: QuotaScope) -> Result<(), StoreError> {
    let now = plan.draft.started_at;
    let ids = plan.ids();
    let model = plan.model();
    let reserve = &plan.reserve;
    tx.quota_reserve(
        scope,
        model.tier == Tier::Premium,
        reserve.reserved_credits_micro.unsigned_abs(),
        now,
    )?;
    // First, so that a lost race is reported by the turn's own constraints.
    tx.turn_insert(&NewTurn {
        id: ids.turn_id,
        tenant_id: caller.tenant_id,
        chat_id: ids.chat_id,
        request_id: ids.request_id,
        requester_user_id: caller.user_id,
        provider_name: &model.provider_id,
        effective_model: &model.id,
        reserve_tokens: reserve.reserve_tokens,
        reserved_credits_micro: reserve.reserved_credits_micro.unsigned_abs(),
        policy_version_applied: plan.policy_version(),
        max_output_tokens_applied: reserve.max_output_tokens_applied,
        minimal_generation_floor_applied: reserve.minimal_generation_floor_applied,
        reserve_day: scope.day,
        web_search_enabled: plan.draft.web_search_enabled,
        started_at: now,
    })?;
    tx.message_insert(&NewMessage {
        id: ids.user_message_id,
        tenant_id: caller.tenant_id,
        chat_id: ids.chat_id,
        request_id: ids.request_id,
        role: Role::User,
        content: &plan.draft.content,
        provider_response_id: None,
        usage: minichat_core::turn::Usage::default(),
        model: None,
        created_at: now,
    })?;
    tx.chat_touch(caller.tenant_id, caller.user_id, ids.chat_id, now)
}

/// Lost races are answers, not faults (TURN-12). A turn of the same key
/// violates both constraints of the turn, and which of them a database names is
/// its own choice; so the key is looked up.
async fn conflict(app: &App, caller: &Caller, ids: Ids, error: StoreError) -> Problem {
    match error {
        StoreError::Unique(
            Constraint::TurnRequest | Constraint::OneRunningTurn | Constraint::MessageRole,
        ) => lost_race(app, caller, ids).await,
        StoreError::AcquireTimeout | StoreError::Closed => Problem::new(
            ErrorCode::ServiceUnavailable,
            "The database is not available at the moment. Try again.",
        ),
        error => error.into(),
    }
}

async fn lost_race(app: &App, caller: &Caller, ids: Ids) -> Problem {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let winner: Result<_, StoreError> = app
        .store
        .read(move |tx| {
            Box::pin(async move { tx.turn_get(tenant, user, ids.chat_id, ids.request_id).await })
        })
        .await;
    match winner {
        Ok(Some(_)) => admit::request_id_conflict(),
        Ok(None) => admit::generation_in_progress(),
        Err(error) => error.into(),
    }
}
