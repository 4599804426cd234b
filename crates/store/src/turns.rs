//! Turns (PLAT-7): one attempt to answer a message each.

use minichat_core::quota::Reserve;
use minichat_core::turn::{Outcome, SettlementMethod, TurnErrorCode, TurnState};
use uuid::Uuid;

use minichat_core::{
    ChatId, Date, HostedTool, MessageId, ProcessId, RequestId, TenantId, Timestamp, TurnId, UserId,
};

use crate::processes::process_is_dead;
use crate::quota::{QuotaCells, QuotaDay, cell_row};
use crate::tx::{Dialect, Query, only_column};
use crate::value::{FromValue, Param, Row, Value, params};
use crate::{OrphanRule, Silence, StoreError, Tx};

/// A stored turn, which may be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    pub id: TurnId,
    pub chat_id: ChatId,
    pub request_id: RequestId,
    pub state: TurnState,
    /// A code of TURN-39; on failed turns only.
    pub error_code: Option<String>,
    pub provider_response_id: Option<String>,
    pub assistant_message_id: Option<MessageId>,
    pub effective_model: Option<String>,
    pub is_deleted: bool,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A turn to insert in state `running`, inside the reserve transaction
/// (TURN-11). The preflight facts never change afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewTurn<'a> {
    pub id: TurnId,
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub request_id: RequestId,
    pub requester_user_id: UserId,
    /// Id of the chosen provider.
    pub provider_name: &'a str,
    pub effective_model: &'a str,
    pub reserve_tokens: u64,
    pub reserved_credits_micro: u64,
    pub policy_version_applied: u64,
    pub max_output_tokens_applied: u32,
    pub minimal_generation_floor_applied: u32,
    /// The day of the reserve's daily cell (QUOTA-54).
    pub reserve_day: Date,
    pub web_search_enabled: bool,
    pub started_at: Timestamp,
    /// The process that runs it, if it has heartbeats (TURN-68).
    pub process_id: Option<ProcessId>,
}

/// How a turn ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TurnFinish<'a> {
    pub tenant_id: TenantId,
    pub turn_id: TurnId,
    pub outcome: Outcome,
    pub provider_response_id: Option<&'a str>,
    /// By which this attempt is recognized, other than any before it.
    pub finalization_id: Uuid,
    /// The watchdog's predicate (TURN-60): only if the turn is an orphan by this
    /// rule.
    pub orphan: Option<OrphanRule>,
}

/// What the winner of the compare-and-set gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishedTurn {
    /// The instant of the end by the database's clock: `completed_at` of the
    /// turn.
    pub now: Timestamp,
    /// The locked cells of the reserve's periods.
    pub cells: QuotaCells,
    /// What the reserve transaction pinned on the row (QUOTA-33). `None` on a
    /// row that never had a reserve: it is ended without settlement.
    pub reserve: Option<Reserve>,
    /// Number of completed tool calls in the row.
    pub web_search_calls: u32,
    pub code_interpreter_calls: u32,
}

/// What is known of a turn only after its quota rows are locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TurnSettlement {
    pub committed_credits_micro: u64,
    pub method: SettlementMethod,
    pub assistant_message_id: Option<MessageId>,
}

macro_rules! count_call {
    ($column:literal) => {
        concat!(
            "UPDATE chat_turns SET ",
            $column,
            " = ",
            $column,
            " + 1 WHERE tenant_id = $1 AND id = $2 AND state = 'running' \
             AND deleted_at IS NULL"
        )
    };
}

