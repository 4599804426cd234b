//! Says whether an issuer that a tenant lists belongs to another tenant.

use std::sync::Arc;

use minichat_crds::ChatTenant;

use super::delivered::DeliveredIssuers;
use crate::tenant::{Listed, Subject};

/// Why `subject` must not be delivered: the first of its issuers that is another
/// tenant's, of `tenants`.
pub(crate) fn conflict(
    subject: &Subject<'_>,
    tenants: &[Arc<ChatTenant>],
    delivered: &DeliveredIssuers,
) -> Option<String> {
    let others: Vec<_> = tenants.iter().map(|other| Subject::of(other)).collect();
    let mut wanted = subject.issuers.iter().enumerate();
    wanted.find_map(|(position, listed)| {
        let holder = holder(subject, listed, &others, delivered)?;
        Some(contested(position, &listed.issuer, &holder))
    })
}

/// The message for a tenant whose issuer at `position` belongs to `holder`, which is named in
/// words that the tenant's readers may see.
pub(crate) fn contested(position: usize, issuer: &str, holder: &str) -> String {
    format!(
        "spec.auth.issuers[{position}].issuer: {issuer} is listed by {holder} too; tenants share an issuer only when \
         each of them names a tenantClaim: write one in both, or remove the issuer here"
    )
}

/// The tenant that has the issuer instead of `subject`, in words.
fn holder(
    subject: &Subject<'_>,
    listed: &Listed,
    tenants: &[Subject<'_>],
    delivered: &DeliveredIssuers,
) -> Option<String> {
    let own = delivered.own(subject);
    let has_it = own.contains(listed);
    // A tenant that begins or ends to share an issuer had it before.
    let held = own.iter().any(|entry| entry.issuer == listed.issuer);
    let holders = delivered.excluding(listed);
    let mut others = holders.iter().filter(|holder| **holder != subject.id);
    if !has_it && let Some(first) = others.next() {
        let source = delivered.source(*first).unwrap_or_default();
        let is_there = tenants.iter().any(|other| other.full_name == source);
        let named = subject.words_for(&source);
        return Some(if is_there {
            named
        } else {
            format!("{named}, which is being removed,")
        });
    }
    let rivals = tenants.iter().filter(|other| {
        let is_equal = if holders.contains(&other.id) {
            has_it
        } else {
            !held
        };
        other.id != subject.id
            && is_equal
            && other.age() < subject.age()
            && other.is_asking()
            && other.issuers.iter().any(|entry| entry.excludes(listed))
    });
    let oldest = rivals.min_by_key(|other| other.age())?;
    let named = subject.words_for(&oldest.full_name);
    Some(format!("{named}, which is older,"))
}
