//! Deletes rendered Secrets whose tenant was deleted (D52), or is served by another operator
//! (D37). The deletion of a tenant enqueues its Secrets. All Secrets are enqueued at the start
//! and every ten minutes, in case a deletion was missed.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::ChatTenant;
use minichat_crds::rendered_secret::SOURCE;

use crate::chat_tenant::contention;
use crate::context::Context;
use crate::failures::ReconcileError;
use crate::termination::{self, USUAL};
use crate::work::Requeue;

/// Deletes `secret` if it is left over.
pub(crate) async fn reconcile(
    secret: &Secret,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if is_left_over(secret, context) {
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(report_ending(secret, context));
        }
        context.writer.delete_rendered(secret).await?;
        let source = secret.annotations().get(SOURCE);
        tracing::info!(
            source,
            "the rendered Secret of a tenant that is gone, or that another operator serves, is deleted"
        );
    }
    Ok(None)
}

/// Logs why a deleted Secret still exists, once its deletion takes too long.
fn report_ending(secret: &Secret, context: &Context) -> Requeue {
    let Some(why) = termination::stuck(secret, context.clock.now()) else {
        return Some(USUAL);
    };
    tracing::warn!(
        source = secret.annotations().get(SOURCE),
        why,
        "pods serve a tenant that is gone: its rendered Secret cannot be deleted"
    );
    None
}

/// Deletes rendered Secrets that this release made for another pool, which it served before.
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

/// Whether it was made of a tenant in a watched namespace that this operator does not serve.
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

/// A tenant that is being deleted is not served, even while a finalizer keeps it.
fn is_served(tenant: &ChatTenant, context: &Context) -> bool {
    tenant.metadata.deletion_timestamp.is_none()
        && !contention::is_served_elsewhere(tenant, context)
}
