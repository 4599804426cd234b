//! The `CronJobs` that the operator makes of the chart's manifests for a pool on PostgreSQL.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use kube::api::{Api, DynamicObject};
use minichat_config::yaml;
use serde_json::{Value, json};

use super::{Operator, Site, rendered, unique};

const ON_POSTGRES: &str = "database.existingSecret=database";
const MANAGED: &str = "minichat-managed";
const VARIABLES: [&str; 2] = ["WATCHDOG", "WATCHDOG_MISSED_AFTER_SECS"];

impl Site {
    /// An operator of a pool on PostgreSQL, with the chart's manifests. `settings` are values of the chart.
    pub async fn operator_of_jobs(&self, settings: &[&str]) -> anyhow::Result<Operator> {
        let chart = self.chart_on_postgres(settings)?;
        let directory = self.manifests_of(&chart).await?;
        let deployment = chart.iter().find(|object| {
            let component = &object["metadata"]["labels"]["app.kubernetes.io/component"];
            object["kind"] == "Deployment" && component == "operator"
        });
        let pod = &deployment.context("no operator")?["spec"]["template"]["spec"];
        let variables = pod["containers"][0]["env"].as_array().into_iter().flatten();
        let value = |name: &str| {
            let name = format!("MINICHAT_OPERATOR_{name}");
            let mut its = variables.clone().filter(|one| one["name"] == name.as_str());
            its.next()?["value"].as_str()
        };
        let mut overrides = vec![("MANAGED_DIR", directory.to_str().context("not UTF-8")?)];
        for name in VARIABLES {
            overrides.push((name, value(name).context(name)?));
        }
        self.operator_with(&overrides).await
    }

    /// The directory that the operator's pod mounts, after its `ConfigMap` was applied as by `helm upgrade`.
    pub async fn manifests(&self, settings: &[&str]) -> anyhow::Result<PathBuf> {
        let chart = self.chart_on_postgres(settings)?;
        self.manifests_of(&chart).await
    }

    async fn manifests_of(&self, chart: &[Value]) -> anyhow::Result<PathBuf> {
        let managed = managed(chart)?;
        self.apply(managed).await?;
        let directory = self.directory.path().join(format!("managed-{}", unique()));
        std::fs::create_dir(&directory)?;
        for (key, text) in managed["data"].as_object().into_iter().flatten() {
            std::fs::write(directory.join(key), text.as_str().context("no text")?)?;
        }
        Ok(directory)
    }

    /// The chart's objects for a pool on PostgreSQL.
    pub(super) fn chart_on_postgres(&self, settings: &[&str]) -> anyhow::Result<Vec<Value>> {
        let settings = [&[ON_POSTGRES], settings].concat();
        let settings: Vec<_> = settings.into_iter().map(str::to_owned).collect();
        rendered(
            &self.tier.kubeconfig(),
            "minichat",
            &self.namespace,
            &settings,
        )
    }

    /// The `CronJobs` of the pool's namespace.
    pub fn cron_jobs(&self) -> anyhow::Result<Api<DynamicObject>> {
        self.api("CronJob", &self.namespace)
    }

    /// The reference to the `ConfigMap` that owns what the operator makes.
    pub async fn managed_owner(&self) -> anyhow::Result<Value> {
        let config_maps = self.api("ConfigMap", &self.namespace)?;
        let managed = config_maps.get(MANAGED).await?;
        Ok(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": MANAGED,
            "uid": managed.metadata.uid, "controller": true,
        }))
    }
}

fn managed(chart: &[Value]) -> anyhow::Result<&Value> {
    let mut managed = chart
        .iter()
        .filter(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == MANAGED);
    managed.next().context("no ConfigMap with manifests")
}

/// The manifest under `key`.
pub(super) fn manifest(chart: &[Value], key: &str) -> anyhow::Result<Value> {
    let text = managed(chart)?["data"][key].as_str();
    let text = text.with_context(|| format!("no {key}"))?;
    yaml::document(text).map_err(|fault| anyhow!("{key}: {fault}"))
}
