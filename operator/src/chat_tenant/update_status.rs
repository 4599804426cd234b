//! Writes the tenant's status and events, after the pods have said which revision they run.

use minichat_core::TenantId;
use minichat_crds::chat_tenant::{ChatTenantStatus, DataPlane};

use super::{AGAIN, contention};
use crate::context::Context;
use crate::failures::ReconcileError;
use crate::issuers;
use crate::pool::{Acknowledgement, SOON};
use crate::status::{
    self, EventNote, Reason, SinksVerdict, Type, Verdict, conditions, sinks_verdict, stalled,
};
use crate::tenant::{Decision, Delivery, Subject};
use crate::work::{Request, Requeue};
use crate::writer::If;

/// What is known before the pods are asked.
pub(super) struct Verdicts {
    pub(super) accepted: Verdict,
    pub(super) resolved: Verdict,
    /// Why what should be delivered is not in the rendered Secret.
    pub(super) undelivered: Option<Verdict>,
}

/// Asks the pods and writes the status. The tenant is requeued while that is not settled.
pub(super) async fn update(
    subject: &Subject<'_>,
    decision: &Decision,
    verdicts: Verdicts,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let is_failing = decision.delivery == Delivery::Writing;
    let Some(revision) = &decision.revision else {
        let nothing = verdicts.undelivered.clone().unwrap_or_else(|| {
            let message = "nothing has been rendered yet";
            Verdict::no(Type::Programmed, Reason::Pending, message)
        });
        let nobody = Acknowledgement::default();
        let status = status(subject, decision, verdicts, nothing, &nobody, context);
        let later = write(subject, status, context).await?;
        return Ok(again(is_failing).or(later));
    };
    let standing = context.pool.acknowledged(subject.id, revision, SOON).await;
    learn(subject, &standing, revision, context);
    let (sinks, is_complete) = (standing.sinks.clone(), standing.is_complete);
    let health = &context.state.sinks_health;
    health.take(subject.id, sinks, is_complete, context.clock.now());
    if verdicts.undelivered.is_none()
        && standing.is_everywhere()
        && let Some(elapsed) = context.state.propagation.arrived(&subject.key())
    {
        context.state.metrics.config_propagation_seconds(elapsed);
    }
    let programmed = match &verdicts.undelivered {
        Some(undelivered) if standing.refusal.is_none() => undelivered.clone(),
        _ => {
            let refusal = refusal(subject, &standing, revision, |holder| {
                context.caches.name_of(holder)
            });
            programmed(&standing, refusal, revision)
        }
    };
    let status = status(subject, decision, verdicts, programmed, &standing, context);
    let later = write(subject, status, context).await?;
    // An edit must not wait for a pod that does not answer.
    let is_settled = standing.is_final() && standing.refusal.is_none() && !is_failing;
    Ok(again(!is_settled).or(later))
}

/// Keeps what the pods report of the pool's database: the owner of the id (D36), and which policy
/// versions it has. News enqueue the tenants that they affect for the render loop.
fn learn(subject: &Subject<'_>, standing: &Acknowledgement, revision: &str, context: &Context) {
    let (id, state) = (subject.id, &context.state);
    let owner = standing.stored_owner.as_deref();
    if (owner.is_some() || standing.is_everywhere()) && state.owners.set(id, owner) {
        tracing::info!(tenant.id = %id, owner, "the owner of the id in the database of the pool");
        context.enqueue_all_of(id);
    }
    if let Some(stored) = standing.stored_version
        && state.policy_versions.take(subject, stored)
    {
        tracing::info!(
            tenant.id = %id,
            revision,
            stored,
            "a pod knows higher policy versions; the next one is above them"
        );
        let render = &state.queues.render;
        render.send(Request::Changed(subject.key()));
    }
}

fn again(is_due: bool) -> Requeue {
    is_due.then_some(AGAIN)
}

/// A status with the verdicts and events that led to it.
struct NewStatus {
    status: ChatTenantStatus,
    verdicts: Vec<Verdict>,
    /// Besides those of verdicts that change.
    events: Vec<EventNote>,
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
    subject: &Subject<'_>,
    standing: &Acknowledgement,
    revision: &str,
    name_of: impl FnOnce(TenantId) -> Option<String>,
) -> Option<String> {
    let (pod, words) = standing.refusal.as_ref()?;
    if let Some(owner) = &standing.stored_owner {
        return Some(of_another_owner(subject, owner));
    }
    let Some(contested) = &standing.contested_issuer else {
        return Some(format!("pod {pod} refused revision {revision}: {words}"));
    };
    let holder = name_of(contested.holder).unwrap_or_default();
    let holder = subject.words_for(&holder);
    Some(issuers::contested(
        contested.position,
        &contested.issuer,
        &holder,
    ))
}

