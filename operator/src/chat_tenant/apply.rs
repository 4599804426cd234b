//! The steps that change rendered Secrets.

use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use minichat_crds::ChatTenant;

use super::dereference::Dereferenced;
use crate::tenant::MadeOf;
use crate::writer::{WriteError, Writer};

/// Brings the rendered Secret to the pool. One of another type is in the way: the
/// type of a Secret cannot be changed.
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
    if existing.type_ != secret.type_ {
        writer.delete_rendered(existing).await?;
    }
    writer.apply_rendered(secret).await
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
