//! The `CronJobs` that the API server has, and how they compare with the wanted ones.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::wanted::MANAGED_BY;
use crate::writer::MANAGER;

/// What the watch has shown, by name.
#[derive(Debug, Default)]
pub(super) struct Found {
    all: BTreeMap<String, CronJob>,
    /// Of a list that is being read.
    listed: BTreeMap<String, CronJob>,
    pub(super) was_listed: bool,
    /// What the API server has made of the last apply.
    answers: HashMap<String, Value>,
}

/// Whose a `CronJob` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Ours,
    /// Ours, and on its way out: it can be made again when it is gone.
    Ending,
    Foreign,
}

impl Found {
    pub(super) fn note(&mut self, event: Event<CronJob>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(cron_job) => {
                self.listed.insert(cron_job.name_any(), cron_job);
            }
            Event::InitDone => {
                self.all = std::mem::take(&mut self.listed);
                self.was_listed = true;
            }
            Event::Apply(cron_job) => {
                self.all.insert(cron_job.name_any(), cron_job);
            }
            Event::Delete(cron_job) => {
                self.all.remove(&cron_job.name_any());
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&CronJob> {
        self.all.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &CronJob> {
        self.all.values()
    }

    /// Remembers what the API server has made of an apply.
    pub(super) fn answered(&mut self, answer: CronJob) {
        let name = answer.name_any();
        self.answers.insert(name.clone(), view(&answer));
        self.all.insert(name, answer);
    }

    /// Whether `found` needs no write. The API server, or a webhook of the cluster, may store
    /// something else than was applied, such as `1Gi` for `1024Mi`: what it has made of the last
    /// apply is not applied again.
    pub(super) fn is_settled(&self, found: &CronJob, wanted: &CronJob) -> bool {
        let annotations = found.annotations();
        let mut annotated = wanted.annotations().iter();
        if !annotated.all(|(key, value)| annotations.get(key) == Some(value)) {
            return false;
        }
        let now = view(found);
        contains(&now, &view(wanted)) || self.answers.get(&found.name_any()) == Some(&now)
    }
}

/// Whose `found` is, if the operator's are owned by `owner`.
pub(super) fn standing(found: &CronJob, owner: &OwnerReference) -> Standing {
    let owners = found.owner_references().iter();
    let mut controllers = owners.filter(|one| one.controller == Some(true));
    match controllers.next() {
        Some(controller) if controller.uid == owner.uid => {
            match found.metadata.deletion_timestamp {
                Some(_) => Standing::Ending,
                None => Standing::Ours,
            }
        }
        // The cluster deletes it with the ConfigMap that was there before.
        Some(before) if (&before.kind, &before.name) == (&owner.kind, &owner.name) => {
            Standing::Ending
        }
        // Somebody took the owner away.
        None if found
            .labels()
            .get(MANAGED_BY)
            .is_some_and(|by| by == MANAGER) =>
        {
            Standing::Ours
        }
        Some(_) | None => Standing::Foreign,
    }
}

/// The parts that the operator writes, but for annotations, of which others write most.
fn view(cron_job: &CronJob) -> Value {
    let metadata = &cron_job.metadata;
    json!({
        "labels": metadata.labels,
        "ownerReferences": metadata.owner_references,
        "spec": cron_job.spec,
    })
}

/// Whether `found` has all that `wanted` has. Lists must have the same length: somebody may have
/// added a container.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| found.get(key).is_some_and(|found| contains(found, wanted))),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron_job(change: impl FnOnce(&mut Value)) -> CronJob {
        let owner = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": "managed", "uid": "u", "controller": true,
        });
        let mut object = json!({
            "metadata": {"name": "n", "labels": {MANAGED_BY: MANAGER}, "ownerReferences": [owner]},
            "spec": {"schedule": "* * * * *", "suspend": false, "jobTemplate": {"spec": {"template": {
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            }}}},
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn owner() -> OwnerReference {
        cron_job(|_| ()).owner_references()[0].clone()
    }

    /// D38: what another program made is left alone.
    #[test]
    fn only_what_the_config_map_owns_is_ours() {
        let of = |change: fn(&mut Value)| standing(&cron_job(change), &owner());
        assert_eq!(of(|_| ()), Standing::Ours);
        let ending = |object: &mut Value| {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        };
        assert_eq!(of(ending), Standing::Ending);
        let no_label = |object: &mut Value| object["metadata"]["labels"] = json!({});
        assert_eq!(of(no_label), Standing::Ours, "its label was taken away");
        let no_owner = |object: &mut Value| object["metadata"]["ownerReferences"] = json!([]);
        assert_eq!(of(no_owner), Standing::Ours, "its owner was taken away");
        let neither = |object: &mut Value| object["metadata"] = json!({"name": "n"});
        assert_eq!(of(neither), Standing::Foreign);
        let before = |object: &mut Value| {
            object["metadata"]["ownerReferences"][0]["uid"] = json!("before");
        };
        assert_eq!(of(before), Standing::Ending);
        let another = |object: &mut Value| {
            object["metadata"]["ownerReferences"][0]["uid"] = json!("v");
            object["metadata"]["ownerReferences"][0]["name"] = json!("another");
        };
        assert_eq!(of(another), Standing::Foreign);
    }

    /// K8S-12
    #[test]
    fn defaults_of_the_api_server_are_no_difference_and_edits_are() {
        let found = Found::default();
        let wanted = cron_job(|_| ());
        let settled = |change: fn(&mut Value)| found.is_settled(&cron_job(change), &wanted);
        assert!(settled(|object| {
            object["spec"]["successfulJobsHistoryLimit"] = json!(3);
            object["metadata"]["labels"]["more"] = json!("more");
            object["metadata"]["annotations"] = json!({"a": "b"});
        }));
        let annotated = cron_job(|object| object["metadata"]["annotations"] = json!({"a": "b"}));
        assert!(!found.is_settled(&wanted, &annotated));
        assert!(found.is_settled(&annotated, &annotated));
        assert!(!settled(|object| object["spec"]["suspend"] = json!(true)));
        assert!(!settled(|object| object["metadata"]["labels"] = json!({})));
        assert!(!settled(
            |object| object["metadata"]["ownerReferences"] = json!([])
        ));
        assert!(!settled(|object| {
            let pod = &mut object["spec"]["jobTemplate"]["spec"]["template"]["spec"];
            pod["containers"] = json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]);
        }));
    }

    /// K8S-12: else it would be applied for ever.
    #[test]
    fn what_the_api_server_has_made_of_an_apply_is_not_applied_again() {
        let mut found = Found::default();
        let wanted = cron_job(|_| ());
        let webhook = |object: &mut Value| {
            let pod = &mut object["spec"]["jobTemplate"]["spec"]["template"]["spec"];
            pod["containers"][0]["image"] = json!("mirror/i");
        };
        assert!(!found.is_settled(&cron_job(webhook), &wanted));
        found.answered(cron_job(webhook));
        assert!(found.is_settled(&cron_job(webhook), &wanted));
        let edited = cron_job(|object| {
            webhook(object);
            object["spec"]["suspend"] = json!(true);
        });
        assert!(!found.is_settled(&edited, &wanted));
    }
}
