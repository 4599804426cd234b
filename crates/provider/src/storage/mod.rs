//! Files and vector stores at a provider (CONT-59, PLAT-112).
//! A file is sent while it arrives, so that none is ever whole in memory.
//! Addresses, certificates, proxies and credentials are those of generations;
//! redirects are not followed.
//!
//! A call ends at [`StorageCall::expires_at`], or earlier with the provider's
//! limits: `connect` for the connection, and `first_byte` wherever only the
//! provider is waited for.
//!
//! Nothing is retried, except that a deletion over a kept connection that turns
//! out to be closed is sent again over a new one.

mod error;
mod id;
mod multipart;

use bytes::Bytes;
use futures_util::Stream;
use http::Method;
use minichat_config::Secret;
use minichat_config::tenant::Provider;
use minichat_core::{AttachmentId, TenantId};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

pub use error::StorageError;
pub use id::{ProviderFileId, VectorStoreId};

pub use crate::client::BodyError;
use crate::client::{ProviderClient, SmallAnswer, SmallBody, SmallCall};
use crate::mask::Mask;

/// Whose storage is called, and until when.
#[derive(Clone, Copy, Debug)]
pub struct StorageCall<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The tenant's provider.
    pub provider: &'a Provider,
    /// The credential that [`Provider::auth`] refers to. If `auth` is set and
    /// this is absent, the configuration is wrong, and nothing is sent.
    pub credential: Option<&'a Secret>,
    /// When the call must be over.
    pub expires_at: Instant,
}

/// The file of an upload. Its purpose is `assistants`.
#[derive(Clone, Copy, Debug)]
pub struct FileUpload<'a> {
    /// Its name at the provider: `{chat_id}_{attachment_id}.{ext}`.
    pub filename: &'a str,
    /// Its MIME type.
    pub content_type: &'a str,
}

impl ProviderClient {
    /// Stores a file. `body` is read while the provider takes it. If it yields
    /// an error, the connection is closed and the error comes back as
    /// [`StorageError::Body`]; the provider then has no file. After any other
    /// error but `NoStorage`, `Misconfigured` and `Refused`, the provider may
    /// have a file that nobody knows.
    pub async fn upload_file<S>(
        &self,
        call: &StorageCall<'_>,
        file: &FileUpload<'_>,
        body: S,
    ) -> Result<ProviderFileId, StorageError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    {
        let Some((content_type, body)) = multipart::form(file, body) else {
            let cause = "the file's type is not valid";
            return Err(StorageError::Misconfigured(cause.into()));
        };
        let body = SmallBody::Arriving(content_type, body);
        let answer = send(self, call, Method::POST, "files", body).await?;
        ProviderFileId::new(id_in(&answer)?).ok_or(NO_ID)
    }

    /// Creates an empty vector store.
    pub async fn create_vector_store(
        &self,
        call: &StorageCall<'_>,
    ) -> Result<VectorStoreId, StorageError> {
        let body = SmallBody::Json(Bytes::from_static(b"{}"));
        let answer = send(self, call, Method::POST, "vector_stores", body).await?;
        VectorStoreId::new(id_in(&answer)?).ok_or(NO_ID)
    }

    /// Adds a file to a store, which begins to index it. The attachment's id
    /// becomes an attribute of the file there.
    pub async fn add_file(
        &self,
        call: &StorageCall<'_>,
        store: &VectorStoreId,
        file: &ProviderFileId,
        attachment: AttachmentId,
    ) -> Result<(), StorageError> {
        let path = format!("vector_stores/{}/files", store.as_str());
        let attributes = json!({"attachment_id": attachment});
        let body = json!({"file_id": file.as_str(), "attributes": attributes});
        let body = SmallBody::Json(body.to_string().into());
        send(self, call, Method::POST, &path, body).await?;
        Ok(())
    }

    /// Removes a file from a store; the file remains. Also succeeds if the
    /// provider does not know the file or the store (CONT-167).
    pub async fn remove_file(
        &self,
        call: &StorageCall<'_>,
        store: &VectorStoreId,
        file: &ProviderFileId,
    ) -> Result<(), StorageError> {
        let (store, file) = (store.as_str(), file.as_str());
        delete(self, call, &format!("vector_stores/{store}/files/{file}")).await
    }

    /// Deletes a file. Also succeeds if the provider does not know it
    /// (CONT-167).
    pub async fn delete_file(
        &self,
        call: &StorageCall<'_>,
        file: &ProviderFileId,
    ) -> Result<(), StorageError> {
        delete(self, call, &format!("files/{}", file.as_str())).await
    }

    /// Deletes a store, but not its files. Also succeeds if the provider does
    /// not know it (CONT-167).
    pub async fn delete_vector_store(
        &self,
        call: &StorageCall<'_>,
        store: &VectorStoreId,
    ) -> Result<(), StorageError> {
        delete(self, call, &format!("vector_stores/{}", store.as_str())).await
    }
}

const NO_ID: StorageError = StorageError::Unreadable("it contains no usable id");

async fn delete(
    client: &ProviderClient,
    call: &StorageCall<'_>,
    path: &str,
) -> Result<(), StorageError> {
    let deleted = send(client, call, Method::DELETE, path, SmallBody::Nothing).await;
    match deleted {
        Ok(_) | Err(StorageError::Status4xx { status: 404, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the call `path` of CONT-59. The answer is a success.
async fn send(
    client: &ProviderClient,
    call: &StorageCall<'_>,
    method: Method,
    path: &str,
    body: SmallBody,
) -> Result<SmallAnswer, StorageError> {
    let storage = call.provider.storage.as_ref();
    let storage = storage.ok_or(StorageError::NoStorage)?;
    let small = SmallCall {
        tenant: call.tenant,
        provider: call.provider,
        credential: call.credential,
        method,
        path: &storage.api.path(path),
        expires_at: call.expires_at,
    };
    let mask = || Mask::new(call.provider, call.credential);
    let answer = client
        .call_small(&small, body)
        .await
        .map_err(|error| StorageError::of_call(error, &mask()))?;
    if answer.status.is_success() {
        Ok(answer)
    } else {
        Err(StorageError::of_answer(&answer, &mask()))
    }
}

/// The field `id` of an answer.
fn id_in(answer: &SmallAnswer) -> Result<String, StorageError> {
    #[derive(Deserialize)]
    struct Object {
        id: String,
    }
    let too_long = StorageError::Unreadable("it is too long");
    let body = answer.body.as_deref().ok_or(too_long)?;
    let object: Object = serde_json::from_slice(body).map_err(|_| NO_ID)?;
    Ok(object.id)
}
