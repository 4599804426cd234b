//! What a quota is told.

use minichat_crds::ChatQuota;
use minichat_crds::chat_quota::ChatQuotaStatus;

use super::dereference::Dereferenced;
use crate::condition::{Verdict, conditions};
use crate::context::{Context, ReconcileError};
use crate::event;

/// Nothing is written when nothing has changed (K8S-12).
pub(super) async fn update(
    quota: &ChatQuota,
    seen: &Dereferenced,
    verdicts: Vec<Verdict>,
    context: &Context,
) -> Result<(), ReconcileError> {
    let before = quota.status.as_ref();
    let old = before
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let (generation, now) = (quota.metadata.generation, context.clock.now());
    let status = ChatQuotaStatus {
        observed_generation: generation,
        applied_revision: seen
            .revision
            .clone()
            .or_else(|| before.and_then(|before| before.applied_revision.clone())),
        subjects: i64::try_from(quota.spec.subjects.len()).ok(),
        conditions: conditions(&verdicts, old, generation, now),
    };
    if before == Some(&status) {
        return Ok(());
    }
    context.writer.apply_status(quota, &status).await?;
    let refused: Vec<_> = verdicts
        .into_iter()
        .filter(|verdict| verdict.type_ == crate::condition::Type::Accepted)
        .collect();
    let changes = event::changes(&refused, old);
    event::publish(&context.writer, &context.identity, quota, changes, now).await;
    Ok(())
}
