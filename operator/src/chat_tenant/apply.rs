//! Writes and deletes rendered Secrets of one tenant.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;

use super::dereference::Dereferenced;
use crate::tenant::{MadeOf, Subject, source_of};
use crate::writer::{WriteError, Writer};

/// Brings the rendered Secret to the pool. One that is in the way is deleted first; `false` if
/// a finalizer may keep it, so that nothing was written.
pub(super) async fn apply(
    writer: &Writer,
    subject: &Subject<'_>,
    seen: &Dereferenced,
    secret: &Secret,
) -> Result<bool, WriteError> {
    let Some(existing) = &seen.existing else {
        let is_own = |found: &PartialObjectMeta<Secret>| {
            MadeOf::of(&found.metadata, subject) != MadeOf::Another
        };
        writer.create_rendered(secret, is_own).await?;
        return Ok(true);
    };
    if is_in_the_way(existing, secret, subject) {
        writer.delete_rendered(existing).await?;
        if !existing.finalizers().is_empty() {
            return Ok(false);
        }
    }
    writer.apply_rendered(secret).await?;
    Ok(true)
}

/// Whether `existing` cannot become `secret`. The type of a Secret cannot be changed. And
/// pods take the change of a Secret for an edit of the tenant that they serve with it: only
/// its deletion ends one that had the id before.
fn is_in_the_way(existing: &Secret, secret: &Secret, subject: &Subject<'_>) -> bool {
    let is_of_another = source_of(existing).is_some_and(|source| source != subject.full_name);
    is_of_another || existing.type_ != secret.type_
}

/// Deletes the rendered Secret of an earlier object of the tenant's name when nothing replaces
/// it: its credentials are not this object's.
pub(super) async fn remove_stale(writer: &Writer, seen: &Dereferenced) -> Result<(), WriteError> {
    match &seen.stale {
        Some(secret) => writer.delete_rendered(secret).await,
        None => Ok(()),
    }
}

/// Removes rendered Secrets under ids that the tenant had before.
pub(super) async fn remove_others(writer: &Writer, seen: &Dereferenced) -> Result<(), WriteError> {
    for secret in &seen.others {
        writer.delete_rendered(secret).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;
    use serde_json::{Value, json};

    use super::*;

    fn secret(type_: &str, annotations: &Value) -> Secret {
        let secret = json!({"type": type_, "metadata": {"annotations": annotations}});
        serde_json::from_value(secret).unwrap()
    }

    /// D36: a Secret that changes hands is another one.
    #[test]
    fn only_what_is_of_the_tenant_or_of_nobody_is_changed_in_place() {
        let tenant = minichat_crds::validation::chat_tenant(&cases::tenant(), None).unwrap();
        let subject = Subject::of(&tenant);
        let own = json!({"minichat.dev/source": subject.full_name});
        let new = secret("minichat.dev/tenant-config", &own);
        let is_in_the_way =
            |type_, annotations| is_in_the_way(&secret(type_, &annotations), &new, &subject);
        assert!(!is_in_the_way("minichat.dev/tenant-config", own.clone()));
        assert!(is_in_the_way("Opaque", own));
        let of_another = json!({"minichat.dev/source": "a/another"});
        assert!(is_in_the_way("minichat.dev/tenant-config", of_another));
        assert!(!is_in_the_way("minichat.dev/tenant-config", json!({})));
    }
}
