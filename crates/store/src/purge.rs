//! Removes chats that were deleted long ago (PLAT-21), with everything in them.
//!
//! A deleted chat can be *purged* if and only if no turn of it runs, the clean-up has
//! deleted the files of all its attachments and its vector store at the provider, and
//! its person is not being erased; an erasure moves turns itself.
//!
//! A chat may have any number of rows, so they go in steps, each a transaction. Turns
//! go first, and the step that deletes some of them adds them to `turn_rollups`. So
//! each turn is in exactly one place, wherever a purge is interrupted, and the row of
//! the chat, which goes last, leads the next pass to what is left.

use std::collections::BTreeMap;

use minichat_core::{ChatId, Date, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// A deleted chat that can be purged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PurgeableChat {
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub deleted_at: Timestamp,
}

/// What a step has done to a chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PurgeStep {
    /// Nothing: the chat cannot be purged any more, or another process purges it.
    Nothing,
    /// Rows of it are left.
    Begun,
    /// Nothing of it is left.
    Purged,
}

impl Tx {
    /// At most `limit` chats that were deleted at `deleted_by` or before and can be
    /// purged, the first deleted first, after the place of `after`.
    pub async fn purge_due(
        &mut self,
        deleted_by: Timestamp,
        after: Option<PurgeableChat>,
        limit: u32,
    ) -> Result<Vec<PurgeableChat>, StoreError> {
        let first = Timestamp::from_micros(0);
        let (at, id) = after.map_or((first, ChatId(Uuid::nil())), |it| {
            (it.deleted_at, it.chat_id)
        });
        self.query(DUE_SQL, &params![deleted_by, at, id, limit], chat_row)
            .await
    }

    /// Deletes at most `limit` rows of a chat, apart from those that go with a message:
    /// reactions and links to files.
    pub async fn purge_step(
        &mut self,
        chat: PurgeableChat,
        limit: u32,
    ) -> Result<PurgeStep, StoreError> {
        let PurgeableChat {
            tenant_id, chat_id, ..
        } = chat;
        let sql = match self.dialect() {
            Dialect::Postgres => hold!(" FOR UPDATE SKIP LOCKED"),
            Dialect::Sqlite => hold!(""),
        };
        let held: Option<ChatId> = self
            .query_opt(sql, &params![tenant_id, chat_id], only_column)
            .await?;
        if held.is_none() {
            return Ok(PurgeStep::Nothing);
        }
        let mut room = limit;
        room -= self.purge_turns(chat, room).await?;
        for sql in [DELETE_MESSAGES_SQL, DELETE_ATTACHMENTS_SQL] {
            if room == 0 {
                break;
            }
            let deleted: Vec<Uuid> = self
                .query(sql, &params![tenant_id, chat_id, room], only_column)
                .await?;
            room -= count(&deleted);
        }
        if room == 0 {
            return Ok(PurgeStep::Begun);
        }
        self.execute_later(
            "DELETE FROM chats WHERE tenant_id = $1 AND id = $2",
            params![tenant_id, chat_id],
        )?;
        Ok(PurgeStep::Purged)
    }

    /// Deletes turns and adds them up. Returns how many there were.
    async fn purge_turns(&mut self, chat: PurgeableChat, limit: u32) -> Result<u32, StoreError> {
        let turns = self
            .query(
                DELETE_TURNS_SQL,
                &params![chat.tenant_id, chat.chat_id, limit],
                turn_row,
            )
            .await?;
        let deleted = count(&turns);
        // All processes change roll-ups in one order, so that none waits for another in a
        // circle.
        let mut sums = BTreeMap::<Key, Sum>::new();
        for (key, settled) in turns {
            // Without a reserve it is in no books.
            let Some(key) = key else {
                continue;
            };
            let sum = sums.entry(key).or_default();
            sum.turns += 1;
            sum.settled += u64::from(settled.is_some());
            sum.credits_micro += settled.unwrap_or_default();
        }
        for (key, sum) in sums {
            self.turn_rollup_add(chat.tenant_id, &key, sum)?;
        }
        Ok(deleted)
    }

