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

/// The right to create a chat's vector store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorStorePlace {
    pub tenant_id: TenantId,
    /// The row's id.
    id: Uuid,
}

/// How an attempt to reserve the place of a chat's vector store ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VectorStoreReserve {
    /// The caller creates the store, and then either sets its id or gives the
    /// place back.
    Reserved(VectorStorePlace),
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
    /// acknowledged.
    pub async fn vector_store_reserve(
        &mut self,
        tenant: TenantId,
        user: UserId,
        chat: ChatId,
        backend: &str,
        now: Timestamp,
    ) -> Result<VectorStoreReserve, StoreError> {
        self.chat_lock(tenant, user, chat)?;
        let id = Uuid::new_v4();
        let inserted: Option<Uuid> = self
            .query_opt(
                "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, provider, created_at) \
                 SELECT $4, c.tenant_id, c.id, $5, $6 FROM chats c \
                 WHERE c.tenant_id = $1 AND c.user_id = $2 AND c.id = $3 \
                 AND c.deleted_at IS NULL \
                 ON CONFLICT (tenant_id, chat_id) DO NOTHING RETURNING id",
                &params![tenant, user, chat, id, backend, now],
                only_column,
            )
            .await?;
        if inserted.is_some() {
            let place = VectorStorePlace {
                tenant_id: tenant,
                id,
            };
            return Ok(VectorStoreReserve::Reserved(place));
        }
        // Of a deleted chat there may be a row, which the clean-up removes.
        if self.chat_get(tenant, user, chat).await?.is_none() {
            return Ok(VectorStoreReserve::NoChat);
        }
        let taken = self.vector_store_get(tenant, chat).await?;
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

    /// The id that a row has, read under its lock, so that a commit in progress is
    /// waited for; `None` if the row is gone or has none.
    pub async fn vector_store_id_at(
        &mut self,
        place: VectorStorePlace,
    ) -> Result<Option<String>, StoreError> {
        let sql = match self.dialect() {
            Dialect::Sqlite => id_at!(""),
            Dialect::Postgres => id_at!(" FOR UPDATE"),
        };
        let params = params![place.tenant_id, place.id];
        let id: Option<Option<String>> = self.query_opt(sql, &params, only_column).await?;
        Ok(id.flatten())
    }

    /// Gives back a place for which no store was created.
    pub fn vector_store_release(&mut self, place: VectorStorePlace) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM chat_vector_stores WHERE tenant_id = $1 AND id = $2 \
             AND vector_store_id IS NULL",
            params![place.tenant_id, place.id],
        )
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
