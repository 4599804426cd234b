//! Attachments: files of chats (PLAT-8). Every change of a state is a conditional
//! update (CONT-58), so that of two that meet exactly one counts.

use minichat_core::{AttachmentId, AttachmentKind, ChatId, TenantId, Timestamp, UserId};

use crate::tx::only_column;
use crate::value::{FromValue, Row, Value, params};
use crate::{StoreError, Tx};

/// A file of a chat, deleted or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub id: AttachmentId,
    pub uploaded_by_user_id: UserId,
    pub filename: String,
    pub content_type: String,
    /// Bytes. While the file is on its way, what the client announced.
    pub size_bytes: u64,
    pub status: AttachmentStatus,
    pub kind: AttachmentKind,
    /// Why the upload failed.
    pub error_code: Option<String>,
    pub doc_summary: Option<String>,
    pub summary_updated_at: Option<Timestamp>,
    pub thumbnail: Option<Thumbnail>,
    pub created_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// A small picture of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thumbnail {
    /// A WebP file.
    pub webp: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// How far an upload is (CONT-58).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachmentStatus {
    /// The file is on its way to the provider.
    Pending,
    /// The provider has the file.
    Uploaded,
    /// The file can be used. Final.
    Ready,
    /// The upload failed. Final.
    Failed,
}

/// A file to insert as `pending`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewAttachment<'a> {
    pub id: AttachmentId,
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    /// Owner of the chat.
    pub user_id: UserId,
    /// At most 255 characters.
    pub filename: &'a str,
    pub content_type: &'a str,
    /// Bytes that the client announced, or 0.
    pub size_bytes: u64,
    pub storage_backend: &'a str,
    pub kind: AttachmentKind,
    pub for_file_search: bool,
    pub for_code_interpreter: bool,
    pub created_at: Timestamp,
}

/// What a chat may hold (CONT-55).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChatLimits {
    /// Undeleted documents.
    pub documents: u32,
    /// Bytes of all files that are neither deleted nor failed.
    pub bytes: u64,
}

/// How an insert ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachmentInsert {
    Inserted,
    /// The caller has no such chat.
    NoChat,
    /// The chat holds as many documents as it may.
    TooManyDocuments,
    /// The chat would hold more bytes than it may.
    TooManyBytes,
}

/// A file whose upload has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachmentKey {
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub id: AttachmentId,
}

/// How a deletion ended (CONT-73).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttachmentDeletion {
    Deleted(DeletedAttachment),
    /// It was deleted before.
    Already,
    /// A message refers to it.
    Locked,
    /// Another user uploaded it.
    Foreign,
    /// The chat has no such file.
    NoAttachment,
    /// The caller has no such chat.
    NoChat,
}

/// What the clean-up is told of a deleted file (CONT-162).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeletedAttachment {
    pub provider_file_id: Option<String>,
    pub vector_store_id: Option<String>,
    pub storage_backend: String,
    pub kind: AttachmentKind,
}

impl Tx {
    /// Inserts a file as `pending` if the chat is there and has room for it.
    /// The chat is locked, so that files that are inserted at once are counted
    /// one after the other.
    pub async fn attachment_insert(
        &mut self,
        new: &NewAttachment<'_>,
        limits: ChatLimits,
    ) -> Result<AttachmentInsert, StoreError> {
        self.chat_lock(new.tenant_id, new.user_id, new.chat_id)?;
        let Some(held) = self.held(new).await? else {
            return Ok(AttachmentInsert::NoChat);
        };
        if new.kind == AttachmentKind::Document && held.documents >= limits.documents.into() {
            return Ok(AttachmentInsert::TooManyDocuments);
        }
        if new.size_bytes > 0 && held.bytes.saturating_add(new.size_bytes) > limits.bytes {
            return Ok(AttachmentInsert::TooManyBytes);
        }
        self.insert(new)?;
        Ok(AttachmentInsert::Inserted)
    }

    /// What the chat holds; `None` if the caller has no such chat.
    async fn held(&mut self, new: &NewAttachment<'_>) -> Result<Option<Held>, StoreError> {
        self.query_opt(
            "SELECT COUNT(CASE WHEN a.attachment_kind = 'document' THEN 1 END), \
             CAST(COALESCE(SUM(CASE WHEN a.status <> 'failed' THEN a.size_bytes END), 0) AS BIGINT) \
             FROM chats c LEFT JOIN attachments a ON a.chat_id = c.id \
             AND a.tenant_id = c.tenant_id AND a.deleted_at IS NULL \
             WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 \
             AND c.deleted_at IS NULL GROUP BY c.id",
            &params![new.tenant_id, new.user_id, new.chat_id],
            |row| {
                Ok(Held {
                    documents: row.take()?,
                    bytes: row.take()?,
                })
            },
        )
        .await
    }

