//! The running and the refused configuration of each tenant. Every source fills
//! it (K8S-22).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use minichat_config::tenant::IssuerConflict;
use minichat_core::{NamespacedName, TenantId};

use super::configz::{ContestedIssuer, State, TenantStatus};
use super::{Status, TenantRuntime, Tenants};

/// The state of every tenant of a source, with its two views: one for requests,
/// one for `/configz`.
#[derive(Default)]
pub(super) struct TenantStates {
    states: BTreeMap<TenantId, TenantState>,
    /// The tenant of mode `dev` for requests that name none (D51).
    default: Option<TenantId>,
    tenants: Arc<Tenants>,
    status: Status,
}

#[derive(Default)]
struct TenantState {
    running: Option<Arc<TenantRuntime>>,
    rejected: Option<Rejected>,
}

impl TenantState {
    /// Whether nothing runs only because the database did not take it.
    fn is_pending(&self) -> bool {
        let rejected = self.rejected.as_ref();
        self.running.is_none() && rejected.is_some_and(|it| it.database_error.is_some())
    }
}

/// What a configuration is refused with that the database did not take. It is
/// shown to others, so that the database's own words stand in the log alone.
pub(super) const NOT_STORED: &str =
    "the database does not accept the policy at the moment; it will be tried again";

/// A configuration that was refused.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) revision: String,
    pub(super) error: String,
    /// The version that the next configuration must exceed, if that is the
    /// reason.
    pub(super) stored_version: Option<u64>,
    /// The owner of the id, if that is the reason.
    pub(super) stored_owner: Option<NamespacedName>,
    /// The issuer that belongs to another tenant, if that is the reason.
    pub(super) contested_issuer: Option<ContestedIssuer>,
    /// The database's error, if that is the reason. Only logged, because it may
    /// name roles and hosts.
    pub(super) database_error: Option<String>,
}

impl Rejected {
    pub(super) fn new(revision: String, error: String) -> Self {
        Self {
            revision,
            error,
            stored_version: None,
            stored_owner: None,
            contested_issuer: None,
            database_error: None,
        }
    }

    /// A configuration that lists an issuer of another tenant.
    pub(super) fn contested(revision: String, conflict: IssuerConflict) -> Self {
        let error = contested_words(&conflict);
        Self {
            contested_issuer: Some(ContestedIssuer {
                position: conflict.position,
                issuer: conflict.issuer,
                holder: conflict.holder,
            }),
            ..Self::new(revision, error)
        }
    }
}

/// The message for a tenant that lists an issuer of another one.
pub(super) fn contested_words(conflict: &IssuerConflict) -> String {
    let position = conflict.position;
    format!("spec.auth.issuers[{position}].issuer: {conflict}")
}

impl TenantStates {
    pub(super) fn tenants(&self) -> Arc<Tenants> {
        Arc::clone(&self.tenants)
    }

    pub(super) fn status(&self) -> Status {
        self.status.clone()
    }

    /// Every tenant with a running or refused configuration.
    pub(super) fn known(&self) -> impl Iterator<Item = TenantId> {
        self.states.keys().copied()
    }

    pub(super) fn running(&self, id: TenantId) -> Option<&Arc<TenantRuntime>> {
        self.states.get(&id)?.running.as_ref()
    }

    /// Whether the newest configuration was refused.
    pub(super) fn is_rejected(&self, id: TenantId) -> bool {
        let state = self.states.get(&id);
        state.is_some_and(|state| state.rejected.is_some())
    }

    /// Keeps the default tenant as long as it is known. Otherwise chooses the
    /// first of `order` that runs.
    pub(super) fn choose_default(&mut self, order: &[TenantId]) {
        let stays = self.default.is_some_and(|id| self.states.contains_key(&id));
        if !stays {
            let mut running = order.iter().filter(|id| self.running(**id).is_some());
            self.default = running.next().copied();
        }
    }

    pub(super) fn all_running(&self) -> HashMap<TenantId, Arc<TenantRuntime>> {
        self.states
            .iter()
            .filter_map(|(id, state)| Some((*id, Arc::clone(state.running.as_ref()?))))
            .collect()
    }

    /// Applies a valid configuration. `false` if it runs already.
    pub(super) fn run(&mut self, id: TenantId, runtime: TenantRuntime) -> bool {
        let state = self.states.entry(id).or_default();
        state.rejected = None;
        if state.running.as_deref().is_some_and(|running| {
            running.revision == runtime.revision
                && running.source == runtime.source
                && running.config.content_hash == runtime.config.content_hash
                && running.credentials == runtime.credentials
        }) {
            return false;
        }
        tracing::info!(tenant.id = %id, revision = runtime.revision, "a configuration runs");
        state.running = Some(Arc::new(runtime));
        true
    }

    /// Refuses a configuration. The running one continues.
    pub(super) fn reject(&mut self, id: TenantId, rejected: Rejected) {
        let state = self.states.entry(id).or_default();
        if state.rejected.as_ref() != Some(&rejected) {
            let running = state
                .running
                .as_ref()
                .map(|running| running.revision.as_str());
            let cause = rejected.database_error.as_deref();
            tracing::warn!(tenant.id = %id, revision = rejected.revision, error = rejected.error, cause, running, "a configuration is refused");
        }
        state.rejected = Some(rejected);
    }

    /// Stops serving the tenant. Open streams keep the configuration that they
    /// pinned.
    pub(super) fn remove(&mut self, id: TenantId) {
        if self.states.remove(&id).is_some() {
            tracing::info!(tenant.id = %id, "the tenant is gone");
        }
    }

    /// Makes all changes visible at once. Requests that pinned an older
    /// configuration keep it.
    pub(super) fn publish(&self) {
        let pending = self.states.iter().filter(|(_, state)| state.is_pending());
        let pending = pending.map(|(id, _)| *id).collect();
        self.tenants
            .replace_all(self.all_running(), self.default, pending);
        self.status.publish(
            self.states
                .iter()
                .map(|(id, state)| entry(*id, state))
                .collect(),
        );
    }
}

fn entry(tenant_id: TenantId, state: &TenantState) -> TenantStatus {
    let running = state.running.as_ref();
    let rejected = state.rejected.as_ref();
    TenantStatus {
        tenant_id,
        default: false,
        source: running.map(|running| running.source.clone()),
        revision: running.map(|running| running.revision.clone()),
        state: if rejected.is_some() {
            State::Rejected
        } else {
            State::Active
        },
        suspended: running.is_some_and(|running| running.config.suspended),
        rejected_revision: rejected.map(|rejected| rejected.revision.clone()),
        error: rejected.map(|rejected| rejected.error.clone()),
        retrying: rejected.is_some_and(|rejected| rejected.database_error.is_some()),
        stored_version: rejected.and_then(|rejected| rejected.stored_version),
        stored_owner: rejected.and_then(|rejected| rejected.stored_owner.clone()),
        sinks: None,
        contested_issuer: rejected.and_then(|rejected| rejected.contested_issuer.clone()),
    }
}
