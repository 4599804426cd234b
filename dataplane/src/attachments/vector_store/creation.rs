//! The creator of a chat's vector store. Whatever fails, it leaves either a store with
//! its id or no row, as soon as the database answers: a row without an id keeps
//! documents out of the chat until the clean-up removes it (CONT-174).

use std::sync::Arc;
use std::time::Duration;

use minichat_provider::VectorStoreId;
use minichat_store::{StoreError, VectorStorePlace, VectorStoreReserve};
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::{ChatStore, NoVectorStore};

/// How long it is asked whether the place is reserved, while the upload waits.
const RESERVE_PATIENCE: Duration = Duration::from_secs(10);

/// How long it is tried to give the place back.
const CLOSE_PATIENCE: Duration = Duration::from_mins(5);

/// How long the deletion of a store that nobody uses may take.
const DISCARD_LIMIT: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl ChatStore {
    /// Creates the store, unless somebody else does so.
    pub(super) async fn create(&self) -> Result<VectorStoreId, NoVectorStore> {
        let place = VectorStorePlace::new(self.tenant(), self.caller.user_id, self.chat);
        match self.reserve(place).await? {
            VectorStoreReserve::NoChat => Err(NoVectorStore::NoChat),
            VectorStoreReserve::Released => Err(NoVectorStore::Abandoned),
            VectorStoreReserve::Taken(found) => self.wait_for_id(found).await,
            VectorStoreReserve::Reserved => self.fill(place).await,
        }
    }

    /// A commit counts even if its acknowledgement was lost: the same place, asked for
    /// again, is recognized.
    async fn reserve(&self, place: VectorStorePlace) -> Result<VectorStoreReserve, NoVectorStore> {
        let backend: Arc<str> = self.call()?.1.into();
        let reserve = || self.try_reserve(place, &backend);
        match reserve().await {
            Err(error) if error.is_unanswered() => {
                tracing::warn!(%error, "it is not known whether the place of a vector store is reserved");
            }
            answer => return Ok(answer?),
        }
        let reserved = repeated(RESERVE_PATIENCE, reserve).await;
        if reserved.is_err() {
            self.close_later(place, None);
        }
        Ok(reserved?)
    }

    async fn try_reserve(
        &self,
        place: VectorStorePlace,
        backend: &Arc<str>,
    ) -> Result<VectorStoreReserve, StoreError> {
        let (now, backend) = (self.app.clock.now(), Arc::clone(backend));
        self.app
            .store
            .write(move |tx| {
                let backend = Arc::clone(&backend);
                Box::pin(async move { tx.vector_store_reserve(place, &backend, now).await })
            })
            .await
    }

    /// Creates the store at the provider and records its id.
    async fn fill(&self, place: VectorStorePlace) -> Result<VectorStoreId, NoVectorStore> {
        let (call, _) = self.call()?;
        let id = match self.app.provider.create_vector_store(&call).await {
            Ok(id) => id,
            Err(error) => {
                self.close(place, None).await;
                return Err(error.into());
            }
        };
        match self.set(place, &id).await {
            Ok(true) => Ok(id),
            Ok(false) => {
                self.discard(&id).await;
                let found = self.row().await?.ok_or(NoVectorStore::NoChat)?;
                self.wait_for_id(found).await
            }
            // A commit counts even if its acknowledgement was lost.
            Err(_) if self.close(place, Some(&id)).await => Ok(id),
            Err(error) => Err(error.into()),
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

    /// Gives the place back, unless the id of a store is recorded there. Returns whether
    /// it is that of `created`, which is deleted if it is not. If the database cannot
    /// serve, a task goes on, and the answer is `false`.
    async fn close(&self, place: VectorStorePlace, created: Option<&VectorStoreId>) -> bool {
        match self.try_close(place).await {
            Ok(recorded) => self.is_kept(recorded.as_deref(), created).await,
            Err(error) => {
                tracing::warn!(%error, "the place of a vector store could not be given back");
                self.close_later(place, created);
                false
            }
        }
    }

    fn close_later(&self, place: VectorStorePlace, created: Option<&VectorStoreId>) {
        let (this, created) = (self.clone(), created.cloned());
        let counted = self.app.uploads.task();
        let task = async move {
            let _counted = counted;
            match repeated(CLOSE_PATIENCE, || this.try_close(place)).await {
                Ok(recorded) => {
                    this.is_kept(recorded.as_deref(), created.as_ref()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the place of a vector store is left to the clean-up");
                }
            }
        };
        tokio::spawn(task.in_current_span());
    }

    async fn try_close(&self, place: VectorStorePlace) -> Result<Option<String>, StoreError> {
        self.app
            .store
            .write_closing(move |tx| Box::pin(async move { tx.vector_store_close(place).await }))
            .await
    }

    /// Whether `created` is recorded. If not, nobody will use it, and it is deleted.
    async fn is_kept(&self, recorded: Option<&str>, created: Option<&VectorStoreId>) -> bool {
        let Some(created) = created else {
            return false;
        };
        if recorded == Some(created.as_str()) {
            return true;
        }
        self.discard(created).await;
        false
    }

    /// Deletes a store that nobody will use; best effort (CONT-61).
    async fn discard(&self, id: &VectorStoreId) {
        let Ok((mut call, _)) = self.call() else {
            return;
        };
        call.expires_at = Instant::now() + DISCARD_LIMIT;
        if let Err(error) = self.app.provider.delete_vector_store(&call, id).await {
            let reason = error.reason();
            tracing::warn!(reason, %error, "a vector store that nobody uses could not be deleted");
        }
    }
}

/// Repeats `attempt` while the database cannot serve.
async fn repeated<T, F>(
    patience: Duration,
    attempt: impl Fn() -> F + Send + Sync,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>> + Send,
{
    let until = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if error.is_unavailable() && Instant::now() + pause < until => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}