    fn insert(&mut self, new: &NewAttachment<'_>) -> Result<(), StoreError> {
        let NewAttachment {
            id,
            tenant_id,
            chat_id,
            user_id,
            filename,
            content_type,
            size_bytes,
            storage_backend,
            kind,
            for_file_search,
            for_code_interpreter,
            created_at,
        } = *new;
        self.execute_later(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, status, attachment_kind, \
             for_file_search, for_code_interpreter, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $10, $11, $12, $12)",
            params![
                id,
                tenant_id,
                chat_id,
                user_id,
                filename,
                content_type,
                size_bytes,
                storage_backend,
                kind.as_str(),
                for_file_search,
                for_code_interpreter,
                created_at,
            ],
        )
    }

    /// `pending` -> `uploaded`: the provider has the whole file. `false` if the
    /// file or its chat was deleted meanwhile.
    pub async fn attachment_uploaded(
        &mut self,
        key: AttachmentKey,
        provider_file_id: &str,
        size_bytes: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = self
            .query_opt(
                "UPDATE attachments SET status = 'uploaded', provider_file_id = $4, \
                 size_bytes = $5, updated_at = $6 WHERE tenant_id = $1 AND chat_id = $2 \
                 AND id = $3 AND status = 'pending' AND deleted_at IS NULL \
                 AND cleanup_status IS NULL RETURNING id",
                &params![
                    key.tenant_id,
                    key.chat_id,
                    key.id,
                    provider_file_id,
                    size_bytes,
                    now
                ],
                only_column::<AttachmentId>,
            )
            .await?;
        Ok(changed.is_some())
    }

    /// Bytes of the chat's files that are neither deleted nor failed.
    pub async fn attachment_total(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<u64, StoreError> {
        let total = self
            .query_opt(
                "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM attachments \
                 WHERE tenant_id = $1 AND chat_id = $2 AND deleted_at IS NULL \
                 AND status <> 'failed'",
                &params![tenant, chat],
                only_column,
            )
            .await?;
        Ok(total.unwrap_or_default())
    }

    /// `uploaded` -> `ready`. `false` if the file or its chat was deleted
    /// meanwhile.
    pub async fn attachment_ready(
        &mut self,
        key: AttachmentKey,
        thumbnail: Option<&Thumbnail>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = self
            .query_opt(
                // A session prepares the statement for the types of its first
                // values, which may be absent.
                "UPDATE attachments SET status = 'ready', img_thumbnail = $4, \
                 img_thumbnail_width = CAST($5 AS BIGINT), \
                 img_thumbnail_height = CAST($6 AS BIGINT), updated_at = $7 \
                 WHERE tenant_id = $1 AND chat_id = $2 AND id = $3 AND status = 'uploaded' \
                 AND deleted_at IS NULL AND cleanup_status IS NULL RETURNING id",
                &params![
                    key.tenant_id,
                    key.chat_id,
                    key.id,
                    thumbnail.map(|it| it.webp.as_slice()),
                    thumbnail.map(|it| it.width),
                    thumbnail.map(|it| it.height),
                    now
                ],
                only_column::<AttachmentId>,
            )
            .await?;
        Ok(changed.is_some())
    }

    /// `pending` or `uploaded` -> `failed`. A deleted file stays as it is.
    pub fn attachment_failed(
        &mut self,
        key: AttachmentKey,
        error_code: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE attachments SET status = 'failed', error_code = $4, updated_at = $5 \
             WHERE tenant_id = $1 AND chat_id = $2 AND id = $3 \
             AND status IN ('pending', 'uploaded') AND deleted_at IS NULL",
            params![key.tenant_id, key.chat_id, key.id, error_code, now],
        )
    }

    /// Leaves a file that the provider has, and that nobody will use, to the
    /// clean-up (CONT-64), also if the row was deleted. A row that the clean-up
    /// was done with before its file was known is `pending` again, and so is that of a
    /// deleted document that may have got into the chat's vector store since.
    pub fn attachment_discard(
        &mut self,
        key: AttachmentKey,
        provider_file_id: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE attachments SET provider_file_id = $4, cleanup_status = 'pending', \
             cleanup_updated_at = $5, updated_at = $5 \
             WHERE tenant_id = $1 AND chat_id = $2 AND id = $3 AND status <> 'ready' \
             AND (provider_file_id IS NULL OR cleanup_status IS NULL \
             OR (status = 'uploaded' AND for_file_search AND deleted_at IS NOT NULL \
             AND cleanup_status <> 'failed'))",
            params![key.tenant_id, key.chat_id, key.id, provider_file_id, now],
        )
    }

    /// A file of the caller's chat, deleted or not.
    pub async fn attachment_get(
        &mut self,
        user: UserId,
        key: AttachmentKey,
    ) -> Result<Option<Attachment>, StoreError> {
        self.query_opt(
            "SELECT a.id, a.uploaded_by_user_id, a.filename, a.content_type, a.size_bytes, \
             a.status, a.attachment_kind, a.error_code, a.doc_summary, a.summary_updated_at, \
             a.created_at, a.deleted_at, a.img_thumbnail, a.img_thumbnail_width, \
             a.img_thumbnail_height FROM attachments a \
             JOIN chats c ON c.id = a.chat_id AND c.tenant_id = a.tenant_id \
             WHERE a.tenant_id = $1 AND c.user_id = $2 AND c.deleted_at IS NULL \
             AND a.chat_id = $3 AND a.id = $4",
            &params![key.tenant_id, user, key.chat_id, key.id],
            attachment_row,
        )
        .await
    }

    /// Soft-deletes a file of the caller's chat unless a message refers to it.
    /// The chat is locked, as by a message that refers to files, so that either
    /// the message sees the deletion or the deletion sees the message.
    pub async fn attachment_delete(
        &mut self,
        user: UserId,
        key: AttachmentKey,
        now: Timestamp,
    ) -> Result<AttachmentDeletion, StoreError> {
        self.chat_lock(key.tenant_id, user, key.chat_id)?;
        let Some(found) = self.attachment_get(user, key).await? else {
            let chat = self.chat_get(key.tenant_id, user, key.chat_id).await?;
            return Ok(match chat {
                Some(_) => AttachmentDeletion::NoAttachment,
                None => AttachmentDeletion::NoChat,
            });
        };
        if found.uploaded_by_user_id != user {
            return Ok(AttachmentDeletion::Foreign);
        }
        if found.deleted_at.is_some() {
            return Ok(AttachmentDeletion::Already);
        }
        let deleted = self.delete_unlinked(key, now).await?;
        Ok(deleted.map_or(AttachmentDeletion::Locked, AttachmentDeletion::Deleted))
    }

    async fn delete_unlinked(
        &mut self,
        key: AttachmentKey,
        now: Timestamp,
    ) -> Result<Option<DeletedAttachment>, StoreError> {
        self.query_opt(
            "UPDATE attachments SET deleted_at = $4, updated_at = $4, \
             cleanup_updated_at = CASE WHEN cleanup_status IS NULL THEN $4 \
             ELSE cleanup_updated_at END, \
             cleanup_status = COALESCE(cleanup_status, 'pending') \
             WHERE tenant_id = $1 AND chat_id = $2 AND id = $3 AND deleted_at IS NULL \
             AND NOT EXISTS (SELECT 1 FROM message_attachments l \
             WHERE l.attachment_id = attachments.id AND l.chat_id = attachments.chat_id) \
             RETURNING provider_file_id, (SELECT s.vector_store_id FROM chat_vector_stores s \
             WHERE s.tenant_id = $1 AND s.chat_id = $2), storage_backend, attachment_kind",
            &params![key.tenant_id, key.chat_id, key.id, now],
            |row| {
                Ok(DeletedAttachment {
                    provider_file_id: row.take()?,
                    vector_store_id: row.take()?,
                    storage_backend: row.take()?,
                    kind: row.take()?,
                })
            },
        )
        .await
    }
}

