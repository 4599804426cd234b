//! What `/configz` shows (K8S-22, D33, D34): the types. [`super::tenant_states`] fills them, the admin listener serves
//! them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use minichat_core::{NamespacedName, TenantId};
use serde::Serialize;

/// The state of every tenant the source knows, also of those that never ran.
/// Neither content nor secrets.
#[derive(Debug, Clone, Default)]
pub struct Status {
    entries: Arc<ArcSwap<Configz>>,
}

/// One entry per tenant, in the order of the ids.
pub type Configz = Vec<TenantStatus>;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantStatus {
    /// Which one.
    pub tenant_id: TenantId,
    /// Whether a request of mode `dev` that names no tenant opens this one; only
    /// said in that mode (D51).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The `ChatTenant` whose configuration runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<NamespacedName>,
    /// The one that runs; `null` if none ever did.
    pub revision: Option<String>,
    pub state: State,
    /// Whether the tenant's requests are refused.
    pub suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_revision: Option<String>,
    /// Every problem of the refused one, separated by `; `.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the refused one is tried again without being delivered anew: the database
    /// did not take it. Only said then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retrying: bool,
    /// The newest policy version in the database, when the refused one would
    /// have to be higher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_version: Option<u64>,
    /// Whose the id is in the database, when the refused one is another's (D36).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_owner: Option<NamespacedName>,
    /// The issuer that the refused one lists and that is another tenant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contested_issuer: Option<ContestedIssuer>,
}

/// An issuer that two tenants list, of which one does not name a `tenantClaim`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContestedIssuer {
    /// Place in `spec.auth.issuers`, from 0.
    pub position: usize,
    /// The claim `iss`.
    pub issuer: String,
    /// Whose it is.
    pub holder: TenantId,
}

/// Whether the newest configuration runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Active,
    /// It was refused; an older one may run.
    Rejected,
}

impl Status {
    /// The body of `GET /configz`.
    pub fn configz(&self) -> Arc<Configz> {
        self.entries.load_full()
    }

    pub(super) fn publish(&self, entries: Configz) {
        self.entries.store(Arc::new(entries));
    }
}
