//! A `ChatTenant` with its names and what it lists. A reconcile, or a handler of a watch
//! event, makes it once; every step below takes it.

use std::collections::BTreeSet;

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use minichat_core::TenantId;
use minichat_crds::{ChatTenant, render};

use super::listed::Listed;
use crate::status::{Reason, Type, find};

/// One tenant.
pub(crate) struct Subject<'a> {
    pub(crate) tenant: &'a ChatTenant,
    /// The id under which it is served, or would be.
    pub(crate) id: TenantId,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// `namespace/name`.
    pub(crate) full_name: String,
    /// The issuers that it lists, in the order of `spec.auth.issuers`.
    pub(crate) issuers: Vec<Listed>,
    /// Names of the Secrets that it refers to.
    pub(crate) secrets: BTreeSet<&'a str>,
}

impl<'a> Subject<'a> {
    pub(crate) fn of(tenant: &'a ChatTenant) -> Self {
        let meta = &tenant.metadata;
        let references = tenant.spec.credential_refs().into_iter();
        Self {
            tenant,
            id: render::tenant_id(tenant),
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            full_name: full_name(tenant),
            issuers: Listed::by_tenant(tenant),
            secrets: references.map(|one| one.to.name.as_str()).collect(),
        }
    }

    /// What queues and caches call it.
    pub(crate) fn key(&self) -> ObjectRef<ChatTenant> {
        ObjectRef::from_obj(self.tenant)
    }

    /// Tells it from another object of its name.
    pub(crate) fn uid(&self) -> &str {
        self.tenant.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether its deletion has begun.
    pub(crate) fn is_ending(&self) -> bool {
        self.tenant.metadata.deletion_timestamp.is_some()
    }

    /// The oldest comes first; among equals the smaller name.
    pub(crate) fn age(&self) -> impl Ord + use<> {
        let created = self.tenant.metadata.creation_timestamp.as_ref();
        (created.map(|time| time.0), self.full_name.clone())
    }

    /// Whether it competes for its id and its issuers. A tenant that is not valid, or that
    /// ends, keeps them from no other (K8S-8).
    pub(crate) fn is_asking(&self) -> bool {
        let status = self.tenant.status.as_ref();
        let accepted = status.and_then(|status| find(&status.conditions, Type::Accepted));
        let is_invalid = accepted.is_some_and(|accepted| {
            [Reason::Invalid, Reason::NamespaceNotAllowed]
                .iter()
                .any(|reason| reason.as_str() == accepted.reason)
                && accepted.observed_generation == self.tenant.metadata.generation
        });
        !self.is_ending() && !is_invalid
    }

    /// `other`, a `namespace/name`, in words for readers of this tenant: they do not learn
    /// names of other namespaces.
    pub(crate) fn words_for(&self, other: &str) -> String {
        if self.is_in_namespace_of(other) {
            format!("the ChatTenant {other}")
        } else {
            "a ChatTenant of another namespace".to_owned()
        }
    }

    /// Whether `other`, a `namespace/name`, is in this tenant's namespace.
    pub(crate) fn is_in_namespace_of(&self, other: &str) -> bool {
        let namespace = other.split_once('/').map(|(namespace, _)| namespace);
        namespace == self.tenant.metadata.namespace.as_deref()
    }
}

/// `namespace/name`.
pub(crate) fn full_name<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// Whether another operator serves the tenant than before, or another one contends for it.
pub(crate) fn serving_has_changed(old: &ChatTenant, new: &ChatTenant) -> bool {
    let of = |tenant: &ChatTenant| {
        let status = tenant.status.as_ref();
        status.map(|status| (status.operator_namespace.clone(), status.contender.clone()))
    };
    of(old) != of(new)
}
