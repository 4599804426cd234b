//! The reserve: the transaction that opens a turn (TURN-11).
//!
//! It reads what admission has to know and writes user message, turn row and
//! reserve, with the deletion of the turn whose place the new one takes (TURN-55).
//! What is decided is authoritative (QUOTA-52): it is read under the locks of the
//! chat and of the user's quota rows, or checked again under them by the one
//! statement that writes it. All of it commits before the provider is called.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minichat_core::ProcessId;
use minichat_core::quota::{Cells, Decision, Tier};
use minichat_store::{
    AdmissionQuery, AdmissionSnapshot, BoxFuture, ConditionalReserve, Constraint, MessageKey,
    NewMessage, NewTurn, QuotaDay, Role, StoreError, ToolFiles, Tx,
};

use super::admission::{self, TurnRequest};
use super::in_doubt::{PATIENCE, resolve};
use super::open::{Draft, Ids, Plan};
use super::plan::{decide, input_too_long, most_calls, most_used, plan};
use super::replay::{CompletedTurn, replay};
use super::{RequestContext, SseBody, instrumentation, mutation, tools};
use crate::app::App;
use crate::caller::Caller;
use crate::outbox::Outbox;
use crate::problem::Problem;

/// Attempts to open a turn without locks, before it is opened under them.
const UNLOCKED_ATTEMPTS: u32 = 3;

/// What an attempt without locks came to.
enum Unlocked {
    Reserved,
    /// What was read is not so any more.
    Changed,
    /// The decision depends on more than a statement can check, or rows are to be
    /// made first.
    NeedsLocks,
}

/// Why no turn was opened.
pub(super) enum ReserveError {
    /// The key names a completed turn, whose recorded stream is the answer
    /// (API-67).
    Replay(Box<CompletedTurn>),
    Answer(Problem),
    Store(StoreError),
}

impl From<StoreError> for ReserveError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Problem> for ReserveError {
    fn from(problem: Problem) -> Self {
        Self::Answer(problem)
    }
}

/// The result of a request if nothing fails.
pub(super) enum Opened {
    /// A turn that is now open.
    Turn(Box<Plan>),
    Replay(SseBody),
}

/// A turn to open.
struct Opening {
    caller: Caller,
    request: RequestContext,
    turn: TurnRequest,
    process: Option<ProcessId>,
    outbox: Arc<Outbox>,
    /// The result of the transaction's last attempt, which is the one that
    /// counts.
    decided: Mutex<Decided>,
}

#[derive(Default)]
struct Decided {
    preflight: Option<Preflight>,
    /// The plan of the turn that is open if the transaction commits.
    plan: Option<Plan>,
}

struct Preflight {
    selected_model: Arc<str>,
    decision: Decision,
}

/// Admits, plans and reserves. A refusal leaves nothing behind.
pub(super) async fn reserve(
    app: &App,
    caller: &Caller,
    request: &RequestContext,
    turn: TurnRequest,
) -> Result<Opened, Problem> {
    instrumentation::step("reserve");
    let opening = Arc::new(Opening {
        caller: caller.clone(),
        request: request.clone(),
        turn,
        process: app.process,
        outbox: Arc::clone(&app.outbox),
        decided: Mutex::default(),
    });
    let answer = write(app, &opening).await;
    let Decided { preflight, plan } = opening.take_decided();
    if let Some(preflight) = preflight {
        let Preflight {
            selected_model,
            decision,
        } = &preflight;
        instrumentation::preflight(app, &caller.tenant.config, selected_model, decision);
    }
    match (answer, plan) {
        (Ok(()), Some(plan)) => Ok(opened(app, plan)),
        (Ok(()), None) => {
            tracing::error!("a turn was opened without a plan; the watchdog ends it");
            Err(Problem::internal())
        }
        (Err(ReserveError::Store(error)), Some(plan))
            if error.is_unanswered() && opened_in_doubt(app, caller, &plan).await =>
        {
            Ok(opened(app, plan))
        }
        (Err(ReserveError::Store(error)), _) => {
            Err(conflict(app, caller, opening.turn.ids, error).await)
        }
        (Err(ReserveError::Replay(recorded)), _) => {
            replay(app, caller, &recorded).await.map(Opened::Replay)
        }
        (Err(ReserveError::Answer(problem)), _) => Err(problem),
    }
}

