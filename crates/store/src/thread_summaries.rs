//! Summaries of the older messages of chats (PLAT-10, CONT-130).
//!
//! A summary covers the messages of its chat up to its *frontier*, inclusively. Those
//! messages are *compressed*: people still see them, models do not.
//!
//! Whoever commits a summary locks the chat first, as everybody who deletes something
//! of it does, and then checks that each message that was read is there as it was. So
//! no summary contains a message whose deletion was acknowledged.

use minichat_core::{ChatId, MessageId, TenantId, Timestamp};
use uuid::Uuid;

use crate::page::Key;
use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{Role, StoreError, Tx};

/// Characters of a range that are read, and up to one message more: as many as the
/// largest context windows hold. A chat that had no summary for long may have more.
const MAX_CHARACTERS: u64 = 4_000_000;

/// A committed summary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThreadSummary {
    pub text: String,
    pub token_estimate: u32,
    /// The newest message that it covers.
    pub frontier: Key,
}

/// Up to where a chat is summarized, and how far it could be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SummaryRange {
    /// `None`: the chat has no summary.
    pub base: Option<Key>,
    /// Its newest message. It is later than `base`.
    pub target: Key,
}

/// A chat as its summarizer finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChatToSummarize {
    /// The chat's model.
    pub model: String,
    pub summary: Option<ThreadSummary>,
    /// Those behind the base up to the target, oldest first.
    pub messages: Vec<MessageToSummarize>,
}

/// A message that a summary will cover.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageToSummarize {
    pub id: MessageId,
    pub role: Role,
    /// `None`: newer messages of the range fill [`MAX_CHARACTERS`].
    pub content: Option<String>,
}

/// A summary to commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewSummary<'a> {
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub range: SummaryRange,
    pub text: &'a str,
    pub token_estimate: u32,
    /// All messages that were read, also those that were left out of the prompt.
    pub messages: &'a [MessageId],
}

impl Tx {
    /// What a summary of the chat would cover now; `None`: nothing new (CONT-132).
    pub async fn summary_range(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<Option<SummaryRange>, StoreError> {
        let found = self
            .query_opt(RANGE_SQL, &params![tenant, chat], range_row)
            .await?;
        Ok(found.filter(|range| range.base != Some(range.target)))
    }

    /// The chat with the messages of `range`; `None`: it is deleted. Messages that are
    /// compressed already are left out (CONT-134).
    pub async fn summary_read(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        range: &SummaryRange,
    ) -> Result<Option<ChatToSummarize>, StoreError> {
        let head = self
            .query_opt(CHAT_SQL, &params![tenant, chat], chat_row)
            .await?;
        let Some((model, summary)) = head else {
            return Ok(None);
        };
        let (base, target) = (range.base.unwrap_or(FIRST), range.target);
        let params = params![
            tenant,
            chat,
            base.at,
            base.id,
            target.at,
            target.id,
            MAX_CHARACTERS
        ];
        let messages = self.query(MESSAGES_SQL, &params, message_row).await?;
        Ok(Some(ChatToSummarize {
            model,
            summary,
            messages,
        }))
    }

    /// Commits a summary with this transaction, if nothing of its range has changed
    /// (CONT-137). Returns when; `None`: it was lost, and the transaction must be rolled
    /// back.
    pub async fn summary_commit(
        &mut self,
        new: &NewSummary<'_>,
    ) -> Result<Option<Timestamp>, StoreError> {
        let NewSummary {
            tenant_id,
            chat_id,
            range: SummaryRange { base, target },
            text,
            token_estimate,
            messages,
        } = *new;
        let lock = match self.dialect() {
            Dialect::Sqlite => live_chat!(""),
            Dialect::Postgres => live_chat!(" FOR NO KEY UPDATE"),
        };
        let chat = params![tenant_id, chat_id];
        let live: Option<ChatId> = self.query_opt(lock, &chat, only_column).await?;
        if live.is_none() {
            return Ok(None);
        }
        let (at, id) = (target.at, target.id);
        let written: Option<Timestamp> = match base {
            None => {
                let row = Uuid::new_v4();
                let params = params![tenant_id, chat_id, at, id, text, token_estimate, row];
                self.query_opt(INSERT_SQL, &params, only_column).await?
            }
            Some(base) => {
                let params = params![
                    tenant_id,
                    chat_id,
                    at,
                    id,
                    text,
                    token_estimate,
                    base.at,
                    base.id
                ];
                self.query_opt(UPDATE_SQL, &params, only_column).await?
            }
        };
        let Some(now) = written else {
            return Ok(None);
        };
        let base = base.unwrap_or(FIRST);
        let range = params![tenant_id, chat_id, base.at, base.id, at, id];
        let mut compressed: Vec<MessageId> = self.query(COMPRESS_SQL, &range, only_column).await?;
        let mut read = messages.to_vec();
        compressed.sort_unstable();
        read.sort_unstable();
        Ok((compressed == read).then_some(now))
    }

    /// Forgets the summary of a chat, so that models see its messages again (CONT-141).
    pub(crate) fn summary_forget(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM thread_summaries WHERE tenant_id = $1 AND chat_id = $2",
            "UPDATE messages SET is_compressed = FALSE WHERE tenant_id = $1 AND chat_id = $2 \
             AND is_compressed AND deleted_at IS NULL",
        ] {
            self.execute_later(sql, params![tenant, chat])?;
        }
        Ok(())
    }
}

