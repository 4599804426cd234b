//! Which tenant an id belongs to, and from which object a rendered Secret was made (D36).
//!
//! An id belongs to the `namespace/name` in the rendered Secret that carries it. Before there
//! is one, it belongs to the oldest tenant that asks for it. A derived id belongs to the name
//! from which it is derived. If a pod has reported the owner in the pool's database, that owner
//! comes before both. Content of an earlier rendered Secret is used again only if it was made
//! from the same object: namespace, name and uid.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use minichat_core::TenantId;
use minichat_crds::ChatTenant;
use minichat_crds::rendered_secret::{SOURCE, SOURCE_UID};

use super::subject::Subject;

/// `namespace/name` of the tenant that `secret` was rendered from.
pub(crate) fn source_of(secret: &Secret) -> Option<&str> {
    secret.annotations().get(SOURCE).map(String::as_str)
}

/// From which object a rendered Secret was made, compared with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MadeOf {
    /// This object.
    ThisObject,
    /// An object of its name; an older operator did not write the uid.
    ItsName,
    /// An earlier object of its name, which was deleted.
    EarlierObject,
    /// Another tenant, or none is named.
    Another,
}

impl MadeOf {
    /// Of the Secret with this metadata.
    pub(crate) fn of(secret: &ObjectMeta, subject: &Subject<'_>) -> Self {
        let annotation = |key| secret.annotations.as_ref()?.get(key);
        if annotation(SOURCE) != Some(&subject.full_name) {
            return Self::Another;
        }
        match annotation(SOURCE_UID) {
            None => Self::ItsName,
            Some(uid) if uid == subject.uid() => Self::ThisObject,
            Some(_) => Self::EarlierObject,
        }
    }
}

/// What is known of an id besides the tenants that ask for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    /// The source of the rendered Secret that carries it.
    pub(crate) rendered_from: Option<&'a str>,
    /// Whether the namespace of that source is not watched, so that the tenant may exist.
    pub(crate) is_elsewhere: bool,
    /// The owner in the database of the pool.
    pub(crate) recorded: Option<&'a str>,
}

/// The tenant that has the id of `subject` instead of it, of `all` that ask for the same.
/// No other tenant has an id that is derived from the name.
pub(crate) fn holder(
    subject: &Subject<'_>,
    all: &[Arc<ChatTenant>],
    known: Known<'_>,
) -> Option<String> {
    let is_given = subject.tenant.spec.tenant_id.is_some();
    is_given.then(|| holder_of_given(subject, all, known))?
}

fn holder_of_given(
    subject: &Subject<'_>,
    all: &[Arc<ChatTenant>],
    known: Known<'_>,
) -> Option<String> {
    let full = subject.full_name.as_str();
    let others = all.iter().map(|other| Subject::of(other));
    let others: Vec<_> = others.filter(|other| other.full_name != full).collect();
    let is_there = |name: &str| others.iter().any(|other| other.full_name == name);
    if let Some(recorded) = known
        .recorded
        .filter(|name| *name == full || is_there(name))
    {
        return (recorded != full).then(|| recorded.to_owned());
    }
    if let Some(source) = known.rendered_from
        && (source == full || known.is_elsewhere || is_there(source))
    {
        return (source != full).then(|| source.to_owned());
    }
    let asking = others.into_iter().filter(Subject::is_asking);
    let oldest = asking.min_by_key(Subject::age)?;
    (oldest.age() < subject.age()).then_some(oldest.full_name)
}

/// Owners of ids in the pool's database, as far as pods have reported them. Pods report an owner
/// when another tenant asks for its id.
#[derive(Debug, Default)]
pub(crate) struct RecordedOwners(Mutex<HashMap<TenantId, String>>);

impl RecordedOwners {
    pub(crate) fn of(&self, id: TenantId) -> Option<String> {
        self.all().get(&id).cloned()
    }

    /// Keeps what the pods report now; whether it differs from before.
    pub(crate) fn set(&self, id: TenantId, owner: Option<&str>) -> bool {
        let mut all = self.all();
        let before = match owner {
            Some(owner) => all.insert(id, owner.to_owned()),
            None => all.remove(&id),
        };
        before.as_deref() != owner
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;
    use serde_json::json;

    use super::*;

    fn holder(tenant: &ChatTenant, all: &[Arc<ChatTenant>], known: Known<'_>) -> Option<String> {
        super::holder(&Subject::of(tenant), all, known)
    }

    const ID: &str = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01";

    fn tenant(name: &str, day: u8) -> Arc<ChatTenant> {
        let (namespace, name) = name.split_once('/').unwrap();
        let mut object = cases::tenant();
        object["spec"]["tenantId"] = json!(ID);
        let mut tenant = minichat_crds::validation::chat_tenant(&object, None).unwrap();
        tenant.metadata = serde_json::from_value(json!({
            "name": name, "namespace": namespace, "uid": format!("uid-of-{name}"), "generation": 1,
            "creationTimestamp": format!("2026-01-0{day}T00:00:00Z"),
        }))
        .unwrap();
        Arc::new(tenant)
    }

    fn rendered_from(source: &str) -> Known<'_> {
        Known {
            rendered_from: Some(source),
            ..Known::default()
        }
    }

