//! The issuers of tenants. Two tenants cannot list the same issuer by accident.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use minichat_core::TenantId;

use super::TenantConfig;
use super::document::IssuerDocument;
use crate::fault::Faults;
use crate::issuer::Issuer;

const MAX_ISSUERS: usize = 8;

pub(super) fn issuers(documents: &[IssuerDocument], faults: &mut Faults) -> Vec<Arc<Issuer>> {
    faults.require(
        documents.len() <= MAX_ISSUERS,
        "issuers",
        format!("must have at most {MAX_ISSUERS} entries"),
    );
    let mut names = HashSet::new();
    let mut issuers = Vec::with_capacity(documents.len());
    for (i, document) in documents.iter().enumerate() {
        faults.require(
            names.insert(document.issuer.as_str()),
            format!("issuers[{i}].issuer"),
            format!("`{}` is used twice", document.issuer),
        );
        let issuer = Issuer {
            issuer: document.issuer.clone(),
            audience: document.audience.clone(),
            jwks_uri: document.jwks_uri.clone(),
            tenant_claim: document.tenant_claim.clone(),
            user_claim: document.user_claim.clone(),
            scopes_claim: document.scopes_claim.clone(),
        };
        issuer.check(|key| format!("issuers[{i}].{key}"), faults);
        issuers.push(Arc::new(issuer));
    }
    issuers
}

/// An issuer that a tenant lists but must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the issuer {issuer} is listed by the tenant {holder} too; tenants share an issuer only when each of them names a tenantClaim: write one in both, or remove the issuer here"
)]
pub struct IssuerConflict {
    /// The tenant whose configuration must change.
    pub tenant: TenantId,
    /// Index in the tenant's list, from 0.
    pub position: usize,
    /// The claim `iss`.
    pub issuer: String,
    /// The tenant that takes precedence.
    pub holder: TenantId,
}

/// Every tenant that lists an issuer which an earlier tenant already lists, unless
/// both set `tenantClaim`: without that claim, all tokens of an issuer are for one
/// tenant. `tenants` are in the order of precedence. The issuers of a refused tenant
/// do not count for later tenants.
pub fn issuer_conflicts<'a>(
    tenants: impl IntoIterator<Item = &'a TenantConfig>,
) -> Vec<IssuerConflict> {
    let mut holders: HashMap<&str, (TenantId, bool)> = HashMap::new();
    let mut conflicts = Vec::new();
    for tenant in tenants {
        let conflict = tenant
            .issuers
            .iter()
            .enumerate()
            .find_map(|(position, listed)| {
                let (holder, is_shared) = holders.get(listed.issuer.as_str())?;
                let both_share = *is_shared && listed.tenant_claim.is_some();
                (!both_share).then(|| IssuerConflict {
                    tenant: tenant.tenant_id,
                    position,
                    issuer: listed.issuer.clone(),
                    holder: *holder,
                })
            });
        if let Some(conflict) = conflict {
            conflicts.push(conflict);
            continue;
        }
        for listed in &tenant.issuers {
            holders
                .entry(&listed.issuer)
                .or_insert((tenant.tenant_id, listed.tenant_claim.is_some()));
        }
    }
    conflicts
}
