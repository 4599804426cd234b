//! The `ConfigMap` of the chart that owns every rendered Secret and every `CronJob` that the
//! operator makes, so that the cluster's garbage collector removes them with the release (D52).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use minichat_core::Timestamp;
use tokio::time::Instant;

use crate::caches::Cache;
use crate::termination;

/// When a release is uninstalled, its `ConfigMap` is deleted before the operator. A rendered
/// Secret that were written in between would stay behind.
const UNINSTALLING: Duration = Duration::from_secs(10);

/// The owner of the rendered Secrets.
pub(crate) struct Managed {
    /// Holds that `ConfigMap` alone; `None` if no setting names one.
    cache: Option<Arc<Cache<ConfigMap>>>,
    missing_since: Mutex<Option<Instant>>,
}

/// What a rendered Secret is owned by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Owner {
    ConfigMap(Box<OwnerReference>),
    /// Nothing: there is no `ConfigMap`.
    Nobody,
    /// The `ConfigMap` may come back, or the release is being uninstalled: nothing is written.
    Awaited,
}

impl Managed {
    pub(crate) fn new(cache: Option<Arc<Cache<ConfigMap>>>) -> Self {
        Self {
            cache,
            missing_since: Mutex::default(),
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        let Some(cache) = &self.cache else {
            return Owner::Nobody;
        };
        let found = cache.store.state().into_iter().next();
        self.owner_of(found.as_deref())
    }

    /// Why the `ConfigMap` is still there although it was deleted long before `now`, and what
    /// to do.
    pub(crate) fn stuck(&self, now: Timestamp) -> Option<String> {
        let found = self.cache.as_ref()?.store.state().into_iter().next()?;
        termination::stuck(found.as_ref(), now)
    }

    fn owner_of(&self, found: Option<&ConfigMap>) -> Owner {
        let mut missing = self
            .missing_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found {
            *missing = None;
            // A deletion in the foreground shows it until all that it owns is gone.
            if found.metadata.deletion_timestamp.is_some() {
                return Owner::Awaited;
            }
            return reference(found).map_or(Owner::Nobody, |reference| {
                Owner::ConfigMap(Box::new(reference))
            });
        }
        let since = *missing.get_or_insert_with(Instant::now);
        if since.elapsed() < UNINSTALLING {
            Owner::Awaited
        } else {
            Owner::Nobody
        }
    }
}

/// Without `blockOwnerDeletion`, which would need a right to its finalizers.
fn reference(owner: &ConfigMap) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: ConfigMap::api_version(&()).into_owned(),
        kind: ConfigMap::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid()?,
        controller: Some(true),
        block_owner_deletion: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(uid: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some("minichat-managed".to_owned());
        object.metadata.uid = Some(uid.to_owned());
        object
    }

    /// D52
    #[tokio::test(start_paused = true)]
    async fn what_has_just_lost_its_owner_is_not_written_without_one() {
        let managed = Managed::new(None);
        assert_eq!(managed.owner(), Owner::Nobody, "none is expected");
        let Owner::ConfigMap(owner) = managed.owner_of(Some(&config_map("u"))) else {
            panic!("no owner")
        };
        assert_eq!((owner.uid.as_str(), owner.controller), ("u", Some(true)));
        assert_eq!(owner.block_owner_deletion, None);
        assert_eq!(managed.owner_of(None), Owner::Awaited);
        tokio::time::advance(UNINSTALLING).await;
        assert_eq!(managed.owner_of(None), Owner::Nobody);
        assert!(matches!(
            managed.owner_of(Some(&config_map("v"))),
            Owner::ConfigMap(_)
        ));
        assert_eq!(managed.owner_of(None), Owner::Awaited);
    }

    /// D52: Argo CD and `helm uninstall --cascade foreground` delete so.
    #[tokio::test(start_paused = true)]
    async fn while_the_owner_is_deleted_in_the_foreground_nothing_is_written() {
        let managed = Managed::new(None);
        let mut ending = config_map("u");
        ending.metadata.deletion_timestamp =
            serde_json::from_value("2026-01-01T00:00:00Z".into()).unwrap();
        assert_eq!(managed.owner_of(Some(&ending)), Owner::Awaited);
        tokio::time::advance(UNINSTALLING * 2).await;
        assert_eq!(managed.owner_of(Some(&ending)), Owner::Awaited);
        assert_eq!(managed.owner_of(None), Owner::Awaited, "it is just gone");
        tokio::time::advance(UNINSTALLING).await;
        assert_eq!(managed.owner_of(None), Owner::Nobody);
    }
}
