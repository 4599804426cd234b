//! What jobs have counted (K8S-44): the report that a finished pod leaves as its
//! termination message is added to the operator's own metrics, each once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use minichat_metrics::{JobReport, OperatorMetrics};
use uuid::Uuid;

use crate::write::{WriteError, Writer};

/// On a Job whose report is taken care of: by whom.
pub(crate) const REPORTED: &str = "minichat.dev/reported";
/// When a mark that could not be set is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads the reports of finished pods.
pub(crate) struct Reports {
    jobs: Api<Job>,
    pods: Api<Pod>,
    selector: String,
    writer: Writer,
    metrics: Arc<dyn OperatorMetrics>,
    /// Told apart from every other process, and from this pod's one before a crash.
    reader: String,
    /// Uids of Jobs that need no look any more.
    settled: HashSet<String>,
}

/// A Job whose pod has ended, and what that left.
#[derive(Debug, PartialEq, Eq)]
struct Finished {
    job: String,
    uid: String,
    pod: String,
    message: String,
}

impl Reports {
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        selector: &str,
        writer: Writer,
        metrics: Arc<dyn OperatorMetrics>,
    ) -> Self {
        Self {
            jobs: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            selector: selector.to_owned(),
            writer,
            metrics,
            reader: Uuid::new_v4().to_string(),
            settled: HashSet::new(),
        }
    }

    /// Runs while this process leads.
    pub(crate) async fn follow(mut self) {
        let config = watcher::Config::default().labels(&self.selector);
        let events = watcher::watcher(self.pods.clone(), config).default_backoff();
        pin_mut!(events);
        let mut is_well = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    self.look(&pod).await;
                }
                // A Job that takes too long is ended by the deletion of its pod.
                Ok(watcher::Event::Delete(pod)) => {
                    self.look(&pod).await;
                    if let Some((_, uid)) = job_of(&pod) {
                        self.settled.remove(&uid);
                    }
                }
                Ok(watcher::Event::Init | watcher::Event::InitDone) => is_well = true,
                Err(error) => {
                    if is_well {
                        tracing::warn!(%error, watch = "pods of jobs", "a watch is interrupted; it is tried again");
                    }
                    is_well = false;
                }
            }
        }
    }

    async fn look(&mut self, pod: &Pod) {
        let Some(finished) = finished(pod) else {
            return;
        };
        if self.settled.contains(&finished.uid) {
            return;
        }
        match JobReport::parse(&finished.message) {
            Ok(report) => {
                while let Err(error) = self.take(&finished, &report).await {
                    if matches!(error, WriteError::NotLeading) {
                        return;
                    }
                    tracing::warn!(job = finished.job, %error, "a Job cannot be marked; it is tried again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            Err(error) => {
                tracing::warn!(job = finished.job, pod = finished.pod, %error, "a Job has left no report");
            }
        }
        self.settled.insert(finished.uid);
    }

    /// The mark comes first: whoever sets it adds the report. A mark whose answer was
    /// lost is found to be this process's own.
    async fn take(&self, finished: &Finished, report: &JobReport) -> Result<(), WriteError> {
        loop {
            let job = self.jobs.get_opt(&finished.job).await?;
            let Some(job) = job.filter(|job| job.uid().as_ref() == Some(&finished.uid)) else {
                tracing::warn!(
                    job = finished.job,
                    "a Job is gone, and nobody knows whether its report was read"
                );
                return Ok(());
            };
            match job.annotations().get(REPORTED) {
                Some(reader) if *reader != self.reader => return Ok(()),
                Some(_) => {}
                None => {
                    if !self.writer.mark_job(&job, REPORTED, &self.reader).await? {
                        continue;
                    }
                }
            }
            self.metrics.job_reported(report);
            tracing::info!(
                job = finished.job,
                orphans = report.count("orphan_finalized"),
                "the report of a Job is added to the metrics"
            );
            return Ok(());
        }
    }
}

/// Name and uid of the Job that `pod` belongs to.
fn job_of(pod: &Pod) -> Option<(String, String)> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut jobs = owners.filter(|owner| owner.kind == "Job" && owner.controller == Some(true));
    jobs.next()
        .map(|owner| (owner.name.clone(), owner.uid.clone()))
}

/// Of a pod that has ended and left something.
fn finished(pod: &Pod) -> Option<Finished> {
    let (job, uid) = job_of(pod)?;
    let containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    let mut ended =
        containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let message = ended.find_map(|ended| ended.message.clone())?;
    Some(Finished {
        job,
        uid,
        pod: pod.name_any(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// K8S-44
    #[test]
    fn only_a_pod_of_a_job_that_has_ended_and_left_something_is_finished() {
        let pod = |owner: serde_json::Value, state: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "ownerReferences": [owner]},
                "status": {"containerStatuses": [{
                    "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
                }]},
            }))
            .unwrap()
        };
        let owner = |kind: &str| json!({"apiVersion": "batch/v1", "kind": kind, "name": "j", "uid": "u", "controller": true});
        let ended =
            |message: Option<&str>| json!({"terminated": {"exitCode": 0, "message": message}});
        let found = finished(&pod(owner("Job"), ended(Some("{}")))).unwrap();
        assert_eq!((found.job.as_str(), found.message.as_str()), ("j", "{}"));
        assert_eq!(finished(&pod(owner("Job"), ended(None))), None);
        assert_eq!(finished(&pod(owner("ReplicaSet"), ended(Some("{}")))), None);
        assert_eq!(finished(&pod(owner("Job"), json!({"running": {}}))), None);
        assert_eq!(finished(&Pod::default()), None);
    }
}
