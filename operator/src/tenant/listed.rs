//! An issuer that a tenant lists, and whether a claim of its tokens names the tenant.

use minichat_crds::ChatTenant;

/// One entry of `spec.auth.issuers`, or of a rendered document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) issuer: String,
    pub(crate) names_a_claim: bool,
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

    /// Whether two tenants cannot be delivered with one of these each.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        self.issuer == other.issuer && !(self.names_a_claim && other.names_a_claim)
    }
}

/// Whether both lists cannot be delivered.
pub(crate) fn exclude_each_other(some: &[Listed], others: &[Listed]) -> bool {
    some.iter()
        .any(|one| others.iter().any(|other| one.excludes(other)))
}
