//! Follows the pool's jobs, those of each task on their own. It adds what each Job counted to the
//! operator's metrics, once (K8S-44); publishes events about Jobs (K8S-9); and keeps the condition
//! `JobsHealthy` of the tenants, which is about the watchdog (K8S-7).

mod mark;
mod outcome;
mod record;
#[cfg(test)]
mod tests;
mod totals;

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
use crate::manifests::Task;
use crate::status::{self, EventNote, LastRun};

use mark::Marker;
use outcome::PodResult;
use record::{Left, Record, Run, Stage};
use totals::Totals;

/// When a mark that could not be set is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Turns that a job has ended, in its report.
const FINALIZED: &str = "orphan_finalized";
/// Longer than an API server takes that answers at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that are taken note of before something is done, at most.
const TOGETHER: usize = 1000;

/// Follows the pool's jobs of one task.
pub(crate) struct Jobs {
    client: Client,
    task: Task,
    selector: String,
    context: Arc<Context>,
    marker: Marker,
    totals: Totals,
    /// Whether the metrics have begun with the totals.
    has_begun: bool,
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
        let marker = Marker::new(context.writer.clone());
        let totals = Totals::new(
            context.writer.clone(),
            context.managed_config_map.clone(),
            task,
            marker.reader.clone(),
        );
        Self {
            client,
            task,
            selector,
            marker,
            totals,
            has_begun: false,
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
            _ if !self.has_begun || self.record.is_waiting() => AGAIN,
            _ if self.task == Task::Cleanup => Duration::MAX,
            Duration::ZERO => Duration::MAX,
            until_missed => until_missed,
        }
    }

    /// Begins the metrics with what Jobs counted before; whether it has.
    async fn begin(&mut self) -> bool {
        if !self.has_begun {
            match self.totals.read().await {
                Ok(totals) => {
                    self.context.state.metrics.job_reported(&totals);
                    self.has_begun = true;
                }
                Err(error) => tracing::warn!(
                    error,
                    "the totals of jobs cannot be read; it is tried again"
                ),
            }
        }
        self.has_begun
    }

    /// Handles the Jobs that have ended; a failure is tried again.
    async fn settle(&mut self) {
        if !self.begin().await {
            return;
        }
        for (uid, left) in self.record.left() {
            self.count_left(&uid, &left).await;
        }
        for uid in self.record.due() {
            if let Some((job, end)) = self.take(&uid).await {
                self.count_and_tell(&job, end).await;
            }
        }
    }

    /// Counts what a Job has left that was deleted: no other process can count it, because none sees
    /// the Job.
    async fn count_left(&mut self, uid: &str, left: &Left) {
        let Left { job, report } = left;
        let added = if report.has_counts() {
            self.totals.add(uid, report, |_| true).await
        } else {
            Ok(true)
        };
        match added {
            Ok(is_ours) => {
                self.record.counted(uid);
                if is_ours {
                    self.context.state.metrics.job_reported(report);
                }
            }
            Err(error) => log_uncounted(job, &error),
        }
    }

    /// A Job whose end this process handles, and no other one does.
    async fn take(&mut self, uid: &str) -> Option<(Job, End)> {
        // Without them it is not known which Jobs are there.
        let there = self.record.knows_jobs().then(|| self.record.uids());
        let (run, result) = self.record.get(uid)?;
        let end = End::of(run, result);
        if let Some(report) = end.counts()
            && !run.is_counted
            && !self.marker.is_of_another(run)
        {
            let is_there = |uid: &str| there.as_ref().is_none_or(|there| there.contains(uid));
            let added = self.totals.add(uid, report, is_there);
            match added.await {
                Ok(is_ours) => {
                    run.is_counted = true;
                    if is_ours {
                        self.context.state.metrics.job_reported(report);
                    }
                }
                Err(error) => {
                    run.try_after(AGAIN);
                    log_uncounted(&run.job.name_any(), &error);
                    return None;
                }
            }
        }
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

    /// Adds what `job` observed to the metrics, unless it was added with its counts, and publishes its
    /// events.
    async fn count_and_tell(&self, job: &Job, end: End) {
        let name = job.name_any();
        match &end.report {
            Some(Ok(report)) => {
                if end.counts().is_none() {
                    self.context.state.metrics.job_reported(report);
                }
                log_report(&name, self.task, report);
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

fn log_uncounted(job: &str, error: &str) {
    tracing::warn!(
        job,
        error,
        "the counts of a Job cannot be stored; it is tried again"
    );
}

/// What a Job did, by its task.
fn log_report(job: &str, task: Task, report: &JobReport) {
    let message = "the report of a Job is added to the metrics";
    match task {
        Task::Cleanup => {
            let completed = report.count("cleanup_completed");
            let retried = report.count("cleanup_retry");
            let failed = report.count("cleanup_failed");
            tracing::info!(job, completed, retried, failed, "{message}");
        }
        Task::Watchdog => tracing::info!(job, orphans = report.count(FINALIZED), "{message}"),
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

    /// The report, if it counts something: then the totals decide who adds it, else the mark.
    fn counts(&self) -> Option<&JobReport> {
        let report = self.report.as_ref()?.as_ref().ok()?;
        report.has_counts().then_some(report)
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
