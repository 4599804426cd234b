//! Everything a tenant's configuration depends on, from the caches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::render::{SecretValue, Secrets};
use minichat_crds::rendered_secret;
use minichat_crds::{ChatQuota, ChatTenant, RenderSettings, RenderedTenant};

use super::id_of;
use crate::caches::Key;
use crate::context::Context;
use crate::issuers::{self, Listed};
use crate::tenant::{self, Known, MadeOf, full_name, secret_names, source_of};

pub(super) struct Dereferenced {
    pub(super) quotas: Vec<Arc<ChatQuota>>,
    /// Those the tenant refers to, and may.
    pub(super) secrets: Secrets,
    /// Names of those that exist and that no tenant may name.
    pub(super) unlabelled: BTreeSet<String>,
    /// Whether the tenant is in the operator's own namespace.
    pub(super) is_at_operator: bool,
    /// The rendered Secret of the tenant's id, whosever it is.
    pub(super) existing: Option<Arc<Secret>>,
    /// The same, if it is the tenant's.
    pub(super) rendered: Option<Arc<Secret>>,
    /// What that carries, if it was made of this very object; `None` also when
    /// somebody has broken it.
    pub(super) carried: Option<RenderedTenant>,
    /// The rendered Secret of the tenant's id, if it was made of an earlier object
    /// of its name: nothing of it is used again.
    pub(super) stale: Option<Arc<Secret>>,
    /// Rendered Secrets of the tenant's name under other ids.
    pub(super) others: Vec<Arc<Secret>>,
    /// `namespace/name` of the tenant that has the id instead.
    pub(super) holder: Option<String>,
    /// Why an issuer that the tenant lists is another tenant's.
    pub(super) contested: Option<String>,
}

pub(super) fn dereference(context: &Context, tenant: &ChatTenant) -> Dereferenced {
    let caches = &context.caches;
    let namespace = tenant.namespace().unwrap_or_default();
    let (id, full) = (id_of(tenant), full_name(tenant));
    let secrets = secret_names(tenant)
        .into_iter()
        .filter_map(|name| {
            let secret = caches.secret(&namespace, &name)?;
            Some((name, values(&secret)))
        })
        .collect();
    let existing = caches.rendered_of(id);
    let made_of = |wanted: &[MadeOf]| {
        let existing = existing.clone();
        existing.filter(|secret| wanted.contains(&MadeOf::of(&secret.metadata, tenant)))
    };
    let recorded = context.owners.of(id);
    let holder = holder(context, tenant, existing.as_deref(), recorded.as_deref());
    let contested = contested(context, tenant);
    // What was accepted once is not refused here for a setting that changed since.
    let carried = made_of(&[MadeOf::ThisObject])
        .and_then(|secret| RenderedTenant::from_secret(&secret, &RenderSettings::LENIENT).ok());
    let name = rendered_secret::name(id);
    let others = caches.rendered_from(&full).into_iter();
    let others = others.filter(|secret| secret.name_any() != name);
    Dereferenced {
        quotas: caches.quotas_of(&namespace, &tenant.name_any()),
        secrets,
        unlabelled: BTreeSet::new(),
        is_at_operator: namespace == context.pool_namespace,
        rendered: made_of(&[MadeOf::ThisObject, MadeOf::ItsName]),
        carried,
        stale: made_of(&[MadeOf::EarlierObject]),
        others: others.collect(),
        holder,
        contested,
        existing,
    }
}

impl Dereferenced {
    /// Asks the API server for what the caches do not tell: whether Secrets that are
    /// missing there are only not labelled.
    pub(super) async fn find_unlabelled(&mut self, tenant: &ChatTenant, context: &Context) {
        let namespace = tenant.namespace().unwrap_or_default();
        for name in secret_names(tenant) {
            let is_missing = !self.secrets.contains_key(&name);
            if is_missing && context.secret_lookup.exists(&namespace, &name).await {
                self.unlabelled.insert(name);
            }
        }
    }
}

/// Who has the id of `tenant` instead of it.
fn holder(
    context: &Context,
    tenant: &ChatTenant,
    existing: Option<&Secret>,
    recorded: Option<&str>,
) -> Option<String> {
    let caches = &context.caches;
    let all = caches.tenants_having(&Key::TenantId(id_of(tenant)));
    let source = existing.and_then(source_of);
    let namespace = source.and_then(|source| source.split_once('/'));
    let known = Known {
        rendered_from: source,
        is_elsewhere: namespace.is_some_and(|(namespace, _)| !caches.watches(namespace)),
        recorded,
    };
    tenant::holder(tenant, &all, known)
}

/// Why an issuer of `tenant` is another tenant's.
fn contested(context: &Context, tenant: &ChatTenant) -> Option<String> {
    let issuers = Listed::by_tenant(tenant);
    let listing = issuers.iter().map(Listed::key);
    let holding = issuers
        .iter()
        .flat_map(|listed| context.issuers.excluding(listed));
    let concerned: Vec<_> = listing
        .chain(holding.map(Key::TenantId))
        .flat_map(|key| context.caches.tenants_having(&key))
        .collect();
    issuers::conflict(tenant, &concerned, &context.issuers)
}

fn values(secret: &Secret) -> BTreeMap<String, SecretValue> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), value.0.as_slice().into()))
        .collect()
}
