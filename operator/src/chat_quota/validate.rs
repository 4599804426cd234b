//! How a quota stands: pure.

use minichat_crds::ChatQuota;
use minichat_crds::status::ConditionStatus;

use super::dereference::Dereferenced;
use crate::condition::{Reason, Type, Verdict, find};

pub(super) fn validate(quota: &ChatQuota, seen: &Dereferenced) -> Vec<Verdict> {
    let Some(tenant) = &seen.tenant else {
        let message = format!(
            "spec.tenantRef.name: there is no ChatTenant {} in the namespace; create it, or a ChatQuota that names another",
            quota.spec.tenant_ref.name
        );
        let accepted = Verdict::no(Type::Accepted, Reason::TenantNotFound, message.clone());
        let ready = Verdict::no(Type::Ready, Reason::TenantNotFound, message);
        return vec![accepted, ready];
    };
    let status = tenant.status.as_ref();
    let conditions = status
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let runs = find(conditions, Type::Programmed)
        .filter(|_| status.and_then(|status| status.revision.as_ref()) == seen.revision.as_ref());
    let programmed = match (&seen.revision, runs) {
        (Some(revision), Some(condition)) if condition.status == ConditionStatus::True => {
            Verdict::yes(
                Type::Programmed,
                Reason::Programmed,
                format!("revision {revision}"),
            )
        }
        (Some(_), Some(condition)) => {
            let reason = [Reason::Rejected, Reason::NoPods]
                .into_iter()
                .find(|reason| reason.as_str() == condition.reason);
            Verdict::no(
                Type::Programmed,
                reason.unwrap_or(Reason::Pending),
                condition.message.clone(),
            )
        }
        _ => Verdict::no(
            Type::Programmed,
            Reason::Pending,
            format!(
                "the tenant's configuration does not hold the quota yet; see the conditions of ChatTenant {}",
                quota.spec.tenant_ref.name
            ),
        ),
    };
    let mut verdicts = vec![Verdict::yes(Type::Accepted, Reason::Valid, ""), programmed];
    verdicts.push(Verdict::ready(&verdicts));
    verdicts
}