/// The columns of [`summary_row`], from `s`.
macro_rules! summary_columns {
    () => {
        "s.summarized_up_to_created_at, s.summarized_up_to_message_id, s.summary_text, \
         s.token_estimate"
    };
}
pub(crate) use summary_columns;

pub(crate) fn summary_row(row: &Row<'_>) -> Result<Option<ThreadSummary>, StoreError> {
    let (at, id): (Option<Timestamp>, Option<Uuid>) = (row.take()?, row.take()?);
    let (text, tokens): (Option<String>, Option<u32>) = (row.take()?, row.take()?);
    let summary = at.zip(id).zip(text.zip(tokens));
    Ok(
        summary.map(|((at, id), (text, token_estimate))| ThreadSummary {
            text,
            token_estimate,
            frontier: Key { at, id },
        }),
    )
}

const RANGE_SQL: &str = "SELECT s.summarized_up_to_created_at, s.summarized_up_to_message_id, \
     m.created_at, m.id FROM messages m LEFT JOIN thread_summaries s \
     ON s.chat_id = m.chat_id AND s.tenant_id = m.tenant_id \
     WHERE m.tenant_id = $1 AND m.chat_id = $2 AND m.deleted_at IS NULL \
     ORDER BY m.created_at DESC, m.id DESC LIMIT 1";

const CHAT_SQL: &str = concat!(
    "SELECT c.model, ",
    summary_columns!(),
    " FROM chats c LEFT JOIN thread_summaries s \
     ON s.chat_id = c.id AND s.tenant_id = c.tenant_id \
     WHERE c.tenant_id = $1 AND c.id = $2 AND c.deleted_at IS NULL"
);

/// Before all messages.
const FIRST: Key = Key {
    at: crate::admission::BEGINNING,
    id: Uuid::nil(),
};

/// The messages of a range that no summary covers. The first comparison is for the
/// index.
macro_rules! uncovered {
    () => {
        "tenant_id = $1 AND chat_id = $2 AND deleted_at IS NULL AND NOT is_compressed \
         AND created_at BETWEEN $3 AND $5 AND (created_at, id) > ($3, $4) \
         AND (created_at, id) <= ($5, $6)"
    };
}

const MESSAGES_SQL: &str = concat!(
    "SELECT id, role, CASE WHEN characters - LENGTH(content) < $7 THEN content END FROM (\
     SELECT id, role, content, created_at, SUM(LENGTH(content)) \
     OVER (ORDER BY created_at DESC, id DESC) AS characters FROM messages WHERE ",
    uncovered!(),
    ") m ORDER BY created_at, id"
);

macro_rules! live_chat {
    ($lock:literal) => {
        concat!(
            "SELECT id FROM chats WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL",
            $lock
        )
    };
}
use live_chat;

const INSERT_SQL: &str = "INSERT INTO thread_summaries (id, tenant_id, chat_id, summary_text, \
     summarized_up_to_created_at, summarized_up_to_message_id, token_estimate, \
     created_at, updated_at) VALUES ($7, $1, $2, $5, $3, $4, $6, \
     statement_timestamp(), statement_timestamp()) \
     ON CONFLICT (chat_id) DO NOTHING RETURNING updated_at";

const UPDATE_SQL: &str = "UPDATE thread_summaries SET summary_text = $5, \
     summarized_up_to_created_at = $3, summarized_up_to_message_id = $4, \
     token_estimate = $6, updated_at = statement_timestamp() \
     WHERE tenant_id = $1 AND chat_id = $2 \
     AND summarized_up_to_created_at = $7 AND summarized_up_to_message_id = $8 \
     RETURNING updated_at";

const COMPRESS_SQL: &str = concat!(
    "UPDATE messages SET is_compressed = TRUE WHERE ",
    uncovered!(),
    " RETURNING id"
);

fn range_row(row: &Row<'_>) -> Result<SummaryRange, StoreError> {
    let (at, id): (Option<Timestamp>, Option<Uuid>) = (row.take()?, row.take()?);
    Ok(SummaryRange {
        base: at.zip(id).map(|(at, id)| Key { at, id }),
        target: Key {
            at: row.take()?,
            id: row.take()?,
        },
    })
}

fn chat_row(row: &Row<'_>) -> Result<(String, Option<ThreadSummary>), StoreError> {
    Ok((row.take()?, summary_row(row)?))
}

fn message_row(row: &Row<'_>) -> Result<MessageToSummarize, StoreError> {
    Ok(MessageToSummarize {
        id: row.take()?,
        role: row.take()?,
        content: row.take()?,
    })
}
