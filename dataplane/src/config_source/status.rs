//! What `/configz` tells (K8S-22, D33, D34): which revision of each tenant
//! runs, and what is wrong with a newer one. No content, no secrets.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use minichat_core::TenantId;
use serde::Serialize;

/// A handle on the latest picture; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<RwLock<Configz>>);

/// The answer of `GET /configz`: the tenants, then what concerns none of them
/// in particular.
pub type Configz = Vec<Entry>;

/// One tenant, or, without `tenant_id`, a document that could not be told
/// apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Entry {
    pub tenant_id: Option<TenantId>,
    /// The one that runs; `null` if none ever did.
    pub revision: Option<String>,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
    /// Every problem of the newer manifests, with file, document and field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Active,
    /// A newer configuration was refused; `revision` still runs.
    Rejected,
}

impl Status {
    pub fn configz(&self) -> Configz {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn replace(&self, configz: Configz) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = configz;
    }
}

/// Problems by whom they concern.
pub(super) type Refusals = BTreeMap<Option<TenantId>, Vec<String>>;
