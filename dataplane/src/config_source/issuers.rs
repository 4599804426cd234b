//! Which tenants a token of an issuer may open (K8S section 2, `auth.issuers`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use minichat_config::tenant::{IssuerConflict, issuer_conflicts};
use minichat_config::{Issuer, TenantConfig};
use minichat_core::TenantId;

use super::TenantRuntime;

/// The tenants that list an issuer.
#[derive(Clone, Debug, Default)]
pub enum Listing {
    #[default]
    Nobody,
    /// One tenant. Every token of the issuer opens it.
    Alone(TenantId, Arc<Issuer>),
    /// Several tenants. A claim in the token names one.
    Shared(Arc<SharedIssuer>),
    /// Several tenants, of which at least one sets no `tenantClaim`: no tenant
    /// is opened.
    Contested,
}

/// An issuer whose tokens name the tenant.
#[derive(Clone, Debug, Default)]
pub struct SharedIssuer {
    claims: BTreeSet<String>,
    tenants: HashMap<TenantId, Arc<Issuer>>,
}

impl SharedIssuer {
    /// The one tenant that the token names. `named` reads a claim; each tenant
    /// reads its own. `None` if no tenant or more than one is named.
    pub fn opened(
        &self,
        named: impl Fn(&str) -> Option<TenantId>,
    ) -> Option<(TenantId, Arc<Issuer>)> {
        let mut opened = self.claims.iter().filter_map(|claim| {
            let tenant = named(claim)?;
            let issuer = self.tenants.get(&tenant)?;
            let reads_it = issuer.tenant_claim.as_deref() == Some(claim);
            reads_it.then(|| (tenant, Arc::clone(issuer)))
        });
        let only = opened.next()?;
        opened.next().is_none().then_some(only)
    }
}

/// All listed issuers by name.
pub(super) fn index(tenants: &HashMap<TenantId, Arc<TenantRuntime>>) -> HashMap<String, Listing> {
    let mut index: HashMap<String, Listing> = HashMap::new();
    for (id, tenant) in tenants {
        for issuer in &tenant.config.issuers {
            let listing = index.entry(issuer.issuer.clone()).or_default();
            *listing = match (std::mem::take(listing), &issuer.tenant_claim) {
                (Listing::Nobody, None) => Listing::Alone(*id, Arc::clone(issuer)),
                (Listing::Nobody, Some(claim)) => shared(Arc::default(), *id, issuer, claim),
                (Listing::Shared(others), Some(claim)) => shared(others, *id, issuer, claim),
                _ => Listing::Contested,
            };
        }
    }
    index
}

fn shared(
    mut others: Arc<SharedIssuer>,
    id: TenantId,
    issuer: &Arc<Issuer>,
    claim: &str,
) -> Listing {
    let all = Arc::make_mut(&mut others);
    all.claims.insert(claim.to_owned());
    all.tenants.insert(id, Arc::clone(issuer));
    Listing::Shared(others)
}

/// Which of the `offered` configurations are refused, and why, given the
/// running ones. A running tenant's issuers take precedence. Next come
/// configurations that add no issuer, then the lower id. A refused tenant keeps
/// its running configuration.
pub(super) fn refused(
    offered: &[&TenantConfig],
    running: &HashMap<TenantId, Arc<TenantRuntime>>,
) -> HashMap<TenantId, IssuerConflict> {
    let mut refused: HashMap<TenantId, IssuerConflict> = HashMap::new();
    if offered.is_empty() {
        return refused;
    }
    let ids: HashSet<_> = offered.iter().map(|config| config.tenant_id).collect();
    let is_offered = |id: TenantId| ids.contains(&id);
    loop {
        let kept = running
            .values()
            .map(|runtime| &runtime.config)
            .filter(|config| {
                !is_offered(config.tenant_id) || refused.contains_key(&config.tenant_id)
            })
            .map(|config| (0, config));
        let new = offered
            .iter()
            .filter(|config| !refused.contains_key(&config.tenant_id))
            .map(|config| (1 + i32::from(adds_issuers(config, running)), *config));
        let mut order: Vec<_> = kept.chain(new).collect();
        order.sort_by_key(|(precedence, config)| (*precedence, config.tenant_id));
        let before = refused.len();
        for conflict in issuer_conflicts(order.iter().map(|(_, config)| *config)) {
            refused.entry(conflict.tenant).or_insert(conflict);
        }
        if refused.len() == before {
            refused.retain(|id, _| is_offered(*id));
            return refused;
        }
    }
}

fn adds_issuers(config: &TenantConfig, running: &HashMap<TenantId, Arc<TenantRuntime>>) -> bool {
    config.issuers.iter().any(|issuer| {
        running
            .get(&config.tenant_id)
            .is_none_or(|running| !running.config.issuers.contains(issuer))
    })
}