impl Tx {
    /// Inserts a running turn. A conflict is [`crate::Constraint::TurnRequest`]
    /// or [`crate::Constraint::OneRunningTurn`] (TURN-12). `started_at` is
    /// raised just above the chat's latest if it is not later (TURN-6).
    pub fn turn_insert(&mut self, turn: &NewTurn<'_>) -> Result<(), StoreError> {
        let NewTurn {
            id,
            tenant_id,
            chat_id,
            request_id,
            requester_user_id,
            provider_name,
            effective_model,
            reserve_tokens,
            reserved_credits_micro,
            policy_version_applied,
            max_output_tokens_applied,
            minimal_generation_floor_applied,
            reserve_day,
            web_search_enabled,
            started_at,
            process_id,
        } = *turn;
        self.execute_later(
            "INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, \
             requester_user_id, state, provider_name, effective_model, reserve_tokens, \
             reserved_credits_micro, policy_version_applied, max_output_tokens_applied, \
             minimal_generation_floor_applied, reserve_day, web_search_enabled, \
             process_id, started_at, last_progress_at, updated_at) \
             SELECT $1, $2, $3, $4, 'user', $5, 'running', $6, $7, $8, $9, $10, $11, $12, \
             $13, $14, $17, s.at, s.at, s.at FROM (SELECT \
             GREATEST($15, COALESCE(MAX(started_at) + $16, $15)) AS at \
             FROM chat_turns WHERE chat_id = $3 AND tenant_id = $2 AND deleted_at IS NULL) s",
            params![
                id,
                tenant_id,
                chat_id,
                request_id,
                requester_user_id,
                provider_name,
                effective_model,
                reserve_tokens,
                reserved_credits_micro,
                policy_version_applied,
                max_output_tokens_applied,
                minimal_generation_floor_applied,
                reserve_day,
                web_search_enabled,
                started_at,
                Param::Micros(1),
                process_id,
            ],
        )
    }

    /// The turn of a request, even if deleted, in the caller's chat.
    pub async fn turn_get(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        request: RequestId,
    ) -> Result<Option<Turn>, StoreError> {
        self.query_opt(
            concat!(
                "SELECT ",
                turn_columns!(),
                " FROM chat_turns t \
             JOIN chats c ON c.id = t.chat_id AND c.tenant_id = t.tenant_id \
             WHERE t.tenant_id = $1 AND c.user_id = $2 AND c.deleted_at IS NULL \
             AND t.chat_id = $3 AND t.request_id = $4"
            ),
            &params![tenant, user, chat, request],
            turn_row,
        )
        .await
    }

    /// Whether `turn` was ever opened, even if its chat was deleted since.
    pub async fn turn_exists(
        &mut self,
        tenant: TenantId,
        turn: TurnId,
    ) -> Result<bool, StoreError> {
        let found = self
            .query_opt(
                "SELECT 1 FROM chat_turns WHERE tenant_id = $1 AND id = $2",
                &params![tenant, turn],
                |_| Ok(()),
            )
            .await?;
        Ok(found.is_some())
    }

