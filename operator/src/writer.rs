//! The only module that writes to the API server, and only while this process is the leader
//! (K8S-14). It uses server-side apply (K8S-12). Rendered Secrets have a field manager for each
//! pool, everything else has one in common.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Api, Client, Resource, ResourceExt as _};
use minichat_crds::ChatTenant;
use minichat_crds::chat_tenant::DEFAULT_POOL;
use minichat_crds::rendered_secret::{POOL_LABEL, TYPE};
use minichat_lease::Leadership;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The field manager of every write but those of rendered Secrets.
pub(crate) const MANAGER: &str = "minichat-operator";
/// On tenants by operators before this one; a shared tenant needs none (D52).
pub(crate) const OLD_FINALIZER: &str = "minichat.dev/tenant";

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("this process does not lead any more")]
    NotLeading,
    #[error("the object has changed meanwhile")]
    Changed,
    /// Two pools in one namespace, each with a tenant of the same id.
    #[error(
        "the Secret {secret} in the namespace {namespace} is not of this pool, but of another one in that namespace \
         which has a tenant of the same id; create this ChatTenant with another tenantId, or install one of the two \
         releases in a namespace of its own"
    )]
    OfAnotherPool { secret: String, namespace: String },
    /// Another program's `CronJob` has the name of one that the operator makes.
    #[error(
        "the CronJob {0} is not the operator's; delete it, or install the release with another fullnameOverride"
    )]
    NameTaken(String),
    #[error("{}", words(.0))]
    Api(#[from] kube::Error),
}

/// When a status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum If {
    Always,
    /// Only if the object has not changed since it was read.
    Unchanged,
}

/// What the API server said, once and without the fields of its answer.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

impl WriteError {
    /// Whether nothing was written for certain.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::NotLeading | Self::Changed | Self::OfAnotherPool { .. } | Self::NameTaken(_) => {
                true
            }
            Self::Api(kube::Error::Api(status)) => status.code < 500,
            Self::Api(_) => false,
        }
    }

    /// Whether the object is not there, or is another one of the same name.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 404 || status.code == 409)
    }
}

/// Writes while leading.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    leadership: Leadership,
    /// Of the pool.
    namespace: String,
    /// The field manager of rendered Secrets, which tells pools apart that share a namespace.
    pool_manager: String,
}

impl Writer {
    /// For the pool of this name in `namespace`.
    pub(crate) fn new(client: Client, leadership: Leadership, namespace: &str, pool: &str) -> Self {
        Self {
            client,
            leadership,
            namespace: namespace.to_owned(),
            pool_manager: match pool {
                DEFAULT_POOL => MANAGER.to_owned(),
                other => format!("{MANAGER}-{other}"),
            },
        }
    }

    fn may(&self) -> Result<(), WriteError> {
        self.leadership
            .holds()
            .then_some(())
            .ok_or(WriteError::NotLeading)
    }

    /// Applies a rendered Secret to the pool's namespace.
    pub(crate) async fn apply_rendered(&self, secret: &Secret) -> Result<(), WriteError> {
        self.may()?;
        let parameters = PatchParams::apply(&self.pool_manager).force();
        let name = secret.name_any();
        let patch = Patch::Apply(secret);
        self.rendered().patch(&name, &parameters, &patch).await?;
        Ok(())
    }

    /// The same for one that no cache shows: it is not taken from another pool, which
    /// the API server decides by who manages its fields.
    pub(crate) async fn create_rendered(
        &self,
        secret: &Secret,
        is_own: impl Fn(&PartialObjectMeta<Secret>) -> bool,
    ) -> Result<(), WriteError> {
        self.may()?;
        let parameters = PatchParams::apply(&self.pool_manager);
        let name = secret.name_any();
        let patch = Patch::Apply(secret);
        match self.rendered().patch(&name, &parameters, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return Ok(other.map(drop)?),
        }
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.rendered().list_metadata(&by_name).await?;
        // The label of the pool may have been removed from one of ours.
        if found.items.iter().all(is_own) {
            return self.apply_rendered(secret).await;
        }
        Err(WriteError::OfAnotherPool {
            secret: name,
            namespace: self.namespace.clone(),
        })
    }

