//! The rendered Secret as it should be: pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use minichat_config::Faults;
use minichat_core::Timestamp;
use minichat_crds::render::Rendered;
use minichat_crds::rendered_secret::{SOURCE, revision_of};
use minichat_crds::{ChatTenant, RenderedTenant};

use super::dereference::Dereferenced;
use crate::cache::full_name;
use crate::context::Context;
use crate::write::FINALIZER;

/// The longest value of a label.
const MAX_LABEL: usize = 63;

pub(super) enum Build {
    /// Nothing: the pool has it, or is to keep what it has.
    Stands,
    Write(Box<Secret>),
}

/// What must be written for `rendered` to be delivered.
pub(super) fn build(
    tenant: &ChatTenant,
    seen: &Dereferenced,
    rendered: Rendered,
    context: &Context,
    now: Timestamp,
) -> Result<Build, Faults> {
    let hash = rendered.config.content_hash.clone();
    let version = version(tenant, seen, &hash, now);
    let carried = seen.carried.as_ref().filter(|carried| {
        carried.config.policy_version == Some(version) && carried.config.content_hash == hash
    });
    let revision = carried
        .filter(|carried| carried.credentials == rendered.credentials)
        .map_or_else(
            || context.revisions.of(version, &hash, &rendered.credentials),
            |carried| carried.revision.clone(),
        );
    let generated_at = carried
        .and_then(|carried| {
            carried
                .config
                .document
                .generated_at
                .as_deref()?
                .parse()
                .ok()
        })
        .unwrap_or(now);
    let delivered = RenderedTenant {
        config: rendered.config.numbered(version),
        credentials: rendered.credentials,
        revision,
    };
    let mut secret = delivered.to_pool_secret(&context.pool_name, generated_at)?;
    describe(&mut secret, tenant, &context.pool_namespace);
    let stands = seen
        .rendered
        .as_ref()
        .is_some_and(|existing| holds(existing, &secret));
    Ok(if stands {
        Build::Stands
    } else {
        Build::Write(Box::new(secret))
    })
}

/// QUOTA-27: the last version while the hash is the same, else the next one.
fn version(tenant: &ChatTenant, seen: &Dereferenced, hash: &str, now: Timestamp) -> u64 {
    let status = tenant.status.as_ref();
    let told = status
        .and_then(|status| u64::try_from(status.policy_version?).ok())
        .map(|version| {
            (
                version,
                status.and_then(|status| status.policy_hash.as_deref()),
            )
        });
    let carried = seen.carried.as_ref().and_then(|carried| {
        Some((
            carried.config.policy_version?,
            Some(carried.config.content_hash.as_str()),
        ))
    });
    // Of a Secret that somebody has broken the annotation may be left.
    let annotated = seen
        .rendered
        .as_ref()
        .and_then(|secret| revision_of(secret)?.split('-').next()?.parse().ok())
        .map(|version| (version, None));
    let known = [told, carried, annotated];
    let Some(last) = known.iter().flatten().map(|(version, _)| *version).max() else {
        return first_version(tenant, now);
    };
    let is_same = known
        .iter()
        .flatten()
        .any(|known| *known == (last, Some(hash)));
    if is_same {
        last
    } else {
        last.saturating_add(1)
    }
}

/// 1, unless the tenant may have had versions that are forgotten: it was taken
/// in hand before, and its status is lost with everything else.
fn first_version(tenant: &ChatTenant, now: Timestamp) -> u64 {
    let is_in_hand = tenant
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER);
    if is_in_hand && tenant.status.is_none() {
        u64::try_from(now.as_micros() / 1_000_000).unwrap_or(1)
    } else {
        1
    }
}

/// Labels and owners of K8S-13.
fn describe(secret: &mut Secret, tenant: &ChatTenant, pool_namespace: &str) {
    let name = tenant.name_any();
    let label = if name.len() <= MAX_LABEL {
        name
    } else {
        super::id_of(tenant).to_string()
    };
    for (key, value) in [
        ("app.kubernetes.io/name", "minichat"),
        ("app.kubernetes.io/instance", label.as_str()),
        ("app.kubernetes.io/component", "tenant-config"),
        ("app.kubernetes.io/part-of", "minichat"),
        ("app.kubernetes.io/managed-by", crate::write::MANAGER),
        ("app.kubernetes.io/version", env!("CARGO_PKG_VERSION")),
        ("minichat.dev/tenant", label.as_str()),
    ] {
        secret.labels_mut().insert(key.to_owned(), value.to_owned());
    }
    secret
        .annotations_mut()
        .insert(SOURCE.to_owned(), full_name(tenant));
    if tenant.metadata.namespace.as_deref() == Some(pool_namespace) {
        let owner = tenant.owner_ref(&());
        secret.metadata.owner_references = owner.map(|owner: OwnerReference| vec![owner]);
    }
}

/// Whether `existing` has everything that `wanted` has; what others have added
/// is theirs.
fn holds(existing: &Secret, wanted: &Secret) -> bool {
    existing.type_ == wanted.type_
        && has_all(existing.data.as_ref(), wanted.data.as_ref())
        && has_all(
            existing.metadata.labels.as_ref(),
            wanted.metadata.labels.as_ref(),
        )
        && has_all(
            existing.metadata.annotations.as_ref(),
            wanted.metadata.annotations.as_ref(),
        )
        && wanted.owner_references().iter().all(|owner| {
            existing
                .owner_references()
                .iter()
                .any(|found| found.uid == owner.uid)
        })
}

fn has_all<V: PartialEq>(
    existing: Option<&BTreeMap<String, V>>,
    wanted: Option<&BTreeMap<String, V>>,
) -> bool {
    wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| existing.and_then(|existing| existing.get(key)) == Some(value))
}
