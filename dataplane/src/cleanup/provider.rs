//! Calls of providers, and which of them are not called for now. A provider that was
//! silent several times in a row is left to the next pass, so that its timeouts do
//! not use up the time of others. One that wants to be called later is called later
//! (CONT-167).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use minichat_core::TenantId;
use minichat_metrics::CleanupRetryReason;
use minichat_provider::{ProviderFileId, StorageCall, StorageError, VectorStoreId};
use minichat_store::{LeftStore, PendingFile};
use tokio::time::Instant;

use super::pass::Pass;

/// Calls without an answer, one after the other, after which a provider counts as
/// silent.
const SILENT: u32 = 3;
/// Why something at a provider is not deleted.
pub(super) enum Failure {
    /// The provider was not called, and will be.
    NotTried,
    /// The provider cannot be called with the tenant's configuration; the text says
    /// why.
    Config(String),
    /// A call failed, with this text for operators.
    Call(CleanupRetryReason, String),
}

/// What a pass has seen of providers, by tenant and label.
#[derive(Default)]
pub(super) struct Providers(Mutex<HashMap<(TenantId, String), Health>>);

#[derive(Clone, Copy, Default)]
struct Health {
    /// Calls without an answer since the last answer.
    silent: u32,
    /// When it may be called again.
    not_before: Option<Instant>,
}

impl Providers {
    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, String), Health>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self, tenant: TenantId, label: &str) -> Health {
        let key = (tenant, label.to_owned());
        self.lock().get(&key).copied().unwrap_or_default()
    }

    fn note(&self, tenant: TenantId, label: &str, called: &Result<(), StorageError>) {
        let mut all = self.lock();
        let health = all.entry((tenant, label.to_owned())).or_default();
        health.not_before = None;
        match called {
            Err(StorageError::Timeout | StorageError::Transport(_)) => health.silent += 1,
            Err(StorageError::RateLimited { retry_after }) => {
                health.silent = 0;
                health.not_before = retry_after.map(|wait| Instant::now() + wait);
            }
            Ok(()) | Err(_) => health.silent = 0,
        }
    }
}

/// A call that deletes something.
#[derive(Clone, Copy)]
enum Deletion<'a> {
    File(&'a ProviderFileId),
    FileOutOf(&'a VectorStoreId, &'a ProviderFileId),
    Store(&'a VectorStoreId),
}

impl Pass<'_> {
    /// Deletes a file, if there is one: first out of the vector store of a living
    /// chat.
    pub(super) async fn delete_file(
        &self,
        tenant: TenantId,
        file: &PendingFile,
    ) -> Result<(), Failure> {
        let Some(id) = &file.provider_file_id else {
            return Ok(());
        };
        let label = &file.storage_backend;
        let id = ProviderFileId::new(id.as_str()).ok_or_else(unusable)?;
        if let Some(store) = &file.vector_store_id {
            let store = VectorStoreId::new(store.as_str()).ok_or_else(unusable)?;
            self.call(tenant, label, Deletion::FileOutOf(&store, &id))
                .await?;
        }
        self.call(tenant, label, Deletion::File(&id)).await
    }

    /// Deletes a vector store, if it was created.
    pub(super) async fn delete_store(
        &self,
        tenant: TenantId,
        store: &LeftStore,
    ) -> Result<(), Failure> {
        let Some(id) = &store.vector_store_id else {
            return Ok(());
        };
        let id = VectorStoreId::new(id.as_str()).ok_or_else(unusable)?;
        self.call(tenant, &store.provider, Deletion::Store(&id))
            .await
    }

    async fn call(
        &self,
        tenant: TenantId,
        label: &str,
        deletion: Deletion<'_>,
    ) -> Result<(), Failure> {
        let runtime = self.cleanup.tenants.get(tenant);
        let runtime = runtime.ok_or_else(|| config("the tenant is not served here"))?;
        let provider = runtime.config.provider_of_storage(label).ok_or_else(|| {
            config(&format!(
                "no provider of the tenant has the storage label {label}"
            ))
        })?;
        if !self.may_call(tenant, label).await {
            return Err(Failure::NotTried);
        }
        let call = StorageCall {
            tenant,
            provider,
            credential: runtime.credential_of(provider),
            expires_at: Instant::now() + self.cleanup.settings.call_timeout,
        };
        let client = &self.cleanup.client;
        let called = match deletion {
            Deletion::File(file) => client.delete_file(&call, file).await,
            Deletion::FileOutOf(store, file) => client.remove_file(&call, store, file).await,
            Deletion::Store(store) => client.delete_vector_store(&call, store).await,
        };
        self.providers.note(tenant, label, &called);
        called.map_err(|error| match error.reason() {
            "config" => config(&error.to_string()),
            reason => {
                let reason = CleanupRetryReason::from_value(reason);
                let reason = reason.unwrap_or(CleanupRetryReason::Other);
                Failure::Call(reason, error.to_string())
            }
        })
    }

    /// Whether the provider may be called, after it has waited for it if need be.
    async fn may_call(&self, tenant: TenantId, label: &str) -> bool {
        let health = self.providers.health(tenant, label);
        if health.silent >= SILENT {
            return false;
        }
        let wait = health
            .not_before
            .map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.unwrap_or_default();
        let call = self.cleanup.settings.call_timeout;
        // No longer than a call, because a claim lasts for two calls and two waits.
        if wait > call || self.limits.why_not(wait, call).is_some() {
            // `must_stop` says so if the time is over for all.
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.limits.stop.fired() => false,
        }
    }
}

fn config(why: &str) -> Failure {
    Failure::Config(why.to_owned())
}

fn unusable() -> Failure {
    config("the stored id cannot be part of an address")
}
