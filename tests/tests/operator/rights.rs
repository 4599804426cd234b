//! The operator's rights in the chart: they are sufficient and necessary.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams};
use minichat_cluster::Write;
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Operator, Site, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use super::programs;

const SOON: Duration = Duration::from_secs(30);
/// The pool's jobs exist, but start nothing.
const SUSPENDED: [&str; 2] = ["watchdog.suspend=true", "cleanup.suspend=true"];

/// One right that a rule of a Role grants.
#[derive(Debug)]
struct Right {
    namespace: String,
    /// Index of the rule in the Role.
    rule: usize,
    resource: String,
    verb: String,
}

/// How the absence of the right shows.
enum Shows {
    /// `/readyz` names these objects.
    Missing(&'static str),
    /// A write with this verb is refused.
    Refused(&'static str),
    /// The log reports it.
    Logged(&'static str),
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

/// Every right of `role` in `namespace`.
fn rights(role: &Value, namespace: &str) -> anyhow::Result<Vec<Right>> {
    let rules = role["rules"].as_array();
    let mut rights = Vec::new();
    for (rule, found) in rules.context("no rules")?.iter().enumerate() {
        for resource in texts(&found["resources"]) {
            for verb in texts(&found["verbs"]) {
                rights.push(Right {
                    namespace: namespace.to_owned(),
                    rule,
                    resource: resource.clone(),
                    verb,
                });
            }
        }
    }
    Ok(rights)
}

impl Right {
    /// What the operator needs it for.
    fn shows(&self, site: &Site) -> anyhow::Result<Shows> {
        let is_of_pool = self.namespace == site.namespace;
        let is_read = matches!(self.verb.as_str(), "list" | "watch");
        Ok(match (self.resource.as_str(), self.verb.as_str()) {
            ("chattenants", _) if is_read => Shows::Missing("chattenants in namespace"),
            ("chatquotas", _) if is_read => Shows::Missing("chatquotas in namespace"),
            ("secrets", _) if is_read && is_of_pool => {
                Shows::Missing("rendered secrets in namespace")
            }
            ("secrets", _) if is_read => Shows::Missing("secrets in namespace"),
            ("configmaps", _) if is_read => Shows::Missing("configmaps called minichat-managed"),
            ("pods", _) if is_read => Shows::Missing("pods in namespace"),
            ("cronjobs", _) if is_read => Shows::Missing("cronjobs in namespace"),
            ("jobs", _) if is_read => Shows::Missing("jobs in namespace"),
            (
                "chattenants" | "chattenants/status" | "chatquotas/status" | "jobs" | "configmaps",
                "patch",
            ) => Shows::Refused("patch"),
            // An apply of a missing object creates it.
            ("secrets" | "cronjobs", "patch" | "create") if is_of_pool => Shows::Refused("patch"),
            ("secrets" | "cronjobs", "delete") if is_of_pool => Shows::Refused("delete"),
            ("events", "create") => Shows::Refused("create"),
            ("leases", "get" | "create" | "patch") if is_of_pool => {
                Shows::Logged("the Lease cannot be renewed")
            }
            _ => anyhow::bail!("{self:?} is not needed"),
        })
    }

    /// The Role without it.
    fn taken_from(&self, role: &Value) -> anyhow::Result<Value> {
        let mut less = role.clone();
        let rules = less["rules"].as_array_mut().context("no rules")?;
        let whole = rules.remove(self.rule);
        let with = |resources: Vec<String>, verbs: Vec<String>| {
            let mut part = whole.clone();
            part["resources"] = json!(resources);
            part["verbs"] = json!(verbs);
            part
        };
        let (mut resources, mut verbs) = (texts(&whole["resources"]), texts(&whole["verbs"]));
        resources.retain(|resource| *resource != self.resource);
        if !resources.is_empty() {
            rules.push(with(resources, verbs.clone()));
        }
        verbs.retain(|verb| *verb != self.verb);
        if !verbs.is_empty() {
            rules.push(with(vec![self.resource.clone()], verbs));
        }
        Ok(less)
    }

    async fn is_shown(
        &self,
        site: &Site,
        operator: &Operator,
        seen: usize,
    ) -> anyhow::Result<bool> {
        let shows = self.shows(site)?;
        let (resource, subresource) = self
            .resource
            .split_once('/')
            .unwrap_or((self.resource.as_str(), ""));
        Ok(match shows {
            Shows::Missing(name) => {
                let (status, missing) = operator.readiness().await?;
                status == 503 && missing.contains(name)
            }
            Shows::Refused(verb) => {
                let is_it = |write: &Write| {
                    (write.verb.as_str(), write.code) == (verb, 403)
                        && (write.resource.as_str(), write.subresource.as_str())
                            == (resource, subresource)
                };
                site.operator_writes()?.iter().skip(seen).any(is_it)
            }
            Shows::Logged(text) => operator.log()?.contains(text),
        })
    }
}

/// Leaves work for every right while no operator runs.
async fn leave_work(site: &Site, tenant: &Tenant, number: u64) -> anyhow::Result<()> {
    site.apply(&site.quota(tenant, number)).await?;
    let mut tenant = tenant.clone();
    tenant.spec()["displayName"] = json!(format!("try {number}"));
    tenant.resource["metadata"]["finalizers"] = json!(["minichat.dev/tenant"]);
    site.apply_tenant(&tenant).await?;
    let secrets = site.api("Secret", &site.namespace)?;
    let name = format!("minichat-tenant-{}", tenant.id);
    // It may not exist.
    let _ = secrets.delete(&name, &DeleteParams::default()).await;
    let left_over = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "minichat.dev/tenant-config",
        "metadata": {
            "name": format!("minichat-tenant-{}", Uuid::new_v4()), "namespace": site.namespace,
            "labels": {"minichat.dev/pool": "default"},
            "annotations": {"minichat.dev/source": format!("{}/nobody", site.tenants)},
        },
    });
    site.apply(&left_over).await?;
    leave_cron_jobs(site).await?;
    site.finished_job(&format!("run-{number}"), &super::jobs::report(1))
        .await?;
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), &site.namespace);
    let _ = leases.delete(&site.lease(), &DeleteParams::default()).await;
    Ok(())
}

