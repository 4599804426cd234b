//! Step 14 of an upload: what makes a stored file usable. A document that is
//! searched gets into the chat's vector store (CONT-61, CONT-62), an image gets
//! a thumbnail (CONT-66).

use std::sync::Arc;

use http::HeaderValue;
use http::header::RETRY_AFTER;
use minichat_core::{AttachmentKind, ErrorCode};
use minichat_metrics::UploadResult;
use minichat_provider::{ProviderFileId, VectorStoreId};
use minichat_store::{StoreError, Thumbnail};

use super::outcome::Refusal;
use super::transfer::{Failure, Transfer, no_provider};
use super::vector_store::{self, ChatStore, NoVectorStore};
use crate::problem::Problem;

impl Transfer<'_> {
    /// Does what the type of the file needs. Returns its thumbnail.
    pub(super) async fn make_usable(
        &self,
        file: &ProviderFileId,
    ) -> Result<Option<Thumbnail>, Failure> {
        let file_type = self.new.file_type;
        if file_type.for_file_search() {
            self.index(file).await?;
        }
        match file_type.kind {
            AttachmentKind::Image => Ok(self.thumbnail().await),
            AttachmentKind::Document => Ok(None),
        }
    }

    async fn index(&self, file: &ProviderFileId) -> Result<(), Failure> {
        let store = self.vector_store().await?;
        let call = self.call().ok_or_else(no_provider)?;
        let client = &self.upload.app.provider;
        let added = client.add_file(&call, &store, file, self.key.id).await;
        added.map_err(|error| Failure::new(self.refused_by_provider(&error), "indexing_failed"))?;
        self.count_file().await;
        Ok(())
    }

    async fn vector_store(&self) -> Result<VectorStoreId, Failure> {
        let provider = self.upload.provider().ok_or_else(no_provider)?;
        let chat = ChatStore {
            app: Arc::clone(&self.upload.app),
            caller: self.upload.caller.clone(),
            chat: self.key.chat_id,
            provider: provider.id.clone(),
            expires_at: self.expires_at,
        };
        let store = vector_store::get_or_create(&chat).await;
        store.map_err(|error| self.without_store(error))
    }

    fn without_store(&self, error: NoVectorStore) -> Failure {
        let id = self.key.id;
        tracing::warn!(attachment_id = %id, %error, "a file has no vector store");
        let problem = match error {
            NoVectorStore::NoChat => return Failure::of_deleted(Problem::chat_not_found()),
            NoVectorStore::Database(error) => {
                return Failure::new(error.into(), "vector_store_failed");
            }
            NoVectorStore::Provider(error) => {
                return Failure::new(self.refused_by_provider(&error), "vector_store_failed");
            }
            NoVectorStore::Elsewhere(_) => Problem::new(
                ErrorCode::ProviderMismatch,
                "The chat's documents are at another provider than that of its model. Use another chat for this one.",
            ),
            NoVectorStore::NotInTime => Problem::new(
                ErrorCode::VectorStoreTimeout,
                "Another upload prepares the chat for documents. Try again.",
            )
            .with_header(RETRY_AFTER, HeaderValue::from_static("3")),
            NoVectorStore::Abandoned => Problem::new(
                ErrorCode::ProviderError,
                "The provider could not prepare the chat for documents.",
            ),
            NoVectorStore::Panicked => Problem::internal(),
        };
        let refusal = Refusal::new(problem, UploadResult::ProviderError);
        Failure::new(refusal, "vector_store_failed")
    }

    /// The count is for people; a file that it misses is as usable as others.
    async fn count_file(&self) {
        let (tenant, chat) = (self.key.tenant_id, self.key.chat_id);
        let store = &self.upload.app.store;
        let counted: Result<(), StoreError> = store
            .write(move |tx| Box::pin(async move { tx.vector_store_count_file(tenant, chat) }))
            .await;
        if let Err(error) = counted {
            tracing::warn!(attachment_id = %self.key.id, %error, "a file was not counted");
        }
    }

    async fn thumbnail(&self) -> Option<Thumbnail> {
        let file = self.passed.take_kept()?;
        let made = self.upload.app.thumbnails.make(file).await?;
        Some(Thumbnail {
            webp: made.webp,
            width: made.width,
            height: made.height,
        })
    }
}
