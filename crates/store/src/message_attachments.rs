//! The files of messages (PLAT-9): which files a new message may have, and its links to
//! them.
//!
//! A message and the deletion of one of its files meet at the lock of their chat,
//! and at the row of the file. So either the message does not find the file, or the
//! deletion finds the link (CONT-70).

use minichat_core::{AttachmentId, ChatId, MessageId, TenantId, Timestamp, UserId};

use crate::tx::Dialect;
use crate::value::{Param, Row, params};
use crate::{MutationQuery, StoreError, Tx};

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
    /// in the order of the files, by which lists and copies keep it. One statement, as
    /// long as a message has no more files than it may.
    pub fn message_attach(
        &mut self,
        message: MessageKey,
        attachments: &[AttachmentId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for (files, first) in attachments.chunks(MAX_FILES).zip((0..).step_by(MAX_FILES)) {
            let mut params: [Param<'_>; 6 + MAX_FILES] = std::array::from_fn(|n| {
                // What is behind the last file is not used.
                let file = n.saturating_sub(6).min(files.len() - 1);
                Param::from(files[file])
            });
            params[..6].clone_from_slice(&params![
                message.tenant_id,
                message.chat_id,
                message.id,
                at.plus_micros(first),
                Param::Micros(1),
                files.len() as u64
            ]);
            self.execute_later(LINK_SQL, params)?;
        }
        Ok(())
    }
}

/// Of the files from `$7` on, the first `$6` are linked.
const LINK_SQL: &str = "INSERT INTO message_attachments \
     (tenant_id, chat_id, message_id, attachment_id, created_at) \
     SELECT $1, $2, $3, file.column2, $4 + file.column1 * $5 FROM (VALUES \
     (0, $7), (1, $8), (2, $9), (3, $10), (4, $11), (5, $12), (6, $13), (7, $14), (8, $15), \
     (9, $16), (10, $17), (11, $18), (12, $19), (13, $20), (14, $21), (15, $22), (16, $23), \
     (17, $24), (18, $25), (19, $26)) AS file WHERE file.column1 < $6";

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
