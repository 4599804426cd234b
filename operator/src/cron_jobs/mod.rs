//! Makes the pool's `CronJobs` of the manifests of the chart, and keeps them so (K8S-40, D38): what
//! somebody edits or deletes is repaired, and what is no longer wanted is deleted.
//!
//! A `CronJob` is *ours* if the `ConfigMap` with the manifests owns it. Nothing else is written or
//! deleted, whatever its name or labels say.

mod found;
mod wanted;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use minichat_metrics::{ReconcileKind, ReconcileLoop};

use crate::context::Context;
use crate::failures::{DEADLINE, ReconcileError};
use crate::managed::Owner;
use crate::manifests::{Task, is_suspended};
use crate::status::{self, EventNote};
use crate::work::Backoff;
use crate::writer::{MANAGER, WriteError};

use found::{Found, Standing, standing};
use wanted::{MANAGED_BY, wanted};

/// Events of the watch that are taken note of before something is done, at most.
const TOGETHER: usize = 100;

/// Keeps the `CronJobs`.
pub(crate) struct CronJobs {
    client: Client,
    context: Arc<Context>,
    found: Found,
    /// By name.
    failures: Backoff<String, ReconcileError>,
    /// Uids of foreign `CronJobs` that were reported.
    reported: HashSet<String>,
}

impl CronJobs {
    /// To be made once this process leads.
    pub(crate) fn new(client: Client, context: Arc<Context>) -> Self {
        Self {
            client,
            context,
            found: Found::default(),
            failures: Backoff::default(),
            reported: HashSet::new(),
        }
    }

