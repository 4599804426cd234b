//! The watchdog of a pool on PostgreSQL: the program of its `CronJob`, under its `ServiceAccount`.

use std::process::ExitStatus;

use anyhow::Context as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::process::Command;

use super::cron_jobs::manifest;
use super::process::Logged;
use super::{Site, WITHIN, eventually};

const LEASE: &str = "MINICHAT_JOB_LEASE";
/// How long it waits for a row that a test has locked.
const PATIENT: [(&str, &str); 3] = [
    ("MINICHAT_DATABASE_LOCK_TIMEOUT_SECS", "25"),
    ("MINICHAT_DATABASE_STATEMENT_TIMEOUT_SECS", "26"),
    ("MINICHAT_DATABASE_JOB_TIMEOUT_SECS", "28"),
];

/// A watchdog that scans once.
pub struct Watchdog(Logged);

impl Site {
    /// Starts one with the chart's rights.
    pub async fn watchdog(&self) -> anyhow::Result<Watchdog> {
        let chart = self.chart_on_postgres(&[])?;
        for object in chart.iter().filter(|object| is_its(object)) {
            self.apply(object).await?;
        }
        let pod = &pod_of_cron_job(&chart)?;
        let account = pod["serviceAccountName"].as_str();
        let kubeconfig = self.kubeconfig_of(account.context("no ServiceAccount")?);
        let mut command = Command::new(&self.programs.dataplane);
        command
            .arg("watchdog")
            .env_clear()
            .env("KUBECONFIG", kubeconfig.await?)
            .env("MINICHAT_DATABASE_URL", self.database.url())
            .envs(PATIENT)
            .env(LEASE, lease_of(pod)?);
        Logged::start(&mut command, self.log("watchdog")).map(Watchdog)
    }

    /// Writes `holder` as the holder of the watchdog's Lease; empty for none.
    pub async fn give_lease(&self, holder: &str) -> anyhow::Result<()> {
        let (leases, name) = self.watchdog_lease()?;
        let patch = Patch::Merge(json!({"spec": {"holderIdentity": holder}}));
        leases.patch(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The holder of the watchdog's Lease.
    pub async fn lease_holder(&self) -> anyhow::Result<Value> {
        let (leases, name) = self.watchdog_lease()?;
        Ok(leases.get(&name).await?.data["spec"]["holderIdentity"].clone())
    }

    /// The API of Leases, and the name of the watchdog's.
    fn watchdog_lease(&self) -> anyhow::Result<(Api<DynamicObject>, String)> {
        let like = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"});
        let leases = self.objects(&like, &self.namespace)?;
        let chart = self.chart_on_postgres(&[])?;
        Ok((leases, lease_of(&pod_of_cron_job(&chart)?)?.to_owned()))
    }
}

impl Watchdog {
    /// Waits until it has logged `text`.
    pub async fn says(&self, text: &str) -> anyhow::Result<()> {
        let has_said = async || Ok(self.0.log()?.contains(text));
        let said = eventually(&format!("said: {text}"), WITHIN, has_said).await;
        said.with_context(|| self.0.log().unwrap_or_default())
    }

    /// Waits for the end and returns the exit status and the report.
    pub async fn ended(mut self) -> anyhow::Result<(ExitStatus, Value)> {
        let status = self.0.ended().await?;
        let log = self.0.log()?;
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let report = lines.rfind(|line: &Value| line.get("job").is_some());
        Ok((status, report.with_context(|| format!("no report: {log}"))?))
    }
}

/// Whether an object of the chart belongs to the watchdog.
fn is_its(object: &Value) -> bool {
    object["metadata"]["labels"]["app.kubernetes.io/component"] == "watchdog"
}

fn pod_of_cron_job(chart: &[Value]) -> anyhow::Result<Value> {
    let job = &manifest(chart, "watchdog.yaml")?["spec"]["jobTemplate"];
    Ok(job["spec"]["template"]["spec"].clone())
}

fn lease_of(pod: &Value) -> anyhow::Result<&str> {
    let variables = pod["containers"][0]["env"].as_array().into_iter().flatten();
    let mut its = variables.filter(|variable| variable["name"] == LEASE);
    let lease = its.next().context("no Lease")?["value"].as_str();
    lease.context("the Lease has no name")
}
