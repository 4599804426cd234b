//! The rendered Secret as it should be, compared with the one that exists. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_config::{Fault, Faults};
use minichat_core::NamespacedName;
use minichat_crds::RenderedTenant;
use minichat_crds::render::Rendered;
use minichat_crds::rendered_secret::{SOURCE_UID, revision_of};

use super::dereference::Dereferenced;
use crate::context::Context;
use crate::managed::Owner;
use crate::tenant::{KnownVersions, PolicyVersion, Subject};
use crate::termination;

/// The longest value of a label.
const MAX_LABEL: usize = 63;

pub(super) enum Build {
    /// Nothing: the pool has it.
    Current,
    /// Nothing yet: an object that is missing or being deleted is in the way.
    Waits,
    /// The same for so long that somebody must act: what to do.
    Blocked(String),
    /// The Secret, and how its policy is numbered.
    Write(Box<Secret>, PolicyVersion),
}

/// What must be written for `rendered` to be delivered.
pub(super) fn build(
    subject: &Subject<'_>,
    seen: &Dereferenced,
    rendered: Rendered,
    context: &Context,
) -> Result<Build, Faults> {
    let now = context.clock.now();
    let hash = rendered.config.content_hash.clone();
    let known = context.state.policy_versions.known(subject);
    let version = version(subject, seen, &known, &hash);
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
        .or_else(|| {
            let last = known
                .last
                .filter(|last| last.version == version && last.hash == hash)?;
            Some(last.generated_at)
        })
        .unwrap_or(now);
    let delivered = RenderedTenant {
        source: source(subject)?,
        config: rendered.config.numbered(version),
        credentials: rendered.credentials,
        revision,
    };
    let mut secret = delivered.to_pool_secret(&context.pool_name, generated_at)?;
    describe(&mut secret, subject);
    let mut is_owner_awaited = false;
    match context.managed.owner() {
        Owner::ConfigMap(owner) => secret.metadata.owner_references = Some(vec![*owner]),
        Owner::Nobody => {}
        Owner::Awaited => is_owner_awaited = true,
    }
    let rendered = seen.rendered.as_ref();
    if rendered.is_some_and(|existing| holds(existing, &secret)) {
        return Ok(Build::Current);
    }
    if is_owner_awaited {
        return Ok(blocked_or_waits(context.managed.stuck(now)));
    }
    // What is written into it would go with it.
    let existing = seen.existing.as_deref();
    if let Some(ending) = existing.filter(|secret| secret.metadata.deletion_timestamp.is_some()) {
        return Ok(blocked_or_waits(termination::stuck(ending, now)));
    }
    let version = PolicyVersion {
        version,
        hash,
        generated_at,
    };
    Ok(Build::Write(Box::new(secret), version))
}

fn blocked_or_waits(stuck: Option<String>) -> Build {
    stuck.map_or(Build::Waits, Build::Blocked)
}

/// QUOTA-27: the last version while the hash is the same, else the next one; never
/// one that is taken. If nothing is known, 1: a pod whose database knows version 1
/// refuses it, and reports which versions are taken.
fn version(
    subject: &Subject<'_>,
    seen: &Dereferenced,
    remembered: &KnownVersions,
    hash: &str,
) -> u64 {
    let taken = remembered.taken;
    let id = subject.id.to_string();
    // One that came with a backup may speak of another tenant.
    let status = subject.tenant.status.as_ref();
    let status = status.filter(|status| status.tenant_id.as_ref() == Some(&id));
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
    // A Secret whose content was edited may still have the annotation.
    let annotated = seen
        .rendered
        .as_ref()
        .and_then(|secret| revision_of(secret)?.split('-').next()?.parse().ok())
        .map(|version| (version, None));
    let last = remembered.last.as_ref();
    let last = last.map(|last| (last.version, Some(last.hash.as_str())));
    let known = [told, carried, annotated, last];
    let Some(highest) = known.iter().flatten().map(|(version, _)| *version).max() else {
        return taken + 1;
    };
    if highest <= taken {
        return taken + 1;
    }
    let is_same = known
        .iter()
        .flatten()
        .any(|known| *known == (highest, Some(hash)));
    if is_same {
        highest
    } else {
        highest.saturating_add(1)
    }
}

/// The API server has checked both names.
fn source(subject: &Subject<'_>) -> Result<NamespacedName, Fault> {
    NamespacedName::new(subject.namespace, subject.name).map_err(|error| Fault {
        path: "metadata".to_owned(),
        message: error.to_string(),
    })
}

