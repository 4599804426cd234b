//! Chats (PLAT-5, API-50 to API-55).

use minichat_core::{ChatId, TenantId, Timestamp, UserId};

use crate::page::{Columns, Key, Page, PageRequest};
use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// A chat that is not deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chat {
    pub id: ChatId,
    /// The selected model. It never changes (API-52).
    pub model: String,
    pub title: Option<String>,
    pub is_temporary: bool,
    /// Number of undeleted messages that belong to a turn.
    pub message_count: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A chat to insert. `updated_at` is set to `created_at`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewChat<'a> {
    pub id: ChatId,
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub model: &'a str,
    pub title: Option<&'a str>,
    pub is_temporary: bool,
    pub created_at: Timestamp,
}

const COLUMNS: Columns = Columns {
    at: "c.updated_at",
    id: "c.id",
};

impl Tx {
    pub fn chat_insert(&mut self, chat: &NewChat<'_>) -> Result<(), StoreError> {
        let NewChat {
            id,
            tenant_id,
            user_id,
            model,
            title,
            is_temporary,
            created_at,
        } = *chat;
        self.execute_later(
            "INSERT INTO chats (id, tenant_id, user_id, model, title, is_temporary, \
             created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            params![
                id,
                tenant_id,
                user_id,
                model,
                title,
                is_temporary,
                created_at
            ],
        )
    }

    /// The caller's chat; `None` if it does not exist, is deleted or belongs to
    /// another user.
    pub async fn chat_get(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
    ) -> Result<Option<Chat>, StoreError> {
        self.query_opt(
            chat_select!("AND c.id = $3"),
            &params![tenant, user, chat],
            chat_row,
        )
        .await
    }

    /// One page of the caller's chats.
    pub async fn chat_list(
        &mut self,
        tenant: TenantId,
        user: UserId,
        request: &PageRequest,
    ) -> Result<Page<Chat>, StoreError> {
        let mut params = params![tenant, user].to_vec();
        let sql = request.complete(chat_select!(""), &mut params, COLUMNS, self.dialect());
        let rows = self
            .query_page(&sql, request.filter.is_none(), &params, chat_row)
            .await?;
        Ok(request.page(rows, |chat| Key {
            at: chat.updated_at,
            id: chat.id.0,
        }))
    }

    /// Renames the caller's chat, which counts as activity (API-52, API-54);
    /// `None` if the caller has no such chat.
    pub async fn chat_rename(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        title: &str,
        now: Timestamp,
    ) -> Result<Option<Chat>, StoreError> {
        self.execute_later(
            "UPDATE chats SET title = $4, updated_at = GREATEST($5, updated_at) \
             WHERE tenant_id = $1 AND user_id = $2 AND id = $3 AND deleted_at IS NULL",
            params![tenant, user, chat, title, now],
        )?;
        self.chat_get(tenant, user, chat).await
    }

    /// Soft-deletes the caller's chat and enqueues the clean-up of its files
    /// (API-55, CONT-163, PLAT-5); `false` if the caller has no such chat.
    pub async fn chat_delete(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let deleted: Option<ChatId> = self
            .query_opt(
                "UPDATE chats SET deleted_at = $4, updated_at = GREATEST($4, updated_at) \
                 WHERE tenant_id = $1 AND user_id = $2 AND id = $3 AND deleted_at IS NULL \
                 RETURNING id",
                &params![tenant, user, chat, now],
                only_column,
            )
            .await?;
        if deleted.is_none() {
            return Ok(false);
        }
        self.execute_later(
            "UPDATE attachments SET cleanup_status = 'pending', cleanup_updated_at = $3 \
             WHERE tenant_id = $1 AND chat_id = $2 AND cleanup_status IS NULL \
             AND deleted_at IS NULL",
            params![tenant, chat, now],
        )?;
        self.execute_later(
            "UPDATE chat_vector_stores SET cleanup_due_at = $3 \
             WHERE tenant_id = $1 AND chat_id = $2",
            params![tenant, chat, now],
        )?;
        Ok(true)
    }

    /// Posts the lock of the caller's chat. Every transaction that adds a turn
    /// to the chat or deletes something of it holds this lock to its end. So a
    /// send, a retry, an edit, and the deletion of a turn or of the chat
    /// exclude each other, and a prompt never contains deleted text.
    /// The lock is taken before the locks of quota rows. A later statement sees
    /// the changes for which this one waited. Rows that refer to the chat can
    /// still be inserted. `SQLite` has only one writer and needs no lock.
    ///
    /// Decisions from an earlier look at the chat can then no longer be written
    /// ([`crate::one_statement`]).
    pub fn chat_lock(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
    ) -> Result<(), StoreError> {
        match self.dialect() {
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => self.execute_later(
                "UPDATE chats SET revision = revision + 1 \
                 WHERE tenant_id = $1 AND user_id = $2 AND id = $3 AND deleted_at IS NULL",
                params![tenant, user, chat],
            ),
        }
    }

    /// Records activity: `updated_at` becomes `now`, unless it is later already
    /// (API-54).
    pub fn chat_touch(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE chats SET updated_at = $4 WHERE tenant_id = $1 AND user_id = $2 \
             AND id = $3 AND deleted_at IS NULL AND updated_at < $4",
            params![tenant, user, chat, now],
        )
    }
}

macro_rules! chat_select {
    ($rest:literal) => {
        concat!(
            "SELECT c.id, c.model, c.title, c.is_temporary, \
             (SELECT COUNT(*) FROM messages m WHERE m.chat_id = c.id \
              AND m.tenant_id = c.tenant_id AND m.deleted_at IS NULL \
              AND m.request_id IS NOT NULL), \
             c.created_at, c.updated_at FROM chats c \
             WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.deleted_at IS NULL ",
            $rest
        )
    };
}
use chat_select;

fn chat_row(row: &Row<'_>) -> Result<Chat, StoreError> {
    Ok(Chat {
        id: row.take()?,
        model: row.take()?,
        title: row.take()?,
        is_temporary: row.take()?,
        message_count: row.take()?,
        created_at: row.take()?,
        updated_at: row.take()?,
    })
}
