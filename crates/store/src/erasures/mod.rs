//! Erases a person (PLAT-22): what he wrote, read and uploaded goes, and what the
//! books need stays under an id that belongs to nobody, the erasure's own.
//!
//! ```text
//! begin -> delete chats -> (clean-up of their files) -> empty each chat -> finish
//! ```
//!
//! Until it is finished, everything is as before in the books. The last step moves
//! turns, quota rows, usage events and roll-ups in one transaction, so that they
//! agree afterwards too.

mod events;

use minichat_core::{ChatId, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::QuotaDay;
use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// The erasure of one person that is not finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Erasure {
    /// Also the id under which turns and credits stay.
    pub id: Uuid,
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub requested_at: Timestamp,
}

/// An audit event of the person of an erasure, under the erasure's id and without
/// what was written.
pub type WithoutPerson = fn(&str, &Erasure) -> String;

/// What an erasure waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ErasureRest {
    /// Chats that still have content.
    pub chats: u64,
    /// Of these, chats with a turn that is not ended.
    pub running_turns: u64,
    /// Files that are not deleted at the provider yet.
    pub files: u64,
    /// Files that the provider refused to delete; nobody tries again.
    pub failed_files: u64,
    pub vector_stores: u64,
}

/// What an erasure has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Erased {
    /// Chats without content now.
    pub chats: u64,
    /// Messages without text now.
    pub messages: u64,
    /// Rows of files that are gone, as their files are.
    pub files: u64,
    /// Turns that stay, without the person.
    pub turns: u64,
    /// Quota rows that stay, without the person.
    pub quota_rows: u64,
    /// Events that wait for a sink, without the person and what he wrote.
    pub events: u64,
}

impl Tx {
    /// Begins to erase `user` under the id `id`, or finds the erasure that has begun.
    /// `None` if that one was finished meanwhile; the next call begins anew.
    pub async fn erasure_begin(
        &mut self,
        tenant: TenantId,
        user: UserId,
        id: Uuid,
        now: Timestamp,
    ) -> Result<Option<Erasure>, StoreError> {
        self.execute_later(
            "INSERT INTO erasures (id, tenant_id, user_id, requested_at) \
             VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant_id, user_id) WHERE user_id IS NOT NULL DO NOTHING",
            params![id, tenant, user, now],
        )?;
        self.query_opt(
            "SELECT id, tenant_id, user_id, requested_at FROM erasures \
             WHERE tenant_id = $1 AND user_id = $2",
            &params![tenant, user],
            erasure_row,
        )
        .await
    }

    /// Holds the erasure to the end of the transaction, so that its steps exclude
    /// one another; `false`: it is finished, and the person is somebody else now.
    async fn erasure_hold(&mut self, erasure: &Erasure) -> Result<bool, StoreError> {
        let held: Option<Uuid> = self
            .query_opt(
                "UPDATE erasures SET requested_at = requested_at \
                 WHERE id = $1 AND user_id = $2 RETURNING id",
                &params![erasure.id, erasure.user_id],
                only_column,
            )
            .await?;
        Ok(held.is_some())
    }

    /// What an erasure that is finished has changed; `None` if it is not.
    pub async fn erasure_finished(&mut self, id: Uuid) -> Result<Option<Erased>, StoreError> {
        self.query_opt(
            "SELECT chats, messages, files, turns, quota_rows, events FROM erasures \
             WHERE id = $1 AND finished_at IS NOT NULL",
            &params![id],
            erased_row,
        )
        .await
    }

    /// Erasures of any tenant that are not finished, after `after`, by their ids.
    pub async fn erasures_open(
        &mut self,
        after: Uuid,
        limit: u32,
    ) -> Result<Vec<Erasure>, StoreError> {
        self.query(
            "SELECT id, tenant_id, user_id, requested_at FROM erasures \
             WHERE user_id IS NOT NULL AND id > $1 ORDER BY id LIMIT $2",
            &params![after, limit],
            erasure_row,
        )
        .await
    }

