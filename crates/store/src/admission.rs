//! Reads everything that decides whether a message is admitted, in one round
//! trip: the user's quota cells, which stay locked, the chat, the turn of the
//! same request if there is one, and the history for the prompt (QUOTA-44,
//! TURN-10).

use minichat_core::{ChatId, MessageId, RequestId, TenantId, Timestamp, TurnId, UserId};

use crate::page::Key;
use crate::quota::{QuotaCell, QuotaCells, QuotaDay, cell_row};
use crate::turns::turn_row;
use crate::tx::Query;
use crate::value::{Param, Row, params};
use crate::{Role, StoreError, ThreadSummary, Turn, Tx, thread_summaries};

/// The chat and the user of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionQuery {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub chat_id: ChatId,
    /// The request id of the message, or of the turn that it replaces.
    pub request_id: RequestId,
    /// `context.recent_messages_limit` (CONT-5); 0 for none.
    pub recent_messages_limit: u32,
    /// Read the history as if it had never been summarized, because the summary will
    /// be forgotten (CONT-141).
    pub ignores_summary: bool,
}

impl AdmissionQuery {
    /// Messages to read: at least one, because the newest one is the boundary.
    pub(crate) fn window(&self) -> u32 {
        self.recent_messages_limit.max(1)
    }
}

/// The state of the chat and of its user's quota before a send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdmissionFacts {
    /// The selected model.
    pub model: String,
    /// The turn of the same `request_id`, even if it is deleted.
    pub existing_turn: Option<Turn>,
    /// Whether the chat has a running turn that is not deleted.
    pub is_running: bool,
    /// The newest message that may enter the prompt (CONT-4). `None`: the
    /// history is empty.
    pub boundary: Option<Key>,
    /// The thread summary (CONT-2).
    pub summary: Option<ThreadSummary>,
    /// The recent window (CONT-5), oldest first, up to `boundary`.
    pub recent_messages: Vec<RecentMessage>,
    /// Tokens of the newest answer that has a token count (QUOTA-37).
    pub prior_context_tokens: u64,
    /// Whether the chat has a file that a tool can use ([`Tx::tool_files`]).
    pub has_tool_files: bool,
    /// An instant of the database's clock, later than every timestamp of the
    /// chat. It becomes `started_at` of the new turn (TURN-6).
    pub now: Timestamp,
    /// The user's cells on the date of `now`, including both total rows.
    pub quota: QuotaCells,
}

/// A message of the window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecentMessage {
    pub id: MessageId,
    pub role: Role,
    pub content: String,
    pub created_at: Timestamp,
}

impl Tx {
    /// Reads everything that admission needs, under the locks of the chat and
    /// of the user's quota rows (QUOTA-82). This is the first call of a reserve
    /// transaction. Until the transaction ends, no other one can open a turn of
    /// this user or delete anything in the chat. `None`: the user has no such
    /// chat (PLAT-16).
    pub async fn turn_admission_facts(
        &mut self,
        query: &AdmissionQuery,
    ) -> Result<Option<AdmissionFacts>, StoreError> {
        let (tenant_id, user_id) = (query.tenant_id, query.user_id);
        self.chat_lock(tenant_id, user_id, query.chat_id)?;
        let lock = self.dialect().quota_lock_today_sql();
        let mut facts = self
            .admission_read(query, lock, &params![tenant_id, user_id])
            .await?;
        // A missing row cannot be locked, so the values read beside it may be
        // outdated. After the rows are inserted, everything is read again.
        while let Some(found) = &facts {
            let scope = QuotaDay {
                tenant_id,
                user_id,
                day: found.now.date(),
            };
            if found.quota.has_totals(scope.day) {
                break;
            }
            self.quota_ensure(scope)?;
            let lock = self.dialect().quota_lock_sql();
            facts = self.admission_read(query, lock, &scope.params()).await?;
        }
        Ok(facts)
    }