    fn turn_rollup_add(&mut self, tenant: TenantId, key: &Key, sum: Sum) -> Result<(), StoreError> {
        self.execute_later(
            "INSERT INTO turn_rollups (tenant_id, user_id, day, model, policy_version, turns, \
             settled, credits_micro) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (tenant_id, user_id, day, model, policy_version) DO UPDATE SET \
             turns = turn_rollups.turns + excluded.turns, \
             settled = turn_rollups.settled + excluded.settled, \
             credits_micro = turn_rollups.credits_micro + excluded.credits_micro",
            params![
                tenant,
                key.user_id,
                key.day,
                key.model.as_str(),
                key.policy_version,
                sum.turns,
                sum.settled,
                sum.credits_micro,
            ],
        )
    }
}

/// Where the books have a turn.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    user_id: Uuid,
    day: Date,
    model: String,
    policy_version: u64,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    turns: u64,
    settled: u64,
    credits_micro: u64,
}

/// A deleted chat `c` can be purged.
macro_rules! can_be_purged {
    () => {
        "c.deleted_at IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM chat_turns t WHERE t.chat_id = c.id \
         AND t.state = 'running' AND t.deleted_at IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM attachments a WHERE a.chat_id = c.id \
         AND (a.cleanup_status IS NULL OR a.cleanup_status <> 'done')) \
         AND NOT EXISTS (SELECT 1 FROM chat_vector_stores s WHERE s.chat_id = c.id) \
         AND NOT EXISTS (SELECT 1 FROM erasures e WHERE e.id = c.user_id \
         AND e.user_id IS NOT NULL)"
    };
}

const DUE_SQL: &str = concat!(
    "SELECT c.tenant_id, c.id, c.deleted_at FROM chats c WHERE c.deleted_at <= $1 \
     AND c.deleted_at >= $2 AND (c.deleted_at > $2 OR c.id > $3) AND ",
    can_be_purged!(),
    " ORDER BY c.deleted_at, c.id LIMIT $4"
);

macro_rules! hold {
    ($lock:literal) => {
        concat!(
            "SELECT c.id FROM chats c WHERE c.tenant_id = $1 AND c.id = $2 AND ",
            can_be_purged!(),
            $lock
        )
    };
}
use {can_be_purged, hold};

macro_rules! delete {
    ($table:literal, $returned:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE id IN (SELECT id FROM ",
            $table,
            " WHERE tenant_id = $1 AND chat_id = $2 LIMIT $3) RETURNING ",
            $returned
        )
    };
}

const DELETE_TURNS_SQL: &str = delete!(
    "chat_turns",
    "requester_user_id, reserve_day, effective_model, policy_version_applied, \
     settled_credits_micro"
);
const DELETE_MESSAGES_SQL: &str = delete!("messages", "id");
const DELETE_ATTACHMENTS_SQL: &str = delete!("attachments", "id");

fn count<T>(rows: &[T]) -> u32 {
    u32::try_from(rows.len()).unwrap_or(u32::MAX)
}

fn chat_row(row: &Row<'_>) -> Result<PurgeableChat, StoreError> {
    Ok(PurgeableChat {
        tenant_id: row.take()?,
        chat_id: row.take()?,
        deleted_at: row.take()?,
    })
}

/// Where a turn is booked, unless it has no reserve, and what it booked.
fn turn_row(row: &Row<'_>) -> Result<(Option<Key>, Option<u64>), StoreError> {
    let user_id: Option<UserId> = row.take()?;
    let day: Option<Date> = row.take()?;
    let model: Option<String> = row.take()?;
    let policy_version: Option<u64> = row.take()?;
    let key = day.map(|day| Key {
        user_id: user_id.map_or(Uuid::nil(), |user| user.0),
        day,
        model: model.unwrap_or_default(),
        policy_version: policy_version.unwrap_or_default(),
    });
    Ok((key, row.take()?))
}

/// Statements whose plans a test reads, and those of the foreign keys to what they
/// delete.
#[cfg(test)]
pub(crate) const PLANNED: [(&str, &str); 7] = [
    ("due", DUE_SQL),
    ("hold", hold!("")),
    ("turns", DELETE_TURNS_SQL),
    ("messages", DELETE_MESSAGES_SQL),
    ("attachments", DELETE_ATTACHMENTS_SQL),
    (
        "turns of a message",
        "SELECT id FROM chat_turns WHERE assistant_message_id = $2",
    ),
    (
        "messages of a chat",
        "SELECT id FROM messages WHERE chat_id = $2",
    ),
];
