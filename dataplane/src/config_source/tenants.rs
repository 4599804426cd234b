//! The tenants that are served now.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use minichat_config::tenant::{Provider, Sinks};
use minichat_config::{Credentials, Faults, Secret, TenantConfig};
use minichat_core::{NamespacedName, TenantId};

use super::issuers::{self, Listing};

/// A running tenant: its configuration and the data for its providers. A
/// request pins the [`Arc`] with which it began (K8S-22).
#[derive(Debug)]
pub struct TenantRuntime {
    /// The `ChatTenant` that owns the tenant's id (D36).
    pub source: NamespacedName,
    /// With a policy version (QUOTA-28).
    pub config: TenantConfig,
    pub credentials: Credentials,
    /// `<policy version>-<12 digits>`, as `/configz` shows it.
    pub revision: String,
    sinks: Result<Sinks, Faults>,
    policy_version: u64,
}

impl TenantRuntime {
    /// `config` of `source` as `policy_version`, with its credentials.
    pub fn new(
        source: NamespacedName,
        config: TenantConfig,
        policy_version: u64,
        credentials: Credentials,
    ) -> Self {
        let digits = config.content_hash.rsplit(':').next().unwrap_or_default();
        let revision = format!("{policy_version}-{}", &digits[..digits.len().min(12)]);
        Self {
            source,
            sinks: config.sinks(&credentials),
            config: config.numbered(policy_version),
            credentials,
            revision,
            policy_version,
        }
    }

    /// The same with a revision that also covers the credentials (K8S-20).
    #[must_use]
    pub(super) fn with_revision(mut self, revision: String) -> Self {
        self.revision = revision;
        self
    }

    /// The credential of one of the tenant's providers; `None` if it needs none.
    pub fn credential_of(&self, provider: &Provider) -> Option<&Secret> {
        let auth = provider.auth.as_ref()?;
        self.credentials.get(&auth.secret_ref)
    }

    /// Where the tenant's events go. Sources accept only configurations whose sinks
    /// have their credentials, so an error is a fault of the process: events are kept.
    pub const fn sinks(&self) -> Result<&Sinks, &Faults> {
        self.sinks.as_ref()
    }

    /// The version that turns pin (QUOTA-33).
    pub const fn policy_version(&self) -> u64 {
        self.policy_version
    }
}

/// The running tenants. Every request reads them; the source swaps them as a
/// whole.
#[derive(Debug, Default)]
pub struct Tenants {
    current: ArcSwap<Snapshot>,
}

#[derive(Debug, Default)]
struct Snapshot {
    tenants: HashMap<TenantId, Arc<TenantRuntime>>,
    issuers: HashMap<String, Listing>,
    names: HashMap<NamespacedName, TenantId>,
    default: Option<TenantId>,
    pending: Pending,
}

/// Tenants that are not served yet and will be without a change of theirs.
#[derive(Debug, Default)]
enum Pending {
    /// Any may come: the source was not read yet.
    #[default]
    All,
    /// Those whose policies the database has not taken yet.
    Only(HashSet<TenantId>),
}

/// Why a tenant is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotServed {
    /// It may be served soon.
    Pending,
    Unknown,
}

impl Tenants {
    /// The tenant's current configuration; `None` if it is not served here.
    pub fn get(&self, tenant: TenantId) -> Option<Arc<TenantRuntime>> {
        self.current.load().tenants.get(&tenant).cloned()
    }

    /// The tenant's current configuration, or why there is none (D43).
    pub fn find(&self, tenant: TenantId) -> Result<Arc<TenantRuntime>, NotServed> {
        let current = self.current.load();
        let running = current.tenants.get(&tenant).cloned();
        running.ok_or_else(|| match &current.pending {
            Pending::Only(pending) if !pending.contains(&tenant) => NotServed::Unknown,
            Pending::All | Pending::Only(_) => NotServed::Pending,
        })
    }

    /// Whether any tenant is pending. Its names and issuers are not known yet.
    pub fn has_pending(&self) -> bool {
        match &self.current.load().pending {
            Pending::All => true,
            Pending::Only(pending) => !pending.is_empty(),
        }
    }

    /// The tenant of mode `dev` for requests that name none (D51): the one that
    /// was first in the manifests when the process started, as long as it
    /// exists.
    pub fn default_id(&self) -> Option<TenantId> {
        self.current.load().default
    }

    /// The id of the tenant called `name`.
    pub fn named(&self, name: &NamespacedName) -> Option<TenantId> {
        self.current.load().names.get(name).copied()
    }

    /// Whether no tenant is served.
    pub fn is_empty(&self) -> bool {
        self.current.load().tenants.is_empty()
    }

    /// The tenants that list the issuer called `name`.
    pub fn listing(&self, name: &str) -> Listing {
        let current = self.current.load();
        current.issuers.get(name).cloned().unwrap_or_default()
    }

    /// All tenants, unordered.
    pub fn all(&self) -> Vec<(TenantId, Arc<TenantRuntime>)> {
        let current = self.current.load();
        current
            .tenants
            .iter()
            .map(|(id, runtime)| (*id, Arc::clone(runtime)))
            .collect()
    }

    /// Replaces all tenants at once; no others are pending.
    pub fn replace(
        &self,
        tenants: HashMap<TenantId, Arc<TenantRuntime>>,
        default: Option<TenantId>,
    ) {
        self.replace_all(tenants, default, HashSet::new());
    }

    /// Replaces all tenants at once, and those that are pending.
    pub(super) fn replace_all(
        &self,
        tenants: HashMap<TenantId, Arc<TenantRuntime>>,
        default: Option<TenantId>,
        pending: HashSet<TenantId>,
    ) {
        let issuers = issuers::index(&tenants);
        let names = tenants
            .iter()
            .map(|(id, tenant)| (tenant.source.clone(), *id));
        let names = names.collect();
        self.current.store(Arc::new(Snapshot {
            tenants,
            issuers,
            names,
            default,
            pending: Pending::Only(pending),
        }));
    }
}
