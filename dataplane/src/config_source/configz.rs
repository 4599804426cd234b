//! The types of `/configz` (K8S-22, D33, D34). [`super::tenant_states`] fills
//! them, and the admin listener serves them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use minichat_core::{NamespacedName, TenantId, Timestamp};
use serde::Serialize;

/// The state of every tenant that the source knows, including tenants that
/// never ran. Contains neither contents nor secrets.
#[derive(Debug, Clone, Default)]
pub struct Status {
    entries: Arc<ArcSwap<Configz>>,
}

/// One entry per tenant, in the order of the ids.
pub type Configz = Vec<TenantStatus>;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantStatus {
    /// The tenant's id.
    pub tenant_id: TenantId,
    /// Whether this tenant opens requests of mode `dev` that name no tenant.
    /// Absent in other modes (D51).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The `ChatTenant` of the running configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<NamespacedName>,
    /// The running revision; `null` if none ever ran.
    pub revision: Option<String>,
    pub state: State,
    /// Whether the tenant's requests are refused.
    pub suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_revision: Option<String>,
    /// All problems of the refused configuration, separated by `; `.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the refused configuration will be tried again without a new
    /// delivery, because the database did not accept it. Absent if false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retrying: bool,
    /// The newest policy version in the database. Present if the refused
    /// configuration needs a higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_version: Option<u64>,
    /// The id's owner in the database. Present if the configuration was refused
    /// because another `ChatTenant` owns the id (D36).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_owner: Option<NamespacedName>,
    /// Whether events reach the sinks of the running configuration. Absent if it has
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sinks: Option<SinkStates>,
    /// The issuer in the refused configuration that belongs to another tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contested_issuer: Option<ContestedIssuer>,
}

/// The state of one sink, in `/configz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SinkState {
    Ok,
    Failing {
        failing_since: Timestamp,
        last_error: String,
    },
}

/// The state of each sink; absent if it is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SinkStates {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<SinkState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<SinkState>,
}

/// An issuer that two tenants list, although at least one of them sets no
/// `tenantClaim`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContestedIssuer {
    /// Index in `spec.auth.issuers`, from 0.
    pub position: usize,
    /// The claim `iss`.
    pub issuer: String,
    /// The tenant that the issuer belongs to.
    pub holder: TenantId,
}

/// Whether the newest configuration runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The newest configuration runs.
    Active,
    /// The newest configuration was refused. An older one may run.
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
