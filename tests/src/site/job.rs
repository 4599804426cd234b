//! Jobs of the pool. The API server has controllers but no node, so this code writes what a kubelet would write about a
//! Job's pod.

use anyhow::Context as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Site, WITHIN, eventually};

impl Site {
    /// A watchdog Job whose pod has succeeded with the termination message `message`.
    pub async fn finished_job(&self, name: &str, message: &str) -> anyhow::Result<()> {
        self.begin_job(name).await?;
        self.end_pod_of_job(name, 0, message).await
    }

    /// The same, but its container has exited with `code`.
    pub async fn failed_job(&self, name: &str, code: u8, message: &str) -> anyhow::Result<()> {
        self.begin_job(name).await?;
        self.end_pod_of_job(name, code, message).await
    }

    /// A Job that exceeds its deadline: its pod writes `message` when it is terminated, and is then removed.
    pub async fn overdue_job(&self, name: &str, message: &str) -> anyhow::Result<()> {
        self.create_job(name, Some(1)).await?;
        let pods = self.api("Pod", &self.namespace)?;
        let is_terminating = async || {
            let pod = self.pod_of_job(name).await?;
            Ok(pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()))
        };
        eventually("told to end", WITHIN, is_terminating).await?;
        let pod = self.pod_of_job(name).await?.context("no pod")?;
        let pod = pod.metadata.name.context("no name")?;
        self.end_pod_of_job(name, 0, message).await?;
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(&pod, &at_once).await?;
        Ok(())
    }

    /// A watchdog Job whose pod runs.
    pub async fn begin_job(&self, name: &str) -> anyhow::Result<()> {
        self.create_job(name, None).await?;
        let is_there = async || Ok(self.pod_of_job(name).await?.is_some());
        eventually("a pod of the Job", WITHIN, is_there).await
    }

    /// A failed Job without a pod.
    pub async fn failed_job_without_pod(&self, name: &str) -> anyhow::Result<()> {
        let mut job = self.job(name)?;
        // No controller of the cluster creates its pod or changes its status.
        job["spec"]["managedBy"] = json!("minichat.dev/tests");
        self.apply(&job).await?;
        let at = "2026-01-01T00:00:00Z";
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": at, "reason": "BackoffLimitExceeded"});
        let conditions = ["FailureTarget", "Failed"].map(condition);
        let status = json!({"status": {"startTime": at, "failed": 1, "conditions": conditions}});
        let jobs = self.objects(&job, &self.namespace)?;
        let patch = Patch::Merge(&status);
        jobs.patch_status(name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// The pod of such a Job, ended as in [`Self::failed_job`].
    pub async fn late_pod_of_job(&self, name: &str, code: u8, message: &str) -> anyhow::Result<()> {
        let job = self.job(name)?;
        let found = self.objects(&job, &self.namespace)?.get(name).await?;
        let mut pod = job["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(self.namespace);
        pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": found.metadata.uid, "controller": true,
        }]);
        self.apply(&pod).await?;
        self.end_pod_of_job(name, code, message).await
    }

    /// Deletes the Job, and waits until its pod is gone.
    pub async fn delete_job(&self, name: &str) -> anyhow::Result<()> {
        let jobs = self.objects(&self.job(name)?, &self.namespace)?;
        jobs.delete(name, &DeleteParams::background()).await?;
        let is_gone = async || {
            if let Some(pod) = self.pod_of_job(name).await? {
                let pods = self.api("Pod", &self.namespace)?;
                let at_once = DeleteParams::default().grace_period(0);
                // The garbage collector may be faster.
                let _ = pods
                    .delete(&pod.metadata.name.unwrap_or_default(), &at_once)
                    .await;
                return Ok(false);
            }
            Ok(jobs.get_opt(name).await?.is_none())
        };
        eventually("gone with its pod", WITHIN, is_gone).await
    }

    async fn create_job(&self, name: &str, deadline: Option<u32>) -> anyhow::Result<()> {
        let mut job = self.job(name)?;
        if let Some(seconds) = deadline {
            job["spec"]["activeDeadlineSeconds"] = json!(seconds);
            // A pod without a node is removed as soon as it is deleted.
            job["spec"]["template"]["spec"]["nodeName"] = json!("nowhere");
        }
        self.apply(&job).await
    }

    fn job(&self, name: &str) -> anyhow::Result<Value> {
        let labels = self.job_labels()?;
        Ok(json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": {"backoffLimit": 0, "podReplacementPolicy": "Failed", "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "watchdog", "image": "watchdog"}],
                },
            }},
        }))
    }

    async fn pod_of_job(&self, name: &str) -> anyhow::Result<Option<DynamicObject>> {
        let its = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
        let pods = self.api("Pod", &self.namespace)?;
        Ok(pods.list(&its).await?.items.pop())
    }

    /// Writes that the container of the Job's pod has exited with `code` and left `message`.
    pub async fn end_pod_of_job(&self, job: &str, code: u8, message: &str) -> anyhow::Result<()> {
        let pod = self.pod_of_job(job).await?.context("no pod")?;
        let (phase, reason) = match code {
            0 => ("Succeeded", "Completed"),
            _ => ("Failed", "Error"),
        };
        let terminated = json!({"exitCode": code, "reason": reason, "message": message});
        let status = json!({"status": {
            "phase": phase,
            "containerStatuses": [{
                "name": "watchdog", "image": "watchdog", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": terminated},
            }],
        }});
        let name = pod.metadata.name.context("no name")?;
        let patch = Patch::Merge(&status);
        let pods = self.api("Pod", &self.namespace)?;
        pods.patch_status(&name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Reasons and notes of the events about `job`, in order.
    pub async fn events_of_job(&self, job: &str) -> anyhow::Result<Vec<(String, String)>> {
        self.events_in(&self.namespace, job).await
    }

    /// The annotation of the Job about its report.
    pub async fn reported(&self, job: &str) -> anyhow::Result<Option<String>> {
        let jobs = self.objects(
            &json!({"apiVersion": "batch/v1", "kind": "Job"}),
            &self.namespace,
        )?;
        let annotations = jobs.get(job).await?.metadata.annotations;
        let mut annotations = annotations.unwrap_or_default();
        Ok(annotations.remove("minichat.dev/reported"))
    }

    /// Labels of the Jobs' pods, from the chart's settings of the operator.
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
