//! Tenants: the render loop ([`render`]) and the object loop ([`reconcile`]).
//!
//! The render loop decides, a file for each step: [`contention`] says whether this operator
//! serves the tenant, [`dereference`] reads what it depends on from the caches, [`validate`]
//! says what is right and wrong, [`build`] makes the rendered Secret, and [`apply`] writes it.
//! What was decided goes to the object loop as a [`Decision`]. That loop asks the pods whether
//! they run it, and writes the status ([`references`], [`update_status`]).

mod apply;
mod build;
pub(crate) mod contention;
mod dereference;
mod references;
mod update_status;
mod validate;

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use minichat_crds::render::{Allowances, UnresolvedKind, allowances};
use minichat_crds::rendered_secret::revision_of;

use crate::context::Context;
use crate::failures::ReconcileError;
use crate::issuers::LIFETIME;
use crate::secret_lookup;
use crate::status::{Reason, Type, Verdict};
use crate::tenant::{Decision, Delivery, PolicyVersion, QuotaSeen, Subject, source_of};
use crate::work::{Request, Requeue};
use crate::writer::{OLD_FINALIZER, WriteError};

use build::Build;
use contention::Owner;
use dereference::Dereferenced;
use update_status::Verdicts;
use validate::Validated;

/// Pods that were not asked for long enough are asked again after this.
const AGAIN: Duration = Duration::from_secs(2);
/// When a blocked tenant is reconciled again.
const BLOCKED: Duration = Duration::from_secs(30);

/// A rendered Secret that is to be written, and the version of its policy.
type NewSecret = (Box<Secret>, PolicyVersion);

/// Brings what the tenant asks for to the pool. If anything is wrong, the last good
/// configuration stays (K8S-8), and the object loop says why.
pub(crate) async fn render(
    subject: &Subject<'_>,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let released = release(subject, context).await;
    let requeue = if subject.is_ending() {
        None
    } else {
        deliver(subject, context).await?
    };
    released?;
    Ok(requeue)
}

/// Removes the finalizer of older operators.
async fn release(subject: &Subject<'_>, context: &Context) -> Result<(), WriteError> {
    let mut finalizers = subject.tenant.finalizers().iter();
    if finalizers.any(|one| one == OLD_FINALIZER) {
        context.writer.remove_old_finalizer(subject.tenant).await?;
    }
    Ok(())
}

async fn deliver(subject: &Subject<'_>, context: &Context) -> Result<Requeue, ReconcileError> {
    match contention::owner(subject.tenant, context) {
        Owner::This => {}
        Owner::Nobody => {
            if !contention::claim(subject.tenant, context).await? {
                return Ok(Some(AGAIN));
            }
        }
        // The object loop says so.
        Owner::Another(_) => {
            enqueue_status(subject, context);
            return Ok(None);
        }
    }
    let seen = dereference::dereference(subject, context);
    let (decision, new) = decide(subject, &seen, context);
    let waits = match decision.delivery {
        Delivery::Waits => Some(AGAIN),
        Delivery::Blocked(_) => Some(BLOCKED),
        Delivery::Refused | Delivery::Current | Delivery::Writing => None,
    };
    let is_news = context.state.decisions.set(subject, decision);
    if is_news || waits.is_none() {
        enqueue_status(subject, context);
    }
    if is_news {
        for quota in &seen.quotas {
            let quota = ObjectRef::from_obj(quota.as_ref());
            context.state.queues.quotas.send(Request::Changed(quota));
        }
    }
    if waits.is_some() {
        return Ok(waits);
    }
    let delivers = new.is_some();
    if let Some(new) = new {
        if !write(subject, &seen, new, context).await? {
            return Ok(Some(AGAIN));
        }
    } else {
        apply::remove_stale(&context.writer, &seen).await?;
    }
    let propagation = &context.state.propagation;
    propagation.rendered(&subject.key(), delivers);
    apply::remove_others(&context.writer, &seen).await?;
    // No event comes when another tenant's claim on an issuer ends.
    let is_contested = seen.contested.is_some();
    Ok(is_contested.then_some(LIFETIME))
}

/// Brings the tenant to the object loop; what has not changed waits behind what has.
fn enqueue_status(subject: &Subject<'_>, context: &Context) {
    let key = subject.key();
    let request = if context.state.propagation.is_noticed(&key) {
        Request::Changed(key)
    } else {
        Request::Resync(key)
    };
    context.state.queues.objects.send(request);
}

