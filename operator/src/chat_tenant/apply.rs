//! The steps that change rendered Secrets.

use k8s_openapi::api::core::v1::Secret;
use minichat_crds::ChatTenant;

use super::dereference::Dereferenced;
use crate::cache::full_name;
use crate::write::{FINALIZER, WriteError, Writer};
use kube::ResourceExt as _;
use minichat_crds::rendered_secret::SOURCE;

/// Brings the rendered Secret to the pool. One of another type is in the way: the
/// type of a Secret cannot be changed.
pub(super) async fn apply(
    writer: &Writer,
    seen: &Dereferenced,
    secret: &Secret,
) -> Result<(), WriteError> {
    if let Some(existing) = &seen.rendered
        && existing.type_ != secret.type_
    {
        writer.delete_rendered(existing).await?;
    }
    writer.apply_rendered(secret).await
}

/// Removes rendered Secrets under ids that the tenant had before.
pub(super) async fn remove_others(writer: &Writer, seen: &Dereferenced) -> Result<(), WriteError> {
    for secret in &seen.others {
        writer.delete_rendered(secret).await?;
    }
    Ok(())
}

/// Ends a deleted tenant: its rendered Secrets go, then its finalizer.
pub(super) async fn remove(
    writer: &Writer,
    tenant: &ChatTenant,
    seen: &Dereferenced,
) -> Result<(), WriteError> {
    if !tenant
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        return Ok(());
    }
    let full = full_name(tenant);
    if let Some(secret) = &seen.rendered
        && secret.annotations().get(SOURCE) == Some(&full)
    {
        writer.delete_rendered(secret).await?;
    }
    remove_others(writer, seen).await?;
    writer.set_finalizer(tenant, false).await?;
    tracing::info!(tenant.id = %super::id_of(tenant), "the tenant is gone");
    Ok(())
}
