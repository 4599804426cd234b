//! What the tenant is told: conditions, the numbers of its policy, events.

use kube::runtime::reflector::ObjectRef;
use minichat_core::TenantId;
use minichat_crds::ChatTenant;
use minichat_crds::chat_tenant::{ChatTenantStatus, DataPlane};
use minichat_crds::rendered_secret::revision_of;

use super::dereference::Dereferenced;
use super::validate::Validated;
use super::{AGAIN, contention, id_of};
use crate::context::Context;
use crate::failures::ReconcileError;
use crate::issuers;
use crate::pool::{Acknowledgement, SOON};
use crate::status::{self, EventNote, Reason, Type, Verdict, conditions, stalled};
use crate::tenant::{full_name, named_for};
use crate::work::Requeue;
use crate::writer::If;

/// Asks the pods and writes the status; those that take long are asked again.
/// `unwritten` is why what should be delivered is not.
pub(super) async fn update(
    tenant: &ChatTenant,
    seen: &Dereferenced,
    validated: Validated,
    unwritten: Option<String>,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let Some(revision) = seen
        .rendered
        .as_ref()
        .and_then(|secret| revision_of(secret))
    else {
        let nothing = match &unwritten {
            Some(error) => not_written(error),
            None => Verdict::no(
                Type::Programmed,
                Reason::Pending,
                "nothing has been rendered yet",
            ),
        };
        let status = status(
            tenant,
            seen,
            &validated,
            nothing,
            &Acknowledgement::default(),
            context,
        );
        let later = write(tenant, status, context).await?;
        return Ok(again(unwritten.is_some()).or(later));
    };
    let standing = context
        .pool
        .acknowledged(id_of(tenant), revision, SOON)
        .await;
    learn_owner(tenant, &standing, context);
    if let Some(stored) = standing.stored_version
        && context.policy_versions.take(tenant, stored)
    {
        tracing::info!(
            tenant.id = %id_of(tenant),
            revision,
            stored,
            "a pod knows higher policy versions; the next one is above them"
        );
        context.enqueue_render(tenant);
    }
    if unwritten.is_none()
        && standing.is_everywhere()
        && let Some(elapsed) = context.propagation.arrived(&ObjectRef::from_obj(tenant))
    {
        context.metrics.config_propagation_seconds(elapsed);
    }
    let programmed = match &unwritten {
        Some(error) if standing.refusal.is_none() => not_written(error),
        _ => {
            let refusal = refusal(tenant, &standing, revision, |holder| {
                context.caches.name_of(holder)
            });
            programmed(&standing, refusal, revision)
        }
    };
    let told = status(tenant, seen, &validated, programmed, &standing, context);
    let later = write(tenant, told, context).await?;
    // An edit must not wait for a pod that does not answer.
    let is_settled = standing.is_final() && standing.refusal.is_none() && unwritten.is_none();
    Ok(again(!is_settled).or(later))
}

/// What the database of the pool says of whose the id is (D36).
fn learn_owner(tenant: &ChatTenant, standing: &Acknowledgement, context: &Context) {
    let owner = standing.stored_owner.as_deref();
    if owner.is_none() && !standing.is_everywhere() {
        return;
    }
    let id = id_of(tenant);
    if context.owners.set(id, owner) {
        tracing::info!(tenant.id = %id, owner, "the owner of the id in the database of the pool");
        context.enqueue_all_of(id);
    }
}

fn again(is_due: bool) -> Requeue {
    is_due.then_some(AGAIN)
}

fn not_written(error: &str) -> Verdict {
    let message = format!("the rendered Secret cannot be written, and it is tried again: {error}");
    Verdict::no(Type::Programmed, Reason::Pending, message)
}

/// A status with the verdicts and events that led to it.
struct NewStatus {
    status: ChatTenantStatus,
    verdicts: Vec<Verdict>,
    /// When the status would be another one although nothing has changed.
    again: Requeue,
}

