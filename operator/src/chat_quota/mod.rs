//! Quotas: they are rendered with their tenant; here they are told what became
//! of them.

mod dereference;
mod update_status;
mod validate;

use std::time::Duration;

use minichat_crds::ChatQuota;
use minichat_crds::status::UNOBSERVED;

use crate::context::Context;
use crate::failures::ReconcileError;
use crate::work::Requeue;

/// A quota that was applied with its tenant may come first. Until then it is nobody's,
/// and operators of several pools would all say so.
const APPLIED_TOGETHER: Duration = Duration::from_secs(3);

/// Writes the quota's status. Another look is due when the tenant's status
/// changes, which brings this loop back.
pub(crate) async fn reconcile(
    quota: &ChatQuota,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if quota.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let seen = dereference::dereference(&context.caches, quota, &context.settings);
    if seen.is_of_another_operator(context) {
        return Ok(None);
    }
    if seen.tenant.is_none() && is_new(quota, context) {
        return Ok(Some(APPLIED_TOGETHER));
    }
    let verdicts = validate::validate(quota, &seen);
    update_status::update(quota, &seen, verdicts, context).await
}

/// Whether nobody has seen the quota yet, and it was made a moment ago.
fn is_new(quota: &ChatQuota, context: &Context) -> bool {
    let status = quota.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let created = quota.metadata.creation_timestamp.as_ref();
    let age = created.map(|created| context.clock.now().as_micros() - created.0.as_microsecond());
    let age = age.and_then(|micros| u64::try_from(micros).ok());
    observed.is_none_or(|observed| observed == UNOBSERVED)
        && age.is_some_and(|micros| Duration::from_micros(micros) < APPLIED_TOGETHER)
}