    /// D36, way (a): age is nothing against what is rendered.
    #[test]
    fn an_id_is_of_the_tenant_whose_rendered_secret_carries_it() {
        let (old, new) = (tenant("b/old", 1), tenant("a/new", 2));
        let all = [Arc::clone(&old), Arc::clone(&new)];
        assert_eq!(holder(&old, &all, Known::default()), None);
        assert_eq!(
            holder(&new, &all, Known::default()).as_deref(),
            Some("b/old")
        );
        assert_eq!(holder(&new, &all, rendered_from("a/new")), None);
        assert_eq!(
            holder(&old, &all, rendered_from("a/new")).as_deref(),
            Some("a/new")
        );
        // Of a tenant that is not there any more nothing is kept but what a database records.
        assert_eq!(holder(&old, &all, rendered_from("a/gone")), None);
        let elsewhere = Known {
            is_elsewhere: true,
            ..rendered_from("c/unwatched")
        };
        assert_eq!(
            holder(&old, &all, elsewhere).as_deref(),
            Some("c/unwatched")
        );
    }

    /// D36, way (c): who parked in `Conflict` and took the id over gives it back.
    #[test]
    fn an_id_goes_back_to_whom_the_database_has_recorded() {
        let (parked, owner) = (tenant("b/parked", 1), tenant("a/owner", 2));
        let all = [Arc::clone(&parked), Arc::clone(&owner)];
        let known = Known {
            recorded: Some("a/owner"),
            ..rendered_from("b/parked")
        };
        assert_eq!(holder(&owner, &all, known), None);
        assert_eq!(holder(&parked, &all, known).as_deref(), Some("a/owner"));
        assert_eq!(
            holder(&parked, &all[..1], known),
            None,
            "the owner is not there; the pods refuse"
        );
    }

    /// D36, way (d)
    #[test]
    fn a_derived_id_is_of_its_own_name_whoever_was_first() {
        let mut own = tenant("a/acme", 2);
        Arc::make_mut(&mut own).spec.tenant_id = None;
        let thief = tenant("b/thief", 1);
        let known = Known {
            recorded: Some("b/thief"),
            ..rendered_from("b/thief")
        };
        assert_eq!(holder(&own, &[thief, Arc::clone(&own)], known), None);
    }

    /// K8S-8
    #[test]
    fn an_older_tenant_that_is_invalid_keeps_nobody_from_an_id() {
        use crate::status::{Reason, Type, Verdict, conditions};
        let (mut old, new) = (tenant("b/old", 1), tenant("a/new", 2));
        let now = minichat_core::Timestamp::from_micros(0);
        let invalid = [Verdict::no(Type::Accepted, Reason::Invalid, "")];
        Arc::make_mut(&mut old).status = Some(minichat_crds::chat_tenant::ChatTenantStatus {
            conditions: conditions(&invalid, &[], Some(1), now),
            ..Default::default()
        });
        assert_eq!(
            holder(&new, &[old, Arc::clone(&new)], Known::default()),
            None
        );
    }

    #[test]
    fn a_rendered_secret_is_of_one_object() {
        let tenant = tenant("a/acme", 1);
        let made_of = |annotations: serde_json::Value| {
            let metadata = json!({"annotations": annotations});
            MadeOf::of(
                &serde_json::from_value(metadata).unwrap(),
                &Subject::of(&tenant),
            )
        };
        let ours = json!({SOURCE: "a/acme", SOURCE_UID: "uid-of-acme"});
        assert_eq!(made_of(ours), MadeOf::ThisObject);
        let earlier = json!({SOURCE: "a/acme", SOURCE_UID: "uid-of-another"});
        assert_eq!(made_of(earlier), MadeOf::EarlierObject);
        assert_eq!(made_of(json!({SOURCE: "a/acme"})), MadeOf::ItsName);
        let namesake = json!({SOURCE: "b/acme", SOURCE_UID: "uid-of-acme"});
        assert_eq!(made_of(namesake), MadeOf::Another);
        assert_eq!(made_of(json!({})), MadeOf::Another);
    }

    #[test]
    fn names_of_other_namespaces_are_not_told() {
        let tenant = tenant("a/acme", 1);
        let subject = Subject::of(&tenant);
        assert_eq!(subject.words_for("a/other"), "the ChatTenant a/other");
        assert!(!subject.words_for("b/other").contains("b/other"));
    }

    #[test]
    fn a_recorded_owner_is_news_once_and_until_it_is_no_more() {
        let (owners, id) = (RecordedOwners::default(), TenantId::random());
        assert!(!owners.set(id, None));
        assert!(owners.set(id, Some("a/acme")));
        assert!(!owners.set(id, Some("a/acme")));
        assert_eq!(owners.of(id).as_deref(), Some("a/acme"));
        assert!(owners.set(id, None));
        assert!(owners.all().is_empty(), "nothing is kept");
    }
}
