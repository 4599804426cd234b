//! What jobs have counted (K8S-44): the report that a finished pod leaves as its
//! termination message is added to the operator's own metrics, each once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use minichat_metrics::{JobReport, OperatorMetrics};
use uuid::Uuid;

use crate::cache::watched;
use crate::write::{WriteError, Writer};

/// On a Job whose report is taken care of: by whom.
pub(crate) const REPORTED: &str = "minichat.dev/reported";
/// When a mark that could not be set is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Longer than an API server takes that answers at all.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Reports that are to be added.
    waiting: Vec<Waiting>,
}

/// A Job whose pod has ended, and what that left.
#[derive(Debug, PartialEq, Eq)]
struct Finished {
    job: String,
    uid: String,
    pod: String,
    messages: Vec<String>,
}

struct Waiting {
    job: String,
    uid: String,
    report: JobReport,
    /// Whether a mark was sent, so that one that is found may be its own.
    has_tried: bool,
}

impl Reports {
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        selector: &str,
        (writer, metrics): (Writer, Arc<dyn OperatorMetrics>),
    ) -> Self {
        Self {
            jobs: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            selector: selector.to_owned(),
            writer,
            metrics,
            reader: Uuid::new_v4().to_string(),
            settled: HashSet::new(),
            waiting: Vec::new(),
        }
    }

    /// Runs while this process leads.
    pub(crate) async fn follow(mut self) {
        let config = watcher::Config::default().labels(&self.selector);
        let events = watched(self.pods.clone(), config, "pods of jobs".to_owned());
        pin_mut!(events);
        let mut listed = HashSet::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.note(&event, &mut listed),
                    None => return,
                },
                () = tokio::time::sleep(AGAIN), if !self.waiting.is_empty() => {}
            }
            self.settle().await;
        }
    }

    /// `listed` are the Jobs of a list that is being read.
    fn note(&mut self, event: &Event<Pod>, listed: &mut HashSet<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.extend(job_of(pod).map(|(_, uid)| uid));
                self.look(pod);
            }
            Event::InitDone => self.settled.retain(|uid| listed.contains(uid)),
            Event::Apply(pod) => self.look(pod),
            // A Job that takes too long is ended by the deletion of its pod.
            Event::Delete(pod) => {
                self.look(pod);
                if let Some((_, uid)) = job_of(pod) {
                    self.settled.remove(&uid);
                }
            }
        }
    }

    /// Takes note of what `pod` has left, if it has ended.
    fn look(&mut self, pod: &Pod) {
        let Some(finished) = finished(pod) else {
            return;
        };
        let Finished {
            job,
            uid,
            pod,
            messages,
        } = finished;
        let is_waiting = self.waiting.iter().any(|waiting| waiting.uid == uid);
        if is_waiting || self.settled.contains(&uid) {
            return;
        }
        let reports = messages.iter().map(|message| JobReport::parse(message));
        match reports.reduce(Result::or) {
            Some(Ok(report)) => self.waiting.push(Waiting {
                job,
                uid,
                report,
                has_tried: false,
            }),
            Some(Err(error)) => {
                tracing::warn!(job, pod, %error, "a Job has left no report");
                self.settled.insert(uid);
            }
            None => {}
        }
    }

    /// Adds what is waiting; what cannot be added now is tried again.
    async fn settle(&mut self) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            let taken = tokio::time::timeout(PATIENCE, self.take(&mut waiting)).await;
            let error = match taken {
                Ok(Ok(true)) => {
                    self.settled.insert(waiting.uid);
                    continue;
                }
                Ok(Ok(false)) => "it has changed meanwhile".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
            };
            let job = &waiting.job;
            tracing::warn!(job, error, "a Job cannot be marked; it is tried again");
            self.waiting.push(waiting);
        }
    }

    /// Whether nothing is left to do. The mark comes first: whoever sets it adds the
    /// report, also when the answer to it is lost.
    async fn take(&self, waiting: &mut Waiting) -> Result<bool, WriteError> {
        let job = self.jobs.get_opt(&waiting.job).await?;
        let Some(job) = job.filter(|job| job.uid().as_ref() == Some(&waiting.uid)) else {
            tracing::warn!(
                job = waiting.job,
                "a Job is gone, and nobody knows whether its report was read"
            );
            return Ok(true);
        };
        match job.annotations().get(REPORTED) {
            Some(reader) if !waiting.has_tried || *reader != self.reader => return Ok(true),
            Some(_) => {}
            None => {
                waiting.has_tried = true;
                if !self.writer.mark_job(&job, REPORTED, &self.reader).await? {
                    return Ok(false);
                }
            }
        }
        self.metrics.job_reported(&waiting.report);
        tracing::info!(
            job = waiting.job,
            orphans = waiting.report.count("orphan_finalized"),
            "the report of a Job is added to the metrics"
        );
        Ok(true)
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
    let ended = containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    // Of an injected container's, too.
    let messages: Vec<_> = ended.filter_map(|ended| ended.message.clone()).collect();
    if messages.is_empty() {
        return None;
    }
    Some(Finished {
        job,
        uid,
        pod: pod.name_any(),
        messages,
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
        assert_eq!(
            (found.job.as_str(), found.messages),
            ("j", vec!["{}".to_owned()])
        );
        assert_eq!(finished(&pod(owner("Job"), ended(None))), None);
        assert_eq!(finished(&pod(owner("ReplicaSet"), ended(Some("{}")))), None);
        assert_eq!(finished(&pod(owner("Job"), json!({"running": {}}))), None);
        assert_eq!(finished(&Pod::default()), None);
    }
}
