//! Which of several operators of one pool serves a tenant (D37): the first that saw it and
//! wrote its namespace into the status. A second operator leaves the tenant alone, and names
//! itself in the status as contender while it runs. The first one goes on serving the tenant.
//! Both report the conflict until one of them gets another pool or ends.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use minichat_core::Timestamp;
use minichat_crds::ChatTenant;
use minichat_crds::chat_tenant::{ChatTenantStatus, Contender};

use crate::context::Context;
use crate::failures::ReconcileError;
use crate::status::{self, Reason, Type, Verdict, merged};
use crate::work::Requeue;
use crate::writer::{If, WriteError};

/// How often a contender renews its entry in the status.
const RENEW: Duration = Duration::from_mins(5);
/// A contender whose entry is older is gone. Clocks may differ by minutes.
const EXPIRY: Duration = Duration::from_mins(15);
/// Tenants that are given up at once when the process ends.
const AT_ONCE: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    Nobody,
    This,
    /// The operator of this namespace.
    Another(&'a str),
}

/// Which operator serves `tenant`.
pub(super) fn owner<'a>(tenant: &'a ChatTenant, context: &Context) -> Owner<'a> {
    match operator_namespace(tenant) {
        None => Owner::Nobody,
        Some(namespace) if namespace == context.pool_namespace => Owner::This,
        Some(namespace) => Owner::Another(namespace),
    }
}

/// Whether an operator in another namespace serves `tenant`.
pub(crate) fn is_served_elsewhere(tenant: &ChatTenant, context: &Context) -> bool {
    matches!(owner(tenant, context), Owner::Another(_))
}

/// Makes this operator the one that serves `tenant`; `false` if the tenant has changed
/// since it was read, perhaps by the claim of another one.
pub(super) async fn claim(tenant: &ChatTenant, context: &Context) -> Result<bool, WriteError> {
    let status = ChatTenantStatus {
        operator_namespace: Some(context.pool_namespace.clone()),
        ..before(tenant)
    };
    match context
        .writer
        .apply_status(tenant, &status, If::Unchanged)
        .await
    {
        Ok(()) => Ok(true),
        Err(WriteError::Changed) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes into the status of `tenant`, which `owner` serves, that this operator would serve it
/// too.
pub(super) async fn contend(
    tenant: &ChatTenant,
    owner: &str,
    context: &Context,
) -> Result<Requeue, ReconcileError> {
    let now = context.clock.now();
    let known = before(tenant).contender;
    if let Some(known) = known.filter(|known| age(known, now) < RENEW) {
        return Ok(Some(RENEW.saturating_sub(age(&known, now))));
    }
    let contender = Contender {
        namespace: context.pool_namespace.clone(),
        renew_time: now.to_string(),
    };
    let accepted = conflict(&tenant.spec.pool, owner, &contender.namespace);
    let ready = Verdict::ready(std::slice::from_ref(&accepted));
    let old = before(tenant).conditions;
    let told = [accepted, ready];
    let status = ChatTenantStatus {
        contender: Some(contender),
        conditions: merged(&told, &old, tenant.metadata.generation, now),
        ..before(tenant)
    };
    context
        .writer
        .apply_status(tenant, &status, If::Unchanged)
        .await?;
    let changes = status::changes(&told, &old);
    status::publish(&context.writer, &context.identity, tenant, changes, now).await;
    Ok(Some(RENEW))
}

/// Another operator of the pool that is there too.
pub(super) fn contender(tenant: &ChatTenant, now: Timestamp) -> Option<Contender> {
    let contender = tenant.status.as_ref()?.contender.clone()?;
    (age(&contender, now) < EXPIRY).then_some(contender)
}

/// When to see whether a contender is still there.
pub(super) fn recheck(tenant: &ChatTenant, now: Timestamp) -> Requeue {
    contender(tenant, now).map(|contender| EXPIRY.saturating_sub(age(&contender, now)))
}

/// `Accepted` as both operators report it.
pub(super) fn conflict(pool: &str, owner: &str, contender: &str) -> Verdict {
    Verdict::no(
        Type::Accepted,
        Reason::Conflict,
        format!(
            "spec.pool: two operators serve the pool {pool}: the one in the namespace {owner} has this tenant, and the \
             one in the namespace {contender} leaves it alone; give one of the releases another pool.name, or clear \
             status.operatorNamespace if the one in {owner} is gone"
        ),
    )
}

/// Removes this operator as contender from all tenants, when it ends.
pub(crate) async fn withdraw(context: &Context) {
    let is_ours = |tenant: &ChatTenant| {
        let status = tenant.status.as_ref();
        let contender = status.and_then(|status| status.contender.as_ref());
        contender.is_some_and(|contender| contender.namespace == context.pool_namespace)
    };
    let tenants = context.caches.tenants().into_iter();
    let tenants = tenants.filter(|tenant| is_ours(tenant));
    stream::iter(tenants)
        .for_each_concurrent(AT_ONCE, async |tenant| {
            let status = ChatTenantStatus {
                contender: None,
                ..before(&tenant)
            };
            let written = context
                .writer
                .apply_status(tenant.as_ref(), &status, If::Unchanged);
            if let Err(error) = written.await {
                tracing::debug!(%error, "a tenant still names this operator as contender");
            }
        })
        .await;
}

fn operator_namespace(tenant: &ChatTenant) -> Option<&str> {
    let status = tenant.status.as_ref()?;
    status.operator_namespace.as_deref()
}

fn before(tenant: &ChatTenant) -> ChatTenantStatus {
    tenant.status.clone().unwrap_or_default()
}

fn age(contender: &Contender, now: Timestamp) -> Duration {
    let Ok(renewed) = contender.renew_time.parse::<Timestamp>() else {
        return Duration::MAX;
    };
    let micros = now.as_micros().saturating_sub(renewed.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn contended(renew_time: &str) -> ChatTenant {
        let mut tenant =
            minichat_crds::validation::chat_tenant(&minichat_crds::cases::tenant(), None).unwrap();
        tenant.status = Some(ChatTenantStatus {
            contender: Some(Contender {
                namespace: "b".to_owned(),
                renew_time: renew_time.to_owned(),
            }),
            ..ChatTenantStatus::default()
        });
        tenant
    }

    /// D37
    #[test]
    fn a_contender_that_says_nothing_any_more_is_gone() {
        let tenant = contended("2026-01-01T00:00:00Z");
        let soon = at("2026-01-01T00:14:00Z");
        assert_eq!(recheck(&tenant, soon), Some(Duration::from_mins(1)));
        assert!(contender(&tenant, soon).is_some());
        let late = at("2026-01-01T00:15:00Z");
        assert_eq!(
            (contender(&tenant, late), recheck(&tenant, late)),
            (None, None)
        );
        // A clock that is ahead.
        assert!(contender(&tenant, at("2025-12-31T23:59:00Z")).is_some());
        assert_eq!(contender(&contended("never"), soon), None);
    }
}