/// What a chat holds.
struct Held {
    documents: u64,
    bytes: u64,
}

fn attachment_row(row: &Row<'_>) -> Result<Attachment, StoreError> {
    Ok(Attachment {
        id: row.take()?,
        uploaded_by_user_id: row.take()?,
        filename: row.take()?,
        content_type: row.take()?,
        size_bytes: row.take()?,
        status: row.take()?,
        kind: row.take()?,
        error_code: row.take()?,
        doc_summary: row.take()?,
        summary_updated_at: row.take()?,
        created_at: row.take()?,
        deleted_at: row.take()?,
        thumbnail: thumbnail(row)?,
    })
}

/// The thumbnail of the next three columns.
pub(crate) fn thumbnail(row: &Row<'_>) -> Result<Option<Thumbnail>, StoreError> {
    let webp: Option<Vec<u8>> = row.take()?;
    let (width, height): (Option<u32>, Option<u32>) = (row.take()?, row.take()?);
    Ok(webp.map(|webp| Thumbnail {
        webp,
        width: width.unwrap_or_default(),
        height: height.unwrap_or_default(),
    }))
}

impl AttachmentStatus {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Uploaded, Self::Ready, Self::Failed];

    /// The value of the column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Uploaded => "uploaded",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

impl FromValue for AttachmentStatus {
    const EXPECTED: &'static str = "a status of an attachment";

    fn from_value(value: Value<'_>) -> Option<Self> {
        let Value::Text(text) = value else {
            return None;
        };
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

impl FromValue for AttachmentKind {
    const EXPECTED: &'static str = "a kind of attachment";

    fn from_value(value: Value<'_>) -> Option<Self> {
        let Value::Text(text) = value else {
            return None;
        };
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}
