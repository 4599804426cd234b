//! Vector stores of chats (PLAT-11, CONT-61): at most one per chat. Its row is
//! inserted before the provider creates it, so that one of several processes
//! creates it, and deleted only after the provider deleted it.

use minichat_core::{ChatId, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// The vector store of a chat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChatVectorStore {
    /// The label of the storage (CONT-38).
    pub backend: String,
    /// The provider's id; `None` while the store is created.
    pub vector_store_id: Option<String>,
}

/// A place for a chat's vector store, which one process reserves and knows by its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorStorePlace {
    tenant_id: TenantId,
    /// Owner of the chat.
    user_id: UserId,
    chat_id: ChatId,
    /// The row's id.
    id: Uuid,
}

impl VectorStorePlace {
    /// A place that nobody has reserved.
    pub fn new(tenant_id: TenantId, user_id: UserId, chat_id: ChatId) -> Self {
        Self {
            tenant_id,
            user_id,
            chat_id,
            id: Uuid::new_v4(),
        }
    }
}

/// How an attempt to reserve the place of a chat's vector store ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VectorStoreReserve {
    /// The caller creates the store, and then either sets its id or gives the
    /// place back.
    Reserved,
    /// Somebody else created it or does so.
    Taken(ChatVectorStore),
    /// Who created it has just given the place back.
    Released,
    /// The caller has no such chat.
    NoChat,
}

macro_rules! id_at {
    ($lock:literal) => {
        concat!(
            "SELECT vector_store_id FROM chat_vector_stores WHERE tenant_id = $1 AND id = $2",
            $lock
        )
    };
}

impl Tx {
    /// The vector store of a chat, deleted or not.
    pub async fn vector_store_get(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<Option<ChatVectorStore>, StoreError> {
        self.query_opt(
            "SELECT provider, vector_store_id FROM chat_vector_stores \
             WHERE tenant_id = $1 AND chat_id = $2",
            &params![tenant, chat],
            vector_store_row,
        )
        .await
    }

    /// Inserts a row without an id if the caller's chat has none. The chat is
    /// locked, so that no row is added to a chat whose deletion was
    /// acknowledged. May be repeated: who has reserved the place has it.
    pub async fn vector_store_reserve(
        &mut self,
        place: VectorStorePlace,
        backend: &str,
        now: Timestamp,
    ) -> Result<VectorStoreReserve, StoreError> {
        let VectorStorePlace {
            tenant_id,
            user_id,
            chat_id,
            id,
        } = place;
        self.chat_lock(tenant_id, user_id, chat_id)?;
        self.execute_later(
            "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, provider, created_at) \
             SELECT $4, c.tenant_id, c.id, $5, $6 FROM chats c \
             WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 \
             AND c.deleted_at IS NULL \
             ON CONFLICT (tenant_id, chat_id) DO NOTHING",
            params![tenant_id, user_id, chat_id, id, backend, now],
        )?;
        // Of a deleted chat there may be a row, which the clean-up removes.
        if self.chat_get(tenant_id, user_id, chat_id).await?.is_none() {
            return Ok(VectorStoreReserve::NoChat);
        }
        let own: Option<Uuid> = self
            .query_opt(
                "SELECT id FROM chat_vector_stores \
                 WHERE tenant_id = $1 AND id = $2 AND vector_store_id IS NULL",
                &params![tenant_id, id],
                only_column,
            )
            .await?;
        if own.is_some() {
            return Ok(VectorStoreReserve::Reserved);
        }
        let taken = self.vector_store_get(tenant_id, chat_id).await?;
        Ok(taken.map_or(VectorStoreReserve::Released, VectorStoreReserve::Taken))
    }

    /// Records the id of the store that was created; `false` if the row is gone
    /// or has an id, so that nobody will use the store.
    pub async fn vector_store_set(
        &mut self,
        place: VectorStorePlace,
        vector_store_id: &str,
    ) -> Result<bool, StoreError> {
        let changed: Option<Uuid> = self
            .query_opt(
                "UPDATE chat_vector_stores SET vector_store_id = $3 \
                 WHERE tenant_id = $1 AND id = $2 AND vector_store_id IS NULL RETURNING id",
                &params![place.tenant_id, place.id, vector_store_id],
                only_column,
            )
            .await?;
        Ok(changed.is_some())
    }

    /// Gives back a place, unless the id of a store is recorded there, which is
    /// returned. The chat and the row are locked, so that a reserve or a record of an
    /// id whose commit is in progress is waited for.
    pub async fn vector_store_close(
        &mut self,
        place: VectorStorePlace,
    ) -> Result<Option<String>, StoreError> {
        self.chat_lock(place.tenant_id, place.user_id, place.chat_id)?;
        let sql = match self.dialect() {
            Dialect::Sqlite => id_at!(""),
            Dialect::Postgres => id_at!(" FOR UPDATE"),
        };
        let row = params![place.tenant_id, place.id];
        let recorded: Option<Option<String>> = self.query_opt(sql, &row, only_column).await?;
        let recorded = recorded.flatten();
        if recorded.is_none() {
            self.execute_later(
                "DELETE FROM chat_vector_stores WHERE tenant_id = $1 AND id = $2",
                row,
            )?;
        }
        Ok(recorded)
    }

    /// Counts a file that was added to the chat's store.
    pub fn vector_store_count_file(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE chat_vector_stores SET file_count = file_count + 1 \
             WHERE tenant_id = $1 AND chat_id = $2",
            params![tenant, chat],
        )
    }
}

fn vector_store_row(row: &Row<'_>) -> Result<ChatVectorStore, StoreError> {
    Ok(ChatVectorStore {
        backend: row.take()?,
        vector_store_id: row.take()?,
    })
}
