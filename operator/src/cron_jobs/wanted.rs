//! What a `CronJob` is to be: its manifest, and what the operator decides.

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;

use crate::manifests::{Task, is_suspended};
use crate::writer::MANAGER;

/// Label of what a program made, with its name.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The `CronJob` of `task` in `namespace`. `owner` is the `ConfigMap` with the manifest.
pub(super) fn wanted(
    task: Task,
    manifest: &CronJob,
    owner: &OwnerReference,
    namespace: &str,
) -> CronJob {
    let mut wanted = manifest.clone();
    wanted.status = None;
    wanted.metadata.namespace = Some(namespace.to_owned());
    wanted.metadata.owner_references = Some(vec![owner.clone()]);
    let labels = wanted.labels_mut();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let suspend = is_suspended(manifest);
    if let Some(spec) = &mut wanted.spec {
        // Also `false`, so that it is kept.
        spec.suspend = Some(suspend);
        // Every minute is every minute.
        if task == Task::Cleanup {
            spec.schedule = spread(&spec.schedule, &owner.uid);
        }
    }
    wanted
}

/// A schedule for each so many minutes, beginning at a minute that `uid` decides: the clean-ups
/// of several releases do not call the same provider at the same second. Any other schedule stays.
fn spread(schedule: &str, uid: &str) -> String {
    let step = schedule.trim().split_once(char::is_whitespace);
    let step = step.and_then(|(minute, rest)| {
        let step: u32 = minute.strip_prefix("*/")?.parse().ok()?;
        Some((step, rest))
    });
    match step {
        Some((step @ 2..=59, rest)) => match hash(uid) % step {
            0 => schedule.to_owned(),
            first => format!("{first}-59/{step} {}", rest.trim()),
        },
        _ => schedule.to_owned(),
    }
}

/// FNV-1a: the same in every process and release.
fn hash(text: &str) -> u32 {
    let step = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    text.bytes().fold(0x811c_9dc5, step)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// K8S-40
    #[test]
    fn clean_ups_of_several_releases_begin_at_different_minutes() {
        let uids = (0..200).map(|number| format!("5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f{number:04}"));
        let schedules: BTreeSet<_> = uids.map(|uid| spread("*/5 * * * *", &uid)).collect();
        let all = [
            "*/5 * * * *",
            "1-59/5 * * * *",
            "2-59/5 * * * *",
            "3-59/5 * * * *",
            "4-59/5 * * * *",
        ];
        assert_eq!(schedules, all.map(str::to_owned).into());
        for own in [
            "7 * * * *",
            "*/1 * * * *",
            "*/60 * * * *",
            "@hourly",
            "0/5 * * * *",
            "",
        ] {
            assert_eq!(spread(own, "u"), own);
        }
        assert_eq!(hash("a"), 0xe40c_292c, "it must never change");
    }

    /// K8S-13, K8S-40
    #[test]
    fn owner_labels_and_suspension_are_the_operators() {
        let manifest: CronJob = serde_json::from_value(json!({
            "metadata": {
                "name": "n", "namespace": "other", "labels": {"a": "b", MANAGED_BY: "Helm"},
            },
            "spec": {"schedule": "*/2 * * * *", "jobTemplate": {}},
        }))
        .unwrap();
        let owner = OwnerReference {
            name: "managed".to_owned(),
            uid: "u".to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let wanted = wanted(Task::Watchdog, &manifest, &owner, "here");
        assert_eq!(wanted.namespace().as_deref(), Some("here"));
        assert_eq!(wanted.owner_references(), [owner]);
        assert_eq!(wanted.labels()["a"], "b");
        assert_eq!(wanted.labels()[MANAGED_BY], "minichat-operator");
        let spec = wanted.spec.unwrap();
        assert_eq!(
            (spec.suspend, spec.schedule.as_str()),
            (Some(false), "*/2 * * * *")
        );
    }
}
