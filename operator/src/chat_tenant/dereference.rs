//! Reads from the caches everything that a tenant's configuration depends on.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_config::tenant::document::UserLimitsDocument;
use minichat_crds::render::{SecretValue, Secrets};
use minichat_crds::rendered_secret;
use minichat_crds::{ChatQuota, RenderSettings, RenderedTenant};

use crate::caches::Key;
use crate::context::Context;
use crate::issuers;
use crate::tenant::{self, Known, MadeOf, Subject, source_of};

pub(super) struct Dereferenced {
    pub(super) quotas: Vec<Arc<ChatQuota>>,
    /// Those the tenant refers to, and may.
    pub(super) secrets: Secrets,
    /// Whether the tenant is in the operator's own namespace.
    pub(super) is_at_operator: bool,
    /// The rendered Secret of the tenant's id, of whichever tenant, also while it is being deleted.
    pub(super) existing: Option<Arc<Secret>>,
    /// The same, if it is the tenant's.
    pub(super) rendered: Option<Arc<Secret>>,
    /// Its content, if it was made of this very object; `None` also if it cannot be read.
    pub(super) carried: Option<RenderedTenant>,
    /// The limits of users in it, also if it was made of an earlier version's object.
    pub(super) limits: Option<UserLimitsDocument>,
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

pub(super) fn dereference(subject: &Subject<'_>, context: &Context) -> Dereferenced {
    let caches = &context.caches;
    let secrets = subject.secrets.iter().filter_map(|name| {
        let secret = caches.secret(subject.namespace, name)?;
        Some(((*name).to_owned(), values(&secret)))
    });
    let existing = caches.rendered_of(subject.id);
    let made_of = existing
        .as_ref()
        .map(|secret| MadeOf::of(&secret.metadata, subject));
    let if_made_of = |wanted: &[MadeOf]| {
        let is_wanted = made_of.is_some_and(|made_of| wanted.contains(&made_of));
        existing.clone().filter(|_| is_wanted)
    };
    let rendered = if_made_of(&[MadeOf::ThisObject, MadeOf::ItsName]);
    // What was accepted once is not refused here for a setting that changed since.
    let parsed = rendered
        .as_ref()
        .and_then(|secret| RenderedTenant::from_secret(secret, &RenderSettings::LENIENT).ok());
    let limits = parsed
        .as_ref()
        .map(|parsed| parsed.config.document.user_limits.clone());
    let name = rendered_secret::name(subject.id);
    let others = caches.rendered_from(&subject.full_name).into_iter();
    let others = others.filter(|secret| secret.name_any() != name);
    Dereferenced {
        quotas: caches.quotas_of(subject.namespace, subject.name),
        secrets: secrets.collect(),
        is_at_operator: subject.namespace == context.pool_namespace,
        rendered,
        carried: parsed.filter(|_| made_of == Some(MadeOf::ThisObject)),
        limits,
        stale: if_made_of(&[MadeOf::EarlierObject]),
        others: others.collect(),
        holder: holder(subject, existing.as_deref(), context),
        contested: contested(subject, context),
        existing,
    }
}

/// The tenant that has the id of `subject` instead of it.
fn holder(subject: &Subject<'_>, existing: Option<&Secret>, context: &Context) -> Option<String> {
    let caches = &context.caches;
    let all = caches.tenants_having(&Key::TenantId(subject.id));
    let source = existing.and_then(source_of);
    let namespace = source.and_then(|source| source.split_once('/'));
    let recorded = context.state.owners.of(subject.id);
    let known = Known {
        rendered_from: source,
        is_elsewhere: namespace.is_some_and(|(namespace, _)| !caches.watches(namespace)),
        recorded: recorded.as_deref(),
    };
    tenant::holder(subject, &all, known)
}

/// Why an issuer of `subject` is another tenant's.
fn contested(subject: &Subject<'_>, context: &Context) -> Option<String> {
    let delivered = &context.state.issuers;
    let listed = subject.issuers.iter();
    let listing = listed.clone().map(|one| Key::Issuer(one.issuer.clone()));
    let holding = listed.flat_map(|one| delivered.excluding(one));
    let concerned: Vec<_> = listing
        .chain(holding.map(Key::TenantId))
        .flat_map(|key| context.caches.tenants_having(&key))
        .collect();
    issuers::conflict(subject, &concerned, delivered)
}

fn values(secret: &Secret) -> BTreeMap<String, SecretValue> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), value.0.as_slice().into()))
        .collect()
}
