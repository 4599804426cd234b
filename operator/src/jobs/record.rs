//! What the watches have shown of Jobs and of their pods.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;
use minichat_metrics::JobReport;
use tokio::time::Instant;

use super::outcome::{Outcome, PodResult, job_of};
use crate::status::LastRun;

/// Annotation of a Job whose end was handled: by which process.
pub(super) const REPORTED: &str = "minichat.dev/reported";

/// How much later than the end of a Job its pod's may be seen: the two watches
/// are not in step. A Job whose pods were never made has none.
pub(super) const LATE: Duration = Duration::from_secs(10);

/// A Job.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) job: Job,
    pub(super) outcome: Option<Outcome>,
    /// When the outcome was seen first.
    noticed: Option<Instant>,
    /// Whether a mark was sent, so that one that is found may be its own.
    pub(super) has_tried: bool,
    /// Whether the counts of its report are among the totals.
    pub(super) is_counted: bool,
    /// When the mark that failed is tried again.
    try_at: Option<Instant>,
    pub(super) stage: Stage,
}

/// How far the end of a Job is handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Open,
    /// Its failure was published before its pod was seen, which may have a report.
    Reported,
    /// Nothing is left to do.
    Settled,
}

/// By the uids of Jobs.
#[derive(Debug, Default)]
pub(super) struct Record {
    runs: HashMap<String, Run>,
    results: HashMap<String, PodResult>,
    /// Jobs that were deleted and whose pods were not yet; their reports have been counted.
    done: HashSet<String>,
    /// Names of Jobs that were deleted uncounted, and whose pods were not yet.
    gone: HashMap<String, String>,
    /// What Jobs have left that were deleted uncounted.
    left: HashMap<String, Left>,
    jobs: Listing,
    pods: Listing,
}

/// The report of a Job that was deleted before it was counted.
#[derive(Debug, Clone)]
pub(super) struct Left {
    pub(super) job: String,
    pub(super) report: JobReport,
}

/// Of a list that is being read.
#[derive(Debug, Default)]
struct Listing {
    found: HashSet<String>,
    was_read: bool,
}

impl Record {
    /// Uids of the Jobs that are there.
    pub(super) fn uids(&self) -> HashSet<String> {
        self.runs.keys().cloned().collect()
    }

    /// Whether the Jobs have been read, so that the one that ended last is known.
    pub(super) fn knows_jobs(&self) -> bool {
        self.jobs.was_read
    }

    pub(super) fn job(&mut self, event: Event<Job>) {
        match event {
            Event::Init => self.jobs.found.clear(),
            Event::InitApply(job) => {
                self.jobs.found.extend(job.uid());
                self.job_changed(job);
            }
            Event::InitDone => {
                self.jobs.was_read = true;
                let all: Vec<_> = self.runs.keys().cloned().collect();
                for uid in all {
                    if !self.jobs.found.contains(&uid) {
                        self.job_deleted(&uid);
                    }
                }
            }
            Event::Apply(job) => self.job_changed(job),
            Event::Delete(job) => self.job_deleted(&job.uid().unwrap_or_default()),
        }
    }

