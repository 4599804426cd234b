//! What the pool's Jobs have counted so far (D38): running totals in an annotation of the `ConfigMap`
//! that owns what the operator makes. They outlive this process. The same write adds the counts of a
//! Job to the totals and notes the uid of the Job, so that each Job is counted once, whichever
//! process is killed when. The metrics of a new process begin with the totals.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use minichat_metrics::JobReport;
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use crate::manifests::Task;
use crate::writer::Writer;

/// The totals of one task, and where they are kept.
pub(super) struct Totals {
    writer: Writer,
    /// Name of the `ConfigMap`; without one, the totals are in memory alone.
    config_map: Option<String>,
    annotation: &'static str,
    /// This process: the same as in the marks of Jobs.
    reader: String,
    /// As it was read or written last; `None` if it has to be read.
    seen: Option<Seen>,
}

/// The annotation, and the `ConfigMap` that had it.
#[derive(Debug, Clone, Default)]
struct Seen {
    config_map: ConfigMap,
    counted: Counted,
}

/// The value of the annotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counted {
    totals: JobReport,
    /// By the uids of Jobs that are still there: the process that counted it.
    jobs: BTreeMap<String, String>,
}

impl Totals {
    pub(super) fn new(
        writer: Writer,
        config_map: Option<String>,
        task: Task,
        reader: String,
    ) -> Self {
        Self {
            seen: config_map.is_none().then(Seen::default),
            writer,
            config_map,
            annotation: match task {
                Task::Watchdog => "minichat.dev/counted-by-watchdog",
                Task::Cleanup => "minichat.dev/counted-by-cleanup",
            },
            reader,
        }
    }

    /// The totals so far.
    pub(super) async fn read(&mut self) -> Result<JobReport, String> {
        Ok(self.seen().await?.counted.totals.clone())
    }

    /// Adds the `report` of the Job `uid`; whether this process does. Uids that `is_there` denies are
    /// forgotten. After an error it must be repeated: the write may have happened.
    pub(super) async fn add(
        &mut self,
        uid: &str,
        report: &JobReport,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<bool, String> {
        // The other task may have annotated the ConfigMap since it was read.
        match self.try_add(uid, report, &is_there).await {
            Err(_) => self.try_add(uid, report, &is_there).await,
            added => added,
        }
    }

    async fn try_add(
        &mut self,
        uid: &str,
        report: &JobReport,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<bool, String> {
        let reader = self.reader.clone();
        let seen = self.seen().await?;
        if let Some(counted_by) = seen.counted.jobs.get(uid) {
            return Ok(*counted_by == reader);
        }
        let next = seen.counted.with(uid, report, &reader, is_there);
        let before = self.seen.take().unwrap_or_default().config_map;
        self.seen = Some(self.write(before, next).await?);
        Ok(true)
    }

    async fn seen(&mut self) -> Result<&Seen, String> {
        let seen = match self.seen.take() {
            Some(seen) => seen,
            None => self.find().await?,
        };
        Ok(self.seen.insert(seen))
    }

    async fn find(&self) -> Result<Seen, String> {
        let name = self.config_map.as_deref().unwrap_or_default();
        let found = answer(self.writer.config_map(name)).await?;
        let config_map = found.ok_or_else(|| format!("the ConfigMap {name} is not there"))?;
        let text = config_map.annotations().get(self.annotation);
        // Somebody has edited it: what it said is lost.
        let parsed = text.map(|text| serde_json::from_str(text)).transpose();
        let counted = parsed.unwrap_or_else(|error| {
            let annotation = self.annotation;
            tracing::error!(%error, annotation, "the totals of jobs cannot be read; they begin at zero");
            None
        });
        Ok(Seen {
            counted: counted.unwrap_or_default(),
            config_map,
        })
    }

    async fn write(&self, before: ConfigMap, counted: Counted) -> Result<Seen, String> {
        if self.config_map.is_none() {
            return Ok(Seen {
                counted,
                ..Seen::default()
            });
        }
        let text = serde_json::to_string(&counted).map_err(|error| error.to_string())?;
        let written = self
            .writer
            .annotate_config_map(&before, self.annotation, &text);
        let config_map = answer(written).await?;
        Ok(Seen {
            config_map,
            counted,
        })
    }
}

impl Counted {
    fn with(
        &self,
        uid: &str,
        report: &JobReport,
        reader: &str,
        is_there: impl Fn(&str) -> bool,
    ) -> Self {
        let mut jobs = self.jobs.clone();
        jobs.retain(|uid, _| is_there(uid));
        jobs.insert(uid.to_owned(), reader.to_owned());
        Self {
            totals: self.totals.plus(report),
            jobs,
        }
    }
}

async fn answer<T, E: std::fmt::Display>(
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use minichat_metrics::{JobMetrics, Metrics as _};

    use super::*;

    fn report() -> JobReport {
        let job = JobMetrics::default();
        job.orphan_finalized();
        job.report("watchdog")
    }

    /// K8S-44, D38
    #[test]
    fn one_value_has_the_totals_and_the_jobs_that_they_are_of() {
        let once = Counted::default().with("a", &report(), "me", |_| true);
        let twice = once.with("b", &report(), "you", |_| true);
        assert_eq!(twice.totals.count("orphan_finalized"), 2);
        assert_eq!(twice.jobs.get("a").map(String::as_str), Some("me"));
        let text = serde_json::to_string(&twice).unwrap();
        assert_eq!(serde_json::from_str::<Counted>(&text).unwrap(), twice);
        let later = twice.with("c", &report(), "me", |uid| uid == "b");
        assert_eq!(later.jobs.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(later.totals.count("orphan_finalized"), 3);
    }
}
