//! The two transactions of a turn on PostgreSQL, in one statement each.
//!
//! A reserve is a read without locks, a decision, and a statement that writes
//! only if what was decided still holds. A finalization is one statement. Their
//! texts are PostgreSQL's alone; when one of them writes nothing, the statements
//! that both databases share decide, under locks from the start.
//!
//! # Why that is exact
//!
//! In READ COMMITTED all parts of a statement see one snapshot, taken when it
//! begins. A row that `FOR UPDATE` had to wait for is read again, in its newest
//! form, and its own conditions are checked again; other rows are not. So
//! whatever a decision depends on must be in the rows that the statement locks,
//! and must be checked in their newest form:
//!
//! * The chat. `chats.revision` grows in every transaction that adds turns to the
//!   chat or takes some away ([`Tx::chat_lock`] and the reserve here), under the
//!   lock of the row. A turn that was running when the chat was read has refused
//!   the request already, so no turn of the chat can end later unless it was
//!   opened later. So the same revision means the same turns, messages and newest
//!   instants. Deletion of the chat is a condition of the same row.
//! * The quota. A decision that needs only room in each cell of its tier holds as
//!   long as each cell has it ([`Decision::holds_while_there_is_room`]), which is
//!   checked on each locked row, as are the day's calls of tools. A row that was inserted after the snapshot cannot
//!   be locked, so all rows of the tier must be there; the first turn of a day
//!   takes the locks first. Rows are not inserted by anyone who does not lock the
//!   `total` rows.
//! * The turn. It ends only while it is `running`, which is a condition of its own
//!   row, and only if it holds what its process reserved.
//!
//! Locks are taken in the order of all others: chat, quota rows monthly before
//! daily, turn. Each part reads the one before it, so that no plan changes the
//! order. What is written afterwards reads the part that has decided, and adds to
//! the newest form of the rows, since PostgreSQL finds it when it updates them.
//!
//! A statement whose answer is lost may still wait for its first lock. So who asks
//! what became of it also makes it void: it raises the chat's revision
//! ([`Tx::turn_opened`]), or writes `finalization_id` ([`Tx::turn_finalized_by`]).
//!
//! # Why nothing that was answered is lost
//!
//! A commit holds its locks until its record is flushed to disk, which takes longer
//! than the statement. So while another commit of the same user is under way in
//! this process, or no session is free, the statement turns `synchronous_commit`
//! off for its own transaction: its commit returns, and frees the locks, before it
//! is flushed. Nobody is answered then: the job returns when a flush that began
//! afterwards has succeeded (`postgres/flush.rs`), and a commit whose flush is not
//! known to have succeeded is in doubt, as one whose acknowledgement is lost.
//!
//! * Other transactions see what is not flushed yet, decide by it, and commit after
//!   it. The log is one sequence: a crash that takes away a commit takes away all
//!   that came later, and a commit that is flushed has flushed all that it saw. So
//!   what a crash leaves is what there was at some instant before, with every turn
//!   that was answered.
//! * Whoever only reads flushes nothing. What acknowledges an end calls
//!   [`Tx::flush_seen`] first: a replay, the state of a turn that has ended, the
//!   delivery of events, and the queries about commits in doubt. Lists, counts of
//!   quota and refusals acknowledge nothing. They may show a turn that a crash takes
//!   away before its client hears of it.
//! * A turn alone waits for its own flush, which saves a round trip.
//!
//! [`Decision::holds_while_there_is_room`]:
//!     minichat_core::quota::Decision::holds_while_there_is_room

use minichat_core::quota::{Bucket, Limits, MostCalls, Period, Reserve};
use minichat_core::turn::{SettlementMethod, TurnErrorCode};
use minichat_core::{TenantId, Timestamp, UserId};

use crate::admission::{BEGINNING, Head, head_from, head_row, recent_select};
use crate::postgres::Commits;
use crate::quota::{QuotaCell, QuotaCells, SettlementBooking, cell_conflict, cell_select, settled};
use crate::value::{Param, Row, params};
use crate::{
    AdmissionFacts, AdmissionQuery, FinishedTurn, NewMessage, NewTurn, OutboxMessage,
    RecentMessage, StoreError, TurnFinish, Tx,
};

