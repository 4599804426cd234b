//! The tenant that a quota names, from the caches.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::rendered_secret::revision_of;
use minichat_crds::{ChatQuota, ChatTenant, RenderSettings, RenderedTenant, render};

use crate::cache::Caches;
use crate::ownership::MadeOf;

pub(super) struct Dereferenced {
    pub(super) tenant: Option<Arc<ChatTenant>>,
    /// Revision of the tenant's rendered Secret, if that holds all its quotas as
    /// they are now.
    pub(super) revision: Option<String>,
}

pub(super) fn dereference(caches: &Caches, quota: &ChatQuota) -> Dereferenced {
    let namespace = quota.namespace().unwrap_or_default();
    let tenant = caches.tenant(&namespace, &quota.spec.tenant_ref.name);
    let revision = tenant.as_ref().and_then(|tenant| {
        let secret = caches.rendered_of(render::tenant_id(tenant))?;
        let made_of = MadeOf::of(&secret, tenant);
        let is_ours = matches!(made_of, MadeOf::ThisObject | MadeOf::ItsName);
        let holds = is_ours && holds_quotas(caches, tenant, &namespace, &secret);
        holds.then(|| revision_of(&secret).map(str::to_owned))?
    });
    Dereferenced { tenant, revision }
}

fn holds_quotas(caches: &Caches, tenant: &ChatTenant, namespace: &str, secret: &Secret) -> bool {
    let quotas = caches.quotas_of(namespace, &tenant.name_any());
    let quotas: Vec<_> = quotas.iter().map(AsRef::as_ref).collect();
    RenderedTenant::from_secret(secret, RenderSettings::LENIENT)
        .is_ok_and(|carried| carried.config.document.user_limits == render::limits(&quotas))
}
