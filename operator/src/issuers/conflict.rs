//! Why a tenant must not be delivered with an issuer: another tenant has it.

use std::sync::Arc;

use minichat_crds::{ChatTenant, render};

use super::delivered::DeliveredIssuers;
use super::listed::Listed;
use crate::tenant::{age, full_name, is_asking, named_for};

/// Why `tenant` must not be delivered: the first of its issuers that is another
/// tenant's, of `tenants`.
pub(crate) fn conflict(
    tenant: &ChatTenant,
    tenants: &[Arc<ChatTenant>],
    delivered: &DeliveredIssuers,
) -> Option<String> {
    let wanted = Listed::by_tenant(tenant);
    wanted.iter().enumerate().find_map(|(position, listed)| {
        let holder = holder(tenant, listed, tenants, delivered)?;
        Some(contested(position, &listed.issuer, &holder))
    })
}

/// What a tenant is told whose issuer at `position` is that of `holder`, which it may know.
pub(crate) fn contested(position: usize, issuer: &str, holder: &str) -> String {
    format!(
        "spec.auth.issuers[{position}].issuer: {issuer} is listed by {holder} too; tenants share an issuer only when \
         each of them names a tenantClaim: write one in both, or remove the issuer here"
    )
}

/// Who has the issuer instead of `tenant`.
fn holder(
    tenant: &ChatTenant,
    listed: &Listed,
    tenants: &[Arc<ChatTenant>],
    delivered: &DeliveredIssuers,
) -> Option<String> {
    let id = render::tenant_id(tenant);
    let own = delivered.own(tenant);
    let has_it = own.contains(listed);
    // Whoever begins or ends to share an issuer had it before.
    let held = own.iter().any(|entry| entry.issuer == listed.issuer);
    let holders = delivered.excluding(listed);
    let mut others = holders.iter().filter(|holder| **holder != id);
    if !has_it && let Some(first) = others.next() {
        let source = delivered.source(*first).unwrap_or_default();
        let is_there = tenants
            .iter()
            .any(|other| full_name(other.as_ref()) == source);
        let named = named_for(tenant, &source);
        return Some(if is_there {
            named
        } else {
            format!("{named}, which is being removed,")
        });
    }
    let rivals = tenants.iter().filter(|other| {
        let other_id = render::tenant_id(other);
        let is_equal = if holders.contains(&other_id) {
            has_it
        } else {
            !held
        };
        other_id != id
            && is_equal
            && age(other) < age(tenant)
            && is_asking(other)
            && Listed::by_tenant(other)
                .iter()
                .any(|entry| entry.excludes(listed))
    });
    let oldest = rivals.min_by_key(|other| age(other))?;
    let named = named_for(tenant, &full_name(oldest.as_ref()));
    Some(format!("{named}, which is older,"))
}