    pub(super) fn pod(&mut self, event: &Event<Pod>) {
        match event {
            Event::Init => self.pods.found.clear(),
            Event::InitApply(pod) => {
                self.pods
                    .found
                    .extend(job_of(pod).map(|(_, uid)| uid.to_owned()));
                self.pod_changed(pod);
            }
            Event::InitDone => {
                self.pods.was_read = true;
                let (found, runs) = (&self.pods.found, &self.runs);
                self.done.retain(|uid| found.contains(uid));
                self.gone.retain(|uid, _| found.contains(uid));
                self.results
                    .retain(|uid, _| found.contains(uid) || runs.contains_key(uid));
            }
            Event::Apply(pod) => self.pod_changed(pod),
            Event::Delete(pod) => self.pod_deleted(pod),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.results.is_empty()
            && self.done.is_empty()
            && self.gone.is_empty()
            && self.left.is_empty()
    }

    /// What deleted Jobs have left, by their uids.
    pub(super) fn left(&self) -> Vec<(String, Left)> {
        let left = self.left.iter();
        left.map(|(uid, left)| (uid.clone(), left.clone()))
            .collect()
    }

    /// What the Job has left is counted.
    pub(super) fn counted(&mut self, uid: &str) {
        self.left.remove(uid);
    }

    fn job_changed(&mut self, job: Job) {
        let uid = job.uid().unwrap_or_default();
        let outcome = Outcome::of(&job);
        let noticed = outcome.as_ref().map(|_| Instant::now());
        let before = self.runs.remove(&uid);
        let before = before.as_ref();
        let run = Run {
            job,
            outcome,
            noticed: before.and_then(|before| before.noticed).or(noticed),
            has_tried: before.is_some_and(|before| before.has_tried),
            is_counted: before.is_some_and(|before| before.is_counted),
            try_at: before.and_then(|before| before.try_at),
            stage: before.map(|before| before.stage).unwrap_or_default(),
        };
        self.runs.insert(uid, run);
    }

    /// The Job is gone. Its pod follows it.
    fn job_deleted(&mut self, uid: &str) {
        let Some(run) = self.runs.remove(uid) else {
            self.results.remove(uid);
            return;
        };
        let (job, is_counted) = (run.job.name_any(), run.is_counted());
        match self.results.remove(uid) {
            None if !is_counted => {
                self.gone.insert(uid.to_owned(), job);
            }
            None => {}
            Some(result) => {
                if !is_counted {
                    self.leave(uid, job, &result);
                }
                if !result.is_gone {
                    self.done.insert(uid.to_owned());
                }
            }
        }
    }

    fn leave(&mut self, uid: &str, job: String, result: &PodResult) {
        if let Some(Ok(report)) = result.report.clone() {
            self.left.insert(uid.to_owned(), Left { job, report });
        }
    }

    /// Keeps the result of `pod`, if it has ended.
    fn pod_changed(&mut self, pod: &Pod) {
        if let Some((_, uid)) = job_of(pod)
            && let Some(result) = PodResult::of(pod)
        {
            self.results.insert(uid.to_owned(), result);
        }
    }

    /// The pod was deleted, as by the deadline of its Job.
    fn pod_deleted(&mut self, pod: &Pod) {
        let Some((job, uid)) = job_of(pod) else {
            return;
        };
        let result = PodResult::of_gone(pod);
        if self.runs.contains_key(uid) {
            self.results.insert(uid.to_owned(), result);
        } else if let Some(job) = self.gone.remove(uid) {
            self.results.remove(uid);
            self.leave(uid, job, &result);
        } else {
            self.results.remove(uid);
            if !self.done.remove(uid) && result.has_report() {
                log_lost(job);
            }
        }
    }

    /// Uids of Jobs whose end is to be handled now.
    pub(super) fn due(&self) -> Vec<String> {
        let now = Instant::now();
        let is_due = |(uid, run): &(&String, &Run)| {
            self.is_ready(uid, run) && run.try_at.is_none_or(|at| at <= now)
        };
        let due = self.runs.iter().filter(is_due);
        due.map(|(uid, _)| uid.clone()).collect()
    }

    /// Whether something will be due without another event.
    pub(super) fn is_waiting(&self) -> bool {
        let will_be = |(uid, run): (&String, &Run)| {
            self.is_ready(uid, run) || run.stage == Stage::Open && run.has_failed()
        };
        !self.left.is_empty() || self.runs.iter().any(will_be)
    }

    /// Whether it has ended and there is something to do.
    fn is_ready(&self, uid: &str, run: &Run) -> bool {
        let has_result = self.results.contains_key(uid);
        run.outcome.is_some()
            && match run.stage {
                Stage::Open => has_result || self.is_late(run),
                Stage::Reported => has_result,
                Stage::Settled => false,
            }
    }

    /// Whether its pod should have been seen by now. A Job that has succeeded had one;
    /// one that has failed may never have had any.
    fn is_late(&self, run: &Run) -> bool {
        let noticed = run
            .noticed
            .filter(|_| self.pods.was_read && run.has_failed());
        noticed.is_some_and(|noticed| noticed.elapsed() >= LATE)
    }

    pub(super) fn get(&mut self, uid: &str) -> Option<(&mut Run, Option<&PodResult>)> {
        Some((self.runs.get_mut(uid)?, self.results.get(uid)))
    }

    /// The Job that ended last.
    pub(super) fn last(&self) -> Option<LastRun> {
        let ended = self.runs.values().filter_map(|run| {
            Some(LastRun {
                at: run.outcome.as_ref()?.at,
                job: run.job.name_any(),
                has_failed: run.has_failed(),
            })
        });
        ended.max_by(|one, other| (one.at, &one.job).cmp(&(other.at, &other.job)))
    }
}

impl Run {
    /// Its end was handled, as far as its pod is known; by this process, if `is_ours`.
    pub(super) fn handled(&mut self, is_ours: bool, result: Option<&PodResult>) {
        self.stage = if is_ours && result.is_none() {
            Stage::Reported
        } else {
            Stage::Settled
        };
    }

    pub(super) fn try_after(&mut self, delay: Duration) {
        self.try_at = Some(Instant::now() + delay);
    }

    /// Whether its report needs no counting any more: by this process, or because another one has
    /// marked it.
    fn is_counted(&self) -> bool {
        let is_marked = self.job.annotations().contains_key(REPORTED);
        match self.stage {
            Stage::Open => self.is_counted || is_marked,
            Stage::Reported => self.is_counted,
            Stage::Settled => true,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        let outcome = self.outcome.as_ref();
        outcome.is_some_and(|outcome| outcome.failure.is_some())
    }
}

fn log_lost(job: &str) {
    tracing::warn!(
        job,
        "a Job is gone, and nobody knows whether its report was read"
    );
}
