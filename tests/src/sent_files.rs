//! Rows of attachments, as uploads leave them, written into the database.

use crate::database::Database;
use uuid::Uuid;

/// A file of a chat whose upload has ended.
#[derive(Clone, Debug)]
pub struct StoredFile {
    pub id: Uuid,
    pub chat: String,
    /// `image` or `document`.
    pub kind: &'static str,
    pub status: &'static str,
    /// The id at the provider.
    pub file_id: String,
    /// The provider that stores it.
    pub backend: &'static str,
}

impl StoredFile {
    /// An image of `chat` that can be sent, at the provider `main`.
    pub fn image(chat: &str) -> Self {
        let id = Uuid::new_v4();
        Self {
            id,
            chat: chat.to_owned(),
            kind: "image",
            status: "ready",
            file_id: format!("file-{}", id.as_simple()),
            backend: "main",
        }
    }

    /// A document of `chat` that can be searched.
    pub fn document(chat: &str) -> Self {
        Self {
            kind: "document",
            ..Self::image(chat)
        }
    }

    /// The name that it was uploaded with.
    pub fn filename(&self) -> String {
        format!("{}.{}", self.id, self.kind)
    }

    /// Writes the row, as uploaded by the owner of the chat.
    pub async fn insert(self, database: &Database) -> anyhow::Result<Self> {
        let (id, chat, kind, status) = (self.id, &self.chat, self.kind, self.status);
        let (file_id, backend, filename) = (&self.file_id, self.backend, self.filename());
        let sql = format!(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, provider_file_id, status, \
             attachment_kind, created_at, updated_at) \
             SELECT '{id}', tenant_id, id, user_id, '{filename}', 'image/png', 7, '{backend}', \
             '{file_id}', '{status}', '{kind}', created_at, updated_at \
             FROM chats WHERE id = '{chat}'"
        );
        database.query(&sql).await?;
        Ok(self)
    }

    /// Gives it a thumbnail of the bytes `hi`, 128 by 64 pixels.
    pub async fn add_thumbnail(&self, database: &Database) -> anyhow::Result<()> {
        let bytes = match database {
            Database::Sqlite(_) => "X'6869'",
            Database::Postgres(_) => r"'\x6869'",
        };
        self.set(
            database,
            &format!(
                "img_thumbnail = {bytes}, img_thumbnail_width = 128, img_thumbnail_height = 64"
            ),
        )
        .await
    }

    /// Marks it as deleted.
    pub async fn delete(&self, database: &Database) -> anyhow::Result<()> {
        self.set(database, "deleted_at = created_at").await
    }

    /// Changes columns of its row.
    pub async fn set(&self, database: &Database, changes: &str) -> anyhow::Result<()> {
        let sql = format!("UPDATE attachments SET {changes} WHERE id = '{}'", self.id);
        database.query(&sql).await?;
        Ok(())
    }
}
