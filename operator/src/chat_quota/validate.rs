//! The conditions of a quota. Pure.

use minichat_crds::render::{Shortfall, ShortfallKind};
use minichat_crds::status::ConditionStatus;
use minichat_crds::{ChatQuota, ChatTenant};

use super::dereference::Dereferenced;
use crate::status::{Reason, Type, Verdict, find};

pub(super) fn validate(quota: &ChatQuota, seen: &Dereferenced) -> Vec<Verdict> {
    let Some(tenant) = &seen.tenant else {
        let message = format!(
            "spec.tenantRef.name: there is no ChatTenant {} in the namespace; create it, or a ChatQuota that names another",
            quota.spec.tenant_ref.name
        );
        return refused(Reason::TenantNotFound, &message);
    };
    let partly = match &seen.shortfall {
        None => None,
        Some(Shortfall { kind, message }) => match kind {
            ShortfallKind::PartlyApplied => Some(message),
            ShortfallKind::Conflict => return refused(Reason::Conflict, message),
            ShortfallKind::NoIssuer => return refused(Reason::Invalid, message),
        },
    };
    let mut verdicts = vec![
        Verdict::yes(Type::Accepted, Reason::Valid, ""),
        programmed(quota, tenant, seen.revision.as_deref()),
    ];
    verdicts.push(Verdict::ready(&verdicts));
    verdicts
        .extend(partly.map(|message| Verdict::yes(Type::Degraded, Reason::PartlyApplied, message)));
    verdicts
}

/// A quota that applies to no user.
fn refused(reason: Reason, message: &str) -> Vec<Verdict> {
    [Type::Accepted, Type::Ready]
        .map(|type_| Verdict::no(type_, reason, message))
        .into()
}

/// Whether every pod runs the configuration that holds the quota; `revision` is
/// the one that does.
fn programmed(quota: &ChatQuota, tenant: &ChatTenant, revision: Option<&str>) -> Verdict {
    let status = tenant.status.as_ref();
    let conditions = status
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let runs = find(conditions, Type::Programmed)
        .filter(|_| status.and_then(|status| status.revision.as_deref()) == revision);
    match (revision, runs) {
        (Some(revision), Some(condition)) if condition.status == ConditionStatus::True => {
            Verdict::yes(
                Type::Programmed,
                Reason::Programmed,
                format!("revision {revision}"),
            )
        }
        (Some(_), Some(condition)) => {
            let reason = [Reason::Rejected, Reason::NoPods, Reason::Blocked]
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
    }
}
