//! What the operator makes: the manifests in a directory, into which the pod mounts the
//! `ConfigMap` of the chart (D38). They are read once, when the process starts. The chart
//! restarts the operator when it changes them.
//!
//! The chart says what pods look like, the operator when they exist: it makes an object for each
//! key that is there, and deletes the object of a key that is not.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use k8s_openapi::api::batch::v1::CronJob;
use kube::{Resource as _, ResourceExt as _};
use minichat_config::{Fault, yaml};
use minichat_crds::validation::is_subdomain;
use serde_json::Value;

use crate::settings::{Settings, Watchdog};

/// A `CronJob` names its Jobs after itself and eleven characters more, and a Job has 63 at most.
const MAX_NAME: usize = 52;
const SUFFIX: &str = ".yaml";

/// What Jobs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// End turns that a crashed process left running.
    Watchdog,
    /// Delete what deletions leave at providers.
    Cleanup,
}

impl Task {
    pub(crate) const ALL: [Self; 2] = [Self::Watchdog, Self::Cleanup];

    /// The key of its manifest.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Watchdog => "watchdog.yaml",
            Self::Cleanup => "cleanup.yaml",
        }
    }

    /// The first part of its values in the chart.
    pub(crate) const fn values(self) -> &'static str {
        match self {
            Self::Watchdog => "watchdog",
            Self::Cleanup => "cleanup",
        }
    }

    /// Its Jobs, in messages.
    pub(crate) const fn jobs(self) -> &'static str {
        match self {
            Self::Watchdog => "jobs",
            Self::Cleanup => "clean-up jobs",
        }
    }
}

/// The manifests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manifests {
    /// `None` if the process has no directory of manifests: then it makes nothing.
    cron_jobs: Option<BTreeMap<Task, CronJob>>,
}

impl Manifests {
    /// Reads the directory that the settings name. An error names the key and what to write.
    pub(crate) fn read(settings: &Settings) -> anyhow::Result<Self> {
        let Some(directory) = &settings.managed_dir else {
            return Ok(Self::default());
        };
        anyhow::ensure!(
            settings.managed_config_map.is_some(),
            "--managed-dir: set --managed-config-map too, the name of the ConfigMap that owns what is made"
        );
        let mut cron_jobs = BTreeMap::new();
        for task in Task::ALL {
            let selector = match task {
                Task::Watchdog => &settings.job_selector,
                Task::Cleanup => &settings.cleanup_selector,
            };
            let text = text(directory, task.key())?;
            let parsed = text.map(|text| cron_job(&text, selector)).transpose();
            let parsed = parsed.map_err(|fault| {
                let directory = directory.display();
                anyhow::anyhow!(
                    "--managed-dir: the key {} in {directory}: {fault}",
                    task.key()
                )
            })?;
            cron_jobs.extend(parsed.map(|parsed| (task, parsed)));
        }
        warn_of_unknown_keys(directory);
        Ok(Self {
            cron_jobs: Some(cron_jobs),
        })
    }

    /// The wanted `CronJobs`; `None` if the operator is not to make any or delete any.
    pub(crate) const fn cron_jobs(&self) -> Option<&BTreeMap<Task, CronJob>> {
        self.cron_jobs.as_ref()
    }

    /// What ends turns that a crashed process left running. Between the two states of a
    /// `CronJob` its manifest decides.
    pub(crate) fn watchdog(&self, configured: Option<Watchdog>) -> Option<Watchdog> {
        let cron_jobs = self.cron_jobs.as_ref();
        match (configured, cron_jobs) {
            (Some(Watchdog::Jobs | Watchdog::Suspended), Some(cron_jobs)) => {
                Some(match cron_jobs.get(&Task::Watchdog) {
                    None => Watchdog::Disabled,
                    Some(cron_job) if is_suspended(cron_job) => Watchdog::Suspended,
                    Some(_) => Watchdog::Jobs,
                })
            }
            (configured, _) => configured,
        }
    }
}

/// Whether it starts no Jobs.
pub(crate) fn is_suspended(cron_job: &CronJob) -> bool {
    let spec = cron_job.spec.as_ref();
    spec.is_some_and(|spec| spec.suspend == Some(true))
}

