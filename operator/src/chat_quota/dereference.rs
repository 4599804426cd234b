//! The tenant that a quota names, from the caches, and what its quotas come to.

use std::sync::Arc;

use kube::ResourceExt as _;
use minichat_crds::render::{self, Shortfall};
use minichat_crds::rendered_secret::revision_of;
use minichat_crds::{ChatQuota, ChatTenant, RenderSettings, RenderedTenant};

use crate::caches::Caches;
use crate::chat_tenant::contention::is_served_elsewhere;
use crate::context::Context;
use crate::tenant::MadeOf;

#[derive(Default)]
pub(super) struct Dereferenced {
    /// In this operator's pool.
    pub(super) tenant: Option<Arc<ChatTenant>>,
    /// Whether the tenant is in another pool.
    is_in_another_pool: bool,
    /// Revision of the tenant's rendered Secret, if that holds all its quotas as
    /// they are now.
    pub(super) revision: Option<String>,
    /// Present when the quota does not apply to everybody whom it means.
    pub(super) shortfall: Option<Shortfall>,
}

pub(super) fn dereference(
    caches: &Caches,
    quota: &ChatQuota,
    settings: &RenderSettings,
) -> Dereferenced {
    let namespace = quota.namespace().unwrap_or_default();
    let name = &quota.spec.tenant_ref.name;
    let Some(tenant) = caches.tenant(&namespace, name) else {
        return Dereferenced {
            is_in_another_pool: caches.is_in_another_pool(&namespace, name),
            ..Dereferenced::default()
        };
    };
    let quotas = caches.quotas_of(&namespace, name);
    let quotas: Vec<_> = quotas.iter().map(AsRef::as_ref).collect();
    let mut allowances = render::allowances(&tenant, &quotas, settings);
    let rendered = caches.rendered_of(render::tenant_id(&tenant));
    let revision = rendered.and_then(|secret| {
        let made_of = MadeOf::of(&secret.metadata, &tenant);
        let is_ours = matches!(made_of, MadeOf::ThisObject | MadeOf::ItsName);
        let carried = RenderedTenant::from_secret(&secret, &RenderSettings::LENIENT);
        let holds =
            carried.is_ok_and(|carried| carried.config.document.user_limits == allowances.limits);
        (is_ours && holds).then(|| revision_of(&secret).map(str::to_owned))?
    });
    Dereferenced {
        revision,
        shortfall: allowances.shortfalls.remove(&quota.name_any()),
        tenant: Some(tenant),
        is_in_another_pool: false,
    }
}

impl Dereferenced {
    /// Whether another operator tells the quota what became of it (D37). Of a quota
    /// whose tenant is nowhere every one may.
    pub(super) fn is_of_another_operator(&self, context: &Context) -> bool {
        match &self.tenant {
            Some(tenant) => is_served_elsewhere(tenant, context),
            None => self.is_in_another_pool,
        }
    }
}