    /// Whether the chat has a running turn that is not deleted.
    pub async fn turn_is_running(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<bool, StoreError> {
        let running = self
            .query_opt(
                "SELECT 1 FROM chat_turns WHERE tenant_id = $1 AND chat_id = $2 \
                 AND state = 'running' AND deleted_at IS NULL",
                &params![tenant, chat],
                |_| Ok(()),
            )
            .await?;
        Ok(running.is_some())
    }

    /// Counts a call of `tool` that ended (TURN-29). A turn that has ended keeps its
    /// counts.
    pub fn turn_count_call(
        &mut self,
        tenant: TenantId,
        turn: TurnId,
        tool: HostedTool,
    ) -> Result<(), StoreError> {
        let sql = match tool {
            // Its calls have no column: only a process that saw them counts them.
            HostedTool::FileSearch => return Ok(()),
            HostedTool::WebSearch => count_call!("web_search_completed_count"),
            HostedTool::CodeInterpreter => count_call!("code_interpreter_completed_count"),
        };
        self.execute_later(sql, params![tenant, turn])
    }

    /// Notifies the process that runs `turn` to stop it. The notification is
    /// sent with the commit; a process that is not listening learns of it when
    /// it listens again. On `SQLite` there is no other process.
    pub fn turn_request_stop(&mut self, turn: TurnId) -> Result<(), StoreError> {
        match self.dialect() {
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => self.execute_later(
                "WITH requested AS (UPDATE chat_turns \
                 SET stop_requested_at = statement_timestamp() \
                 WHERE id = $1 AND state = 'running') \
                 SELECT pg_notify('minichat_turn_stop', CAST($1 AS TEXT))",
                params![turn],
            ),
        }
    }

    /// First step of every finalization (TURN-33, QUOTA-82): locks the quota
    /// rows of `scope`, which is the reserve's day, then moves the turn out of
    /// `running`. `None`: another finalizer won, and the job must return an
    /// error or change nothing else (QUOTA-56).
    /// The quota rows are locked first, because a reserve of the same user
    /// holds them while it waits for the chat's running turn to end. The
    /// reserve inserted them, so they can be missing only if someone removed
    /// them.
    pub async fn turn_finish(
        &mut self,
        finish: &TurnFinish<'_>,
        scope: QuotaDay,
    ) -> Result<Option<FinishedTurn>, StoreError> {
        let outcome = finish.outcome;
        let [since, witnessed_after] = Silence::params_of(finish.orphan);
        let update = params![
            finish.tenant_id,
            finish.turn_id,
            outcome.state().as_str(),
            outcome.error_code().map(TurnErrorCode::as_str),
            finish.provider_response_id,
            finish.orphan.map(|rule| rule.stale_at),
            finish.finalization_id,
            since,
            witnessed_after,
        ];
        let lock = scope.params();
        let (cells, ended) = self
            .query2(
                Query {
                    sql: self.dialect().quota_lock_sql(),
                    params: &lock,
                    map: cell_row,
                },
                Query {
                    sql: concat!(
                        "UPDATE chat_turns SET state = $3, error_code = $4, \
                          provider_response_id = COALESCE($5, provider_response_id), \
                          finalization_id = $7, completed_at = statement_timestamp(), \
                          updated_at = statement_timestamp() \
                          WHERE tenant_id = $1 AND id = $2 AND state = 'running' \
                          AND (CAST($6 AS TIMESTAMPTZ) IS NULL OR (deleted_at IS NULL \
                          AND (last_progress_at <= $6 OR ",
                        process_is_dead!("$8", "$9"),
                        "))) \
                          RETURNING completed_at, reserve_tokens, \
                          max_output_tokens_applied, minimal_generation_floor_applied, \
                          reserved_credits_micro, web_search_completed_count, \
                          code_interpreter_completed_count"
                    ),
                    params: &update,
                    map: ended_row,
                },
            )
            .await?;
        let Some(ended) = ended.into_iter().next() else {
            return Ok(None);
        };
        let mut cells = QuotaCells::new(cells);
        if !cells.has_totals(scope.day) {
            cells = self.quota_lock(scope).await?;
        }
        Ok(Some(FinishedTurn {
            now: ended.now,
            cells,
            reserve: ended.reserve,
            web_search_calls: ended.web_search_calls,
            code_interpreter_calls: ended.code_interpreter_calls,
        }))
    }

    /// When the attempt `finalization` ended the turn; `None` if it did not, and
    /// then it never will. This is how a finalizer whose commit is in doubt learns
    /// whether it took place: it waits for the end of a transaction that is about
    /// to end the turn, and takes a turn that is still running away from a
    /// statement that has not come so far. The only writer of `SQLite` has nobody
    /// to wait for.
    pub async fn turn_finalized_by(
        &mut self,
        tenant: TenantId,
        turn: TurnId,
        finalization: Uuid,
    ) -> Result<Option<Timestamp>, StoreError> {
        if self.dialect() == Dialect::Postgres {
            self.execute_later(
                "UPDATE chat_turns SET finalization_id = $3 \
                 WHERE tenant_id = $1 AND id = $2 AND state = 'running'",
                params![tenant, turn, Uuid::new_v4()],
            )?;
        }
        self.flush_seen().await?;
        self.query_opt(
            "SELECT completed_at FROM chat_turns WHERE tenant_id = $1 AND id = $2 \
             AND finalization_id = $3 AND state <> 'running'",
            &params![tenant, turn, finalization],
            only_column,
        )
        .await
    }

    /// Whether `turn` was opened; if not, no statement that is still to come opens
    /// it. This is how a reserve whose commit is in doubt learns whether it took
    /// place, also if its chat is deleted since.
    pub async fn turn_opened(
        &mut self,
        scope: QuotaDay,
        chat: ChatId,
        turn: TurnId,
    ) -> Result<bool, StoreError> {
        self.chat_lock(scope.tenant_id, scope.user_id, chat)?;
        // A transaction that opens a turn of a deleted chat ends before this.
        self.quota_lock(scope).await?;
        self.flush_seen().await?;
        self.turn_exists(scope.tenant_id, turn).await
    }

    /// Notes on a turn that was just ended what was booked, and links the stored
    /// answer to it (TURN-33 step 4).
    pub fn turn_set_settlement(
        &mut self,
        tenant: TenantId,
        turn: TurnId,
        settlement: &TurnSettlement,
    ) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE chat_turns SET settled_credits_micro = $3, settlement_method = $4, \
             assistant_message_id = COALESCE($5, assistant_message_id) \
             WHERE tenant_id = $1 AND id = $2",
            params![
                tenant,
                turn,
                settlement.committed_credits_micro,
                settlement.method.as_str(),
                settlement.assistant_message_id,
            ],
        )
    }

    /// Records progress of a running turn (TURN-7). Does nothing if the turn
    /// has ended.
    pub fn turn_progress(&mut self, tenant: TenantId, turn: TurnId) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE chat_turns SET last_progress_at = statement_timestamp(), \
             updated_at = statement_timestamp() \
             WHERE tenant_id = $1 AND id = $2 AND state = 'running'",
            params![tenant, turn],
        )
    }
}

