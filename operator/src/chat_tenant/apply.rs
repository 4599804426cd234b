//! The steps that change rendered Secrets.

use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use minichat_crds::ChatTenant;

use super::dereference::Dereferenced;
use crate::tenant::{MadeOf, full_name, source_of};
use crate::writer::{WriteError, Writer};

/// Brings the rendered Secret to the pool. One that is in the way is deleted first.
pub(super) async fn apply(
    writer: &Writer,
    tenant: &ChatTenant,
    seen: &Dereferenced,
    secret: &Secret,
) -> Result<(), WriteError> {
    let Some(existing) = &seen.existing else {
        let is_own = |found: &PartialObjectMeta<Secret>| {
            MadeOf::of(&found.metadata, tenant) != MadeOf::Another
        };
        return writer.create_rendered(secret, is_own).await;
    };
    if is_in_the_way(existing, secret, tenant) {
        writer.delete_rendered(existing).await?;
    }
    writer.apply_rendered(secret).await
}

/// Whether `existing` cannot become `secret`. The type of a Secret cannot be changed. And
/// pods take the change of a Secret for an edit of the tenant that they serve with it: only
/// its deletion ends one that had the id before.
fn is_in_the_way(existing: &Secret, secret: &Secret, tenant: &ChatTenant) -> bool {
    let is_of_another = source_of(existing).is_some_and(|source| source != full_name(tenant));
    is_of_another || existing.type_ != secret.type_
}

/// Removes what is still rendered of an earlier object of the tenant's name, and is
/// not replaced: its credentials are not this one's.
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
        let own = json!({"minichat.dev/source": full_name(&tenant)});
        let new = secret("minichat.dev/tenant-config", &own);
        let is_in_the_way =
            |type_, annotations| is_in_the_way(&secret(type_, &annotations), &new, &tenant);
        assert!(!is_in_the_way("minichat.dev/tenant-config", own.clone()));
        assert!(is_in_the_way("Opaque", own));
        let of_another = json!({"minichat.dev/source": "a/another"});
        assert!(is_in_the_way("minichat.dev/tenant-config", of_another));
        assert!(!is_in_the_way("minichat.dev/tenant-config", json!({})));
    }
}
