//! Renders custom resources and Secrets to one tenant's configuration. Pure, so that the operator
//! and `--manifests` render the same (K8S-2).

mod credentials;
mod document;
mod quota;
mod shortfall;
mod sink;
mod warning;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use minichat_config::{AllowPrivate, Credentials, Faults, TenantConfig};
use minichat_core::{NamespacedName, TenantId};
use uuid::Uuid;

use crate::{ChatQuota, ChatTenant};

pub use credentials::{SecretValue, Secrets, Unresolved, UnresolvedKind, resolve};
pub use quota::{Allowances, allowances};
pub use shortfall::{Shortfall, ShortfallKind};

/// What one process or pool decides for all tenants.
#[derive(Debug, Clone)]
pub struct RenderSettings {
    /// Whether providers, issuers and sinks without TLS are allowed (`provider_http.allow_http`).
    pub allow_http: bool,
    /// Loopback and private addresses that providers, issuers and sinks may have
    /// (`outbound.allow_private`); `None`: every address passes.
    pub allow_private: Option<AllowPrivate>,
    /// Age of the last progress from which a turn is taken for left behind
    /// (`orphan_watchdog.timeout_secs`).
    pub orphan_timeout: Duration,
    /// The issuer whose tokens open tenants that list none (`auth.issuer`), if
    /// there is one: whose subjects the names in quotas are (PLAT-132).
    pub issuer: Option<Arc<str>>,
}

impl RenderSettings {
    /// The strictest: TLS only, to public addresses, and the default of the
    /// watchdog.
    pub const STRICT: Self = Self {
        allow_http: false,
        allow_private: Some(AllowPrivate::NOTHING),
        orphan_timeout: Duration::from_mins(5),
        issuer: None,
    };

    /// What was valid once: for documents that are read for what is in them,
    /// not to be served.
    pub const LENIENT: Self = Self {
        allow_http: true,
        allow_private: None,
        orphan_timeout: Duration::MAX,
        issuer: None,
    };

    /// Why a provider may not be silent for `idle`: a live process must have
    /// given it up before its turn is taken for left behind (TURN-1).
    pub(crate) fn refuse_idle(&self, idle: Duration) -> Option<String> {
        let timeout = self.orphan_timeout;
        let longest = timeout.saturating_sub(PROGRESS_SLACK);
        (idle > longest).then(|| {
            format!(
                "must be at most {}, 60 seconds below orphan_watchdog.timeout_secs, which is {}: \
                 lower this, or raise that",
                longest.as_secs(),
                timeout.as_secs()
            )
        })
    }

    /// Why `host` may not be called, as far as its spelling tells (D48).
    pub(crate) fn refuse_host(&self, host: &str) -> Option<String> {
        let allowed = self.allow_private.as_ref()?.check_host(host);
        allowed.err().map(|refusal| refusal.to_string())
    }
}

impl Default for RenderSettings {
    fn default() -> Self {
        Self::STRICT
    }
}

/// How far the progress that is stored may lag behind (TURN-1).
const PROGRESS_SLACK: Duration = Duration::from_mins(1);

/// One tenant, ready to be served.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// Without a policy version: the operator, or the source of manifests, adds it (QUOTA-27,
    /// QUOTA-28).
    pub config: TenantConfig,
    /// By reference name, `<secret>/<key>`.
    pub credentials: Credentials,
    /// What works but is probably not meant (QUOTA-17).
    pub warnings: Vec<String>,
}

/// Renders `tenant` with those of `quotas` that refer to it. Both have been
/// admitted. Faults carry paths of the `ChatTenant`, or of a quota with its name
/// before it.
pub fn render(
    tenant: &ChatTenant,
    quotas: &[&ChatQuota],
    secrets: &Secrets,
    settings: &RenderSettings,
) -> Result<Rendered, Faults> {
    let mut faults = Faults::default();
    let (credentials, unresolved) = resolve(tenant, secrets);
    faults.0.extend(unresolved.into_iter().map(|one| one.fault));
    faults.require(
        may_have_its_id(tenant),
        "spec.tenantId",
        "must be a UUID of another version than 5, and neither nil nor max; create the ChatTenant anew with what uuidgen prints, or without tenantId",
    );
    let Allowances { limits, shortfalls } = allowances(tenant, quotas, settings);
    let mut warnings = quota::warnings(quotas, &shortfalls);
    let document = document::document(tenant, tenant_id(tenant), limits, settings, &mut faults);
    let document = faults.into_result(document)?;
    let config = TenantConfig::new(document).map_err(document::in_words_of_the_manifest)?;
    let sinks = config
        .sinks(&credentials)
        .map_err(document::in_words_of_the_manifest)?;
    warnings.extend(warning::warnings(&config, &sinks, &credentials));
    Ok(Rendered {
        config,
        credentials,
        warnings,
    })
}

/// The id the tenant asks for, else a version 5 UUID of `namespace/name`.
pub fn tenant_id(tenant: &ChatTenant) -> TenantId {
    let asked = tenant
        .spec
        .tenant_id
        .as_deref()
        .and_then(|id| id.parse().ok());
    asked.unwrap_or_else(|| {
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or("default");
        let name = tenant.metadata.name.as_deref().unwrap_or_default();
        derived(&format!("{namespace}/{name}"))
    })
}

/// Whether the id is one that `tenant` may ask for. The API server refuses
/// others, but not of a tenant that it had before its definition said so. An id
/// of version 5 is derived from a name, and that name's alone (D36).
fn may_have_its_id(tenant: &ChatTenant) -> bool {
    let Some(asked) = &tenant.spec.tenant_id else {
        return true;
    };
    let id = tenant_id(tenant).0;
    let namespace = tenant.metadata.namespace.as_deref().unwrap_or("default");
    let name = tenant.metadata.name.as_deref().unwrap_or_default();
    let derived = derived(&format!("{namespace}/{name}"));
    asked.parse().ok() == Some(TenantId(id))
        && !id.is_nil()
        && !id.is_max()
        && (id.get_version_num() != 5 || id == derived.0)
}

/// The id of the tenant called `name` that asks for none (version 5).
pub fn derived_id(name: &NamespacedName) -> TenantId {
    derived(name.as_str())
}

pub(crate) fn derived(name: &str) -> TenantId {
    let space = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"chattenants.minichat.dev");
    Uuid::new_v5(&space, name.as_bytes()).into()
}
