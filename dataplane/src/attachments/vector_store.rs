//! The vector store of a chat (CONT-61): created once, whichever process is
//! asked for it first.
//!
//! A row without an id holds the place while the store is created. Who inserted
//! it is the *creator*; everybody else waits for the id and never creates a
//! store. The creator works in a task of its own, so that no client that leaves
//! keeps the place taken.

use std::sync::Arc;
use std::time::Duration;

use minichat_core::{ChatId, TenantId};
use minichat_provider::{StorageCall, StorageError, VectorStoreId};
use minichat_store::{ChatVectorStore, StoreError, VectorStorePlace, VectorStoreReserve};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use crate::app::App;
use crate::caller::Caller;

/// Pauses of those who wait, before each look at the row.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// Whose store is wanted, and where.
#[derive(Clone)]
pub(super) struct ChatStore {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    pub(super) chat: ChatId,
    /// The id of the tenant's provider, which has a storage.
    pub(super) provider: String,
    /// When calls to the provider must be over.
    pub(super) expires_at: Instant,
}

/// Why there is no store.
#[derive(Debug, Error)]
pub(super) enum NoVectorStore {
    /// The chat's store is in another storage.
    #[error("the chat's vector store is in the storage {0}")]
    Elsewhere(String),
    /// Its creation by somebody else took too long.
    #[error("the chat's vector store was not created in time")]
    NotInTime,
    /// Somebody else could not create it.
    #[error("another upload could not create the chat's vector store")]
    Abandoned,
    /// The chat was deleted meanwhile.
    #[error("the chat was deleted")]
    NoChat,
    #[error("the vector store could not be created: {0}")]
    Provider(#[from] StorageError),
    #[error(transparent)]
    Database(#[from] StoreError),
    /// The task that created it ended without an answer.
    #[error("the task that created the vector store panicked")]
    Panicked,
}

/// The chat's vector store, which is created if there is none.
pub(super) async fn get_or_create(chat: &ChatStore) -> Result<VectorStoreId, NoVectorStore> {
    if let Some(found) = chat.row().await? {
        return chat.wait_for_id(found).await;
    }
    match chat.reserve().await? {
        VectorStoreReserve::NoChat => Err(NoVectorStore::NoChat),
        VectorStoreReserve::Released => Err(NoVectorStore::Abandoned),
        VectorStoreReserve::Taken(found) => chat.wait_for_id(found).await,
        VectorStoreReserve::Reserved(place) => {
            let creator = chat.clone();
            let task = async move { creator.create(place).await };
            let task = tokio::spawn(task.in_current_span());
            task.await.unwrap_or(Err(NoVectorStore::Panicked))
        }
    }
}

impl ChatStore {
    const fn tenant(&self) -> TenantId {
        self.caller.tenant_id
    }

    /// A call to the provider; `None` if the provider has no storage.
    fn call(&self) -> Option<(StorageCall<'_>, &str)> {
        let config = &self.caller.tenant.config;
        let provider = config.providers.get(&self.provider)?;
        let storage = provider.storage.as_ref()?;
        let call = StorageCall {
            tenant: self.tenant(),
            provider,
            credential: self.caller.tenant.credential_of(provider),
            expires_at: self.expires_at,
        };
        Some((call, &storage.backend))
    }

    fn backend(&self) -> Result<&str, StorageError> {
        let call = self.call().ok_or(StorageError::NoStorage)?;
        Ok(call.1)
    }

    async fn row(&self) -> Result<Option<ChatVectorStore>, StoreError> {
        let (tenant, chat) = (self.tenant(), self.chat);
        self.app
            .store
            .read(move |tx| Box::pin(async move { tx.vector_store_get(tenant, chat).await }))
            .await
    }

    async fn reserve(&self) -> Result<VectorStoreReserve, NoVectorStore> {
        let (tenant, user, chat) = (self.tenant(), self.caller.user_id, self.chat);
        let now = self.app.clock.now();
        let backend: Arc<str> = self.backend()?.into();
        let reserved: Result<_, StoreError> = self
            .app
            .store
            .write(move |tx| {
                let backend = Arc::clone(&backend);
                Box::pin(async move {
                    tx.vector_store_reserve(tenant, user, chat, &backend, now)
                        .await
                })
            })
            .await;
        Ok(reserved?)
    }

    /// The id of `found`, as soon as it has one.
    async fn wait_for_id(&self, found: ChatVectorStore) -> Result<VectorStoreId, NoVectorStore> {
        let mut pauses = PAUSES.into_iter();
        let mut found = found;
        loop {
            if found.backend != self.backend()? {
                return Err(NoVectorStore::Elsewhere(found.backend));
            }
            if let Some(id) = found.vector_store_id {
                let unusable = StorageError::Unreadable("the stored id is not usable");
                return Ok(VectorStoreId::new(id).ok_or(unusable)?);
            }
            sleep(pauses.next().ok_or(NoVectorStore::NotInTime)?).await;
            found = self.row().await?.ok_or(NoVectorStore::Abandoned)?;
        }
    }

    /// Creates the store at the provider and records its id. If it fails, the
    /// place is given back.
    async fn create(&self, place: VectorStorePlace) -> Result<VectorStoreId, NoVectorStore> {
        let (call, _) = self.call().ok_or(StorageError::NoStorage)?;
        let id = match self.app.provider.create_vector_store(&call).await {
            Ok(id) => id,
            Err(error) => {
                self.release(place).await;
                return Err(error.into());
            }
        };
        match self.set(place, &id).await {
            Ok(true) => Ok(id),
            Ok(false) => {
                self.discard(&call, &id).await;
                let found = self.row().await?.ok_or(NoVectorStore::NoChat)?;
                self.wait_for_id(found).await
            }
            Err(error) => self.settle(place, &call, id, error).await,
        }
    }

    async fn set(&self, place: VectorStorePlace, id: &VectorStoreId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.app
            .store
            .write(move |tx| {
                let id = id.clone();
                Box::pin(async move { tx.vector_store_set(place, id.as_str()).await })
            })
            .await
    }

    /// A commit counts even if its acknowledgement was lost. Without it, the
    /// place is given back, and the store deleted.
    async fn settle(
        &self,
        place: VectorStorePlace,
        call: &StorageCall<'_>,
        id: VectorStoreId,
        error: StoreError,
    ) -> Result<VectorStoreId, NoVectorStore> {
        let at: Result<_, StoreError> = self
            .app
            .store
            .write(move |tx| Box::pin(async move { tx.vector_store_id_at(place).await }))
            .await;
        match at {
            Ok(Some(recorded)) if recorded == id.as_str() => Ok(id),
            Ok(_) => {
                if self.release(place).await {
                    self.discard(call, &id).await;
                }
                Err(error.into())
            }
            // Whether the id is recorded is not known, so the store stays.
            Err(_) => Err(error.into()),
        }
    }

    /// If the database cannot serve, the clean-up finds the place later
    /// (CONT-174), and the answer is `false`.
    async fn release(&self, place: VectorStorePlace) -> bool {
        let released: Result<(), StoreError> = self
            .app
            .store
            .write(move |tx| Box::pin(async move { tx.vector_store_release(place) }))
            .await;
        if let Err(error) = &released {
            tracing::warn!(%error, "the place of a vector store could not be given back");
        }
        released.is_ok()
    }

    /// Deletes a store that nobody will use; best effort (CONT-61).
    async fn discard(&self, call: &StorageCall<'_>, id: &VectorStoreId) {
        if let Err(error) = self.app.provider.delete_vector_store(call, id).await {
            let reason = error.reason();
            tracing::warn!(reason, %error, "a vector store that nobody uses could not be deleted");
        }
    }
}