fn opened(app: &App, plan: Plan) -> Opened {
    instrumentation::reserved(app);
    Opened::Turn(Box::new(plan))
}

async fn write(app: &App, opening: &Arc<Opening>) -> Result<(), ReserveError> {
    let opening = Arc::clone(opening);
    app.store
        .write(
            move |tx| -> BoxFuture<'_, Result<Result<(), ReserveError>, StoreError>> {
                let opening = Arc::clone(&opening);
                Box::pin(async move {
                    match opening.transaction(tx).await {
                        Err(ReserveError::Store(error)) => Err(error),
                        // A refusal comes before any write. Committing nothing
                        // avoids a rollback of the jobs that share the commit.
                        answer => Ok(answer),
                    }
                })
            },
        )
        .await?
}

/// Whether the turn is open although its commit was not acknowledged. If it is,
/// it needs a task (TURN-15).
async fn opened_in_doubt(app: &App, caller: &Caller, plan: &Plan) -> bool {
    let (scope, ids) = (scope(caller, plan), plan.ids());
    let (chat, turn) = (ids.chat_id, ids.turn_id);
    let found = resolve(&app.store, turn, PATIENCE, move |tx| {
        Box::pin(async move {
            let is_open = tx.turn_opened(scope, chat, turn).await?;
            // Its task begins only now, and would show life half a minute later.
            tx.turn_progress(scope.tenant_id, turn)?;
            Ok(is_open)
        })
    });
    // If the state remains unknown, the watchdog ends the turn.
    found.await == Some(true)
}

fn scope(caller: &Caller, plan: &Plan) -> QuotaDay {
    QuotaDay {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        day: plan.draft.started_at.date(),
    }
}

impl Opening {
    /// Opens the turn by a statement that writes only if nothing has changed since
    /// the chat was read; if that fails too often, under locks from the start.
    async fn transaction(&self, tx: &mut Tx) -> Result<(), ReserveError> {
        *self.decided() = Decided::default();
        if tx.has_single_statements()
            && let Some(query) = self.turn.snapshot_query(&self.caller)
        {
            for _ in 0..UNLOCKED_ATTEMPTS {
                match self.without_locks(tx, &query).await? {
                    Unlocked::Reserved => return Ok(()),
                    Unlocked::Changed => {}
                    Unlocked::NeedsLocks => break,
                }
            }
        }
        self.under_locks(tx).await
    }

    async fn without_locks(
        &self,
        tx: &mut Tx,
        query: &AdmissionQuery,
    ) -> Result<Unlocked, ReserveError> {
        let caller = &self.caller;
        let snapshot = tx.turn_admission_snapshot(query).await?;
        let AdmissionSnapshot { facts, revision } = snapshot.ok_or_else(Problem::chat_not_found)?;
        let rows = facts.quota.clone();
        let files = if tools::need_files(&caller.tenant.config, &facts) {
            let chat = self.turn.ids.chat_id;
            tx.tool_files_snapshot(caller.tenant_id, chat).await?
        } else {
            ToolFiles::default()
        };
        let (draft, cells) = self.turn.admit_snapshot(caller, facts, files)?;
        let plan = self.plan(draft, &cells)?;
        let premium = plan.model().tier == Tier::Premium;
        if !plan.decision.holds_while_there_is_room()
            || !rows.are_complete(plan.draft.started_at.date(), premium)
        {
            return Ok(Unlocked::NeedsLocks);
        }
        let reserve = ConditionalReserve {
            turn: new_turn(caller, &plan, self.process),
            message: new_message(caller, &plan),
            premium,
            revision,
            most_used: most_used(caller, &plan),
            most_calls: most_calls(caller, &plan),
        };
        let reserved = tx.turn_reserve(&reserve).await;
        if matches!(reserved, Ok(false)) {
            return Ok(Unlocked::Changed);
        }
        // Also if nobody knows whether it is open.
        self.decided().plan = Some(plan);
        reserved?;
        Ok(Unlocked::Reserved)
    }