/// Facts that nothing locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdmissionSnapshot {
    pub facts: AdmissionFacts,
    /// Changes with the turns of the chat.
    pub revision: u64,
}

/// What a reserve writes if all of it still holds.
#[derive(Clone, Copy, Debug)]
pub struct ConditionalReserve<'a> {
    pub turn: NewTurn<'a>,
    pub message: NewMessage<'a>,
    /// Whether the premium cells are booked too.
    pub premium: bool,
    /// The revision of the chat that was read.
    pub revision: u64,
    /// What each cell may hold at most before the reserve, in micro-credits.
    pub most_used: Limits,
    /// Calls of tools that the day may hold at most.
    pub most_calls: MostCalls,
}

/// A finalization of whose turn everything is known before.
#[derive(Clone, Copy, Debug)]
pub struct Finalization<'a> {
    pub finish: TurnFinish<'a>,
    /// What the turn's row must hold.
    pub reserve: Reserve,
    pub booking: SettlementBooking,
    pub method: SettlementMethod,
    pub answer: Option<NewMessage<'a>>,
    /// Their `timestamp` is [`Finalization::UNKNOWN`], in whose place the statement
    /// puts the instant of the end. No other text of an object can look like it,
    /// because quotes within one are escaped.
    pub events: [OutboxMessage<'a>; 2],
    /// A summary to ask for (CONT-132).
    pub summary: Option<SummaryRequest<'a>>,
}

/// Asks for a thread summary up to the answer of the turn that ends.
#[derive(Clone, Copy, Debug)]
pub struct SummaryRequest<'a> {
    /// Its payload is a JSON object without the closing brace, to which the range is
    /// added.
    pub message: OutboxMessage<'a>,
    /// Only if the chat has no summary yet (CONT-131).
    pub only_first: bool,
}

impl Finalization<'_> {
    /// An instant that only the statement knows.
    pub const UNKNOWN: Timestamp = Timestamp::from_micros(0);
}

impl Tx {
    /// Whether reserves and finalizations can be single statements: on PostgreSQL,
    /// unless a pooler stands before it, which may part a statement from its
    /// values.
    pub fn has_single_statements(&mut self) -> bool {
        self.as_postgres().is_some_and(|tx| tx.is_direct())
    }

    fn commits(&mut self, tenant: TenantId, user: UserId) -> Result<Commits, StoreError> {
        let tx = self.as_postgres().ok_or(StoreError::JobSuspended)?;
        Ok(tx.commits(tenant, user))
    }

    /// Everything that admission reads, as of one snapshot. `None`: no such chat
    /// of this user (PLAT-16).
    pub async fn turn_admission_snapshot(
        &mut self,
        query: &AdmissionQuery,
    ) -> Result<Option<AdmissionSnapshot>, StoreError> {
        let AdmissionQuery {
            tenant_id,
            user_id,
            chat_id,
            request_id,
            recent_messages_limit: _,
            ignores_summary,
        } = *query;
        let params = params![
            tenant_id,
            user_id,
            chat_id,
            request_id,
            query.window(),
            ignores_summary,
            BEGINNING,
        ];
        let rows = self
            .single(SNAPSHOT_SQL, &params, snapshot_row, Commits::Nothing)
            .await?;
        let found = rows.into_iter().next();
        Ok(
            found.map(|(revision, messages, cells, head)| AdmissionSnapshot {
                facts: head.facts(messages, query, cells),
                revision,
            }),
        )
    }

    /// Reserves and opens a turn, and commits; `false` if anything that was read
    /// is not so any more, and nothing was written. Conflicts are those of
    /// [`Tx::turn_insert`].
    pub async fn turn_reserve(
        &mut self,
        reserve: &ConditionalReserve<'_>,
    ) -> Result<bool, StoreError> {
        let commits = self.commits(reserve.turn.tenant_id, reserve.turn.requester_user_id)?;
        let params = reserve.params(commits);
        let rows = self.single(RESERVE_SQL, &params, |_| Ok(()), commits);
        Ok(!rows.await?.is_empty())
    }

