//! What is wrong with a tenant, and what it renders to if nothing is: pure.

use std::collections::BTreeSet;

use minichat_config::tenant::document::{AuthDocument, ProviderDocument};
use minichat_config::{Credentials, TenantConfig};
use minichat_crds::render::{self, Rendered, Secrets, Unresolved, UnresolvedKind};
use minichat_crds::rendered_secret::CREDENTIALS_LABEL;
use minichat_crds::{ChatTenant, RenderSettings};

use super::dereference::Dereferenced;
use crate::status::{Reason, Type, Verdict};
use crate::tenant::named_for;

/// Why an edit is not delivered although credentials have a last value.
const REDIRECTED: &str = "what is edited waits for that: a provider's last credential is sent only to the address, and in the header, to which it was sent before";

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
    settings: &RenderSettings,
) -> Validated {
    let mut secrets = seen.secrets.clone();
    let (_, unresolved) = render::resolve(tenant, &secrets);
    let old = seen.carried.as_ref().map(|carried| &carried.credentials);
    let is_missing = keep_old(&mut secrets, &unresolved, old);
    let quotas: Vec<_> = seen.quotas.iter().map(AsRef::as_ref).collect();
    let rendered = render::render(tenant, &quotas, &secrets, settings);
    let is_redirected = match (&rendered, &seen.carried) {
        (Ok(rendered), Some(carried)) => {
            is_redirected(&unresolved, &rendered.config, &carried.config)
        }
        _ => false,
    };
    let lost = is_missing || is_redirected;
    let accepted = match (&seen.holder, &rendered, &seen.contested) {
        _ if seen.is_at_operator => Verdict::no(
            Type::Accepted,
            Reason::NamespaceNotAllowed,
            "metadata.namespace: is the operator's own, where the credentials of all tenants are; create the ChatTenant, its quotas and its Secret in another namespace",
        ),
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
        resolved: resolved(tenant, &unresolved, &seen.unlabelled, is_redirected),
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
            .insert(key.clone(), value.into());
    }
    is_lost
}

/// Whether a provider of `new` would be sent one of the `unresolved` credentials that no
/// provider of `old` was sent in the same way: who takes a Secret away from a tenant does
/// not want its last value to go elsewhere (D49).
fn is_redirected(unresolved: &[Unresolved], new: &TenantConfig, old: &TenantConfig) -> bool {
    let is_old = |auth: &AuthDocument| {
        let mut references = unresolved.iter().map(|one| &one.reference);
        references.any(|reference| *reference == auth.secret_ref)
    };
    let mut providers = new.document.providers.values();
    providers.any(|provider| {
        let mut known = old.document.providers.values();
        provider.auth.as_ref().is_some_and(is_old) && !known.any(|old| is_sent_alike(provider, old))
    })
}

/// Whether both providers' credentials are the same one, sent to the same place, in the
/// same header.
fn is_sent_alike(one: &ProviderDocument, other: &ProviderDocument) -> bool {
    let is_same_place =
        (one.use_http, &one.host, one.port) == (other.use_http, &other.host, other.port);
    is_same_place
        && (&one.kind, &one.api_path, &one.auth) == (&other.kind, &other.api_path, &other.auth)
}

fn resolved(
    tenant: &ChatTenant,
    unresolved: &[Unresolved],
    unlabelled: &BTreeSet<String>,
    is_redirected: bool,
) -> Verdict {
    let told = unresolved.iter().map(|one| told(tenant, one, unlabelled));
    let (reasons, mut faults): (Vec<_>, Vec<_>) = told.unzip();
    if is_redirected {
        faults.push(REDIRECTED.to_owned());
    }
    match reasons.first() {
        None => Verdict::yes(Type::ResolvedRefs, Reason::Resolved, ""),
        Some(first) => Verdict::no(Type::ResolvedRefs, *first, faults.join("; ")),
    }
}

/// Why a reference cannot be followed, and what to do (D49).
fn told(tenant: &ChatTenant, one: &Unresolved, unlabelled: &BTreeSet<String>) -> (Reason, String) {
    let Unresolved {
        fault,
        kind,
        secret,
        ..
    } = one;
    match kind {
        UnresolvedKind::KeyMissing => (Reason::KeyMissing, fault.to_string()),
        UnresolvedKind::SecretInvalid => (Reason::SecretInvalid, fault.to_string()),
        UnresolvedKind::SecretNotFound if unlabelled.contains(secret) => {
            let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
            let message = format!(
                "{}: tenants may name only Secrets that are labelled for it; run: \
                 kubectl label secret {secret} --namespace {namespace} {CREDENTIALS_LABEL}=true",
                fault.path
            );
            (Reason::SecretNotLabelled, message)
        }
        UnresolvedKind::SecretNotFound => {
            let message = format!("{fault}, with the label {CREDENTIALS_LABEL}=true");
            (Reason::SecretNotFound, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use minichat_config::Fault;
    use minichat_crds::cases;

    use super::*;

    /// D49
    #[test]
    fn a_secret_without_the_label_is_told_apart_from_one_that_is_not_there() {
        let tenant = minichat_crds::validation::chat_tenant(&cases::tenant(), None).unwrap();
        let path = "spec.providers[0].auth.secretKeyRef.name".to_owned();
        let message = "there is no Secret keys".to_owned();
        let missing = Unresolved {
            fault: Fault { path, message },
            kind: UnresolvedKind::SecretNotFound,
            secret: "keys".to_owned(),
            key: "key".to_owned(),
            reference: "keys/key".to_owned(),
        };
        let (reason, message) = told(&tenant, &missing, &BTreeSet::new());
        assert_eq!(reason, Reason::SecretNotFound);
        assert!(message.contains("there is no Secret keys"), "{message}");
        let (reason, message) = told(&tenant, &missing, &BTreeSet::from(["keys".to_owned()]));
        assert_eq!(reason, Reason::SecretNotLabelled);
        let command = "kubectl label secret keys --namespace default minichat.dev/credentials=true";
        assert!(message.ends_with(command), "{message}");
    }
}
