//! The files of messages (PLAT-9): which files a new message may have, its links to
//! them, and what lists show of them.
//!
//! A message and the deletion of one of its files meet at the lock of their chat,
//! and at the row of the file. So either the message does not find the file, or the
//! deletion finds the link (CONT-70).

use std::collections::HashMap;
use std::fmt::Write as _;

use minichat_core::{AttachmentId, ChatId, MessageId, TenantId, Timestamp, UserId};

use crate::attachments::thumbnail;
use crate::tx::Dialect;
use crate::value::{Param, Row, params};
use crate::{MutationQuery, StoreError, Thumbnail, Tx};

/// The most files of one message (API-62).
const MAX_FILES: usize = 20;

/// A file that a message may be linked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsableAttachment {
    pub id: AttachmentId,
    /// `image` or `document`.
    pub kind: String,
    pub content_type: String,
    pub size_bytes: u64,
    /// The id at the provider of an image that can be sent. Documents have none.
    pub image_file_id: Option<String>,
    /// Where the file is stored.
    pub storage_backend: String,
}

/// A message to link to its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageKey {
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub id: MessageId,
}

/// A file of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentSummary {
    pub attachment_id: AttachmentId,
    pub kind: String,
    pub filename: String,
    pub status: String,
    pub img_thumbnail: Option<Thumbnail>,
}

impl Tx {
    /// Those of `ids` that a message of `user` may be linked to: files of the chat
    /// that the user has uploaded, which are ready and not deleted. They stay so
    /// until the transaction ends, which holds the lock of the chat.
    pub async fn attachments_usable(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        ids: &[AttachmentId],
    ) -> Result<Vec<UsableAttachment>, StoreError> {
        let Some(first) = ids.first() else {
            return Ok(Vec::new());
        };
        if ids.len() > MAX_FILES {
            return Err(StoreError::Parameter("of which there are too many"));
        }
        let mut params = params![tenant, user, chat].to_vec();
        let filled = ids.iter().chain(std::iter::repeat(first)).take(MAX_FILES);
        params.extend(filled.map(|id| Param::from(*id)));
        self.query(self.dialect().usable_sql(), &params, usable_row)
            .await
    }

    /// The files of the turn's user message that are not deleted, in their order,
    /// for the message that takes its place (TURN-55). They are locked as by
    /// [`Tx::attachments_usable`].
    pub async fn attachments_of_turn(
        &mut self,
        query: &MutationQuery,
    ) -> Result<Vec<UsableAttachment>, StoreError> {
        let sql = self.dialect().of_turn_sql();
        let params = params![query.tenant_id, query.chat_id, query.request_id];
        self.query(sql, &params, usable_row).await
    }

    /// Links a message to `attachments`. The links have the instants from `at` on,
    /// in the order of the files, by which lists and copies keep it.
    pub fn message_attach(
        &mut self,
        message: MessageKey,
        attachments: impl IntoIterator<Item = AttachmentId>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for (attachment, micros) in attachments.into_iter().zip(0..) {
            self.execute_later(
                "INSERT INTO message_attachments \
                 (tenant_id, chat_id, message_id, attachment_id, created_at) \
                 VALUES ($1, $2, $3, $4, $5)",
                params![
                    message.tenant_id,
                    message.chat_id,
                    message.id,
                    attachment,
                    at.plus_micros(micros)
                ],
            )?;
        }
        Ok(())
    }

    /// The undeleted files of `messages` of a chat, by message, in their order.
    pub(crate) async fn message_attachments(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        messages: &[MessageId],
    ) -> Result<HashMap<MessageId, Vec<AttachmentSummary>>, StoreError> {
        let mut found: HashMap<_, Vec<_>> = HashMap::new();
        let Some(first) = messages.first() else {
            return Ok(found);
        };
        // A power of two, so that there are few texts.
        let length = messages.len().next_power_of_two();
        let mut params = params![tenant, chat].to_vec();
        let filled = messages.iter().chain(std::iter::repeat(first));
        params.extend(filled.take(length).map(|id| Param::from(*id)));
        let sql = summaries_sql(length);
        for (message, file) in self.query_page(&sql, true, &params, summary_row).await? {
            found.entry(message).or_default().push(file);
        }
        Ok(found)
    }
}

/// The columns of [`usable_row`].
macro_rules! usable_columns {
    () => {
        "SELECT a.id, a.attachment_kind, a.content_type, a.size_bytes, CASE WHEN a.attachment_kind = 'image' AND a.status = 'ready' \
         THEN a.provider_file_id END, a.storage_backend FROM "
    };
}

macro_rules! usable_select {
    ($lock:literal) => {
        concat!(
            usable_columns!(),
            "attachments a WHERE a.tenant_id = $1 AND a.uploaded_by_user_id = $2 \
             AND a.chat_id = $3 AND a.status = 'ready' AND a.provider_file_id IS NOT NULL \
             AND a.deleted_at IS NULL AND a.id IN ($4, $5, $6, $7, $8, $9, $10, $11, $12, \
             $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) ORDER BY a.id",
            $lock
        )
    };
}

macro_rules! of_turn_select {
    ($lock:literal) => {
        concat!(
            usable_columns!(),
            "messages m JOIN message_attachments l ON l.message_id = m.id \
             AND l.chat_id = m.chat_id JOIN attachments a ON a.id = l.attachment_id \
             AND a.chat_id = l.chat_id WHERE m.tenant_id = $1 AND m.chat_id = $2 \
             AND m.request_id = $3 AND m.role = 'user' AND m.deleted_at IS NULL \
             AND a.tenant_id = $1 AND a.deleted_at IS NULL ORDER BY l.created_at, a.id",
            $lock
        )
    };
}

impl Dialect {
    const fn usable_sql(self) -> &'static str {
        match self {
            Self::Sqlite => usable_select!(""),
            Self::Postgres => usable_select!(" FOR NO KEY UPDATE"),
        }
    }

    const fn of_turn_sql(self) -> &'static str {
        match self {
            Self::Sqlite => of_turn_select!(""),
            Self::Postgres => of_turn_select!(" FOR NO KEY UPDATE OF a"),
        }
    }
}

fn usable_row(row: &Row<'_>) -> Result<UsableAttachment, StoreError> {
    Ok(UsableAttachment {
        id: row.take()?,
        kind: row.take()?,
        content_type: row.take()?,
        size_bytes: row.take()?,
        image_file_id: row.take()?,
        storage_backend: row.take()?,
    })
}

/// The files of `length` messages, from `$3` on.
fn summaries_sql(length: usize) -> String {
    let mut sql = "SELECT l.message_id, a.id, a.attachment_kind, a.filename, a.status, \
         a.img_thumbnail, a.img_thumbnail_width, a.img_thumbnail_height \
         FROM message_attachments l JOIN attachments a ON a.id = l.attachment_id \
         AND a.chat_id = l.chat_id AND a.tenant_id = l.tenant_id WHERE l.tenant_id = $1 \
         AND l.chat_id = $2 AND a.deleted_at IS NULL AND l.message_id IN ($3"
        .to_owned();
    for number in 4..length + 3 {
        let _ = write!(sql, ", ${number}");
    }
    sql.push_str(") ORDER BY l.message_id, l.created_at, a.id");
    sql
}

fn summary_row(row: &Row<'_>) -> Result<(MessageId, AttachmentSummary), StoreError> {
    let message = row.take()?;
    let summary = AttachmentSummary {
        attachment_id: row.take()?,
        kind: row.take()?,
        filename: row.take()?,
        status: row.take()?,
        img_thumbnail: thumbnail(row)?,
    };
    Ok((message, summary))
}