/// Why pods refuse an id whose chats are those of `owner`, and what to do.
fn of_another_owner(subject: &Subject<'_>, owner: &str) -> String {
    let Subject { id, full_name, .. } = subject;
    let from = if subject.is_in_namespace_of(owner) {
        owner
    } else {
        "OWNER"
    };
    format!(
        "the chats of this id in the database of the pool are those of {}; create this ChatTenant with another \
         tenantId, or ask whoever runs the pool to hand them over: \
         minichat-dataplane tenants transfer --tenant {id} --from {from} --to {full_name}",
        subject.words_for(owner)
    )
}

fn status(
    subject: &Subject<'_>,
    decision: &Decision,
    verdicts: Verdicts,
    programmed: Verdict,
    standing: &Acknowledgement,
    context: &Context,
) -> NewStatus {
    let tenant = subject.tenant;
    let generation = tenant.metadata.generation;
    let before = tenant.status.as_ref();
    let old = before
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    // One that came with a backup may speak of another tenant.
    let id = subject.id.to_string();
    let before = before.filter(|status| status.tenant_id.as_ref() == Some(&id));
    let now = context.clock.now();
    let mut verdicts = vec![verdicts.accepted, verdicts.resolved, programmed];
    let (stalled, stalls_after) = stalled(&verdicts, old, now);
    verdicts.push(Verdict::ready(&verdicts));
    verdicts.extend(stalled);
    verdicts.extend(context.jobs_health.verdict(old));
    let SinksVerdict {
        verdict,
        failures,
        events,
        again: event_due,
    } = sinks_verdict(
        &tenant.spec,
        &context.state.sinks_health.of(subject.id),
        before.and_then(|before| before.sinks.as_ref()),
        now,
    );
    verdicts.extend(verdict);
    verdicts.extend(decision.degraded.clone());
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (version, hash) = decision.policy.clone().unzip();
    let version = version.flatten().and_then(|it| i64::try_from(it).ok());
    let status = ChatTenantStatus {
        observed_generation: generation,
        operator_namespace: Some(context.pool_namespace.clone()),
        contender: contention::contender(tenant, now),
        tenant_id: Some(id),
        policy_version: version.or(before.and_then(|before| before.policy_version)),
        policy_hash: hash.or_else(|| before.and_then(|before| before.policy_hash.clone())),
        revision: decision.revision.clone(),
        data_plane: Some(DataPlane {
            ready: number(standing.ready),
            programmed: number(standing.programmed),
            rejected: number(standing.rejected),
            pods: format!("{}/{}", standing.programmed, standing.ready),
        }),
        models: Some(number(models_enabled(tenant))),
        quotas: Some(number(decision.quotas.len())),
        sinks: failures,
        conditions: conditions(&verdicts, old, generation, now),
    };
    let rechecks_after = contention::recheck(tenant, now);
    NewStatus {
        status,
        verdicts,
        events,
        again: [stalls_after, rechecks_after, event_due]
            .into_iter()
            .flatten()
            .min(),
    }
}

fn models_enabled(tenant: &minichat_crds::ChatTenant) -> usize {
    let models = tenant.spec.models.iter();
    models.filter(|model| model.enabled).count()
}

/// Nothing is written when nothing has changed (K8S-12).
async fn write(
    subject: &Subject<'_>,
    new: NewStatus,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let NewStatus {
        status,
        verdicts,
        events,
        again,
    } = new;
    let tenant = subject.tenant;
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
    let mut changes = status::changes(&verdicts, old.unwrap_or_default());
    changes.extend(events);
    if changes.iter().any(EventNote::is_rejection) {
        context.state.metrics.config_rejected();
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

    /// D46: no person has to act.
    #[test]
    fn while_a_pod_tries_again_the_tenant_is_pending_and_not_stalled() {
        let standing = Acknowledgement {
            ready: 1,
            retrying: Some("pool-0".to_owned()),
            ..Acknowledgement::default()
        };
        let verdict = programmed(&standing, None, "1-a");
        assert_eq!((verdict.holds(), verdict.reason), (false, Reason::Pending));
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
            let told = refusal(&Subject::of(&tenant), standing, "1-a", name).unwrap();
            assert!(told.contains("a ChatTenant of another namespace"), "{told}");
            let names = ["elsewhere", "victim", "5f0c2f4e", &holder.to_string()];
            assert!(!names.iter().any(|name| told.contains(name)), "{told}");
        }
        let near = |_| Some("default/near".to_owned());
        let told = refusal(&Subject::of(&tenant), &contested, "1-a", near).unwrap();
        let start = format!(
            "spec.auth.issuers[1].issuer: {ISSUER} is listed by the ChatTenant default/near too"
        );
        assert!(told.starts_with(&start), "{told}");
    }
}
