//! Writes the quota's status and events.

use minichat_crds::ChatQuota;
use minichat_crds::chat_quota::ChatQuotaStatus;

use super::dereference::Dereferenced;
use crate::context::Context;
use crate::failures::ReconcileError;
use crate::status::{self, Type, Verdict, conditions, stalled};
use crate::work::Requeue;
use crate::writer::If;

/// Nothing is written when nothing has changed (K8S-12).
pub(super) async fn update(
    quota: &ChatQuota,
    seen: &Dereferenced,
    mut verdicts: Vec<Verdict>,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let before = quota.status.as_ref();
    let old = before
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let (generation, now) = (quota.metadata.generation, context.clock.now());
    let (stalled, again) = stalled(&verdicts, old, now);
    verdicts.extend(stalled);
    let status = ChatQuotaStatus {
        observed_generation: generation,
        applied_revision: applied_revision(&verdicts, seen, before),
        subjects: i64::try_from(quota.spec.subjects.len()).ok(),
        conditions: conditions(&verdicts, old, generation, now),
    };
    if before == Some(&status) {
        return Ok(again);
    }
    // Of a tenant that is nowhere several operators may say so; one of them does.
    let condition = match seen.tenant {
        Some(_) => If::Always,
        None => If::Unchanged,
    };
    context
        .writer
        .apply_status(quota, &status, condition)
        .await?;
    // That the tenant's revision runs everywhere is an event of the tenant.
    let own: Vec<_> = verdicts
        .into_iter()
        .filter(|verdict| matches!(verdict.type_, Type::Accepted | Type::Degraded))
        .collect();
    let changes = status::changes(&own, old);
    status::publish(&context.writer, &context.identity, quota, changes, now).await;
    Ok(again)
}

/// Of a quota that applies to anybody, the last revision that held it.
fn applied_revision(
    verdicts: &[Verdict],
    seen: &Dereferenced,
    before: Option<&ChatQuotaStatus>,
) -> Option<String> {
    if verdicts
        .iter()
        .any(|verdict| verdict.type_ == Type::Accepted && !verdict.holds())
    {
        return None;
    }
    let last = before.and_then(|before| before.applied_revision.as_ref());
    seen.revision.as_ref().or(last).cloned()
}
