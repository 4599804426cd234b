//! References to Secrets that cannot be followed: what the tenant's status says of them.

use std::collections::BTreeSet;

use minichat_crds::render::{Unresolved, UnresolvedKind};
use minichat_crds::rendered_secret::CREDENTIALS_LABEL;

use crate::context::Context;
use crate::status::{Reason, Type, Verdict};
use crate::tenant::{Decision, Subject};

/// Why an edit is not delivered although credentials have a last value.
const REDIRECTED: &str = "what is edited waits for that: the last credential of a provider or a sink is sent only to the address, and in the header, to which it was sent before";

/// Names of missing Secrets that exist without the label. Caches do not hold them, so this asks
/// the API server.
pub(super) async fn unlabelled(
    subject: &Subject<'_>,
    decision: &Decision,
    context: &Context,
) -> BTreeSet<String> {
    let missing = decision.unresolved.iter();
    let missing = missing.filter(|one| one.kind == UnresolvedKind::SecretNotFound);
    let missing: BTreeSet<_> = missing.map(|one| one.secret.as_str()).collect();
    let lookup = &context.secret_lookup;
    // What the caches hold now may be missing again within a minute.
    for found in subject.secrets.iter().filter(|it| !missing.contains(*it)) {
        lookup.forget(subject.namespace, found);
    }
    let mut unlabelled = BTreeSet::new();
    for secret in missing {
        if lookup.exists(subject.namespace, secret).await {
            unlabelled.insert(secret.to_owned());
        }
    }
    unlabelled
}

/// `ResolvedRefs`.
pub(super) fn resolved(
    subject: &Subject<'_>,
    decision: &Decision,
    unlabelled: &BTreeSet<String>,
) -> Verdict {
    let unresolved = decision.unresolved.iter();
    let explained = unresolved.map(|one| explain(subject, one, unlabelled));
    let (reasons, mut faults): (Vec<_>, Vec<_>) = explained.unzip();
    if decision.is_redirected {
        faults.push(REDIRECTED.to_owned());
    }
    match reasons.first() {
        None => Verdict::yes(Type::ResolvedRefs, Reason::Resolved, ""),
        Some(first) => Verdict::no(Type::ResolvedRefs, *first, faults.join("; ")),
    }
}

/// Why a reference cannot be followed, and what to do (D49).
fn explain(
    subject: &Subject<'_>,
    one: &Unresolved,
    unlabelled: &BTreeSet<String>,
) -> (Reason, String) {
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
            let message = format!(
                "{}: tenants may name only Secrets that are labelled for it; run: \
                 kubectl label secret {secret} --namespace {} {CREDENTIALS_LABEL}=true",
                fault.path, subject.namespace
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
        let subject = Subject::of(&tenant);
        let path = "spec.providers[0].auth.secretKeyRef.name".to_owned();
        let message = "there is no Secret keys".to_owned();
        let missing = Unresolved {
            fault: Fault { path, message },
            kind: UnresolvedKind::SecretNotFound,
            secret: "keys".to_owned(),
            key: "key".to_owned(),
            reference: "keys/key".to_owned(),
        };
        let (reason, message) = explain(&subject, &missing, &BTreeSet::new());
        assert_eq!(reason, Reason::SecretNotFound);
        assert!(message.contains("there is no Secret keys"), "{message}");
        let (reason, message) = explain(&subject, &missing, &BTreeSet::from(["keys".to_owned()]));
        assert_eq!(reason, Reason::SecretNotLabelled);
        let command = "kubectl label secret keys --namespace default minichat.dev/credentials=true";
        assert!(message.ends_with(command), "{message}");
    }
}