    /// Ends a turn with everything that belongs to it, and commits. Returns also whether
    /// a summary was asked for. `None`:
    /// nothing was written, because the turn is not running, or is not as it was
    /// thought to be, or an earlier attempt at it was made void.
    pub async fn turn_finalize(
        &mut self,
        finalization: &Finalization<'_>,
    ) -> Result<Option<(FinishedTurn, bool)>, StoreError> {
        let scope = finalization.booking.scope;
        let commits = self.commits(scope.tenant_id, scope.user_id)?;
        let params = finalization.params(commits)?;
        let sql = match finalization.summary {
            None => FINALIZE_SQL,
            Some(_) => FINALIZE_AND_SUMMARIZE_SQL,
        };
        let rows = self.single(sql, &params, finalized_row, commits);
        let finished = rows.await?.into_iter().next();
        Ok(finished.map(|(now, cells, is_summarized)| {
            let finished = FinishedTurn {
                now,
                cells: QuotaCells::new(cells),
                reserve: Some(finalization.reserve),
                web_search_calls: 0,
                code_interpreter_calls: 0,
            };
            (finished, is_summarized)
        }))
    }
}

/// A column of the result that makes the commit of its statement return before
/// it is flushed, for this transaction only. It is evaluated with the row that
/// reports success, so a statement without a row has written nothing.
macro_rules! unflushed_if {
    ($asked:literal) => {
        concat!(
            "CASE WHEN ",
            $asked,
            " THEN set_config('synchronous_commit', 'off', true) END"
        )
    };
}

/// Lists of the columns of quota rows, as [`cells`] takes them.
macro_rules! cell_lists {
    () => {
        "array_agg(q.period_type), array_agg(q.bucket), array_agg(q.period_start), \
         array_agg(q.spent_credits_micro), array_agg(q.reserved_credits_micro), \
         array_agg(q.calls), array_agg(q.input_tokens), array_agg(q.output_tokens), \
         array_agg(q.file_search_calls), array_agg(q.web_search_calls), \
         array_agg(q.code_interpreter_calls)"
    };
}

const SNAPSHOT_SQL: &str = concat!(
    "SELECT c.revision, m.*, q.*, ",
    head_from!(),
    " CROSS JOIN LATERAL (SELECT array_agg(r.id), array_agg(r.role), array_agg(r.content), \
     array_agg(r.created_at) FROM (",
    recent_select!("$3", "$4", "$5", "$6", "$7"),
    ") r) m CROSS JOIN LATERAL (SELECT ",
    cell_lists!(),
    " FROM (",
    cell_select!(
        "CAST(date_trunc('month', statement_timestamp() AT TIME ZONE 'UTC') AS DATE)",
        "CAST(statement_timestamp() AT TIME ZONE 'UTC' AS DATE)",
        ""
    ),
    ") q) q WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 AND c.deleted_at IS NULL"
);

const RESERVE_SQL: &str = concat!(
    "WITH chat AS MATERIALIZED (SELECT id FROM chats WHERE tenant_id = $1 AND user_id = $2 \
     AND id = $3 AND deleted_at IS NULL AND revision = $4 FOR NO KEY UPDATE), \
     cells AS MATERIALIZED (SELECT period_type, bucket, \
     spent_credits_micro + reserved_credits_micro AS used, \
     CAST(web_search_calls AS BIGINT) AS searches, \
     CAST(code_interpreter_calls AS BIGINT) AS codes FROM quota_usage \
     WHERE ",
    of_scope!(),
    " AND EXISTS (SELECT 1 FROM chat) ORDER BY period_type DESC, bucket FOR UPDATE), \
     allowed AS MATERIALIZED (SELECT id FROM chat \
     WHERE (SELECT COUNT(*) FROM cells WHERE ",
    booked!(),
    ") = CASE WHEN $7 THEN 4 ELSE 2 END AND NOT EXISTS (SELECT 1 FROM cells WHERE ",
    booked!(),
    " AND used > CASE WHEN bucket = 'total' \
     THEN CASE WHEN period_type = 'monthly' THEN $8 ELSE $9 END \
     ELSE CASE WHEN period_type = 'monthly' THEN $10 ELSE $11 END END) \
     AND NOT EXISTS (SELECT 1 FROM cells WHERE bucket = 'total' AND period_type = 'daily' \
     AND (searches > $27 OR codes > $28))), \
     reserved AS (UPDATE quota_usage SET \
     reserved_credits_micro = reserved_credits_micro + $12, updated_at = $13 FROM allowed \
     WHERE ",
    of_scope!(),
    " AND ",
    booked!(),
    "), touched AS (UPDATE chats SET revision = revision + 1, \
     updated_at = GREATEST(updated_at, $13) FROM allowed \
     WHERE chats.tenant_id = $1 AND chats.id = allowed.id), \
     turn AS (INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, \
     requester_user_id, state, provider_name, effective_model, reserve_tokens, \
     reserved_credits_micro, policy_version_applied, max_output_tokens_applied, \
     minimal_generation_floor_applied, reserve_day, web_search_enabled, \
     process_id, started_at, last_progress_at, updated_at) \
     SELECT $14, $1, $3, $15, 'user', $2, 'running', $16, $17, $18, $12, $19, $20, $21, \
     $6, $22, $26, s.at, s.at, s.at FROM allowed CROSS JOIN (SELECT \
     GREATEST($13, COALESCE(MAX(started_at) + INTERVAL '1 microsecond', $13)) AS at \
     FROM chat_turns WHERE chat_id = $3 AND tenant_id = $1 AND deleted_at IS NULL) s), \
     message AS (INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, \
     content_type, request_kind, features_used, input_tokens, output_tokens, \
     cache_read_input_tokens, cache_write_input_tokens, reasoning_tokens, created_at) \
     SELECT $23, $1, $3, $15, 'user', $24, 'text', 'chat', '[]', 0, 0, 0, 0, 0, s.at \
     FROM allowed CROSS JOIN (SELECT \
     GREATEST($13, COALESCE(MAX(created_at) + INTERVAL '1 microsecond', $13)) AS at \
     FROM messages WHERE chat_id = $3 AND tenant_id = $1 AND deleted_at IS NULL) s) \
     SELECT ",
    unflushed_if!("$25"),
    " FROM allowed"
);