/// What is right and wrong with the tenant, and what must be written for it.
fn decide(
    subject: &Subject<'_>,
    seen: &Dereferenced,
    context: &Context,
) -> (Decision, Option<NewSecret>) {
    let Validated {
        mut accepted,
        unresolved,
        is_redirected,
        degraded,
        rendered,
    } = validate::validate(subject, seen, &context.settings);
    let built = rendered.map(|rendered| build::build(subject, seen, rendered, context));
    let (delivery, new) = match built.transpose() {
        Ok(None) => (Delivery::Refused, None),
        Ok(Some(Build::Current)) => (Delivery::Current, None),
        Ok(Some(Build::Waits)) => (Delivery::Waits, None),
        Ok(Some(Build::Blocked(why))) => (Delivery::Blocked(why), None),
        Ok(Some(Build::Write(secret, version))) => (Delivery::Writing, Some((secret, version))),
        Err(faults) => {
            accepted = Verdict::no(Type::Accepted, Reason::Invalid, faults.to_string());
            (Delivery::Refused, None)
        }
    };
    let quotas: Vec<_> = seen.quotas.iter().map(AsRef::as_ref).collect();
    let Allowances { limits, shortfalls } = allowances(subject.tenant, &quotas, &context.settings);
    let revision = seen.rendered.as_deref().and_then(revision_of);
    let carried = seen.carried.as_ref().map(|carried| &carried.config);
    let decision = Decision {
        generation: subject.tenant.metadata.generation,
        accepted,
        unresolved,
        is_redirected,
        degraded,
        quotas: seen
            .quotas
            .iter()
            .map(|quota| QuotaSeen::of(quota))
            .collect(),
        holds_quotas: seen.limits.as_ref() == Some(&limits),
        shortfalls,
        revision: revision.map(str::to_owned),
        policy: carried.map(|config| (config.policy_version, config.content_hash.clone())),
        delivery,
    };
    (decision, new)
}

/// Writes the rendered Secret; `false` if it must be decided anew first.
async fn write(
    subject: &Subject<'_>,
    seen: &Dereferenced,
    (secret, version): NewSecret,
    context: &Context,
) -> Result<bool, WriteError> {
    let source = seen.existing.as_deref().and_then(source_of);
    let Some(claim) = context.state.issuers.claim(subject, source) else {
        return Ok(false);
    };
    context.state.policy_versions.remember(subject, version);
    let written = apply::apply(&context.writer, subject, seen, &secret).await;
    let is_unwritten = match &written {
        Ok(is_written) => !is_written,
        Err(error) => error.is_refusal(),
    };
    if is_unwritten {
        context.state.issuers.release(&claim);
    }
    if !written? {
        return Ok(false);
    }
    tracing::info!(
        tenant.id = %subject.id,
        generation = subject.tenant.metadata.generation,
        secret = secret.name_any(),
        revision = revision_of(&secret),
        before = seen.rendered.as_deref().and_then(revision_of),
        "the rendered Secret is written"
    );
    Ok(true)
}

/// Writes status and events.
pub(crate) async fn reconcile(
    subject: &Subject<'_>,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if subject.is_ending() {
        return Ok(None);
    }
    match contention::owner(subject.tenant, context) {
        Owner::This => {}
        // The render loop claims it; that brings this loop back.
        Owner::Nobody => return Ok(None),
        Owner::Another(owner) => return contention::contend(subject.tenant, owner, context).await,
    }
    // The render loop is about to decide; that brings this loop back.
    let Some(decision) = context.state.decisions.of(subject) else {
        return Ok(None);
    };
    let mut failure = None;
    if decision.delivery == Delivery::Writing {
        failure = context.state.failures.render.fails_with(&subject.key());
        if failure.is_none() {
            // The write brings this loop back, a failure does not.
            return Ok(Some(AGAIN));
        }
    }
    let unlabelled = references::unlabelled(subject, &decision, context).await;
    let verdicts = Verdicts {
        accepted: accepted(subject, &decision, failure.as_deref(), context),
        resolved: references::resolved(subject, &decision, &unlabelled),
        undelivered: undelivered(&decision.delivery, failure.as_deref()),
    };
    let again = update_status::update(subject, &decision, verdicts, context).await?;
    // No watch shows a Secret that is created without the label.
    let mut unresolved = decision.unresolved.iter();
    let misses_secrets = unresolved.any(|one| one.kind == UnresolvedKind::SecretNotFound);
    Ok(again.or(misses_secrets.then_some(secret_lookup::REMEMBERED)))
}

/// `Accepted`, with what other operators and pools have to do with it.
fn accepted(
    subject: &Subject<'_>,
    decision: &Decision,
    failure: Option<&ReconcileError>,
    context: &Context,
) -> Verdict {
    if let Some(error @ ReconcileError::Write(WriteError::OfAnotherPool { .. })) = failure {
        let why = format!("spec.tenantId: {error}");
        return Verdict::no(Type::Accepted, Reason::Conflict, why);
    }
    let contender = contention::contender(subject.tenant, context.clock.now());
    // Both operators of a pool say that both are there; the one that has the tenant goes on.
    match contender {
        Some(contender) if decision.delivery != Delivery::Refused => contention::conflict(
            &subject.tenant.spec.pool,
            &context.pool_namespace,
            &contender.namespace,
        ),
        _ => decision.accepted.clone(),
    }
}

/// `Programmed` of a tenant whose configuration is not in its rendered Secret.
fn undelivered(delivery: &Delivery, failure: Option<&ReconcileError>) -> Option<Verdict> {
    let (reason, message) = match (delivery, failure) {
        (Delivery::Blocked(why), _) => {
            let message = format!("the configuration cannot be delivered: {why}");
            (Reason::Blocked, message)
        }
        (Delivery::Waits, _) => {
            let message = "nothing is written while the ConfigMap of the release is missing or being deleted, or the \
                           rendered Secret is being deleted; the configuration is delivered afterwards";
            (Reason::Pending, message.to_owned())
        }
        (_, Some(error)) => {
            let message =
                format!("the rendered Secret cannot be written, and it is tried again: {error}");
            (Reason::Pending, message)
        }
        (_, None) => return None,
    };
    Some(Verdict::no(Type::Programmed, reason, message))
}