    /// The locks come first, so that the other statements see the changes that
    /// they waited for.
    async fn admission_read(
        &mut self,
        query: &AdmissionQuery,
        lock: &'static str,
        scope: &[Param<'_>],
    ) -> Result<Option<AdmissionFacts>, StoreError> {
        let AdmissionQuery {
            tenant_id,
            user_id,
            chat_id,
            request_id,
            recent_messages_limit: _,
            ignores_summary,
        } = *query;
        let (cells, heads, messages) = self
            .query3(
                Query {
                    sql: lock,
                    params: scope,
                    map: cell_row,
                },
                Query {
                    sql: HEAD_SQL,
                    params: &params![tenant_id, user_id, chat_id, request_id],
                    map: head_row,
                },
                Query {
                    sql: RECENT_SQL,
                    params: &params![
                        tenant_id,
                        chat_id,
                        request_id,
                        query.window(),
                        ignores_summary,
                        BEGINNING,
                    ],
                    map: recent_row,
                },
            )
            .await?;
        Ok(heads
            .into_iter()
            .next()
            .map(|head| head.facts(messages, query, cells)))
    }
}

const HEAD_SQL: &str = concat!(
    "SELECT ",
    head_from!(),
    " WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 AND c.deleted_at IS NULL"
);

/// The columns of [`head_row`], and where they come from.
macro_rules! head_from {
    () => {
        concat!(
            "c.model, statement_timestamp(), ",
            $crate::admission::latest!("started_at", "chat_turns"),
            ", ",
            $crate::admission::latest!("created_at", "messages"),
            ", EXISTS (SELECT 1 FROM chat_turns r WHERE r.tenant_id = $1 AND r.chat_id = $3 \
             AND r.state = 'running' AND r.deleted_at IS NULL), \
             (SELECT m.input_tokens + m.output_tokens FROM messages m \
             WHERE m.tenant_id = $1 AND m.chat_id = $3 AND m.role = 'assistant' \
             AND m.request_id <> $4 AND m.deleted_at IS NULL \
             AND m.input_tokens + m.output_tokens > 0 \
             ORDER BY m.created_at DESC, m.id DESC LIMIT 1), \
             EXISTS (SELECT 1 FROM attachments a WHERE a.tenant_id = $1 AND a.chat_id = $3 AND ",
            $crate::tool_files::is_usable!(),
            "), ",
            $crate::thread_summaries::summary_columns!(),
            ", ",
            $crate::turns::turn_columns!(),
            " FROM chats c LEFT JOIN chat_turns t \
             ON t.chat_id = c.id AND t.tenant_id = c.tenant_id AND t.request_id = $4 \
             LEFT JOIN thread_summaries s ON s.chat_id = c.id AND s.tenant_id = c.tenant_id"
        )
    };
}
pub(crate) use head_from;

/// Joined to the chat by its id alone: rows are used only when the head row
/// shows that the chat is the caller's. A new request has no messages yet, and
/// those of a turn that is to be replaced are no part of the history (TURN-55).
const RECENT_SQL: &str = recent_select!("$2", "$3", "$4", "$5", "$6");

/// Earlier than every message.
pub(crate) const BEGINNING: Timestamp = Timestamp::from_micros(0);

macro_rules! recent_select {
    ($chat:literal, $request:literal, $limit:literal, $all:literal, $beginning:literal) => {
        concat!(
            "SELECT id, role, content, created_at FROM messages \
             WHERE tenant_id = $1 AND chat_id = ",
            $chat,
            " AND request_id IS NOT NULL AND request_id <> ",
            $request,
            " AND deleted_at IS NULL AND (NOT is_compressed OR ",
            $all,
            ") AND created_at >= COALESCE((SELECT s.summarized_up_to_created_at \
             FROM thread_summaries s WHERE s.tenant_id = $1 AND s.chat_id = ",
            $chat,
            " AND NOT ",
            $all,
            "), ",
            $beginning,
            ") ORDER BY created_at DESC, id DESC LIMIT ",
            $limit
        )
    };
}
pub(crate) use recent_select;

macro_rules! latest {
    ($column:literal, $table:literal) => {
        concat!(
            "(SELECT MAX(",
            $column,
            ") FROM ",
            $table,
            " WHERE tenant_id = $1 AND chat_id = $3 AND deleted_at IS NULL)"
        )
    };
}
pub(crate) use latest;

pub(crate) struct Head {
    model: String,
    now: Timestamp,
    latest_turn: Option<Timestamp>,
    latest_message: Option<Timestamp>,
    is_running: bool,
    prior_context_tokens: Option<u64>,
    has_tool_files: bool,
    summary: Option<ThreadSummary>,
    turn: Option<Turn>,
}

pub(crate) fn head_row(row: &Row<'_>) -> Result<Head, StoreError> {
    Ok(Head {
        model: row.take()?,
        now: row.take()?,
        latest_turn: row.take()?,
        latest_message: row.take()?,
        is_running: row.take()?,
        prior_context_tokens: row.take()?,
        has_tool_files: row.take()?,
        summary: thread_summaries::summary_row(row)?,
        turn: row
            .peek::<Option<TurnId>>()?
            .map(|_| turn_row(row))
            .transpose()?,
    })
}

fn recent_row(row: &Row<'_>) -> Result<RecentMessage, StoreError> {
    Ok(RecentMessage {
        id: row.take()?,
        role: row.take()?,
        content: row.take()?,
        created_at: row.take()?,
    })
}

impl Head {
    pub(crate) fn facts(
        self,
        mut messages: Vec<RecentMessage>,
        query: &AdmissionQuery,
        cells: Vec<QuotaCell>,
    ) -> AdmissionFacts {
        let boundary = messages.first().map(|newest| Key {
            at: newest.created_at,
            id: newest.id.0,
        });
        let summary = self.summary.filter(|_| !query.ignores_summary);
        if let Some(ThreadSummary { frontier, .. }) = &summary {
            messages.retain(|it| (it.created_at, it.id.0) > (frontier.at, frontier.id));
        }
        let limit = usize::try_from(query.recent_messages_limit);
        messages.truncate(limit.unwrap_or(usize::MAX));
        messages.reverse();
        let latest = self.latest_turn.max(self.latest_message);
        let now = latest.map_or(self.now, |latest| self.now.max(latest.plus_micros(1)));
        AdmissionFacts {
            model: self.model,
            existing_turn: self.turn,
            is_running: self.is_running,
            boundary,
            summary,
            recent_messages: messages,
            prior_context_tokens: self.prior_context_tokens.unwrap_or(0),
            has_tool_files: self.has_tool_files,
            now,
            quota: QuotaCells::new(cells),
        }
    }
}
