//! How a Job ended and what its pod reported, read from the two objects.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodStatus};
use minichat_core::Timestamp;
use minichat_metrics::JobReport;

/// The reason of a Job that has failed because its pods were ended, not because
/// they failed.
const DEADLINE: &str = "DeadlineExceeded";

/// How a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) at: Timestamp,
    pub(super) failure: Option<Failure>,
}

/// Why a Job failed, in the words of the Job controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    reason: String,
    message: String,
}

/// What the pod of a Job reported.
#[derive(Debug, Default, PartialEq)]
pub(super) struct PodResult {
    /// The report of the first container that has one, or why it cannot be read.
    pub(super) report: Option<Result<JobReport, String>>,
    /// How it failed, if it did.
    failure: Option<String>,
    /// Whether the pod is there no more.
    pub(super) is_gone: bool,
}

impl Outcome {
    /// `None` while `job` runs.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let conditions = job.status.as_ref()?.conditions.iter().flatten();
        let mut ends = conditions.filter(|condition| {
            condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed")
        });
        let end = ends.next()?;
        let at = end.last_transition_time.as_ref()?.0.as_microsecond();
        Some(Self {
            at: Timestamp::from_micros(at),
            failure: (end.type_ == "Failed").then(|| Failure {
                reason: end.reason.clone().unwrap_or_default(),
                message: end.message.clone().unwrap_or_default(),
            }),
        })
    }
}

impl Failure {
    /// For people. That its pod failed says less than how.
    pub(super) fn words(&self, result: Option<&PodResult>) -> String {
        let of_pod = result.and_then(|result| result.failure.clone());
        of_pod
            .filter(|_| self.reason != DEADLINE)
            .unwrap_or_else(|| format!("{}: {}", self.reason, self.message))
    }
}

impl PodResult {
    /// Of a pod that has ended: of one that has not, the container with the report may
    /// still run.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        has_ended.then(|| Self::in_status(status))
    }

    /// Of a pod that is there no more, whether it has ended or not.
    pub(super) fn of_gone(pod: &Pod) -> Self {
        Self {
            is_gone: true,
            ..pod.status.as_ref().map(Self::in_status).unwrap_or_default()
        }
    }

    /// Of the containers that have ended.
    fn in_status(status: &PodStatus) -> Self {
        let containers = status.container_statuses.iter().flatten();
        let ended: Vec<_> = containers
            .filter_map(|container| {
                let ended = container.state.as_ref()?.terminated.as_ref()?;
                Some((container.name.as_str(), ended))
            })
            .collect();
        let has_failed = status.phase.as_deref() == Some("Failed");
        let texts = ended.iter().filter_map(|(_, ended)| ended.message.as_ref());
        let reports = texts.map(|text| JobReport::parse(text).map_err(|error| error.to_string()));
        let failures = ended
            .iter()
            .filter_map(|(container, ended)| failure(container, ended));
        // Of an evicted pod no container tells why.
        let of_pod = status.reason.as_ref().filter(|_| has_failed);
        let of_pod = of_pod.map(|reason| format!("its pod has failed: {reason}"));
        Self {
            report: reports.reduce(Result::or),
            failure: of_pod.into_iter().chain(failures).next(),
            is_gone: false,
        }
    }

    /// Whether it has a report, which is not counted yet unless the Job is marked.
    pub(super) fn has_report(&self) -> bool {
        matches!(self.report, Some(Ok(_)))
    }
}

fn failure(container: &str, ended: &ContainerStateTerminated) -> Option<String> {
    let code = ended.exit_code;
    let reason = ended.reason.as_deref().unwrap_or("Error");
    (code != 0).then(|| format!("container {container} ended with exit code {code} ({reason})"))
}

/// Name and uid of the Job that `pod` belongs to.
pub(super) fn job_of(pod: &Pod) -> Option<(&str, &str)> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut jobs = owners.filter(|owner| owner.kind == "Job" && owner.controller == Some(true));
    jobs.next()
        .map(|owner| (owner.name.as_str(), owner.uid.as_str()))
}
