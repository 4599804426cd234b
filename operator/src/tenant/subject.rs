//! What a `ChatTenant` is called and what it refers to.

use std::collections::BTreeSet;

use kube::Resource;
use minichat_crds::ChatTenant;

use crate::status::{Reason, Type, find};

/// `namespace/name`.
pub(crate) fn full_name<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// Names of the Secrets that `tenant` refers to.
pub(crate) fn secret_names(tenant: &ChatTenant) -> BTreeSet<String> {
    let auths = tenant
        .spec
        .providers
        .iter()
        .filter_map(|provider| provider.auth.as_ref());
    auths.map(|auth| auth.secret_key_ref.name.clone()).collect()
}

/// The oldest comes first; among equals the smaller name.
pub(crate) fn age(tenant: &ChatTenant) -> impl Ord + use<> {
    let created = tenant.metadata.creation_timestamp.as_ref();
    (created.map(|time| time.0), full_name(tenant))
}

/// A tenant that is not valid or ends keeps nobody from anything (K8S-8).
pub(crate) fn is_asking(tenant: &ChatTenant) -> bool {
    let conditions = tenant.status.as_ref().map(|status| &status.conditions);
    let accepted = conditions.and_then(|conditions| find(conditions, Type::Accepted));
    let is_invalid = accepted.is_some_and(|accepted| {
        [Reason::Invalid, Reason::NamespaceNotAllowed]
            .iter()
            .any(|reason| reason.as_str() == accepted.reason)
            && accepted.observed_generation == tenant.metadata.generation
    });
    tenant.metadata.deletion_timestamp.is_none() && !is_invalid
}

/// Whether somebody else serves the tenant than before, or wants to.
pub(crate) fn serving_has_changed(old: &ChatTenant, new: &ChatTenant) -> bool {
    let of = |tenant: &ChatTenant| {
        let status = tenant.status.as_ref();
        status.map(|status| (status.operator_namespace.clone(), status.contender.clone()))
    };
    of(old) != of(new)
}