/// Labels of K8S-13.
fn describe(secret: &mut Secret, subject: &Subject<'_>) {
    let label = if subject.name.len() <= MAX_LABEL {
        subject.name.to_owned()
    } else {
        subject.id.to_string()
    };
    for (key, value) in [
        ("app.kubernetes.io/name", "minichat"),
        ("app.kubernetes.io/instance", label.as_str()),
        ("app.kubernetes.io/component", "tenant-config"),
        ("app.kubernetes.io/part-of", "minichat"),
        ("app.kubernetes.io/managed-by", crate::writer::MANAGER),
        ("app.kubernetes.io/version", env!("CARGO_PKG_VERSION")),
        ("minichat.dev/tenant", label.as_str()),
    ] {
        secret.labels_mut().insert(key.to_owned(), value.to_owned());
    }
    let annotations = secret.annotations_mut();
    annotations.insert(SOURCE_UID.to_owned(), subject.uid().to_owned());
}

/// Whether `existing` has everything that `wanted` has. Additions of other field managers do
/// not count.
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

#[cfg(test)]
mod tests {
    use minichat_core::Timestamp;
    use minichat_crds::{ChatTenant, cases, chat_tenant::ChatTenantStatus};

    use super::*;

    fn version(tenant: &ChatTenant, seen: &Dereferenced, known: &KnownVersions, hash: &str) -> u64 {
        super::version(&Subject::of(tenant), seen, known, hash)
    }

    const NOW: Timestamp = Timestamp::from_micros(1_772_292_609_000_000);

    fn tenant() -> ChatTenant {
        minichat_crds::validation::chat_tenant(&cases::tenant(), None).unwrap()
    }

    fn seen() -> Dereferenced {
        Dereferenced {
            quotas: Vec::new(),
            secrets: BTreeMap::new(),
            is_at_operator: false,
            existing: None,
            rendered: None,
            carried: None,
            limits: None,
            stale: None,
            others: Vec::new(),
            holder: None,
            contested: None,
        }
    }

    fn status(version: Option<i64>, hash: Option<&str>) -> ChatTenantStatus {
        ChatTenantStatus {
            tenant_id: Some(Subject::of(&tenant()).id.to_string()),
            policy_version: version,
            policy_hash: hash.map(str::to_owned),
            ..ChatTenantStatus::default()
        }
    }

    /// QUOTA-27
    #[test]
    fn a_version_is_kept_with_its_hash_and_followed_by_the_next() {
        let mut tenant = tenant();
        assert_eq!(version(&tenant, &seen(), &KnownVersions::default(), "a"), 1);
        tenant.status = Some(status(Some(7), Some("a")));
        assert_eq!(version(&tenant, &seen(), &KnownVersions::default(), "a"), 7);
        assert_eq!(version(&tenant, &seen(), &KnownVersions::default(), "b"), 8);
        let mut annotated = Secret::default();
        let revision = "9-abc".to_owned();
        annotated.annotations_mut().insert(
            minichat_crds::rendered_secret::REVISION.to_owned(),
            revision,
        );
        let seen = Dereferenced {
            rendered: Some(annotated.into()),
            ..seen()
        };
        assert_eq!(
            version(&tenant, &seen, &KnownVersions::default(), "a"),
            10,
            "of the higher one no hash is known"
        );
    }

    /// D36: a status that came with a backup of another tenant, or of another cluster.
    #[test]
    fn a_version_in_the_status_of_another_id_is_not_believed() {
        let mut tenant = tenant();
        let mut foreign = status(Some(7), Some("a"));
        foreign.tenant_id = Some("5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01".to_owned());
        tenant.status = Some(foreign);
        assert_eq!(version(&tenant, &seen(), &KnownVersions::default(), "a"), 1);
    }

    /// QUOTA-27: of two edits in a row the second one never gets the number of the
    /// first, although no cache shows that yet.
    #[test]
    fn a_number_that_no_cache_shows_yet_is_not_given_again() {
        let mut tenant = tenant();
        let last = PolicyVersion {
            version: 2,
            hash: "b".to_owned(),
            generated_at: NOW,
        };
        let mut known = KnownVersions {
            last: Some(last),
            taken: 0,
        };
        assert_eq!(version(&tenant, &seen(), &known, "b"), 2);
        assert_eq!(version(&tenant, &seen(), &known, "c"), 3);
        tenant.status = Some(status(Some(1), Some("c")));
        assert_eq!(version(&tenant, &seen(), &known, "c"), 3);
        known.taken = 1;
        assert_eq!(version(&tenant, &seen(), &known, "b"), 2);
        known.taken = 6;
        assert_eq!(version(&tenant, &seen(), &known, "b"), 7);
    }

    /// QUOTA-29: a pod's database remembers longer than the cluster.
    #[test]
    fn a_first_number_is_none_that_is_taken() {
        let known = KnownVersions {
            last: None,
            taken: 4,
        };
        assert_eq!(version(&tenant(), &seen(), &known, "a"), 5);
    }
}