macro_rules! turn_columns {
    () => {
        "t.id, t.chat_id, t.request_id, t.state, t.error_code, t.provider_response_id, \
         t.assistant_message_id, t.effective_model, t.deleted_at IS NOT NULL, t.started_at, \
         t.updated_at"
    };
}
pub(crate) use turn_columns;

/// The row of a turn that was just ended.
struct EndedRow {
    now: Timestamp,
    reserve: Option<Reserve>,
    web_search_calls: u32,
    code_interpreter_calls: u32,
}

fn ended_row(row: &Row<'_>) -> Result<EndedRow, StoreError> {
    Ok(EndedRow {
        now: row.take()?,
        reserve: reserve_row(row)?,
        web_search_calls: calls(row)?,
        code_interpreter_calls: calls(row)?,
    })
}

/// The calls of a tool in the turn's row; none if the number was spoilt (TURN-29).
fn calls(row: &Row<'_>) -> Result<u32, StoreError> {
    let stored: i64 = row.take()?;
    Ok(u32::try_from(stored.max(0)).unwrap_or(u32::MAX))
}

/// The four values are written together. A row that lacks one has no reserve.
fn reserve_row(row: &Row<'_>) -> Result<Option<Reserve>, StoreError> {
    let facts: (Option<u64>, Option<u32>, Option<u32>, Option<i64>) =
        (row.take()?, row.take()?, row.take()?, row.take()?);
    let (Some(tokens), Some(max_output), Some(floor), Some(credits)) = facts else {
        return Ok(None);
    };
    Ok(Some(Reserve {
        reserve_tokens: tokens,
        max_output_tokens_applied: max_output,
        minimal_generation_floor_applied: floor,
        reserved_credits_micro: credits,
    }))
}

pub(crate) fn turn_row(row: &Row<'_>) -> Result<Turn, StoreError> {
    Ok(Turn {
        id: row.take()?,
        chat_id: row.take()?,
        request_id: row.take()?,
        state: row.take()?,
        error_code: row.take()?,
        provider_response_id: row.take()?,
        assistant_message_id: row.take()?,
        effective_model: row.take()?,
        is_deleted: row.take()?,
        started_at: row.take()?,
        updated_at: row.take()?,
    })
}

impl FromValue for TurnState {
    const EXPECTED: &'static str = "a turn state";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}