    fn rendered(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Deletes a rendered Secret. [`WriteError::Changed`] if it is not as it was seen any
    /// more: it may be needed now.
    pub(crate) async fn delete_rendered(&self, secret: &Secret) -> Result<(), WriteError> {
        self.may()?;
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let name = secret.name_any();
        let deleted = self.rendered().delete(&name, &parameters).await;
        if_unchanged(deleted.map(drop))
    }

    /// Rendered Secrets in the namespace that are not labelled with `pool`.
    pub(crate) async fn rendered_for_other_pools(
        &self,
        pool: &str,
    ) -> Result<Vec<Secret>, WriteError> {
        let others = ListParams::default()
            .fields(&format!("type={TYPE}"))
            .labels(&format!("{POOL_LABEL},{POOL_LABEL}!={pool}"));
        Ok(self.rendered().list(&others).await?.items)
    }

    /// Takes the finalizer away that an earlier operator, or a backup, has put there. It
    /// is no apply, which would leave what another field manager owns.
    /// [`WriteError::Changed`] as for a status.
    pub(crate) async fn remove_old_finalizer(&self, tenant: &ChatTenant) -> Result<(), WriteError> {
        let others = tenant.finalizers().iter();
        let others: Vec<_> = others.filter(|other| *other != OLD_FINALIZER).collect();
        let patch = json!({"metadata": {
            "uid": tenant.metadata.uid, "resourceVersion": tenant.metadata.resource_version,
            "finalizers": others,
        }});
        self.may()?;
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api: Api<ChatTenant> = self.api(tenant);
        let patched = api
            .patch(&tenant.name_any(), &parameters, &Patch::Merge(&patch))
            .await;
        if_unchanged(patched.map(drop))
    }

    /// Applies a status. [`WriteError::Changed`] if it must be tried again with the
    /// object as it is now.
    pub(crate) async fn apply_status<K, S>(
        &self,
        of: &K,
        status: &S,
        condition: If,
    ) -> Result<(), WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
        S: Serialize,
    {
        let mut object = identity(of);
        object["status"] = serde_json::to_value(status).unwrap_or_default();
        if condition == If::Unchanged {
            object["metadata"]["resourceVersion"] = json!(of.meta().resource_version);
        }
        self.may()?;
        let patch = Patch::Apply(&object);
        let patched = self
            .api(of)
            .patch_status(&of.name_any(), &forced(), &patch)
            .await;
        if_unchanged(patched.map(drop))
    }

    /// The `ConfigMap` of this name in the pool's namespace.
    pub(crate) async fn config_map(&self, name: &str) -> Result<Option<ConfigMap>, WriteError> {
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        Ok(self.config_maps().list(&by_name).await?.items.pop())
    }

    /// Annotates `config_map` and returns what it is now. [`WriteError::Api`] with a conflict if it
    /// has changed since it was read. Each annotation has a field manager of its own.
    pub(crate) async fn annotate_config_map(
        &self,
        config_map: &ConfigMap,
        annotation: &str,
        value: &str,
    ) -> Result<ConfigMap, WriteError> {
        let mut object = identity(config_map);
        object["metadata"]["resourceVersion"] = json!(config_map.metadata.resource_version);
        object["metadata"]["annotations"] = json!({ annotation: value });
        let (_, suffix) = annotation.split_once('/').unwrap_or_default();
        let parameters = PatchParams::apply(&format!("{MANAGER}-{suffix}")).force();
        self.may()?;
        let (name, patch) = (config_map.name_any(), Patch::Apply(&object));
        Ok(self.config_maps().patch(&name, &parameters, &patch).await?)
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The `CronJob` of this name in the pool's namespace, whoever made it.
    pub(crate) async fn cron_job(&self, name: &str) -> Result<Option<CronJob>, WriteError> {
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        Ok(self.cron_jobs().list(&by_name).await?.items.pop())
    }

    /// Applies `wanted` and returns what it is now. It changes `before` and no other object, or
    /// creates one if there was none.
    pub(crate) async fn apply_cron_job(
        &self,
        wanted: &CronJob,
        before: Option<&CronJob>,
    ) -> Result<CronJob, WriteError> {
        let mut wanted = wanted.clone();
        let parameters = match before {
            Some(before) => {
                // With the uid, an apply never creates an object.
                wanted.metadata.uid = before.uid();
                forced()
            }
            // Of an object that has come in between, the fields belong to somebody else.
            None => PatchParams::apply(MANAGER),
        };
        self.may()?;
        let (name, patch) = (wanted.name_any(), Patch::Apply(&wanted));
        Ok(self.cron_jobs().patch(&name, &parameters, &patch).await?)
    }

    /// Deletes a `CronJob`, but no Job that it has started, whose report may not have been counted.
    /// [`WriteError::Changed`] if it is not as it was seen any more.
    pub(crate) async fn delete_cron_job(&self, cron_job: &CronJob) -> Result<(), WriteError> {
        self.may()?;
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions {
                uid: cron_job.metadata.uid.clone(),
                resource_version: cron_job.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let name = cron_job.name_any();
        let deleted = self.cron_jobs().delete(&name, &parameters).await;
        if_unchanged(deleted.map(drop))
    }

    fn cron_jobs(&self) -> Api<CronJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Annotates `job`, if it is still as it was seen; whether it was. With `seconds`, the cluster
    /// deletes it so long after its end.
    pub(crate) async fn mark_job(
        &self,
        job: &Job,
        (annotation, value): (&str, &str),
        seconds: Option<i32>,
    ) -> Result<bool, WriteError> {
        let mut object = identity(job);
        object["metadata"]["resourceVersion"] = json!(job.metadata.resource_version);
        object["metadata"]["annotations"] = json!({ annotation: value });
        if let Some(seconds) = seconds {
            object["spec"] = json!({"ttlSecondsAfterFinished": seconds});
        }
        self.may()?;
        let api: Api<Job> = self.api(job);
        let patch = Patch::Apply(&object);
        let patched = api.patch(&job.name_any(), &forced(), &patch).await;
        match patched.map_err(WriteError::from) {
            Ok(_) => Ok(true),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn create_event(&self, event: &Event) -> Result<(), WriteError> {
        self.may()?;
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        api.create(&parameters, event).await?;
        Ok(())
    }

    fn api<K>(&self, of: &K) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let namespace = of.meta().namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn forced() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// With the uid, an apply never creates the object that it is meant to change.
fn identity<K: Resource<DynamicType = ()>>(of: &K) -> Value {
    json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": of.meta().name, "namespace": of.meta().namespace, "uid": of.meta().uid}
    })
}

/// A missing object needs no change. An object that has changed since it was read is reconciled
/// again.
fn if_unchanged(written: kube::Result<()>) -> Result<(), WriteError> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(WriteError::Changed),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16) -> kube::Result<()> {
        let status = Status::failure("no", "No").with_code(code);
        Err(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn what_is_gone_is_done_and_what_has_changed_is_tried_again() {
        assert!(if_unchanged(Ok(())).is_ok());
        assert!(if_unchanged(answer(404)).is_ok());
        assert!(matches!(
            if_unchanged(answer(409)),
            Err(WriteError::Changed)
        ));
        assert!(matches!(if_unchanged(answer(403)), Err(WriteError::Api(_))));
    }
}
