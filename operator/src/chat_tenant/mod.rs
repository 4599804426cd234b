//! Tenants: the render loop ([`render`]) and the object loop ([`reconcile`]).
//!
//! Both take the same steps, a file each: [`contention`] says whether this operator
//! serves the tenant, [`dereference`] reads what it depends on from the caches,
//! [`validate`] says what is right and wrong, [`build`] makes the rendered Secret. Then
//! the render loop writes the Secret ([`apply`]), and the object loop the status
//! ([`update_status`]).

mod apply;
mod build;
pub(crate) mod contention;
mod dereference;
mod update_status;
mod validate;

use std::time::Duration;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use minichat_crds::rendered_secret::revision_of;
use minichat_crds::{ChatTenant, render as rendering};

use crate::context::Context;
use crate::failures::ReconcileError;
use crate::issuers::LIFETIME;
use crate::secret_lookup;
use crate::status::{Reason, Type, Verdict};
use crate::tenant::{secret_names, source_of};
use crate::work::Requeue;
use crate::writer::{OLD_FINALIZER, WriteError};

use build::Build;
use contention::Owner;
use dereference::Dereferenced;
use validate::Validated;

/// Pods that were not asked for long enough are asked again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// Brings what the tenant asks for to the pool. Whatever is wrong leaves the last
/// good configuration in place (K8S-8), and is told by the object loop.
pub(crate) async fn render(
    tenant: &ChatTenant,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if tenant.finalizers().iter().any(|one| one == OLD_FINALIZER) {
        context.writer.remove_old_finalizer(tenant).await?;
    }
    if tenant.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    match contention::owner(tenant, context) {
        Owner::This => {}
        Owner::Nobody => {
            if !contention::claim(tenant, context).await? {
                return Ok(Some(AGAIN));
            }
        }
        // The object loop says so.
        Owner::Another(_) => return Ok(None),
    }
    let seen = dereference::dereference(context, tenant);
    let (_, build) = decide(tenant, &seen, context);
    if matches!(build, Build::Waits) {
        return Ok(Some(AGAIN));
    }
    let delivers = matches!(build, Build::Write(..));
    if let Build::Write(secret, number) = build {
        let source = seen.existing.as_deref().and_then(source_of);
        let Some(claim) = context.issuers.claim(tenant, source) else {
            return Ok(Some(AGAIN));
        };
        context.policy_versions.remember(tenant, number);
        let written = apply::apply(&context.writer, tenant, &seen, &secret).await;
        if written.as_ref().is_err_and(WriteError::is_refusal) {
            context.issuers.release(&claim);
        }
        written?;
        let before = seen.rendered.as_deref().and_then(revision_of);
        tracing::info!(
            tenant.id = %id_of(tenant),
            generation = tenant.metadata.generation,
            secret = secret.name_any(),
            revision = revision_of(&secret),
            before,
            "the rendered Secret is written"
        );
    } else {
        apply::remove_stale(&context.writer, &seen).await?;
    }
    context
        .propagation
        .rendered(&ObjectRef::from_obj(tenant), delivers);
    apply::remove_others(&context.writer, &seen).await?;
    // A claim ends without a change that would be told.
    let is_contested = seen.contested.is_some();
    Ok(is_contested.then_some(LIFETIME))
}

/// What is right and wrong with the tenant, and what must be written for it.
fn decide(tenant: &ChatTenant, seen: &Dereferenced, context: &Context) -> (Validated, Build) {
    let mut validated = validate::validate(tenant, seen, &context.settings);
    let Some(rendered) = validated.rendered.take() else {
        return (validated, Build::Stands);
    };
    let now = context.clock.now();
    // Both operators of a pool say that both are there; the one that has the tenant goes on.
    if let Some(contender) = contention::contender(tenant, now) {
        let (pool, owner) = (&tenant.spec.pool, &context.pool_namespace);
        validated.accepted = contention::conflict(pool, owner, &contender.namespace);
    }
    let build = build::build(tenant, seen, rendered, context, now).unwrap_or_else(|faults| {
        validated.accepted = Verdict::no(Type::Accepted, Reason::Invalid, faults.to_string());
        Build::Stands
    });
    (validated, build)
}

/// Status and events.
pub(crate) async fn reconcile(
    tenant: &ChatTenant,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if tenant.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    match contention::owner(tenant, context) {
        Owner::This => {}
        // The render loop claims it; that brings this loop back.
        Owner::Nobody => return Ok(None),
        Owner::Another(owner) => return contention::contend(tenant, owner, context).await,
    }
    let mut seen = dereference::dereference(context, tenant);
    seen.find_unlabelled(tenant, context).await;
    let misses_secrets = secret_names(tenant).len() > seen.secrets.len();
    let (mut validated, build) = decide(tenant, &seen, context);
    let mut unwritten = None;
    if matches!(build, Build::Write(..)) {
        let failures = &context.failures.render;
        let Some(error) = failures.fails_with(&ObjectRef::from_obj(tenant)) else {
            // The render loop is about to write; its write brings this loop back.
            return Ok(Some(AGAIN));
        };
        unwritten = Some(error.to_string());
        if let ReconcileError::Write(WriteError::OfAnotherPool { .. }) = *error {
            let why = format!("spec.tenantId: {error}");
            validated.accepted = Verdict::no(Type::Accepted, Reason::Conflict, why);
        }
    }
    let again = update_status::update(tenant, &seen, validated, unwritten, context).await?;
    // Of a Secret that is made without the label no watch tells.
    Ok(again.or(misses_secrets.then_some(secret_lookup::REMEMBERED)))
}

/// The id under which `tenant` is served.
fn id_of(tenant: &ChatTenant) -> minichat_core::TenantId {
    rendering::tenant_id(tenant)
}