/// The text of a key; `None` if there is no such key.
fn text(directory: &Path, key: &str) -> anyhow::Result<Option<String>> {
    let path = directory.join(key);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && directory.is_dir() => {
            Ok(None)
        }
        Err(error) => {
            Err(error).with_context(|| format!("--managed-dir: {} cannot be read", path.display()))
        }
    }
}

/// A newer chart may have more keys: they must not stop an older operator.
fn warn_of_unknown_keys(directory: &Path) {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let is_known = |name: &str| Task::ALL.iter().any(|task| task.key() == name);
    for name in names.filter(|name| name.ends_with(SUFFIX) && !is_known(name)) {
        tracing::warn!(
            key = name,
            "a key in --managed-dir is not known and has no effect; known are {}",
            Task::ALL.map(Task::key).join(", ")
        );
    }
}

/// Reads a manifest whose Jobs and pods must match `selector`.
fn cron_job(text: &str, selector: &str) -> Result<CronJob, Fault> {
    let value = yaml::document(text)?;
    let (version, kind) = (CronJob::api_version(&()), CronJob::kind(&()));
    if value["apiVersion"] != version.as_ref() || value["kind"] != kind.as_ref() {
        return Err(fault(
            "kind",
            format!("write apiVersion: {version} and kind: {kind}"),
        ));
    }
    let cron_job: CronJob = serde_path_to_error::deserialize(&value).map_err(|error| {
        let path = error.path().to_string();
        fault(&path, error.into_inner().to_string())
    })?;
    let known = serde_json::to_value(&cron_job).unwrap_or_default();
    if let Some(path) = unknown(&value, &known) {
        return Err(fault(
            &path,
            "is not a field of a CronJob that the operator knows; remove it".to_owned(),
        ));
    }
    check(&cron_job, selector)?;
    Ok(cron_job)
}

/// What the operator relies on. The API server checks the rest.
fn check(cron_job: &CronJob, selector: &str) -> Result<(), Fault> {
    let name = cron_job.name_any();
    if !is_subdomain(&name) || name.len() > MAX_NAME {
        let message = format!("write at most {MAX_NAME} lower-case letters, digits, - and .");
        return Err(fault("metadata.name", message));
    }
    let spec = cron_job.spec.clone().unwrap_or_default();
    if spec.schedule.trim().is_empty() {
        let message = "write a schedule, such as \"*/5 * * * *\"".to_owned();
        return Err(fault("spec.schedule", message));
    }
    let template = spec.job_template;
    let pod = template.spec.map(|job| job.template).unwrap_or_default();
    if pod.spec.is_none_or(|pod| pod.containers.is_empty()) {
        let message = "write a container".to_owned();
        return Err(fault(
            "spec.jobTemplate.spec.template.spec.containers",
            message,
        ));
    }
    for (path, metadata) in [
        ("spec.jobTemplate.metadata.labels", template.metadata),
        (
            "spec.jobTemplate.spec.template.metadata.labels",
            pod.metadata,
        ),
    ] {
        let labels = metadata
            .and_then(|metadata| metadata.labels)
            .unwrap_or_default();
        let mut pairs = selector.split(',').filter_map(|pair| pair.split_once('='));
        if let Some((label, value)) =
            pairs.find(|(label, value)| labels.get(*label).map(String::as_str) != Some(*value))
        {
            let message = format!(
                "write {label}: {value}, else the operator does not find what its Jobs report"
            );
            return Err(fault(path, message));
        }
    }
    Ok(())
}

/// Path of the first field of `written` that is not among the `known` ones.
fn unknown(written: &Value, known: &Value) -> Option<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            written
                .iter()
                .find_map(|(key, value)| match known.get(key) {
                    None if value.is_null() => None,
                    None => Some(key.clone()),
                    Some(known) => unknown(value, known).map(|below| join(key, &below)),
                })
        }
        (Value::Array(written), Value::Array(known)) => {
            let mut pairs = written.iter().zip(known).enumerate();
            pairs.find_map(|(index, (value, known))| {
                unknown(value, known).map(|below| join(&format!("[{index}]"), &below))
            })
        }
        _ => None,
    }
}