    /// At most `limit` chats of the person that are not deleted.
    pub async fn erasure_live_chats(
        &mut self,
        erasure: &Erasure,
        limit: u32,
    ) -> Result<Vec<ChatId>, StoreError> {
        self.query(
            "SELECT id FROM chats WHERE tenant_id = $1 AND user_id = $2 \
             AND deleted_at IS NULL AND EXISTS (SELECT 1 FROM erasures \
             WHERE id = $4 AND user_id = $2) ORDER BY updated_at, id LIMIT $3",
            &params![erasure.tenant_id, erasure.user_id, limit, erasure.id],
            only_column,
        )
        .await
    }

    /// At most `limit` deleted chats of the person after `after` of which nothing
    /// is left but their content: no turn runs, and the provider has none of their
    /// files.
    pub async fn erasure_ready_chats(
        &mut self,
        erasure: &Erasure,
        after: ChatId,
        limit: u32,
    ) -> Result<Vec<ChatId>, StoreError> {
        self.query(
            concat!(
                "SELECT c.id FROM chats c WHERE c.tenant_id = $1 AND c.user_id = $2 \
                 AND c.deleted_at IS NOT NULL AND c.id > $3 AND ",
                is_ready!(),
                " ORDER BY c.id LIMIT $4"
            ),
            &params![erasure.tenant_id, erasure.user_id, after, limit],
            only_column,
        )
        .await
    }

    /// Removes the content of a chat that [`Tx::erasure_ready_chats`] found, and
    /// gives the chat to the erasure's id. Rows without content stay: turns belong
    /// to the books, and point to their answers.
    pub async fn erasure_empty_chat(
        &mut self,
        erasure: &Erasure,
        chat: ChatId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Erasure {
            id,
            tenant_id,
            user_id,
            ..
        } = *erasure;
        if !self.erasure_hold(erasure).await? {
            return Ok(());
        }
        let taken: Option<ChatId> = self
            .query_opt(
                concat!(
                    "UPDATE chats AS c SET user_id = $4, title = NULL \
                     WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 \
                     AND c.deleted_at IS NOT NULL AND ",
                    is_ready!(),
                    " RETURNING id"
                ),
                &params![tenant_id, user_id, chat, id],
                only_column,
            )
            .await?;
        if taken.is_none() {
            return Ok(());
        }
        for sql in [
            "DELETE FROM message_reactions WHERE tenant_id = $1 AND chat_id = $2",
            "DELETE FROM thread_summaries WHERE tenant_id = $1 AND chat_id = $2",
            "UPDATE chat_turns SET error_detail = NULL, provider_response_id = NULL \
             WHERE tenant_id = $1 AND chat_id = $2",
        ] {
            self.execute_later(sql, params![tenant_id, chat])?;
        }
        // The links to messages go with the files.
        let files = self.erasure_delete_files(tenant_id, chat).await?;
        let messages = self.erasure_empty_messages(tenant_id, chat, now).await?;
        self.execute_later(
            "UPDATE erasures SET chats = chats + 1, messages = messages + $2, \
             files = files + $3 WHERE id = $1",
            params![id, messages, files],
        )
    }