    /// Never ends.
    pub(crate) async fn follow(mut self) {
        let context = Arc::clone(&self.context);
        let namespace = &context.pool_namespace;
        let events = context.caches.followed(
            Api::<CronJob>::namespaced(self.client.clone(), namespace),
            watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}")),
            format!("cronjobs in namespace {namespace}"),
        );
        let events = events.ready_chunks(TOGETHER);
        pin_mut!(events);
        let mut patience = Duration::MAX;
        loop {
            tokio::select! {
                Some(events) = events.next() => events.into_iter().for_each(|event| self.found.note(event)),
                () = context.state.owner_changed.notified() => {}
                () = tokio::time::sleep(patience) => {}
            }
            patience = self.keep_all().await;
        }
    }

    /// Writes what differs. How long to wait before what failed is tried again.
    async fn keep_all(&mut self) -> Duration {
        let context = Arc::clone(&self.context);
        // Without its owner nothing is ours, and nothing would be deleted with the release.
        let (Owner::ConfigMap(owner), true) = (context.managed.owner(), self.found.was_listed)
        else {
            return Duration::MAX;
        };
        let manifests = context.manifests.cron_jobs().into_iter().flatten();
        let namespace = &context.pool_namespace;
        let all: Vec<_> = manifests
            .map(|(task, manifest)| (*task, wanted(*task, manifest, &owner, namespace)))
            .collect();
        let mut patience = Duration::MAX;
        for (task, wanted) in &all {
            let done = tokio::time::timeout(DEADLINE, self.keep(*task, wanted, &owner));
            let (began, done) = (Instant::now(), done.await);
            patience = patience.min(self.ended(
                &wanted.name_any(),
                began,
                done.unwrap_or(Err(ReconcileError::Deadline)),
            ));
        }
        for name in self.left_over(&all, &owner) {
            let done = tokio::time::timeout(DEADLINE, self.delete(&name));
            let (began, done) = (Instant::now(), done.await);
            patience = patience.min(self.ended(
                &name,
                began,
                done.unwrap_or(Err(ReconcileError::Deadline)),
            ));
        }
        patience
    }

    /// Counts a reconcile. How long to wait before it is repeated.
    fn ended(&self, name: &String, began: Instant, done: Result<(), ReconcileError>) -> Duration {
        let metrics = &self.context.state.metrics;
        metrics.reconcile(
            ReconcileKind::CronJob,
            ReconcileLoop::Object,
            began.elapsed(),
        );
        let Err(error) = done else {
            self.failures.succeeded(name);
            return Duration::MAX;
        };
        metrics.reconcile_error(ReconcileKind::CronJob, error.label());
        let words = error.to_string();
        let delay = self.failures.failed(name.clone(), error);
        let again_in_ms = delay.as_millis();
        tracing::warn!(
            cron_job = name,
            error = words,
            again_in_ms,
            "a CronJob is not as it should be"
        );
        delay
    }

    /// Makes or repairs one.
    async fn keep(
        &mut self,
        task: Task,
        wanted: &CronJob,
        owner: &OwnerReference,
    ) -> Result<(), ReconcileError> {
        let name = wanted.name_any();
        let context = Arc::clone(&self.context);
        let before = match self.found.get(&name) {
            Some(found) => Some(found.clone()),
            // The watch does not show one that has lost its label, or that is not ours.
            None => context.writer.cron_job(&name).await?,
        };
        let standing = before.as_ref().map(|before| standing(before, owner));
        match (&before, standing) {
            (Some(before), Some(Standing::Foreign)) => {
                self.report_foreign(before).await;
                return Err(WriteError::NameTaken(name).into());
            }
            (_, Some(Standing::Ending)) => return Ok(()),
            (Some(before), _) if self.found.is_settled(before, wanted) => return Ok(()),
            _ => {}
        }
        let answer = context
            .writer
            .apply_cron_job(wanted, before.as_ref())
            .await?;
        self.publish(&answer, change(task, before.as_ref(), &answer))
            .await;
        self.found.answered(answer);
        Ok(())
    }

    /// Names of those of ours that nobody wants.
    fn left_over(&self, wanted: &[(Task, CronJob)], owner: &OwnerReference) -> Vec<String> {
        let is_wanted = |name: &String| wanted.iter().any(|(_, one)| one.name_any() == *name);
        let is_owned = |found: &CronJob| {
            let mut owners = found.owner_references().iter();
            owners.any(|one| one.uid == owner.uid) && standing(found, owner) == Standing::Ours
        };
        let ours = self.found.all().filter(|found| is_owned(found));
        let names = ours.map(ResourceExt::name_any);
        names.filter(|name| !is_wanted(name)).collect()
    }

    async fn delete(&self, name: &str) -> Result<(), ReconcileError> {
        let Some(found) = self.found.get(name) else {
            return Ok(());
        };
        self.context.writer.delete_cron_job(found).await?;
        let note = "the chart does not want this CronJob any more, so it is deleted; a Job that runs goes on".to_owned();
        self.publish(found, EventNote::normal("Deleted", note))
            .await;
        Ok(())
    }

    /// Says once that a name is taken.
    async fn report_foreign(&mut self, found: &CronJob) {
        if !self.reported.insert(found.uid().unwrap_or_default()) {
            return;
        }
        let note = "this CronJob has the name of one that the operator is to make, and is not the operator's: delete it, or \
                    install the release with another fullnameOverride; until then its job does not run";
        self.publish(found, EventNote::warning("NameTaken", note.to_owned()))
            .await;
    }

    async fn publish(&self, about: &CronJob, note: EventNote) {
        let Context {
            writer,
            identity,
            clock,
            ..
        } = self.context.as_ref();
        status::publish(writer, identity, about, vec![note], clock.now()).await;
    }
}

/// What an apply has done.
fn change(task: Task, before: Option<&CronJob>, now: &CronJob) -> EventNote {
    let schedule = now.spec.as_ref().map(|spec| spec.schedule.as_str());
    let schedule = schedule.unwrap_or_default();
    let suspended = format!(
        "it starts no Jobs, because {}.suspend is true",
        task.values()
    );
    let runs = format!("it starts a Job at {schedule}");
    match before {
        None if is_suspended(now) => EventNote::normal("Created", suspended),
        None => EventNote::normal("Created", runs),
        Some(before) if !is_suspended(before) && is_suspended(now) => {
            EventNote::normal("Suspended", suspended)
        }
        Some(before) if is_suspended(before) && !is_suspended(now) => {
            EventNote::normal("Resumed", runs)
        }
        Some(_) => EventNote::normal("Updated", "it is as the chart says again".to_owned()),
    }
}
