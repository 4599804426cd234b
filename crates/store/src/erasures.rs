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

use minichat_core::{ChatId, TenantId, Timestamp, UserId};
use uuid::Uuid;

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

/// The payload of an event about the person of an erasure, under the erasure's id
/// and without what was written; `None` for an event about somebody else, whose text
/// may contain the person's id.
pub type WithoutPerson = fn(&str, &Erasure) -> Option<String>;

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
    pub async fn erasure_begin(
        &mut self,
        tenant: TenantId,
        user: UserId,
        id: Uuid,
        now: Timestamp,
    ) -> Result<Erasure, StoreError> {
        self.execute_later(
            "INSERT INTO erasures (id, tenant_id, user_id, requested_at) \
             VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant_id, user_id) WHERE user_id IS NOT NULL DO NOTHING",
            params![id, tenant, user, now],
        )?;
        let found = self
            .query_opt(
                "SELECT id, tenant_id, user_id, requested_at FROM erasures \
                 WHERE tenant_id = $1 AND user_id = $2",
                &params![tenant, user],
                erasure_row,
            )
            .await?;
        found.ok_or_else(|| {
            StoreError::Contended(crate::Refused::found("the erasure was finished meanwhile"))
        })
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
             AND deleted_at IS NULL ORDER BY updated_at, id LIMIT $3",
            &params![erasure.tenant_id, erasure.user_id, limit],
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
            "DELETE FROM message_attachments WHERE tenant_id = $1 AND chat_id = $2",
            "DELETE FROM thread_summaries WHERE tenant_id = $1 AND chat_id = $2",
            "UPDATE chat_turns SET error_detail = NULL, provider_response_id = NULL \
             WHERE tenant_id = $1 AND chat_id = $2",
        ] {
            self.execute_later(sql, params![tenant_id, chat])?;
        }
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
    /// the erasure itself. `None`: chats of the person are left, or another
    /// process has finished it.
    ///
    /// Reserves and settlements of the person lock the quota rows first, so none of
    /// them sees half of this. One that waits for them finds no rows, and makes new
    /// ones. A vacuum that holds events makes them roll-ups before these are moved.
    pub async fn erasure_finish(
        &mut self,
        erasure: &Erasure,
        now: Timestamp,
        without_person: WithoutPerson,
    ) -> Result<Option<Erased>, StoreError> {
        let Erasure {
            id,
            tenant_id,
            user_id,
            ..
        } = *erasure;
        let person = params![tenant_id, user_id];
        let cells: Vec<Uuid> = self.query(self.lock_cells(), &person, only_column).await?;
        let left: Vec<ChatId> = self
            .query(
                "SELECT id FROM chats WHERE tenant_id = $1 AND user_id = $2 LIMIT 1",
                &person,
                only_column,
            )
            .await?;
        if !left.is_empty() {
            return Ok(None);
        }
        let moved = params![tenant_id, user_id, id];
        let turns: Vec<Uuid> = self.query(MOVE_TURNS_SQL, &moved, only_column).await?;
        let events = self.erasure_move_events(erasure, without_person).await?;
        for sql in [
            "UPDATE quota_usage SET user_id = $3 WHERE tenant_id = $1 AND user_id = $2",
            "UPDATE usage_rollups SET user_id = $3 WHERE tenant_id = $1 AND user_id = $2",
        ] {
            self.execute_later(sql, moved.clone())?;
        }
        let finished = params![
            id,
            user_id,
            now,
            turns.len() as u64,
            cells.len() as u64,
            events
        ];
        self.query_opt(FINISH_SQL, &finished, erased_row).await
    }

    const fn lock_cells(&self) -> &'static str {
        match self.dialect() {
            Dialect::Sqlite => lock_cells!(""),
            Dialect::Postgres => lock_cells!(" FOR UPDATE"),
        }
    }

    /// Events name the person in their payload only.
    async fn erasure_move_events(
        &mut self,
        erasure: &Erasure,
        without_person: WithoutPerson,
    ) -> Result<u64, StoreError> {
        let pattern = format!("%{}%", erasure.user_id);
        let params = params![erasure.tenant_id, pattern.as_str()];
        let mut moved = 0;
        for table in [&MESSAGES, &DEAD_LETTERS] {
            let select = match self.dialect() {
                Dialect::Sqlite => table.select_sqlite,
                Dialect::Postgres => table.select_postgres,
            };
            for (id, payload) in self.query(select, &params, event_row).await? {
                if let Some(payload) = without_person(&payload, erasure) {
                    self.execute_later(table.update, params![id, payload.as_str()])?;
                    moved += 1;
                }
            }
        }
        Ok(moved)
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

const REST_SQL: &str = "SELECT \
     (SELECT COUNT(*) FROM chats WHERE tenant_id = $1 AND user_id = $2), \
     (SELECT COUNT(*) FROM chats c JOIN chat_turns t ON t.chat_id = c.id \
     AND t.state = 'running' AND t.deleted_at IS NULL \
     WHERE c.tenant_id = $1 AND c.user_id = $2), \
     (SELECT COUNT(*) FROM chats c JOIN attachments a ON a.chat_id = c.id \
     AND (a.cleanup_status IS NULL OR a.cleanup_status = 'pending') \
     WHERE c.tenant_id = $1 AND c.user_id = $2), \
     (SELECT COUNT(*) FROM chats c JOIN attachments a ON a.chat_id = c.id \
     AND a.cleanup_status = 'failed' WHERE c.tenant_id = $1 AND c.user_id = $2), \
     (SELECT COUNT(*) FROM chats c JOIN chat_vector_stores s ON s.tenant_id = c.tenant_id \
     AND s.chat_id = c.id WHERE c.tenant_id = $1 AND c.user_id = $2)";

/// Turns of chats that were emptied.
const MOVE_TURNS_SQL: &str = "UPDATE chat_turns SET requester_user_id = $3 \
     WHERE tenant_id = $1 AND requester_user_id = $2 AND chat_id IN \
     (SELECT id FROM chats WHERE tenant_id = $1 AND user_id = $3 AND deleted_at IS NOT NULL) \
     RETURNING id";

const FINISH_SQL: &str = "UPDATE erasures SET user_id = NULL, finished_at = $3, \
     turns = $4, quota_rows = $5, events = $6 WHERE id = $1 AND user_id = $2 \
     RETURNING chats, messages, files, turns, quota_rows, events";

/// Where events are.
struct EventTable {
    select_sqlite: &'static str,
    select_postgres: &'static str,
    update: &'static str,
}

macro_rules! event_table {
    ($table:literal) => {
        EventTable {
            select_sqlite: concat!(
                "SELECT id, payload FROM ",
                $table,
                " WHERE tenant_id = $1 AND payload LIKE $2"
            ),
            select_postgres: concat!(
                "SELECT id, payload FROM ",
                $table,
                " WHERE tenant_id = $1 AND payload LIKE $2 ORDER BY id FOR UPDATE"
            ),
            update: concat!("UPDATE ", $table, " SET payload = $2 WHERE id = $1"),
        }
    };
}

const MESSAGES: EventTable = event_table!("outbox_messages");
const DEAD_LETTERS: EventTable = event_table!("outbox_dead_letters");

fn event_row(row: &Row<'_>) -> Result<(i64, String), StoreError> {
    Ok((row.take()?, row.take()?))
}

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