/// One `CronJob` is missing, and one is left over.
async fn leave_cron_jobs(site: &Site) -> anyhow::Result<()> {
    let cron_jobs = site.cron_jobs()?;
    // It may not exist.
    let _ = cron_jobs
        .delete("minichat-pool-watchdog", &DeleteParams::default())
        .await;
    let left_over = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {
            "name": "left-over", "namespace": site.namespace,
            "labels": {"app.kubernetes.io/managed-by": "minichat-operator"},
            "ownerReferences": [site.managed_owner().await?],
        },
        "spec": {"schedule": "0 3 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}],
        }}}}},
    });
    site.apply(&left_over).await
}

/// K8S-15, K8S-16; check 8 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_verb_of_the_chart_the_operator_fails_and_says_where() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    let (pool, tenants) = (
        rights(site.role(&site.namespace)?, &site.namespace)?,
        rights(site.role(&site.tenants)?, &site.tenants)?,
    );
    assert!(pool.len() > 10 && tenants.len() > 5);
    for (right, number) in pool.iter().chain(&tenants).zip(1..) {
        leave_work(&site, &tenant, number).await?;
        let role = site.role(&right.namespace)?;
        site.tier().kubectl().apply(&right.taken_from(role)?)?;
        let Right {
            namespace,
            verb,
            resource,
            ..
        } = right;
        site.await_right(namespace, verb, resource, false).await?;
        let seen = site.operator_writes()?.len();
        let operator = site.operator_of_jobs(&SUSPENDED).await?;
        let is_shown = async || right.is_shown(&site, &operator, seen).await;
        let shown = eventually(&format!("shown that {right:?} is missing"), SOON, is_shown).await;
        shown.with_context(|| operator.log().unwrap_or_default())?;
        operator.kill().await?;
        site.tier().kubectl().apply(role)?;
        site.await_right(namespace, verb, resource, true).await?;
    }

    // With all rights it works.
    let operator = site.operator_of_jobs(&SUSPENDED).await?;
    let ready = site.await_ready(&tenant).await;
    ready.with_context(|| operator.log().unwrap_or_default())?;
    let is_ready = async || Ok(operator.readiness().await?.0 == 200);
    eventually("ready with every right", SOON, is_ready).await?;
    pod.chat(&tenant).await
}

/// K8S-16, K8S-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_verb_of_the_chart_a_pod_fails_and_says_so() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let (user, role) = (site.pool_user()?, site.pool_role()?);
    let rights = rights(role, &site.namespace)?;
    assert!(!rights.is_empty());
    for right in rights {
        site.tier().kubectl().apply(&right.taken_from(role)?)?;
        let (namespace, verb, resource) = (&site.namespace, &right.verb, &right.resource);
        site.await_right_of(&user, namespace, (verb, resource), false)
            .await?;
        let pod = site.process_of_a_pod("").await?;
        let is_shown = async || Ok(pod.log()?.contains("the pool cannot be watched"));
        let shown = eventually(&format!("shown that {right:?} is missing"), SOON, is_shown).await;
        shown.with_context(|| pod.log().unwrap_or_default())?;
        pod.kill().await?;
        site.tier().kubectl().apply(role)?;
        site.await_right_of(&user, namespace, (verb, resource), true)
            .await?;
    }
    site.pod().await?;
    Ok(())
}
