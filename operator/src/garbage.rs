//! Rendered Secrets whose tenant is gone (D52). A deletion that was seen brings its
//! Secrets here, and everything is looked through at the start and once in a while, so
//! that one that was missed is made up for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::ChatTenant;
use minichat_crds::rendered_secret::SOURCE;

use crate::caches::Caches;
use crate::context::{Context, ReconcileError};
use crate::work::Requeue;

/// Deletes `secret` if it is left over.
pub(crate) async fn reconcile(
    secret: &Secret,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if is_left_over(secret, &context.caches) {
        context.writer.delete_rendered(secret).await?;
        let source = secret.annotations().get(SOURCE);
        tracing::info!(
            source,
            "the rendered Secret of a tenant that is gone is deleted"
        );
    }
    Ok(None)
}

/// Deletes what this release rendered for another pool, which it served before.
pub(crate) async fn scan_other_pools(context: &Context) {
    let crate::managed::Owner::ConfigMap(owner) = context.managed.owner() else {
        return;
    };
    let is_ours = |secret: &Secret| {
        let owners = secret.owner_references();
        owners.iter().any(|found| found.uid == owner.uid)
    };
    let found = match context
        .writer
        .rendered_for_other_pools(&context.pool_name)
        .await
    {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "rendered Secrets of other pools cannot be listed");
            return;
        }
    };
    for secret in found.iter().filter(|secret| is_ours(secret)) {
        let name = secret.name_any();
        match context.writer.delete_rendered(secret).await {
            Ok(()) => tracing::info!(
                secret = name,
                "a rendered Secret of the pool that was served before is deleted"
            ),
            Err(error) => {
                tracing::warn!(secret = name, %error, "a rendered Secret of another pool stays");
            }
        }
    }
}

/// Whether it came from a namespace that is watched, and from no tenant there.
fn is_left_over(secret: &Secret, caches: &Caches) -> bool {
    let source = secret.annotations().get(SOURCE);
    source
        .and_then(|source| source.split_once('/'))
        .is_some_and(|(namespace, name)| {
            caches.watches(namespace) && !is_there(caches.tenant(namespace, name))
        })
}

/// One that ends is not served any more, whatever holds it.
fn is_there(tenant: Option<Arc<ChatTenant>>) -> bool {
    tenant.is_some_and(|tenant| tenant.metadata.deletion_timestamp.is_none())
}