fn programmed(standing: &Acknowledgement, refusal: Option<String>, revision: &str) -> Verdict {
    if let Some(words) = refusal {
        return Verdict::no(Type::Programmed, Reason::Rejected, words);
    }
    if let Some(pod) = &standing.retrying {
        let message = format!(
            "pod {pod} cannot write the policy of revision {revision} to its database now, and tries it again"
        );
        return Verdict::no(Type::Programmed, Reason::Pending, message);
    }
    let (ready, programmed) = (standing.ready, standing.programmed);
    if ready == 0 {
        let message = format!("revision {revision} is rendered, but no pod of the pool is ready");
        return Verdict::no(Type::Programmed, Reason::NoPods, message);
    }
    if standing.is_everywhere() {
        return Verdict::yes(
            Type::Programmed,
            Reason::Programmed,
            format!("revision {revision}"),
        );
    }
    let message = format!("{programmed} of {ready} ready pods run revision {revision}");
    Verdict::no(Type::Programmed, Reason::Pending, message)
}

/// Why pods refuse the revision. Their own words are for administrators: they name
/// other tenants, whatever their namespace. `name_of` an id is `namespace/name`.
fn refusal(
    tenant: &ChatTenant,
    standing: &Acknowledgement,
    revision: &str,
    name_of: impl FnOnce(TenantId) -> Option<String>,
) -> Option<String> {
    let (pod, words) = standing.refusal.as_ref()?;
    if let Some(owner) = &standing.stored_owner {
        return Some(of_another_owner(tenant, owner));
    }
    let Some(contested) = &standing.contested_issuer else {
        return Some(format!("pod {pod} refused revision {revision}: {words}"));
    };
    let holder = name_of(contested.holder).unwrap_or_default();
    let holder = named_for(tenant, &holder);
    Some(issuers::contested(
        contested.position,
        &contested.issuer,
        &holder,
    ))
}

/// What a tenant is told of whom the id belongs to.
fn of_another_owner(tenant: &ChatTenant, owner: &str) -> String {
    let (id, full) = (id_of(tenant), full_name(tenant));
    let namespace = owner.split_once('/').map(|(namespace, _)| namespace);
    let from = if namespace == tenant.metadata.namespace.as_deref() {
        owner
    } else {
        "OWNER"
    };
    format!(
        "the chats of this id in the database of the pool are those of {}; create this ChatTenant with another \
         tenantId, or ask whoever runs the pool to hand them over: \
         minichat-dataplane tenants transfer --tenant {id} --from {from} --to {full}",
        named_for(tenant, owner)
    )
}

fn status(
    tenant: &ChatTenant,
    seen: &Dereferenced,
    validated: &Validated,
    programmed: Verdict,
    standing: &Acknowledgement,
    context: &Context,
) -> NewStatus {
    let mut verdicts = vec![
        validated.accepted.clone(),
        validated.resolved.clone(),
        programmed,
    ];
    let generation = tenant.metadata.generation;
    let before = tenant.status.as_ref();
    let old = before
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    // One that came with a backup may speak of another tenant.
    let id = id_of(tenant).to_string();
    let before = before.filter(|status| status.tenant_id.as_ref() == Some(&id));
    let now = context.clock.now();
    let (stalled, stalls_after) = stalled(&verdicts, old, now);
    verdicts.push(Verdict::ready(&verdicts));
    verdicts.extend(stalled);
    verdicts.extend(context.jobs_health.verdict(old));
    verdicts.extend(validated.degraded.clone());
    let carried = seen.carried.as_ref();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let status = ChatTenantStatus {
        observed_generation: generation,
        operator_namespace: Some(context.pool_namespace.clone()),
        contender: contention::contender(tenant, now),
        tenant_id: Some(id),
        policy_version: carried
            .and_then(|carried| i64::try_from(carried.config.policy_version?).ok())
            .or(before.and_then(|before| before.policy_version)),
        policy_hash: carried
            .map(|carried| carried.config.content_hash.clone())
            .or_else(|| before.and_then(|before| before.policy_hash.clone())),
        revision: seen
            .rendered
            .as_ref()
            .and_then(|secret| revision_of(secret))
            .map(str::to_owned),
        data_plane: Some(DataPlane {
            ready: number(standing.ready),
            programmed: number(standing.programmed),
            rejected: number(standing.rejected),
            pods: format!("{}/{}", standing.programmed, standing.ready),
        }),
        models: Some(number(models_enabled(tenant))),
        quotas: Some(number(seen.quotas.len())),
        conditions: conditions(&verdicts, old, generation, now),
    };
    let rechecks_after = contention::recheck(tenant, now);
    NewStatus {
        status,
        verdicts,
        again: stalls_after.into_iter().chain(rechecks_after).min(),
    }
}