    async fn under_locks(&self, tx: &mut Tx) -> Result<(), ReserveError> {
        let caller = &self.caller;
        let (draft, cells) = self.turn.admit(tx, caller).await?;
        let plan = self.plan(draft, &cells)?;
        if let Some(replaced) = &plan.draft.replaces {
            mutation::replace(
                tx,
                caller,
                &self.request,
                &plan.draft,
                replaced,
                &self.outbox,
            )?;
        }
        insert(tx, caller, &plan, self.process)?;
        self.decided().plan = Some(plan);
        Ok(())
    }

    fn plan(&self, draft: Draft, cells: &Cells) -> Result<Plan, ReserveError> {
        let decision = decide(&self.caller, &draft, cells).map_err(|_| input_too_long())?;
        self.decided().preflight = Some(Preflight {
            selected_model: Arc::clone(&draft.selected_model),
            decision,
        });
        Ok(plan(&self.caller, draft, decision)?)
    }

    fn decided(&self) -> MutexGuard<'_, Decided> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_decided(&self) -> Decided {
        std::mem::take(&mut *self.decided())
    }
}

fn insert(
    tx: &mut Tx,
    caller: &Caller,
    plan: &Plan,
    process: Option<ProcessId>,
) -> Result<(), StoreError> {
    let now = plan.draft.started_at;
    tx.quota_reserve(
        scope(caller, plan),
        plan.model().tier == Tier::Premium,
        plan.reserve.reserved_credits_micro.unsigned_abs(),
        now,
    )?;
    // First, so that a lost race is reported by the turn's own constraints.
    tx.turn_insert(&new_turn(caller, plan, process))?;
    tx.message_insert(&new_message(caller, plan))?;
    let chat = plan.ids().chat_id;
    let message = MessageKey {
        tenant_id: caller.tenant_id,
        chat_id: chat,
        id: plan.ids().user_message_id,
    };
    plan.draft.attachments.link(tx, message, now)?;
    tx.chat_touch(caller.tenant_id, caller.user_id, chat, now)
}

fn new_turn<'a>(caller: &Caller, plan: &'a Plan, process_id: Option<ProcessId>) -> NewTurn<'a> {
    let (ids, model, reserve) = (plan.ids(), plan.model(), &plan.reserve);
    NewTurn {
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
        reserve_day: plan.draft.started_at.date(),
        web_search_enabled: plan.draft.web_search_enabled,
        started_at: plan.draft.started_at,
        process_id,
    }
}

fn new_message<'a>(caller: &Caller, plan: &'a Plan) -> NewMessage<'a> {
    let ids = plan.ids();
    NewMessage {
        id: ids.user_message_id,
        tenant_id: caller.tenant_id,
        chat_id: ids.chat_id,
        request_id: ids.request_id,
        role: Role::User,
        content: &plan.draft.content,
        provider_response_id: None,
        usage: minichat_core::turn::Usage::default(),
        model: None,
        created_at: plan.draft.started_at,
    }
}

/// Lost races are expected answers, not faults (TURN-12). A turn with the same
/// key violates both constraints, and databases differ in which of them they
/// report. So the key is looked up.
async fn conflict(app: &App, caller: &Caller, ids: Ids, error: StoreError) -> Problem {
    match error {
        StoreError::Unique(
            Constraint::TurnRequest | Constraint::OneRunningTurn | Constraint::MessageRole,
            _,
        ) => lost_race(app, caller, ids).await,
        error => error.into(),
    }
}

async fn lost_race(app: &App, caller: &Caller, ids: Ids) -> Problem {
    instrumentation::step("lost_race");
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let winner: Result<_, StoreError> = app
        .store
        .read(move |tx| {
            Box::pin(async move { tx.turn_get(tenant, user, ids.chat_id, ids.request_id).await })
        })
        .await;
    match winner {
        Ok(Some(_)) => admission::request_id_conflict(),
        Ok(None) => admission::generation_in_progress(),
        Err(error) => error.into(),
    }
}
