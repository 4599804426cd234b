//! Reverse indexes over caches. They find the objects that a change affects without a scan of
//! all objects (K8S-17).

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use minichat_core::TenantId;
use minichat_crds::rendered_secret::SOURCE;
use minichat_crds::{ChatQuota, ChatTenant};

use crate::tenant::Subject;

/// What several objects of one kind may have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// The id that a tenant is, or would be, served under.
    TenantId(TenantId),
    /// An issuer that a tenant lists.
    Issuer(String),
    /// A Secret that a tenant refers to: `namespace/name`.
    Secret(String),
    /// The tenant that a quota, or a rendered Secret, belongs to: `namespace/name`.
    Tenant(String),
}

/// Objects that are found by what they have in common.
pub(crate) trait Keyed:
    Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static
{
    fn keys(&self) -> HashSet<Key>;
}

impl Keyed for ChatTenant {
    fn keys(&self) -> HashSet<Key> {
        let Subject {
            id,
            namespace,
            issuers,
            secrets,
            ..
        } = Subject::of(self);
        let issuers = issuers.into_iter().map(|listed| Key::Issuer(listed.issuer));
        let secrets = secrets.into_iter();
        let secrets = secrets.map(|name| Key::Secret(format!("{namespace}/{name}")));
        issuers.chain(secrets).chain([Key::TenantId(id)]).collect()
    }
}

impl Keyed for ChatQuota {
    fn keys(&self) -> HashSet<Key> {
        let namespace = self.namespace().unwrap_or_default();
        let tenant = &self.spec.tenant_ref.name;
        [Key::Tenant(format!("{namespace}/{tenant}"))].into()
    }
}

/// Rendered ones; others have no such annotation.
impl Keyed for Secret {
    fn keys(&self) -> HashSet<Key> {
        let source = self.annotations().get(SOURCE);
        source.cloned().map(Key::Tenant).into_iter().collect()
    }
}

impl Keyed for Pod {
    fn keys(&self) -> HashSet<Key> {
        HashSet::new()
    }
}

impl Keyed for ConfigMap {
    fn keys(&self) -> HashSet<Key> {
        HashSet::new()
    }
}

/// Tenants of other pools.
impl Keyed for PartialObjectMeta<ChatTenant> {
    fn keys(&self) -> HashSet<Key> {
        HashSet::new()
    }
}

type Objects<K> = HashMap<Key, HashSet<ObjectRef<K>>>;

/// The objects that have a key, by key.
pub(crate) struct Index<K: Keyed>(Mutex<Objects<K>>);

impl<K: Keyed> Default for Index<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Keyed> Index<K> {
    pub(crate) fn of(&self, key: &Key) -> Vec<ObjectRef<K>> {
        let objects = self.objects();
        objects.get(key).into_iter().flatten().cloned().collect()
    }

    /// `new` takes the place of `old`, its earlier state.
    pub(crate) fn replace(&self, old: Option<&K>, new: Option<&K>) {
        let mut objects = self.objects();
        if let Some(old) = old {
            let object = ObjectRef::from_obj(old);
            for key in old.keys() {
                if let Some(those) = objects.get_mut(&key) {
                    those.remove(&object);
                    if those.is_empty() {
                        objects.remove(&key);
                    }
                }
            }
        }
        if let Some(new) = new {
            insert(&mut objects, new);
        }
    }

    /// `all` takes the place of everything, at once: an older tenant that is not found
    /// for a moment would lose its id.
    pub(crate) fn fill<'a>(&self, all: impl IntoIterator<Item = &'a K>)
    where
        K: 'a,
    {
        let mut objects = Objects::new();
        for object in all {
            insert(&mut objects, object);
        }
        *self.objects() = objects;
    }

    fn objects(&self) -> MutexGuard<'_, Objects<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert<K: Keyed>(objects: &mut Objects<K>, new: &K) {
    let object = ObjectRef::from_obj(new);
    for key in new.keys() {
        objects.entry(key).or_default().insert(object.clone());
    }
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;
    use serde_json::json;

    use super::*;

    fn quota(name: &str, tenant: &str) -> ChatQuota {
        let mut object = cases::quota();
        object["metadata"] = json!({"name": name, "namespace": "a"});
        object["spec"]["tenantRef"]["name"] = json!(tenant);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn objects_are_found_by_what_they_are_now() {
        let index = Index::default();
        let of = |tenant: &str| -> Vec<String> {
            let found = index.of(&Key::Tenant(format!("a/{tenant}")));
            let mut names: Vec<_> = found.into_iter().map(|object| object.name).collect();
            names.sort();
            names
        };
        let (one, two) = (quota("one", "x"), quota("two", "x"));
        index.replace(None, Some(&one));
        index.replace(None, Some(&two));
        assert_eq!(of("x"), ["one", "two"]);
        let moved = quota("one", "y");
        index.replace(Some(&one), Some(&moved));
        assert_eq!((of("x"), of("y")), (vec!["two".into()], vec!["one".into()]));
        index.replace(Some(&two), None);
        index.replace(Some(&moved), None);
        assert!(index.objects().is_empty(), "nothing is kept");
        index.replace(None, Some(&two));
        index.fill([&one]);
        assert_eq!(of("x"), ["one"]);
    }

    #[test]
    fn a_tenant_is_found_by_its_id_its_issuers_and_its_secrets() {
        let mut object = cases::tenant();
        object["metadata"] = json!({"name": "t", "namespace": "a"});
        object["spec"]["auth"] = json!({"issuers": [{"issuer": "https://x", "audience": "a"}]});
        let tenant: ChatTenant = serde_json::from_value(object).unwrap();
        let keys = tenant.keys();
        assert!(keys.contains(&Key::TenantId(minichat_crds::render::tenant_id(&tenant))));
        assert!(keys.contains(&Key::Issuer("https://x".to_owned())));
        for name in Subject::of(&tenant).secrets {
            assert!(keys.contains(&Key::Secret(format!("a/{name}"))));
        }
    }
}