/// The rows of a user's day and month.
macro_rules! of_scope {
    () => {
        "tenant_id = $1 AND user_id = $2 AND ((period_type = 'monthly' AND period_start = $5) \
         OR (period_type = 'daily' AND period_start = $6))"
    };
}
use of_scope;

/// Those of them that the turn's tier is booked on (QUOTA-9).
macro_rules! booked {
    () => {
        "(bucket = 'total' OR $7)"
    };
}
use booked;

/// `$parts` are written after the events, and `$is_summarized` says whether a summary was
/// asked for.
macro_rules! finalize {
    ($parts:expr, $is_summarized:literal) => {
        concat!(
    "WITH cells AS MATERIALIZED (",
    cell_select!("$3", "$4", "FOR UPDATE"),
    "), moment AS MATERIALIZED (SELECT clock_timestamp() AS at \
     FROM (SELECT COUNT(*) FROM cells) locked), \
     ended AS (UPDATE chat_turns t SET state = $6, error_code = $7, \
     provider_response_id = COALESCE($8, t.provider_response_id), \
     assistant_message_id = COALESCE($9, t.assistant_message_id), \
     finalization_id = $10, settled_credits_micro = $15, settlement_method = $36, \
     completed_at = m.at, updated_at = m.at FROM moment m \
     WHERE t.tenant_id = $1 AND t.id = $5 AND t.state = 'running' \
     AND t.finalization_id IS NULL AND t.reserve_tokens = $11 \
     AND t.reserved_credits_micro = $12 AND t.max_output_tokens_applied = $13 \
     AND t.minimal_generation_floor_applied = $14 AND t.web_search_completed_count = 0 \
     AND t.code_interpreter_completed_count = 0 RETURNING t.completed_at AS at), \
     settled AS (INSERT INTO quota_usage (id, tenant_id, user_id, period_type, period_start, \
     bucket, spent_credits_micro, calls, input_tokens, output_tokens, updated_at) \
     SELECT gen_random_uuid(), $1, $2, b.period_type, b.period_start, b.bucket, $15, 1, \
     CASE WHEN b.bucket = 'total' THEN $16 ELSE 0 END, \
     CASE WHEN b.bucket = 'total' THEN $17 ELSE 0 END, e.at FROM ended e CROSS JOIN (VALUES \
     ('monthly', $3, 'total'), ('daily', $4, 'total'), \
     ('monthly', $3, 'tier:premium'), ('daily', $4, 'tier:premium')) \
     AS b (period_type, period_start, bucket) WHERE b.bucket = 'total' OR $18 ",
    cell_conflict!(),
    settled!("$12"),
    "), message AS (INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, \
     content_type, request_kind, features_used, provider_response_id, model, \
     input_tokens, output_tokens, cache_read_input_tokens, cache_write_input_tokens, \
     reasoning_tokens, created_at) \
     SELECT $9, $1, $19, $20, 'assistant', $21, 'text', 'chat', '[]', $8, $22, \
     $23, $24, $25, $26, $27, GREATEST(e.at, s.after) FROM ended e CROSS JOIN (SELECT \
     MAX(created_at) + INTERVAL '1 microsecond' AS after FROM messages \
     WHERE chat_id = $19 AND tenant_id = $1 AND deleted_at IS NULL) s \
     WHERE $9 IS NOT NULL RETURNING created_at), \
     events AS (INSERT INTO outbox_messages (queue, partition, tenant_id, dedupe_key, \
     payload_type, payload, created_at) \
     SELECT o.queue, o.partition, $1, o.dedupe_key, 'application/json', \
     replace(o.payload, '\"timestamp\":\"1970-01-01T00:00:00Z\"', \
     '\"timestamp\":\"' || ",
    rfc3339!("e.at"),
    " || '\"'), e.at FROM ended e CROSS JOIN (VALUES (1, $28, $29, $30, $31), (2, $32, $33, $34, $35)) \
     AS o (place, queue, partition, dedupe_key, payload) ORDER BY o.place \
     ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL DO NOTHING)",
    $parts,
    " SELECT e.at, q.*, ",
    $is_summarized,
    ", ",
    unflushed_if!("$37"),
    " FROM ended e CROSS JOIN (SELECT ",
    cell_lists!(),
    " FROM cells q) q"
        )
    };
}

