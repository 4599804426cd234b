//! What one tenant lists: an issuer, and whether a claim of its tokens names the tenant.

use minichat_crds::ChatTenant;

use crate::caches::Key;

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(super) issuer: String,
    pub(super) names_a_claim: bool,
}

impl Listed {
    pub(crate) fn by_tenant(tenant: &ChatTenant) -> Vec<Self> {
        let issuers = tenant.spec.auth.issuers.iter();
        let listed = issuers.map(|issuer| Self {
            issuer: issuer.issuer.clone(),
            names_a_claim: issuer.tenant_claim.is_some(),
        });
        listed.collect()
    }

    /// Finds tenants that list the same issuer.
    pub(crate) fn key(&self) -> Key {
        Key::Issuer(self.issuer.clone())
    }

    pub(super) fn excludes(&self, other: &Self) -> bool {
        self.issuer == other.issuer && !(self.names_a_claim && other.names_a_claim)
    }
}

/// Whether both lists cannot be delivered.
pub(crate) fn exclude_each_other(some: &[Listed], others: &[Listed]) -> bool {
    some.iter()
        .any(|one| others.iter().any(|other| one.excludes(other)))
}
