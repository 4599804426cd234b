//! Follows the pool's jobs, those of each task on their own. It adds what each Job counted to the operator's metrics, once
//! (K8S-44); publishes events about Jobs (K8S-9); and keeps the condition `JobsHealthy` of the
//! tenants, which is about the watchdog (K8S-7).

mod mark;
mod outcome;
mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use minichat_core::Timestamp;
use minichat_metrics::JobReport;
use tracing::Instrument as _;

use crate::context::Context;
use crate::event_handlers::enqueue_status_of_all;
use crate::status::{self, EventNote, LastRun};

use mark::Marker;
use outcome::PodResult;
use record::{Record, Run, Stage};

/// When a mark that could not be set is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Turns that a job has ended, in its report.
const FINALIZED: &str = "orphan_finalized";
/// Longer than an API server takes that answers at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that are taken note of before something is done, at most.
const TOGETHER: usize = 1000;

/// What Jobs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// End turns that a crashed process left running.
    Watchdog,
    /// Delete what deletions leave at providers.
    Cleanup,
}

impl Task {
    /// Its Jobs, in messages.
    const fn jobs(self) -> &'static str {
        match self {
            Self::Watchdog => "jobs",
            Self::Cleanup => "clean-up jobs",
        }
    }
}

/// Follows the pool's jobs of one task.
pub(crate) struct Jobs {
    client: Client,
    task: Task,
    selector: String,
    context: Arc<Context>,
    marker: Marker,
    record: Record,
    /// Known also when the Job is gone.
    last: Option<LastRun>,
    /// When it began to follow.
    since: Timestamp,
}

/// What a watch showed.
enum Seen {
    Job(Box<Event<Job>>),
    Pod(Box<Event<Pod>>),
}

/// What is to be counted and published about a Job that has ended.
struct End {
    /// How it failed, if it did.
    failure: Option<String>,
    /// The report of its pod, or why there is none.
    report: Option<Result<JobReport, String>>,
}

impl Jobs {
    /// To be made once this process leads.
    pub(crate) fn new(client: Client, task: Task, selector: String, context: Arc<Context>) -> Self {
        Self {
            client,
            task,
            selector,
            marker: Marker::new(context.writer.clone()),
            record: Record::default(),
            last: None,
            since: context.clock.now(),
            context,
        }
    }

    pub(crate) async fn follow(mut self) {
        let namespace = self.context.pool_namespace.clone();
        let caches = Arc::clone(&self.context.caches);
        let config = watcher::Config::default().labels(&self.selector);
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        let jobs = caches.followed(
            jobs,
            config.clone(),
            format!("{} in namespace {namespace}", self.task.jobs()),
        );
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let pods = caches.followed(
            pods,
            config,
            format!("pods of {} in namespace {namespace}", self.task.jobs()),
        );
        let seen = stream::select(
            jobs.map(|event| Seen::Job(Box::new(event))),
            pods.map(|event| Seen::Pod(Box::new(event))),
        );
        // What is done may take long, and should be done with all that is known.
        let seen = seen.ready_chunks(TOGETHER);
        pin_mut!(seen);
        loop {
            tokio::select! {
                Some(seen) = seen.next() => seen.into_iter().for_each(|one| self.note(one)),
                () = tokio::time::sleep(self.patience()) => {}
            }
            self.settle().await;
            self.judge();
        }
    }

    fn note(&mut self, seen: Seen) {
        match seen {
            Seen::Job(event) => self.record.job(*event),
            Seen::Pod(event) => self.record.pod(&event),
        }
    }

    /// How long to wait for an event.
    fn patience(&self) -> Duration {
        let now = self.context.clock.now();
        let health = &self.context.jobs_health;
        match health.until_missed(self.last.as_ref(), self.since, now) {
            _ if self.record.is_waiting() => AGAIN,
            _ if self.task == Task::Cleanup => Duration::MAX,
            Duration::ZERO => Duration::MAX,
            until_missed => until_missed,
        }
    }

    /// Handles the Jobs that have ended; a failure is tried again.
    async fn settle(&mut self) {
        for uid in self.record.due() {
            if let Some((job, end)) = self.take(&uid).await {
                self.count_and_tell(&job, end).await;
            }
        }
    }

    /// A Job whose end this process handles, and no other one does.
    async fn take(&mut self, uid: &str) -> Option<(Job, End)> {
        let (run, result) = self.record.get(uid)?;
        let end = End::of(run, result);
        let is_ours = if end.is_worth_a_mark() {
            self.marker.take(run).await
        } else {
            Ok(true)
        };
        match is_ours {
            Ok(is_ours) => {
                run.handled(is_ours, result);
                is_ours.then(|| (run.job.clone(), end))
            }
            Err(error) => {
                run.try_after(AGAIN);
                let job = run.job.name_any();
                tracing::warn!(job, error, "a Job cannot be marked; it is tried again");
                None
            }
        }
    }

    /// Adds what `job` counted to the metrics, and publishes its events.
    async fn count_and_tell(&self, job: &Job, end: End) {
        let name = job.name_any();
        match &end.report {
            Some(Ok(report)) => {
                self.context.state.metrics.job_reported(report);
                let orphans = report.count(FINALIZED);
                tracing::info!(
                    job = name,
                    orphans,
                    "the report of a Job is added to the metrics"
                );
            }
            Some(Err(error)) => tracing::warn!(job = name, error, "a Job has left no report"),
            None => {}
        }
        let Context {
            writer,
            identity,
            clock,
            ..
        } = self.context.as_ref();
        let told = status::publish(writer, identity, job, end.told(), clock.now());
        let told = told.instrument(tracing::info_span!("job", job = name));
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
            tracing::warn!(job = name, "an event is lost");
        }
    }

    /// Enqueues the tenants when `JobsHealthy` changes.
    fn judge(&mut self) {
        if self.task == Task::Cleanup || !self.record.knows_jobs() {
            return;
        }
        if let Some(newest) = self.record.last()
            && self.last.as_ref().is_none_or(|last| newest.at >= last.at)
        {
            self.last = Some(newest);
        }
        let now = self.context.clock.now();
        let is_news = self
            .context
            .jobs_health
            .judge(self.last.as_ref(), self.since, now);
        if is_news {
            enqueue_status_of_all(&self.context.caches, &self.context.state.queues);
        }
    }
}

impl End {
    fn of(run: &Run, result: Option<&PodResult>) -> Self {
        let outcome = run.outcome.as_ref().filter(|_| run.stage == Stage::Open);
        let failure = outcome.and_then(|outcome| outcome.failure.as_ref());
        Self {
            failure: failure.map(|failure| failure.words(result)),
            report: result.and_then(|result| result.report.clone()),
        }
    }

    /// Whether something is to be done once among all processes.
    fn is_worth_a_mark(&self) -> bool {
        self.failure.is_some() || matches!(self.report, Some(Ok(_)))
    }

    fn told(self) -> Vec<EventNote> {
        let failed = self
            .failure
            .map(|words| EventNote::warning("JobFailed", format!("{words}; its log says more")));
        let orphans = match self.report {
            Some(Ok(report)) => report.count(FINALIZED),
            _ => 0,
        };
        let finalized = (orphans > 0).then(|| {
            let note = format!("turns ended that a dead process had left running: {orphans}");
            EventNote::normal("OrphansFinalized", note)
        });
        failed.into_iter().chain(finalized).collect()
    }
}