const FINALIZE_SQL: &str = finalize!("", "FALSE");

/// The new answer is the newest message of its chat.
const FINALIZE_AND_SUMMARIZE_SQL: &str = finalize!(
    concat!(
        ", item AS (SELECT $42 || CASE WHEN s.id IS NULL THEN '' \
         ELSE ',\"base_frontier_created_at\":\"' || ",
        rfc3339!("s.summarized_up_to_created_at"),
        " || '\",\"base_frontier_message_id\":\"' || s.summarized_up_to_message_id || '\"' END \
         || ',\"frozen_target_created_at\":\"' || ",
        rfc3339!("m.created_at"),
        " || '\",\"frozen_target_message_id\":\"' || CAST($9 AS TEXT) || '\"}' AS payload \
         FROM message m LEFT JOIN thread_summaries s \
         ON s.tenant_id = $1 AND s.chat_id = $19 WHERE s.id IS NULL OR NOT $41), \
         scheduled AS (INSERT INTO outbox_messages (queue, partition, tenant_id, dedupe_key, \
         payload_type, payload, created_at) SELECT $38, $39, $1, $40, 'application/json', \
         i.payload, e.at FROM item i CROSS JOIN ended e)"
    ),
    "EXISTS (SELECT 1 FROM item)"
);

/// An instant as [`minichat_core::Timestamp`] writes it: without zeros at the end
/// of the fraction.
macro_rules! rfc3339 {
    ($at:literal) => {
        concat!(
            "rtrim(rtrim(to_char(",
            $at,
            " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '0'), '.') || 'Z'"
        )
    };
}
pub(crate) use rfc3339;

type SnapshotRow = (u64, Vec<RecentMessage>, Vec<QuotaCell>, Head);

fn snapshot_row(row: &Row<'_>) -> Result<SnapshotRow, StoreError> {
    Ok((row.take()?, messages(row)?, cells(row)?, head_row(row)?))
}

fn messages(row: &Row<'_>) -> Result<Vec<RecentMessage>, StoreError> {
    let (ids, roles) = (row.list()?, row.list()?);
    let (contents, instants) = (row.list()?, row.list()?);
    let columns = ids.into_iter().zip(roles).zip(contents).zip(instants);
    let messages = columns.map(|(((id, role), content), created_at)| RecentMessage {
        id,
        role,
        content,
        created_at,
    });
    Ok(messages.collect())
}

