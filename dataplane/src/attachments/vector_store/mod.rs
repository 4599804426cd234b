//! The vector store of a chat (CONT-61): created once, whichever process is
//! asked for it first.
//!
//! A row without an id holds the place while the store is created. Who inserted
//! it is the *creator*; everybody else waits for the id and never creates a
//! store. The creator works in a task of its own, so that no client that leaves
//! keeps the place taken.

mod creation;

use std::sync::Arc;
use std::time::Duration;

use minichat_core::{ChatId, TenantId};
use minichat_provider::{StorageCall, StorageError, VectorStoreId};
use minichat_store::{ChatVectorStore, StoreError};
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
    let creator = chat.clone();
    // A process that ends waits for it: only its row leads to the store.
    let counted = chat.app.uploads.task();
    let task = async move {
        let _counted = counted;
        creator.create().await
    };
    let task = tokio::spawn(task.in_current_span());
    task.await.unwrap_or(Err(NoVectorStore::Panicked))
}

impl ChatStore {
    const fn tenant(&self) -> TenantId {
        self.caller.tenant_id
    }

    /// A call to the provider, and the label of its storage.
    fn call(&self) -> Result<(StorageCall<'_>, &str), StorageError> {
        let config = &self.caller.tenant.config;
        let provider = config.providers.get(&self.provider);
        let provider = provider.ok_or(StorageError::NoStorage)?;
        let storage = provider.storage.as_ref().ok_or(StorageError::NoStorage)?;
        let call = StorageCall {
            tenant: self.tenant(),
            provider,
            credential: self.caller.tenant.credential_of(provider),
            expires_at: self.expires_at,
        };
        Ok((call, &storage.backend))
    }

    /// Whether `label` leads to the provider of the upload, which may have another
    /// label now (CONT-167).
    fn is_here(&self, label: &str) -> bool {
        let holder = self.caller.tenant.config.provider_of_storage(label);
        holder.is_some_and(|holder| holder.id == self.provider)
    }

    async fn row(&self) -> Result<Option<ChatVectorStore>, StoreError> {
        let (tenant, chat) = (self.tenant(), self.chat);
        self.app
            .store
            .read(move |tx| Box::pin(async move { tx.vector_store_get(tenant, chat).await }))
            .await
    }

    /// The id of `found`, as soon as it has one.
    async fn wait_for_id(&self, found: ChatVectorStore) -> Result<VectorStoreId, NoVectorStore> {
        let mut pauses = PAUSES.into_iter();
        let mut found = found;
        loop {
            if !self.is_here(&found.backend) {
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
}
