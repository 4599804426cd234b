//! Jobs of the pool. The API server has controllers and no node: what a kubelet would say of a Job's pod is said here.

use anyhow::Context as _;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Site, WITHIN, eventually};

impl Site {
    /// A Job of the watchdog whose pod has ended, and left `message`.
    pub async fn finished_job(&self, name: &str, message: &str) -> anyhow::Result<()> {
        let metadata = json!({"name": name, "namespace": self.namespace});
        self.apply(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
            "spec": {"backoffLimit": 0, "template": {
                "metadata": {"labels": self.job_labels()?},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "watchdog", "image": "watchdog"}],
                },
            }},
        }))
        .await?;
        let pods = self.api("Pod", &self.namespace)?;
        let its = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
        let is_there = async || Ok(!pods.list(&its).await?.items.is_empty());
        eventually("a pod of the Job", WITHIN, is_there).await?;
        let pod = pods.list(&its).await?.items.pop().context("no pod")?;
        let terminated = json!({"exitCode": 0, "reason": "Completed", "message": message});
        let status = json!({"status": {
            "phase": "Succeeded",
            "containerStatuses": [{
                "name": "watchdog", "image": "watchdog", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": terminated},
            }],
        }});
        let name = pod.metadata.name.context("no name")?;
        let patch = Patch::Merge(&status);
        pods.patch_status(&name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// What is noted on the Job about its report.
    pub async fn reported(&self, job: &str) -> anyhow::Result<Option<String>> {
        let jobs = self.objects(
            &json!({"apiVersion": "batch/v1", "kind": "Job"}),
            &self.namespace,
        )?;
        let annotations = jobs.get(job).await?.metadata.annotations;
        let mut annotations = annotations.unwrap_or_default();
        Ok(annotations.remove("minichat.dev/reported"))
    }

    /// Labels of the pods of jobs, as the chart tells the operator.
    fn job_labels(&self) -> anyhow::Result<Value> {
        let variables = self.operator_variables()?;
        let selector = variables.get("MINICHAT_OPERATOR_JOB_SELECTOR");
        let labels = selector.context("no selector")?.split(',');
        let labels = labels.map(|label| label.split_once('=').context("no label"));
        let labels: anyhow::Result<serde_json::Map<_, _>> = labels
            .map(|label| label.map(|(key, value)| (key.to_owned(), json!(value))))
            .collect();
        Ok(Value::Object(labels?))
    }
}
