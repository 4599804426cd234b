//! Calls of providers, and which of them are not called for now. A provider that
//! could not serve several times in a row is left to the next pass, so that its
//! timeouts do not use up the time. One that wants to be called later is called later
//! (CONT-167).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_core::TenantId;
use minichat_metrics::{CleanupResource, CleanupRetryReason};
use minichat_provider::{ProviderFileId, StorageCall, StorageError, VectorStoreId};
use minichat_store::{DueKind, DuePart, LeftStore, PendingFile};
use tokio::time::Instant;

use super::pass::Pass;

/// Calls that it could not serve, one after the other, after which a provider is left
/// to the next pass.
const OUTAGE: u32 = 3;

/// A call that failed.
pub(super) struct FailedCall {
    pub(super) reason: CleanupRetryReason,
    /// For operators.
    pub(super) why: String,
    /// Whether the provider refused this deletion. Otherwise it could not serve.
    pub(super) is_refusal: bool,
    /// When it wants to be called again.
    pub(super) retry_after: Option<Duration>,
}

/// Why something at a provider is not deleted.
pub(super) enum Failure {
    /// The provider was not called, and will be.
    NotTried,
    /// The provider cannot be called with the tenant's configuration; the text says
    /// why.
    Config(String),
    Call(FailedCall),
}

/// What a pass has seen of providers, by tenant and label.
#[derive(Default)]
pub(super) struct Providers(Mutex<HashMap<(TenantId, String), Health>>);

#[derive(Clone, Copy, Default)]
struct Health {
    /// Calls that it could not serve since the last one that it could.
    outages: u32,
    /// Whether it cannot be called with the tenant's configuration.
    is_misconfigured: bool,
    /// When it may be called again.
    not_before: Option<Instant>,
}

const NOT_SERVED: &str = "the tenant is not served here";

fn no_provider(label: &str) -> String {
    format!("no provider of the tenant has the storage label {label}")
}

impl Health {
    const fn is_left_alone(&self) -> bool {
        self.outages >= OUTAGE || self.is_misconfigured
    }
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
        if let Err(StorageError::RateLimited { retry_after }) = called {
            health.not_before = retry_after.map(|wait| Instant::now() + wait);
        }
        match called {
            Err(error) if !is_refusal(error) => health.outages += 1,
            Ok(()) | Err(_) => health.outages = 0,
        }
    }

    fn leave_alone(&self, tenant: TenantId, label: &str) {
        let mut all = self.lock();
        let health = all.entry((tenant, label.to_owned())).or_default();
        health.outages = OUTAGE;
    }

    /// Returns whether this is new.
    fn note_misconfigured(&self, tenant: TenantId, label: &str) -> bool {
        let mut all = self.lock();
        let health = all.entry((tenant, label.to_owned())).or_default();
        !std::mem::replace(&mut health.is_misconfigured, true)
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
        let misconfigured = |why: &str| self.misconfigured(tenant, label, why);
        let runtime = self.cleanup.tenants.get(tenant);
        let runtime = runtime.ok_or_else(|| misconfigured(NOT_SERVED))?;
        let provider = runtime.config.provider_of_storage(label);
        let provider = provider.ok_or_else(|| misconfigured(&no_provider(label)))?;
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
            "config" => misconfigured(&error.to_string()),
            reason => Failure::Call(FailedCall {
                reason: CleanupRetryReason::from_value(reason).unwrap_or(CleanupRetryReason::Other),
                why: error.to_string(),
                is_refusal: is_refusal(&error),
                retry_after: match error {
                    StorageError::RateLimited { retry_after } => retry_after,
                    _ => None,
                },
            }),
        })
    }

    /// Why the provider of `part` cannot be called with the tenant's configuration.
    pub(super) fn misconfiguration(&self, part: &DuePart) -> Option<String> {
        let Some(runtime) = self.cleanup.tenants.get(part.tenant_id) else {
            return Some(NOT_SERVED.to_owned());
        };
        let provider = runtime.config.provider_of_storage(&part.label);
        provider.is_none().then(|| no_provider(&part.label))
    }

    /// Said and counted once in a pass, not for each file.
    pub(super) fn note_misconfiguration(&self, part: &DuePart, why: &str) {
        if self
            .providers
            .note_misconfigured(part.tenant_id, &part.label)
        {
            tracing::warn!(tenant.id = %part.tenant_id, why, "what was deleted cannot be deleted at the provider");
            let resource = match part.kind {
                DueKind::Files | DueKind::Fileless => CleanupResource::File,
                DueKind::Stores => CleanupResource::VectorStore,
            };
            self.retried(resource, CleanupRetryReason::Config);
        }
    }

    /// Whether the provider is left to the next pass.
    pub(super) fn is_left_alone(&self, part: &DuePart) -> bool {
        self.providers
            .health(part.tenant_id, &part.label)
            .is_left_alone()
    }

    /// Whether the provider could not serve the last call.
    pub(super) fn is_failing(&self, part: &DuePart) -> bool {
        self.providers.health(part.tenant_id, &part.label).outages > 0
    }

    /// Said and counted once in a pass, not for each file.
    fn misconfigured(&self, tenant: TenantId, label: &str, why: &str) -> Failure {
        if self.providers.note_misconfigured(tenant, label) {
            config(why)
        } else {
            Failure::NotTried
        }
    }

    /// Whether the provider may be called, after it has waited for it if need be.
    async fn may_call(&self, tenant: TenantId, label: &str) -> bool {
        let health = self.providers.health(tenant, label);
        if health.is_left_alone() {
            return false;
        }
        let wait = health
            .not_before
            .map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.unwrap_or_default();
        let call = self.cleanup.settings.call_timeout;
        // No longer than a call, because a claim lasts for two calls and two waits.
        if wait > call || self.limits.why_not(wait, call).is_some() {
            self.providers.leave_alone(tenant, label);
            return false;
        }
        if self.must_stop() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.limits.stop.fired() => false,
        }
    }
}

/// Whether the provider answered, and refused what it was asked for. Another error is
/// an outage, also if it does not accept the credential or leads elsewhere.
fn is_refusal(error: &StorageError) -> bool {
    matches!(error, StorageError::Status4xx { status, .. }
        if *status >= 400 && !matches!(status, 401 | 403))
}

fn config(why: &str) -> Failure {
    Failure::Config(why.to_owned())
}

fn unusable() -> Failure {
    config("the stored id cannot be part of an address")
}
