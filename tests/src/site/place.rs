//! The objects of one namespace of a [`Site`], accessed as the cluster's administrator.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use minichat_crds::chat_tenant::DEFAULT_POOL;
use serde_json::{Value, json};

use super::{Site, WITHIN, condition};
use crate::manifest::Tenant;

/// One namespace.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub site: &'a Site,
    pub namespace: &'a str,
}

impl Place<'_> {
    pub fn api(&self, kind: &str) -> anyhow::Result<Api<DynamicObject>> {
        self.site.api(kind, self.namespace)
    }

    /// A tenant whose objects belong into the namespace.
    pub fn tenant(&self, name: &str) -> Tenant {
        let mut tenant = Tenant::new(name, self.site.provider.addr);
        let objects = std::iter::once(&mut tenant.resource).chain(&mut tenant.others);
        for object in objects {
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        if self.site.pool != DEFAULT_POOL {
            tenant.spec()["pool"] = json!(self.site.pool);
        }
        tenant
    }

    /// Applies the objects of `tenant`, and waits until it is ready.
    pub async fn admit(&self, tenant: &Tenant) -> anyhow::Result<()> {
        self.site.apply_tenant(tenant).await?;
        self.await_ready(tenant).await
    }

    /// The object of `kind`; `None` if it does not exist.
    pub async fn get(&self, kind: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let found = self.api(kind)?.get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    pub async fn delete(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        self.api(kind)?
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Merges `change` into the object.
    pub async fn patch(&self, kind: &str, name: &str, change: &Value) -> anyhow::Result<()> {
        let api = self.api(kind)?;
        api.patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await?;
        Ok(())
    }

    /// Waits until the condition of the object is `wanted`: `<status>/<reason>`. Returns its message.
    pub async fn await_condition(
        &self,
        (kind, name): (&str, &str),
        type_: &str,
        wanted: &str,
    ) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            let object = self.get(kind, name).await?.unwrap_or_default();
            if let Some((found, message)) = condition(&object, type_)
                && found == wanted
                && object["status"]["observedGeneration"] == object["metadata"]["generation"]
            {
                return Ok(message);
            }
            if started.elapsed() > WITHIN {
                anyhow::bail!(
                    "{type_} of {kind} {name} is not {wanted}: {:#}",
                    object["status"]
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn await_ready(&self, tenant: &Tenant) -> anyhow::Result<()> {
        let tenant = ("ChatTenant", tenant.name.as_str());
        self.await_condition(tenant, "Ready", "True/Ready").await?;
        Ok(())
    }

    /// The status of `tenant`.
    pub async fn status(&self, tenant: &Tenant) -> anyhow::Result<Value> {
        let object = self.get("ChatTenant", &tenant.name).await?;
        Ok(object.context("no such tenant")?["status"].clone())
    }
}
