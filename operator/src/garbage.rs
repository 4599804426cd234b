//! Rendered Secrets whose tenant is gone (D52), or is another operator's by now (D37). A deletion that was seen brings its
//! Secrets here, and everything is looked through at the start and once in a while, so
//! that one that was missed is made up for.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::ChatTenant;
use minichat_crds::rendered_secret::SOURCE;

use crate::chat_tenant::contention;
use crate::context::Context;
use crate::failures::ReconcileError;
use crate::work::Requeue;

/// Deletes `secret` if it is left over.
pub(crate) async fn reconcile(
    secret: &Secret,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if is_left_over(secret, context) {
        context.writer.delete_rendered(secret).await?;
        let source = secret.annotations().get(SOURCE);
        tracing::info!(
            source,
            "the rendered Secret of a tenant that is gone, or that another operator serves, is deleted"
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

/// Whether it came from a namespace that is watched, and from no tenant that this operator
/// serves there.
fn is_left_over(secret: &Secret, context: &Context) -> bool {
    let caches = &context.caches;
    let source = secret.annotations().get(SOURCE);
    source
        .and_then(|source| source.split_once('/'))
        .is_some_and(|(namespace, name)| {
            let tenant = caches.tenant(namespace, name);
            caches.watches(namespace) && !tenant.is_some_and(|tenant| is_served(&tenant, context))
        })
}

/// One that ends is not, whatever holds it.
fn is_served(tenant: &ChatTenant, context: &Context) -> bool {
    tenant.metadata.deletion_timestamp.is_none()
        && !contention::is_served_elsewhere(tenant, context)
}
