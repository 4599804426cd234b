//! Everything a tenant's configuration depends on, from the caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_config::Secret as Value;
use minichat_crds::render::Secrets;
use minichat_crds::rendered_secret::{self, SOURCE};
use minichat_crds::{ChatQuota, ChatTenant, RenderSettings, RenderedTenant};

use super::{id_of, secret_names};
use crate::cache::{Caches, full_name};
use crate::index::Key;
use crate::issuers::{self, Listed, age};

pub(super) struct Dereferenced {
    pub(super) quotas: Vec<Arc<ChatQuota>>,
    /// Those the tenant refers to and that exist.
    pub(super) secrets: Secrets,
    /// The rendered Secret of the tenant's id, if it is the tenant's.
    pub(super) rendered: Option<Arc<Secret>>,
    /// What it carries; `None` also when somebody has broken it.
    pub(super) carried: Option<RenderedTenant>,
    /// Rendered Secrets of the tenant under ids that it had before.
    pub(super) others: Vec<Arc<Secret>>,
    /// `namespace/name` of an older tenant with the same id.
    pub(super) older: Option<String>,
    /// Why an issuer that the tenant lists is another tenant's.
    pub(super) contested: Option<String>,
}

pub(super) fn dereference(caches: &Caches, tenant: &ChatTenant) -> Dereferenced {
    let namespace = tenant.namespace().unwrap_or_default();
    let (id, full) = (id_of(tenant), full_name(tenant));
    let secrets = secret_names(tenant)
        .into_iter()
        .filter_map(|name| {
            let secret = caches.secret(&namespace, &name)?;
            Some((name, values(&secret)))
        })
        .collect();
    let is_ours = |secret: &Secret| secret.annotations().get(SOURCE) == Some(&full);
    let older = older(&caches.tenants_having(&Key::TenantId(id)), tenant);
    let contested = contested(caches, tenant);
    let rendered = caches
        .rendered_of(id)
        .filter(|secret| older.is_none() || is_ours(secret));
    // What was accepted once is not refused here for a setting that changed since.
    let carried = rendered
        .as_ref()
        .and_then(|secret| RenderedTenant::from_secret(secret, RenderSettings::LENIENT).ok());
    let name = rendered_secret::name(id);
    let others = caches.rendered_from(&full).into_iter();
    let others = others.filter(|secret| secret.name_any() != name);
    Dereferenced {
        quotas: caches.quotas_of(&namespace, &tenant.name_any()),
        secrets,
        rendered,
        carried,
        others: others.collect(),
        older,
        contested,
    }
}

/// Why an issuer of `tenant` is another tenant's.
fn contested(caches: &Caches, tenant: &ChatTenant) -> Option<String> {
    let issuers = Listed::by_tenant(tenant);
    let listing = issuers.iter().map(Listed::key);
    let holding = issuers
        .iter()
        .flat_map(|listed| caches.issuers.excluding(listed));
    let concerned: Vec<_> = listing
        .chain(holding.map(Key::TenantId))
        .flat_map(|key| caches.tenants_having(&key))
        .collect();
    issuers::conflict(tenant, &concerned, &caches.issuers)
}

/// The oldest of all tenants with one id has it; among equals the smaller name.
fn older(tenants: &[Arc<ChatTenant>], tenant: &ChatTenant) -> Option<String> {
    let id = id_of(tenant);
    let same = tenants
        .iter()
        .filter(|other| other.metadata.uid != tenant.metadata.uid && id_of(other) == id);
    let oldest = same.min_by_key(|other| age(other))?;
    (age(oldest) < age(tenant)).then(|| full_name(oldest.as_ref()))
}

/// Values that are no text can be no credential.
fn values(secret: &Secret) -> BTreeMap<String, Value> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| {
        let text = std::str::from_utf8(&value.0).ok()?;
        Some((key.clone(), Value::new(text)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;
    use serde_json::json;

    use super::*;

    fn tenant(name: &str, created: &str) -> Arc<ChatTenant> {
        let mut object = cases::tenant();
        object["spec"]["tenantId"] = json!("5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01");
        let mut tenant = minichat_crds::admit::chat_tenant(&object, None).unwrap();
        tenant.metadata = serde_json::from_value(json!({
            "name": name, "namespace": "a", "uid": name, "creationTimestamp": created
        }))
        .unwrap();
        Arc::new(tenant)
    }

    /// K8S, section 2: `tenantId`.
    #[test]
    fn the_oldest_tenant_keeps_the_id() {
        let old = tenant("z", "2026-01-01T00:00:00Z");
        let new = tenant("a", "2026-01-02T00:00:00Z");
        let twin = tenant("b", "2026-01-02T00:00:00Z");
        let all = [Arc::clone(&new), Arc::clone(&old), Arc::clone(&twin)];
        assert_eq!(older(&all, &old), None);
        assert_eq!(older(&all, &new).as_deref(), Some("a/z"));
        assert_eq!(
            older(&[Arc::clone(&new), Arc::clone(&twin)], &twin).as_deref(),
            Some("a/a")
        );
        assert_eq!(older(&[Arc::clone(&new), twin], &new), None);
    }
}
