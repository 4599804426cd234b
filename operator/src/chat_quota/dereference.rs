//! Reads from the caches the tenant that a quota names, and what the render loop has decided
//! about the tenant's quotas.

use std::sync::Arc;

use kube::ResourceExt as _;
use minichat_crds::render::Shortfall;
use minichat_crds::{ChatQuota, ChatTenant};

use crate::chat_tenant::contention::is_served_elsewhere;
use crate::context::Context;
use crate::tenant::{QuotaSeen, Subject};

#[derive(Default)]
pub(super) struct Dereferenced {
    /// In this operator's pool.
    pub(super) tenant: Option<Arc<ChatTenant>>,
    /// Whether the tenant is in another pool.
    is_in_another_pool: bool,
    /// Whether the render loop has still to see the quota as it is now.
    pub(super) is_undecided: bool,
    /// Revision of the tenant's rendered Secret, if that holds all its quotas as
    /// they are now.
    pub(super) revision: Option<String>,
    /// Present when the quota does not apply to all users whom it names.
    pub(super) shortfall: Option<Shortfall>,
}

pub(super) fn dereference(quota: &ChatQuota, context: &Context) -> Dereferenced {
    let caches = &context.caches;
    let namespace = quota.namespace().unwrap_or_default();
    let name = &quota.spec.tenant_ref.name;
    let Some(tenant) = caches.tenant(&namespace, name) else {
        return Dereferenced {
            is_in_another_pool: caches.is_in_another_pool(&namespace, name),
            ..Dereferenced::default()
        };
    };
    let seen = Dereferenced {
        tenant: Some(Arc::clone(&tenant)),
        ..Dereferenced::default()
    };
    let subject = Subject::of(&tenant);
    // Nothing is rendered for it any more.
    if subject.is_ending() {
        return seen;
    }
    let decision = context.state.decisions.of(&subject);
    let decision = decision.filter(|decision| decision.quotas.contains(&QuotaSeen::of(quota)));
    let Some(decision) = decision else {
        return Dereferenced {
            is_undecided: true,
            ..seen
        };
    };
    let revision = decision.revision.as_ref().filter(|_| decision.holds_quotas);
    Dereferenced {
        revision: revision.cloned(),
        shortfall: decision.shortfalls.get(&quota.name_any()).cloned(),
        ..seen
    }
}

impl Dereferenced {
    /// Whether another operator writes the quota's status (D37). If the tenant does not exist,
    /// every operator may.
    pub(super) fn is_of_another_operator(&self, context: &Context) -> bool {
        match &self.tenant {
            Some(tenant) => is_served_elsewhere(tenant, context),
            None => self.is_in_another_pool,
        }
    }
}