/// The rows behind [`cell_lists`].
fn cells(row: &Row<'_>) -> Result<Vec<QuotaCell>, StoreError> {
    let (periods, buckets, starts) = (row.list()?, row.list()?, row.list()?);
    let names = periods.into_iter().zip(buckets).zip(starts);
    let mut counts = Vec::with_capacity(COUNTS);
    for _ in 0..COUNTS {
        counts.push(row.list::<u64>()?.into_iter());
    }
    let mut next = || -> [u64; COUNTS] {
        std::array::from_fn(|column| counts[column].next().unwrap_or_default())
    };
    let cells = names.map(|((period, bucket), period_start)| {
        let [spent, reserved, calls, input, output, files, web, code] = next();
        QuotaCell {
            period,
            bucket,
            period_start,
            spent_credits_micro: spent,
            reserved_credits_micro: reserved,
            calls,
            input_tokens: input,
            output_tokens: output,
            file_search_calls: files,
            web_search_calls: web,
            code_interpreter_calls: code,
        }
    });
    Ok(cells.collect())
}

/// The columns of a quota row that are counts.
const COUNTS: usize = 8;

type FinalizedRow = (Timestamp, Vec<QuotaCell>, bool);

fn finalized_row(row: &Row<'_>) -> Result<FinalizedRow, StoreError> {
    Ok((row.take()?, cells(row)?, row.take()?))
}

impl ConditionalReserve<'_> {
    fn params(&self, commits: Commits) -> [Param<'_>; 28] {
        let Self {
            turn,
            message,
            premium,
            revision,
            most_used,
            most_calls,
        } = self;
        let most = |bucket, period| most_used.of(bucket, period);
        params![
            turn.tenant_id,
            turn.requester_user_id,
            turn.chat_id,
            *revision,
            turn.reserve_day.first_of_month(),
            turn.reserve_day,
            *premium,
            most(Bucket::Total, Period::Monthly),
            most(Bucket::Total, Period::Daily),
            most(Bucket::TierPremium, Period::Monthly),
            most(Bucket::TierPremium, Period::Daily),
            turn.reserved_credits_micro,
            turn.started_at,
            turn.id,
            turn.request_id,
            turn.provider_name,
            turn.effective_model,
            turn.reserve_tokens,
            turn.policy_version_applied,
            turn.max_output_tokens_applied,
            turn.minimal_generation_floor_applied,
            turn.web_search_enabled,
            message.id,
            message.content,
            commits == Commits::Unflushed,
            turn.process_id,
            most_calls.web_search,
            most_calls.code_interpreter,
        ]
    }
}

impl Finalization<'_> {
    fn params(&self, commits: Commits) -> Result<Vec<Param<'_>>, StoreError> {
        let Self {
            finish,
            reserve,
            booking,
            method,
            answer,
            events: [first, second],
            summary,
        } = self;
        let outcome = finish.outcome;
        let [tenant, user, month, day] = booking.scope.params();
        let answer = answer.as_ref();
        let usage = answer.map(|it| it.usage).unwrap_or_default();
        first.check_dedupe_key()?;
        second.check_dedupe_key()?;
        let mut params = params![
            tenant,
            user,
            month,
            day,
            finish.turn_id,
            outcome.state().as_str(),
            outcome.error_code().map(TurnErrorCode::as_str),
            finish.provider_response_id,
            answer.map(|it| it.id),
            finish.finalization_id,
            reserve.reserve_tokens,
            reserve.reserved_credits_micro,
            reserve.max_output_tokens_applied,
            reserve.minimal_generation_floor_applied,
            booking.committed_credits_micro,
            booking.usage.input_tokens,
            booking.usage.output_tokens,
            booking.premium,
            answer.map(|it| it.chat_id),
            answer.map(|it| it.request_id),
            answer.map(|it| it.content),
            answer.and_then(|it| it.model),
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens,
            usage.cache_write_input_tokens,
            usage.reasoning_tokens,
            first.queue,
            first.partition(),
            first.dedupe_key,
            first.payload,
            second.queue,
            second.partition(),
            second.dedupe_key,
            second.payload,
            method.as_str(),
            commits == Commits::Unflushed,
        ]
        .to_vec();
        if let Some(SummaryRequest {
            message,
            only_first,
        }) = summary
        {
            message.check_dedupe_key()?;
            params.extend(params![
                message.queue,
                message.partition(),
                message.dedupe_key,
                *only_first,
                message.payload,
            ]);
        }
        Ok(params)
    }
}
