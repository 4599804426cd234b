//! Retry, edit and deletion of a chat's newest turn (TURN-54, TURN-55): the
//! reads for their checks, and the changes.

use minichat_core::turn::TurnState;
use minichat_core::{ChatId, RequestId, TenantId, Timestamp, TurnId, UserId};

use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// The turn of a mutation and its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MutationQuery {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub chat_id: ChatId,
    pub request_id: RequestId,
}

/// What the checks of a mutation found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MutationTarget {
    /// The user has no such chat.
    NoChat,
    /// The chat never had a turn with this request id.
    NoTurn,
    Turn(TargetTurn),
}

/// A turn that a mutation replaces or deletes.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, which the checks read separately"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetTurn {
    pub id: TurnId,
    pub state: TurnState,
    pub requester_user_id: Option<UserId>,
    pub web_search_enabled: bool,
    /// The turn is not deleted, and no undeleted turn of the chat is newer by
    /// `(started_at, id)`.
    pub is_newest: bool,
    /// The user's message; `None` if it is deleted.
    pub content: Option<String>,
    /// Whether that message is linked to files.
    pub has_attachments: bool,
    /// Whether the thread summary covers a message of the turn.
    pub is_summarized: bool,
    /// The instant of the read, by the database's clock.
    pub now: Timestamp,
}

/// A turn to delete, as it was read under the lock of its chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeletedTurn {
    pub id: TurnId,
    /// The instant of the read.
    pub at: Timestamp,
    /// [`TargetTurn::is_summarized`]
    pub is_summarized: bool,
}

impl Tx {
    /// The turn of a mutation, without a lock.
    pub async fn turn_mutation_target(
        &mut self,
        query: &MutationQuery,
    ) -> Result<MutationTarget, StoreError> {
        let found = self
            .query_opt(TARGET_SQL, &query.params(), target_row)
            .await?;
        Ok(found.unwrap_or(MutationTarget::NoChat))
    }

    /// The turn of a mutation, under the lock of its chat: no other transaction
    /// can change the chat until this one ends.
    /// The chat's row is locked, not the turn's. With a lock on the newest
    /// turn, a mutation that waited would continue with the next newest turn
    /// when the newest is deleted, and it would not see the turn that replaced
    /// it.
    pub async fn turn_mutation_lock(
        &mut self,
        query: &MutationQuery,
    ) -> Result<MutationTarget, StoreError> {
        self.chat_lock(query.tenant_id, query.user_id, query.chat_id)?;
        self.turn_mutation_target(query).await
    }

    /// Deletes a turn and its messages, as of the instant at which it was read
    /// under the lock of its chat, and the chat's summary, if it is summarized.
    /// `replaced_by` is the request of the turn that replaces it.
    pub fn turn_delete(
        &mut self,
        query: &MutationQuery,
        turn: &DeletedTurn,
        replaced_by: Option<RequestId>,
    ) -> Result<(), StoreError> {
        let DeletedTurn {
            id,
            at,
            is_summarized,
        } = *turn;
        self.execute_later(
            "UPDATE chat_turns SET deleted_at = $3, updated_at = $3, \
             replaced_by_request_id = $4 WHERE tenant_id = $1 AND id = $2",
            params![query.tenant_id, id, at, replaced_by],
        )?;
        self.execute_later(
            "UPDATE messages SET deleted_at = $4 \
             WHERE tenant_id = $1 AND chat_id = $2 AND request_id = $3 AND deleted_at IS NULL",
            params![query.tenant_id, query.chat_id, query.request_id, at],
        )?;
        if is_summarized {
            self.summary_forget(query.tenant_id, query.chat_id)?;
        }
        Ok(())
    }

    /// Whether `turn` was deleted at exactly this instant of the database's
    /// clock. A deletion whose commit is in doubt uses this to find out whether
    /// it succeeded. No other deletion has the same instant, because each reads
    /// the turn under the lock of its chat. This function waits for that lock
    /// too.
    pub async fn turn_deleted_at(
        &mut self,
        query: &MutationQuery,
        turn: TurnId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.chat_lock(query.tenant_id, query.user_id, query.chat_id)?;
        let found = self
            .query_opt(
                "SELECT 1 FROM chat_turns WHERE tenant_id = $1 AND id = $2 AND deleted_at = $3",
                &params![query.tenant_id, turn, at],
                |_| Ok(()),
            )
            .await?;
        Ok(found.is_some())
    }
}

impl MutationQuery {
    fn params(&self) -> [crate::value::Param<'static>; 4] {
        params![self.tenant_id, self.user_id, self.chat_id, self.request_id]
    }
}

const TARGET_SQL: &str = "SELECT t.id, t.state, t.requester_user_id, t.web_search_enabled, \
     t.deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM chat_turns n \
     WHERE n.tenant_id = $1 AND n.chat_id = $3 AND n.deleted_at IS NULL \
     AND (n.started_at, n.id) > (t.started_at, t.id)), \
     m.content, EXISTS (SELECT 1 FROM message_attachments l \
     WHERE l.message_id = m.id AND l.chat_id = m.chat_id), \
     EXISTS (SELECT 1 FROM thread_summaries s JOIN messages o ON o.chat_id = s.chat_id \
     AND o.tenant_id = $1 AND o.request_id = $4 AND o.deleted_at IS NULL \
     WHERE s.tenant_id = $1 AND s.chat_id = $3 AND (o.created_at, o.id) \
     <= (s.summarized_up_to_created_at, s.summarized_up_to_message_id)), \
     statement_timestamp() FROM chats c \
     LEFT JOIN chat_turns t ON t.chat_id = c.id AND t.tenant_id = c.tenant_id \
     AND t.request_id = $4 \
     LEFT JOIN messages m ON m.chat_id = c.id AND m.tenant_id = c.tenant_id \
     AND m.request_id = $4 AND m.role = 'user' AND m.deleted_at IS NULL \
     WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 AND c.deleted_at IS NULL";

fn target_row(row: &Row<'_>) -> Result<MutationTarget, StoreError> {
    if row.peek::<Option<TurnId>>()?.is_none() {
        return Ok(MutationTarget::NoTurn);
    }
    Ok(MutationTarget::Turn(TargetTurn {
        id: row.take()?,
        state: row.take()?,
        requester_user_id: row.take()?,
        web_search_enabled: row.take()?,
        is_newest: row.take()?,
        content: row.take()?,
        has_attachments: row.take()?,
        is_summarized: row.take()?,
        now: row.take()?,
    }))
}
