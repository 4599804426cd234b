//! What is wrong with a tenant, and what it renders to if nothing is: pure.

use minichat_config::Credentials;
use minichat_crds::render::{self, Rendered, Secrets, Unresolved, UnresolvedKind};
use minichat_crds::{ChatTenant, RenderSettings};

use super::dereference::Dereferenced;
use crate::condition::{Reason, Type, Verdict};
use crate::ownership::named_for;

pub(super) struct Validated {
    pub(super) accepted: Verdict,
    pub(super) resolved: Verdict,
    /// Present while credentials are used that cannot be read any more.
    pub(super) degraded: Option<Verdict>,
    /// What to deliver; `None` leaves what was delivered before.
    pub(super) rendered: Option<Rendered>,
}

pub(super) fn validate(
    tenant: &ChatTenant,
    seen: &Dereferenced,
    settings: RenderSettings,
) -> Validated {
    let mut secrets = seen.secrets.clone();
    let (_, unresolved) = render::resolve(tenant, &secrets);
    let old = seen.carried.as_ref().map(|carried| &carried.credentials);
    let lost = keep_old(&mut secrets, &unresolved, old);
    let quotas: Vec<_> = seen.quotas.iter().map(AsRef::as_ref).collect();
    let rendered = render::render(tenant, &quotas, &secrets, settings);
    let accepted = match (&seen.holder, &rendered, &seen.contested) {
        (Some(holder), ..) => Verdict::no(
            Type::Accepted,
            Reason::Conflict,
            format!(
                "spec.tenantId: is the id of {}; delete this ChatTenant and create it with another tenantId, such as uuidgen prints, or without one",
                named_for(tenant, holder)
            ),
        ),
        (None, Err(faults), _) => Verdict::no(Type::Accepted, Reason::Invalid, faults.to_string()),
        (None, Ok(_), Some(contested)) => Verdict::no(Type::Accepted, Reason::Conflict, contested),
        (None, Ok(rendered), None) => {
            Verdict::yes(Type::Accepted, Reason::Valid, rendered.warnings.join("; "))
        }
    };
    let uses_old = !unresolved.is_empty() && !lost && old.is_some();
    let usable = accepted.holds && !lost;
    Validated {
        resolved: resolved(&unresolved),
        degraded: uses_old.then(|| {
            Verdict::yes(
                Type::Degraded,
                Reason::OldCredentials,
                "providers are called with the last credentials that could be read",
            )
        }),
        rendered: rendered.ok().filter(|_| usable),
        accepted,
    }
}

/// Credentials that cannot be read keep their last value (K8S-8). Whether there
/// is none for some; such a tenant is checked with another text in its place.
fn keep_old(secrets: &mut Secrets, unresolved: &[Unresolved], old: Option<&Credentials>) -> bool {
    let mut is_lost = false;
    for Unresolved {
        secret,
        key,
        reference,
        ..
    } in unresolved
    {
        let last = old.and_then(|old| old.get(reference)).cloned();
        is_lost |= last.is_none();
        let value = last.unwrap_or_else(|| minichat_config::Secret::new("absent"));
        secrets
            .entry(secret.clone())
            .or_default()
            .insert(key.clone(), value);
    }
    is_lost
}

fn resolved(unresolved: &[Unresolved]) -> Verdict {
    let Some(first) = unresolved.first() else {
        return Verdict::yes(Type::ResolvedRefs, Reason::Resolved, "");
    };
    let reason = match first.kind {
        UnresolvedKind::SecretNotFound => Reason::SecretNotFound,
        UnresolvedKind::KeyMissing => Reason::KeyMissing,
    };
    let faults: Vec<_> = unresolved.iter().map(|one| one.fault.to_string()).collect();
    Verdict::no(Type::ResolvedRefs, reason, faults.join("; "))
}