    async fn erasure_delete_files(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<u64, StoreError> {
        let sql = "DELETE FROM attachments WHERE tenant_id = $1 AND chat_id = $2 RETURNING id";
        let files: Vec<Uuid> = self.query(sql, &params![tenant, chat], only_column).await?;
        Ok(files.len() as u64)
    }

    /// Live and deleted messages are found by different indexes.
    async fn erasure_empty_messages(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut emptied = 0;
        for sql in [
            empty_messages!("deleted_at IS NOT NULL"),
            empty_messages!("deleted_at IS NULL"),
        ] {
            let messages: Vec<Uuid> = self
                .query(sql, &params![tenant, chat, now], only_column)
                .await?;
            emptied += messages.len() as u64;
        }
        Ok(emptied)
    }

    /// What still has to happen before [`Tx::erasure_finish`].
    pub async fn erasure_rest(&mut self, erasure: &Erasure) -> Result<ErasureRest, StoreError> {
        let rest = self
            .query_opt(
                REST_SQL,
                &params![erasure.tenant_id, erasure.user_id],
                rest_row,
            )
            .await?;
        Ok(rest.unwrap_or_default())
    }

    /// Takes the person out of turns, quota rows, events and roll-ups, and out of
    /// the erasure itself. `None`: chats or audit events of the person are left, or
    /// another process has finished it.
    ///
    /// Reserves and settlements of the person lock the quota rows first, and a first
    /// reserve of a month inserts them, so all of them wait for this. One that waited
    /// finds no rows, and makes new ones. One that was earlier has a chat, which is
    /// seen here. A vacuum that holds events makes them roll-ups before these are
    /// moved.
    pub async fn erasure_finish(
        &mut self,
        erasure: &Erasure,
        now: Timestamp,
    ) -> Result<Option<Erased>, StoreError> {
        let Erasure {
            id,
            tenant_id,
            user_id,
            ..
        } = *erasure;
        if !self.erasure_hold(erasure).await? {
            return Ok(None);
        }
        let person = params![tenant_id, user_id];
        let lock = match self.dialect() {
            Dialect::Sqlite => lock_cells!(""),
            Dialect::Postgres => lock_cells!(" FOR UPDATE"),
        };
        self.query(lock, &person, only_column::<Uuid>).await?;
        let today = self.now().await?.date();
        for day in [today, today.next_day()] {
            self.quota_ensure(QuotaDay {
                tenant_id,
                user_id,
                day,
            })?;
        }
        let left: Vec<ChatId> = self.query(LEFT_SQL, &person, only_column).await?;
        if !left.is_empty() {
            return Ok(None);
        }
        let moved = params![tenant_id, user_id, id];
        let turns: Vec<Uuid> = self.query(MOVE_TURNS_SQL, &moved, only_column).await?;
        let purged: Vec<u64> = self.query(MOVE_PURGED_SQL, &moved, only_column).await?;
        let turns = turns.len() as u64 + purged.iter().sum::<u64>();
        let Some(events) = self.erasure_move_events(erasure).await? else {
            return Ok(None);
        };
        for sql in [
            "UPDATE quota_usage SET user_id = $3 WHERE tenant_id = $1 AND user_id = $2 \
             AND (spent_credits_micro > 0 OR reserved_credits_micro > 0 OR calls > 0)",
            "UPDATE usage_rollups SET user_id = $3 WHERE tenant_id = $1 AND user_id = $2",
        ] {
            self.execute_later(sql, moved.clone())?;
        }
        self.execute_later(
            "DELETE FROM quota_usage WHERE tenant_id = $1 AND user_id = $2",
            person,
        )?;
        let finished = params![id, user_id, now, turns, events, tenant_id];
        let erased = self.query_opt(FINISH_SQL, &finished, erased_row).await?;
        if erased == Some(Erased::default()) {
            self.execute_later("DELETE FROM erasures WHERE id = $1", params![id])?;
        }
        Ok(erased)
    }
}

/// Of a deleted chat `c`: nothing of it is left but its content.
macro_rules! is_ready {
    () => {
        "NOT EXISTS (SELECT 1 FROM chat_turns t WHERE t.chat_id = c.id \
         AND t.state = 'running' AND t.deleted_at IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM attachments a WHERE a.chat_id = c.id \
         AND (a.cleanup_status IS NULL OR a.cleanup_status <> 'done')) \
         AND NOT EXISTS (SELECT 1 FROM chat_vector_stores s \
         WHERE s.tenant_id = c.tenant_id AND s.chat_id = c.id)"
    };
}
use is_ready;

macro_rules! empty_messages {
    ($which:literal) => {
        concat!(
            "UPDATE messages SET content = '', provider_response_id = NULL, \
             deleted_at = COALESCE(deleted_at, $3) \
             WHERE tenant_id = $1 AND chat_id = $2 AND ",
            $which,
            " RETURNING id"
        )
    };
}
use empty_messages;

macro_rules! lock_cells {
    ($lock:literal) => {
        concat!(
            "SELECT id FROM quota_usage WHERE tenant_id = $1 AND user_id = $2 \
             ORDER BY period_type DESC, bucket, period_start",
            $lock
        )
    };
}
use lock_cells;

/// Live and deleted chats are found by different indexes.
const LEFT_SQL: &str = "SELECT id FROM chats WHERE tenant_id = $1 AND user_id = $2 \
     AND deleted_at IS NULL UNION ALL SELECT id FROM chats WHERE tenant_id = $1 \
     AND user_id = $2 AND deleted_at IS NOT NULL LIMIT 1";

macro_rules! of_deleted_chats {
    ($joined:literal) => {
        concat!(
            "(SELECT COUNT(*) FROM chats c JOIN ",
            $joined,
            " WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.deleted_at IS NOT NULL)"
        )
    };
}

/// Chats that were made since the others were deleted are deleted by the next step.
const REST_SQL: &str = concat!(
    "SELECT (SELECT COUNT(*) FROM chats WHERE tenant_id = $1 AND user_id = $2 \
     AND deleted_at IS NULL) + (SELECT COUNT(*) FROM chats WHERE tenant_id = $1 \
     AND user_id = $2 AND deleted_at IS NOT NULL), ",
    of_deleted_chats!(
        "chat_turns t ON t.chat_id = c.id AND t.state = 'running' AND t.deleted_at IS NULL"
    ),
    ", ",
    of_deleted_chats!(
        "attachments a ON a.chat_id = c.id \
         AND (a.cleanup_status IS NULL OR a.cleanup_status = 'pending')"
    ),
    ", ",
    of_deleted_chats!("attachments a ON a.chat_id = c.id AND a.cleanup_status = 'failed'"),
    ", ",
    of_deleted_chats!("chat_vector_stores s ON s.tenant_id = c.tenant_id AND s.chat_id = c.id")
);

/// Turns of chats that were emptied.
const MOVE_TURNS_SQL: &str = "UPDATE chat_turns SET requester_user_id = $3 \
     WHERE tenant_id = $1 AND requester_user_id = $2 AND chat_id IN \
     (SELECT id FROM chats WHERE tenant_id = $1 AND user_id = $3 AND deleted_at IS NOT NULL) \
     RETURNING id";

/// Turns of chats that were purged before, added up.
const MOVE_PURGED_SQL: &str = "UPDATE turn_rollups SET user_id = $3 \
     WHERE tenant_id = $1 AND user_id = $2 RETURNING turns";

/// Of the quota rows, those count that are kept.
const FINISH_SQL: &str = "UPDATE erasures SET user_id = NULL, finished_at = $3, \
     turns = $4, events = events + $5, quota_rows = (SELECT COUNT(*) FROM quota_usage \
     WHERE tenant_id = $6 AND user_id = $1) WHERE id = $1 AND user_id = $2 \
     RETURNING chats, messages, files, turns, quota_rows, events";

fn erasure_row(row: &Row<'_>) -> Result<Erasure, StoreError> {
    Ok(Erasure {
        id: row.take()?,
        tenant_id: row.take()?,
        user_id: row.take()?,
        requested_at: row.take()?,
    })
}

fn rest_row(row: &Row<'_>) -> Result<ErasureRest, StoreError> {
    Ok(ErasureRest {
        chats: row.take()?,
        running_turns: row.take()?,
        files: row.take()?,
        failed_files: row.take()?,
        vector_stores: row.take()?,
    })
}

fn erased_row(row: &Row<'_>) -> Result<Erased, StoreError> {
    Ok(Erased {
        chats: row.take()?,
        messages: row.take()?,
        files: row.take()?,
        turns: row.take()?,
        quota_rows: row.take()?,
        events: row.take()?,
    })
}
