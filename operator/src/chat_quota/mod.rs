//! The status of quotas. Quotas are rendered with their tenant; this loop writes into each
//! whether it applies.

mod dereference;
mod update_status;
mod validate;

use std::time::Duration;

use minichat_crds::ChatQuota;
use minichat_crds::status::UNOBSERVED;

use crate::context::Context;
use crate::failures::ReconcileError;
use crate::work::Requeue;

/// A quota that is applied together with its tenant may come before it. For so long an operator
/// does not report the missing tenant: every operator of the cluster would.
const APPLIED_TOGETHER: Duration = Duration::from_secs(3);

/// Writes the quota's status. A change of the tenant's status enqueues the quota again.
pub(crate) async fn reconcile(
    quota: &ChatQuota,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    if quota.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let seen = dereference::dereference(quota, context);
    // The render loop's decision brings the quota back.
    if seen.is_of_another_operator(context) || seen.is_undecided {
        return Ok(None);
    }
    if seen.tenant.is_none() && is_new(quota, context) {
        return Ok(Some(APPLIED_TOGETHER));
    }
    let verdicts = validate::validate(quota, &seen);
    update_status::update(quota, &seen, verdicts, context).await
}

/// Whether no operator has written a status yet, and the quota was created a moment ago.
fn is_new(quota: &ChatQuota, context: &Context) -> bool {
    let status = quota.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let created = quota.metadata.creation_timestamp.as_ref();
    let age = created.map(|created| context.clock.now().as_micros() - created.0.as_microsecond());
    let age = age.and_then(|micros| u64::try_from(micros).ok());
    observed.is_none_or(|observed| observed == UNOBSERVED)
        && age.is_some_and(|micros| Duration::from_micros(micros) < APPLIED_TOGETHER)
}