fn join(parent: &str, below: &str) -> String {
    match below.strip_prefix('[') {
        Some(_) => format!("{parent}{below}"),
        None => format!("{parent}.{below}"),
    }
}

fn fault(path: &str, message: String) -> Fault {
    Fault {
        path: path.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELECTOR: &str = "app=a,part=watchdog";
    const MANIFEST: &str = "
apiVersion: batch/v1
kind: CronJob
metadata:
  name: a-watchdog
spec:
  schedule: '* * * * *'
  jobTemplate:
    metadata: {labels: {app: a, part: watchdog}}
    spec:
      template:
        metadata: {labels: {app: a, part: watchdog, more: more}}
        spec:
          restartPolicy: Never
          containers: [{name: c, image: i, resources: {requests: {cpu: 1, memory: 32Mi}}}]
";

    fn refused(change: (&str, &str)) -> String {
        let text = MANIFEST.replacen(change.0, change.1, 1);
        assert_ne!(text, MANIFEST, "{change:?}");
        cron_job(&text, SELECTOR).unwrap_err().to_string()
    }

    /// K8S-40
    #[test]
    fn a_manifest_that_cannot_be_used_names_the_field_and_what_to_write() {
        let read = cron_job(MANIFEST, SELECTOR).unwrap();
        assert_eq!(read.name_any(), "a-watchdog");
        let long = format!("name: {}", "a".repeat(MAX_NAME + 1));
        for (change, words) in [
            (
                ("kind: CronJob", "kind: Job"),
                "kind: write apiVersion: batch/v1 and kind: CronJob",
            ),
            (
                ("name: a-watchdog", long.as_str()),
                "metadata.name: write at most 52 ",
            ),
            (
                ("'* * * * *'", "''"),
                "spec.schedule: write a schedule, such as",
            ),
            (
                ("  jobTemplate:", "  paused: true\n  jobTemplate:"),
                "spec.paused: is not a field",
            ),
            (
                ("image: i", "imagePullPolice: x"),
                "spec.jobTemplate.spec.template.spec.containers[0].imagePullPolice: is not a field",
            ),
            (
                ("schedule: '* * * * *'", "schedule: 5"),
                "spec.schedule: invalid type",
            ),
            (
                ("part: watchdog}}", "part: b}}"),
                "spec.jobTemplate.metadata.labels: write part: watchdog",
            ),
            (
                ("part: watchdog, more", "more"),
                "spec.jobTemplate.spec.template.metadata.labels: write part: watchdog",
            ),
            (("kind: CronJob", "kind: ]"), "not valid YAML near line 3"),
        ] {
            let refused = refused(change);
            assert!(refused.starts_with(words), "{refused}");
        }
        let none = refused(("containers: [{", "containers: []\n          more: [{"));
        assert!(none.contains("more: is not a field"), "{none}");
    }

    /// K8S-7
    #[test]
    fn the_manifest_says_whether_the_watchdog_is_suspended() {
        let suspended = MANIFEST.replace("spec:\n  schedule", "spec:\n  suspend: true\n  schedule");
        let with = |text: Option<&str>| Manifests {
            cron_jobs: Some(
                text.into_iter()
                    .map(|text| (Task::Watchdog, cron_job(text, SELECTOR).unwrap()))
                    .collect(),
            ),
        };
        let jobs = Some(Watchdog::Jobs);
        assert_eq!(with(Some(MANIFEST)).watchdog(jobs), jobs);
        assert_eq!(
            with(Some(&suspended)).watchdog(jobs),
            Some(Watchdog::Suspended)
        );
        assert_eq!(with(None).watchdog(jobs), Some(Watchdog::Disabled));
        assert_eq!(Manifests::default().watchdog(jobs), jobs);
        for other in [None, Some(Watchdog::InProcess), Some(Watchdog::Disabled)] {
            assert_eq!(with(Some(MANIFEST)).watchdog(other), other);
        }
    }
}
