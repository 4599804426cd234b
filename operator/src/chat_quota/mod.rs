//! Quotas: they are rendered with their tenant; here they are told what became
//! of them.

mod dereference;
mod update_status;
mod validate;

use minichat_crds::ChatQuota;

use crate::context::{Context, ReconcileError};
use crate::looks::Again;

/// Writes the quota's status. Another look is due when the tenant's status
/// changes, which brings this loop back.
pub(crate) async fn reconcile(
    quota: &ChatQuota,
    context: &Context,
) -> Result<Again, ReconcileError> {
    if quota.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let seen = dereference::dereference(&context.caches, quota, &context.settings);
    let verdicts = validate::validate(quota, &seen);
    update_status::update(quota, &seen, verdicts, context).await?;
    Ok(None)
}