fn models_enabled(tenant: &ChatTenant) -> usize {
    let models = tenant.spec.models.iter();
    models.filter(|model| model.enabled).count()
}

/// Nothing is written when nothing has changed (K8S-12).
async fn write(
    tenant: &ChatTenant,
    told: NewStatus,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let NewStatus {
        status,
        verdicts,
        again,
    } = told;
    if tenant.status.as_ref() == Some(&status) {
        return Ok(again);
    }
    context
        .writer
        .apply_status(tenant, &status, If::Always)
        .await?;
    let old = tenant
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    let changes = status::changes(&verdicts, old.unwrap_or_default());
    if changes.iter().any(EventNote::is_rejection) {
        context.metrics.config_rejected();
    }
    status::publish(
        &context.writer,
        &context.identity,
        tenant,
        changes,
        context.clock.now(),
    )
    .await;
    Ok(again)
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;

    use super::*;
    use crate::pool::ContestedIssuer;

    const ISSUER: &str = "https://login.example.com";

    fn refused(change: impl FnOnce(&mut Acknowledgement)) -> Acknowledgement {
        let words = "of the ChatTenant elsewhere/victim, 5f0c2f4e".to_owned();
        let mut standing = Acknowledgement {
            ready: 1,
            rejected: 1,
            refusal: Some(("pool-0".to_owned(), words)),
            ..Acknowledgement::default()
        };
        change(&mut standing);
        standing
    }

    /// D46: nobody has to do anything about the tenant.
    #[test]
    fn while_a_pod_tries_again_the_tenant_is_pending_and_not_stalled() {
        let standing = Acknowledgement {
            ready: 1,
            retrying: Some("pool-0".to_owned()),
            ..Acknowledgement::default()
        };
        let verdict = programmed(&standing, None, "1-a");
        assert_eq!((verdict.holds, verdict.reason), (false, Reason::Pending));
        let words = "pod pool-0 cannot write the policy of revision 1-a to its database now";
        assert!(verdict.message.starts_with(words), "{}", verdict.message);
        let now = minichat_core::Timestamp::from_micros(0);
        assert_eq!(stalled(&[verdict], &[], now), (None, None));
    }

    /// D36: what a pod says names other tenants; their names and ids stay with administrators.
    #[test]
    fn a_refusal_names_no_tenant_of_another_namespace() {
        let tenant = minichat_crds::validation::chat_tenant(&cases::tenant(), None).unwrap();
        let holder = TenantId::random();
        let contested = refused(|standing| {
            standing.contested_issuer = Some(ContestedIssuer {
                position: 1,
                issuer: ISSUER.to_owned(),
                holder,
            });
        });
        let owned = refused(|standing| standing.stored_owner = Some("elsewhere/victim".to_owned()));
        for standing in [&contested, &owned] {
            let name = |_| Some("elsewhere/victim".to_owned());
            let told = refusal(&tenant, standing, "1-a", name).unwrap();
            assert!(told.contains("a ChatTenant of another namespace"), "{told}");
            let names = ["elsewhere", "victim", "5f0c2f4e", &holder.to_string()];
            assert!(!names.iter().any(|name| told.contains(name)), "{told}");
        }
        let near = |_| Some("default/near".to_owned());
        let told = refusal(&tenant, &contested, "1-a", near).unwrap();
        let start = format!(
            "spec.auth.issuers[1].issuer: {ISSUER} is listed by the ChatTenant default/near too"
        );
        assert!(told.starts_with(&start), "{told}");
    }
}
