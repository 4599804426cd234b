//! Messages (PLAT-6, API-60, API-61).

use minichat_core::turn::Usage;
use minichat_core::{ChatId, MessageId, RequestId, TenantId, Timestamp, UserId};

use crate::page::{Columns, Key, Page, PageRequest};
use crate::tx::only_column;
use crate::value::{FromValue, Param, Row, Value, params};
use crate::{AttachmentSummary, StoreError, Tx};

/// The author of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    User,
    Assistant,
    System,
}

/// A user's reaction to an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reaction {
    Like,
    Dislike,
}

/// A message as its chat lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub id: MessageId,
    pub request_id: RequestId,
    pub role: Role,
    pub content: String,
    /// In the order in which they were named.
    pub attachments: Vec<AttachmentSummary>,
    /// The caller's own reaction; on assistant messages only.
    pub my_reaction: Option<Reaction>,
    /// The effective model; on assistant messages only.
    pub model: Option<String>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub created_at: Timestamp,
}

/// A message of a turn to insert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewMessage<'a> {
    pub id: MessageId,
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub request_id: RequestId,
    pub role: Role,
    pub content: &'a str,
    pub provider_response_id: Option<&'a str>,
    /// Zeros if the provider reported no usage (TURN-36).
    pub usage: Usage,
    /// The effective model; on assistant messages only.
    pub model: Option<&'a str>,
    /// Raised just above the chat's latest message if it is not later (TURN-6).
    pub created_at: Timestamp,
}

const COLUMNS: Columns = Columns {
    at: "m.created_at",
    id: "m.id",
};

impl Tx {
    pub fn message_insert(&mut self, message: &NewMessage<'_>) -> Result<(), StoreError> {
        let NewMessage {
            id,
            tenant_id,
            chat_id,
            request_id,
            role,
            content,
            provider_response_id,
            usage,
            model,
            created_at,
        } = *message;
        self.execute_later(
            "INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, \
             content_type, request_kind, features_used, provider_response_id, model, \
             input_tokens, output_tokens, cache_read_input_tokens, cache_write_input_tokens, \
             reasoning_tokens, created_at) \
             SELECT $1, $2, $3, $4, $5, $6, 'text', 'chat', '[]', $7, $8, \
             $9, $10, $11, $12, $13, \
             GREATEST($14, COALESCE(MAX(created_at) + $15, $14)) \
             FROM messages WHERE chat_id = $3 AND tenant_id = $2 AND deleted_at IS NULL",
            params![
                id,
                tenant_id,
                chat_id,
                request_id,
                role.as_str(),
                content,
                provider_response_id,
                model,
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_input_tokens,
                usage.cache_write_input_tokens,
                usage.reasoning_tokens,
                created_at,
                Param::Micros(1),
            ],
        )
    }

    /// The user's text of a turn, also if its chat is deleted, for a process that
    /// knows only the turn's row.
    pub async fn message_of_user(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        request: RequestId,
    ) -> Result<Option<String>, StoreError> {
        self.query_opt(
            "SELECT content FROM messages WHERE tenant_id = $1 AND chat_id = $2 \
             AND request_id = $3 AND role = 'user'",
            &params![tenant, chat, request],
            only_column,
        )
        .await
    }

    /// One page of the messages of the caller's chat (API-61).
    pub async fn message_list(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        request: &PageRequest,
    ) -> Result<Page<Message>, StoreError> {
        let mut params = params![tenant, user, chat].to_vec();
        let sql = request.complete(message_select!(""), &mut params, COLUMNS, self.dialect());
        let rows = self
            .query_page(&sql, request.filter.is_none(), &params, listed_row)
            .await?;
        let page = request.page(rows, |(message, _)| Key {
            at: message.created_at,
            id: message.id.0,
        });
        let with_files = page.items.iter().filter(|(_, has_files)| *has_files);
        let with_files: Vec<_> = with_files.map(|(message, _)| message.id).collect();
        let mut files = self.message_attachments(tenant, chat, &with_files).await?;
        let items = page.items.into_iter().map(|(mut message, _)| {
            message.attachments = files.remove(&message.id).unwrap_or_default();
            message
        });
        Ok(Page {
            items: items.collect(),
            next: page.next,
            previous: page.previous,
        })
    }

    /// The answer of a turn, for a replay (TURN-36), by its own id in the
    /// caller's chat. An answer has no files.
    pub async fn message_get(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        message: MessageId,
    ) -> Result<Option<Message>, StoreError> {
        let sql = message_select!("AND m.id = $4");
        let params = params![tenant, user, chat, message];
        self.query_opt(sql, &params, message_row).await
    }
}

macro_rules! message_select {
    ($rest:literal) => {
        concat!(
            "SELECT m.id, m.request_id, m.role, m.content, r.reaction, m.model, \
             m.input_tokens, m.output_tokens, m.created_at, EXISTS (SELECT 1 \
             FROM message_attachments l WHERE l.message_id = m.id AND l.chat_id = m.chat_id) \
             FROM messages m \
             LEFT JOIN message_reactions r ON r.message_id = m.id AND r.user_id = $2 \
             AND r.tenant_id = m.tenant_id AND m.role = 'assistant' \
             WHERE m.tenant_id = $1 AND m.chat_id = $3 AND m.deleted_at IS NULL \
             AND m.request_id IS NOT NULL AND EXISTS (SELECT 1 FROM chats c \
             WHERE c.id = m.chat_id AND c.tenant_id = $1 AND c.user_id = $2 \
             AND c.deleted_at IS NULL) ",
            $rest
        )
    };
}
use message_select;

/// A message, and whether it is linked to files.
fn listed_row(row: &Row<'_>) -> Result<(Message, bool), StoreError> {
    Ok((message_row(row)?, row.take()?))
}

fn message_row(row: &Row<'_>) -> Result<Message, StoreError> {
    Ok(Message {
        id: row.take()?,
        request_id: row.take()?,
        role: row.take()?,
        content: row.take()?,
        attachments: Vec::new(),
        my_reaction: row.take()?,
        model: row.take()?,
        input_tokens: row.take()?,
        output_tokens: row.take()?,
        created_at: row.take()?,
    })
}

impl Role {
    pub const ALL: [Self; 3] = [Self::User, Self::Assistant, Self::System];

    /// The value in `messages.role` and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl FromValue for Role {
    const EXPECTED: &'static str = "a role";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(name) => Self::named(name),
            _ => None,
        }
    }
}

impl Reaction {
    pub const ALL: [Self; 2] = [Self::Like, Self::Dislike];

    /// The value in `message_reactions.reaction` and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Like => "like",
            Self::Dislike => "dislike",
        }
    }
}

impl FromValue for Reaction {
    const EXPECTED: &'static str = "a reaction";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text("like") => Some(Self::Like),
            Value::Text("dislike") => Some(Self::Dislike),
            _ => None,
        }
    }
}
