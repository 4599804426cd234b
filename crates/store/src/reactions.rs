//! Reactions to answers (API-111): at most one per message and user.

use minichat_core::{ChatId, MessageId, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::messages::{Reaction, Role};
use crate::tx::only_column;
use crate::value::params;
use crate::{StoreError, Tx};

/// A user's reaction to a message in the user's own chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewReaction {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub chat_id: ChatId,
    pub message_id: MessageId,
    pub reaction: Reaction,
    pub created_at: Timestamp,
}

impl Tx {
    /// The author of an undeleted message of a turn; `None` if the caller's
    /// chat has no such message.
    pub async fn message_role(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        message: MessageId,
    ) -> Result<Option<Role>, StoreError> {
        self.query_opt(
            "SELECT m.role FROM messages m JOIN chats c ON c.id = m.chat_id \
             AND c.tenant_id = m.tenant_id WHERE m.tenant_id = $1 AND c.user_id = $2 \
             AND m.chat_id = $3 AND m.id = $4 AND m.deleted_at IS NULL \
             AND m.request_id IS NOT NULL AND c.deleted_at IS NULL",
            &params![tenant, user, chat, message],
            only_column,
        )
        .await
    }

    /// Sets or replaces the user's reaction.
    pub fn reaction_put(&mut self, new: &NewReaction) -> Result<(), StoreError> {
        let NewReaction {
            tenant_id,
            user_id,
            chat_id,
            message_id,
            reaction,
            created_at,
        } = *new;
        self.execute_later(
            "INSERT INTO message_reactions (id, tenant_id, message_id, user_id, chat_id, \
             reaction, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (message_id, user_id) DO UPDATE SET \
             reaction = EXCLUDED.reaction, created_at = EXCLUDED.created_at",
            params![
                Uuid::new_v4(),
                tenant_id,
                message_id,
                user_id,
                chat_id,
                reaction.as_str(),
                created_at
            ],
        )
    }

    /// Removes the user's reaction, if there is one.
    pub fn reaction_delete(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        message: MessageId,
    ) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM message_reactions WHERE tenant_id = $1 AND user_id = $2 \
             AND chat_id = $3 AND message_id = $4",
            params![tenant, user, chat, message],
        )
    }
}
