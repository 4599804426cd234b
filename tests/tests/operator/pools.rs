//! Several operators in one cluster: of different pools, which share nothing, and of one pool, which report the
//! conflict (D37).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::{ListParams, Patch, PatchParams};
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Operator, Pod, Site, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_secs(30);
const TENANTS: usize = 50;
const EDITS: u64 = 100;
/// How long two operators must not write about a tenant that both would serve.
const QUIET: Duration = Duration::from_secs(5);

/// One release with its tenants.
struct Release {
    site: Site,
    operator: Operator,
    pod: Pod,
    tenants: Vec<Tenant>,
}

impl Release {
    async fn start(site: Site, prefix: &str) -> anyhow::Result<Self> {
        let names = (0..TENANTS).map(|number| format!("{prefix}-{number:02}"));
        let tenants = names.map(|name| site.tenant(&name)).collect();
        Ok(Self {
            operator: site.operator().await?,
            pod: site.pod().await?,
            tenants,
            site,
        })
    }

    async fn admit(&self) -> anyhow::Result<()> {
        for tenant in &self.tenants {
            self.site.apply_tenant(tenant).await?;
            self.site.apply(&self.site.quota(tenant, 1)).await?;
        }
        for tenant in &self.tenants {
            self.site.await_ready(tenant).await?;
        }
        Ok(())
    }

    /// Changes each tenant and its quota, one after the other.
    async fn edit(&self) -> anyhow::Result<()> {
        for (edit, tenant) in (1..=EDITS).zip(self.tenants.iter().cycle()) {
            if edit % 2 == 0 {
                self.site.apply(&self.site.quota(tenant, edit)).await?;
            } else {
                let mut tenant = tenant.clone();
                tenant.spec()["displayName"] = json!(format!("edit {edit}"));
                self.site.apply(&tenant.resource).await?;
            }
        }
        for tenant in &self.tenants {
            self.site.await_ready(tenant).await?;
            let quota = format!("{}-default", tenant.name);
            let quota = ("ChatQuota", quota.as_str());
            self.site
                .await_condition(quota, "Ready", "True/Ready")
                .await?;
        }
        Ok(())
    }

    fn is_own(&self, object: &str) -> bool {
        let mut names = self.tenants.iter().map(|tenant| tenant.name.as_str());
        names.any(|name| object == name || object == format!("{name}-default"))
    }

    /// Everything in the cluster that claims to belong to this release does, and nothing else.
    async fn shares_nothing(&self) -> anyhow::Result<()> {
        let site = &self.site;
        let ids: BTreeSet<_> = self
            .tenants
            .iter()
            .map(|tenant| format!("minichat-tenant-{}", tenant.id))
            .collect();
        let rendered = ListParams::default().labels("minichat.dev/pool");
        let rendered = site.api("Secret", &site.namespace)?.list(&rendered).await?;
        let names = rendered
            .items
            .iter()
            .filter_map(|one| one.metadata.name.clone());
        assert_eq!(names.collect::<BTreeSet<_>>(), ids);

        let configz = self.pod.admin.get_absolute("/configz").await?.expect(200)?;
        assert_eq!(configz.as_array().map(Vec::len), Some(TENANTS));

        for tenant in &self.tenants {
            let object = site
                .get("ChatTenant", &tenant.name)
                .await?
                .context("gone")?;
            assert_eq!(
                object["status"]["operatorNamespace"],
                site.namespace.as_str()
            );
            let writers = Site::managers(&object);
            let wanted = ("minichat-operator".to_owned(), "status".to_owned());
            let of_status: Vec<_> = writers.iter().filter(|one| one.1 == "status").collect();
            assert_eq!(of_status, [&wanted]);
        }

        let writes = site.operator_writes()?;
        let foreign = writes.iter().filter(|write| match write.resource.as_str() {
            "chattenants" | "chatquotas" => !self.is_own(&write.name),
            "secrets" => write.namespace != site.namespace || !ids.contains(&write.name),
            "events" => write.namespace != site.tenants,
            _ => true,
        });
        let foreign: Vec<_> = foreign.collect();
        assert!(foreign.is_empty(), "{foreign:?}");

        let events = site.api("Event", &site.tenants)?;
        let events = events.list(&ListParams::default()).await?;
        let reported: Vec<&Value> = events
            .items
            .iter()
            .map(|event| &event.data)
            .filter(|event| event["reportingInstance"] == self.operator.identity())
            .collect();
        assert!(!reported.is_empty());
        for event in reported {
            let about = event["regarding"]["name"].as_str().unwrap_or_default();
            assert!(self.is_own(about), "{event}");
        }
        Ok(())
    }
}

/// D37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_with_pools_of_their_own_share_nothing() -> anyhow::Result<()> {
    let first = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let (a, b) = (
        first.another_release(DatabaseKind::Sqlite, "a").await?,
        first.another_release(DatabaseKind::Sqlite, "b").await?,
    );
    let (a, b) = (Release::start(a, "a").await?, Release::start(b, "b").await?);
    tokio::try_join!(a.admit(), b.admit())?;
    tokio::try_join!(a.edit(), b.edit())?;
    // A quota without a tenant is reported once.
    let nowhere = json!({
        "apiVersion": "minichat.dev/v1alpha1", "kind": "ChatQuota",
        "metadata": {"name": "nowhere", "namespace": first.tenants},
        "spec": {"tenantRef": {"name": "nowhere"}},
    });
    a.shares_nothing().await?;
    b.shares_nothing().await?;
    first.apply(&nowhere).await?;
    let quota = ("ChatQuota", "nowhere");
    first
        .await_condition(quota, "Accepted", "False/TenantNotFound")
        .await?;
    let is_reported = async || Ok(!first.events("nowhere").await?.is_empty());
    eventually("reported by an event", SOON, is_reported).await?;
    // Both report a later change, so the earlier one was reported by one.
    let (mut late_a, mut late_b) = (a.site.tenant("late-a"), b.site.tenant("late-b"));
    late_a.spec()["displayName"] = json!("late");
    late_b.spec()["displayName"] = json!("late");
    a.site.admit([&late_a]).await?;
    b.site.admit([&late_b]).await?;
    assert_eq!(first.events("nowhere").await?, ["Refused"]);

    // A tenant that is deleted from one pool can be created in the other.
    let mut moved = b.site.tenant("late-a");
    moved.id = late_a.id;
    moved.spec()["tenantId"] = json!(late_a.id.to_string());
    first.delete("ChatTenant", "late-a").await?;
    let is_gone = async || Ok(a.site.rendered(&late_a).await?.is_none());
    eventually("gone from the first pool", SOON, is_gone).await?;
    b.site.admit([&moved]).await?;
    b.pod.chat(&moved).await
}

/// Writes of both operators.
fn writes(sites: [&Site; 2]) -> anyhow::Result<usize> {
    let [a, b] = sites.map(Site::operator_writes);
    Ok(a?.len() + b?.len())
}

/// D37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_of_one_pool_say_so_and_do_not_take_turns() -> anyhow::Result<()> {
    let first = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let second = first
        .another_release(DatabaseKind::Sqlite, "default")
        .await?;
    let _first_operator = first.operator().await?;
    let pod = first.pod().await?;
    let mut tenant = first.tenant("acme");
    first.apply(&first.quota(&tenant, 7)).await?;
    first.admit([&tenant]).await?;
    // Else the quota could change the revision later.
    first
        .await_condition(("ChatQuota", "acme-default"), "Ready", "True/Ready")
        .await?;
    let before = first.status(&tenant).await?;

    let mut second_operator = second.operator().await?;
    let object = ("ChatTenant", "acme");
    let message = first
        .await_condition(object, "Accepted", "False/Conflict")
        .await?;
    for namespace in [&first.namespace, &second.namespace] {
        assert!(message.contains(namespace), "{message}");
    }
    first
        .await_condition(object, "Ready", "False/Conflict")
        .await?;
    let status = first.status(&tenant).await?;
    assert_eq!(status["revision"], before["revision"]);
    assert_eq!(status["operatorNamespace"], first.namespace.as_str());
    pod.chat(&tenant).await?;

    // A tenant that is created now is served by one of them, and reports the same.
    let late = first.tenant("late");
    first.apply_tenant(&late).await?;
    first
        .await_condition(("ChatTenant", "late"), "Accepted", "False/Conflict")
        .await?;
    let is_rendered = async || {
        let by = [first.rendered(&late).await?, second.rendered(&late).await?];
        Ok(by.iter().flatten().count() == 1)
    };
    eventually("rendered by one of them", SOON, is_rendered).await?;

    // The first operator's tenant continues to be served, by the first.
    tenant.spec()["displayName"] = json!("edited");
    first.apply(&tenant.resource).await?;
    let lands = async || {
        let revision = first.status(&tenant).await?["revision"].clone();
        Ok(revision != before["revision"] && pod.configz(&tenant).await?["revision"] == revision)
    };
    eventually("the edit on the pod", SOON, lands).await?;
    assert!(second.rendered(&tenant).await?.is_none());

    settle([&first, &second]).await?;
    let settled = writes([&first, &second])?;
    tokio::time::sleep(QUIET).await;
    let since = writes([&first, &second])? - settled;
    assert_eq!(since, 0, "they take turns: {:?}", first.operator_writes()?);

    // The second operator ends, and removes its claim.
    second_operator.signal(Signal::TERM)?;
    assert!(second_operator.ended().await?.success());
    first.await_ready(&tenant).await?;
    let status = first.status(&tenant).await?;
    assert!(status["contender"].is_null(), "{status:#}");
    Ok(())
}

/// Waits until neither of them has written for a while.
async fn settle(sites: [&Site; 2]) -> anyhow::Result<()> {
    let mut last = writes(sites)?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = writes(sites)?;
        if now == last {
            return Ok(());
        }
        last = now;
    }
}

/// D37: the rendered Secrets of both pools are in one namespace, and are named by the id only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pools_in_one_namespace_each_keeps_its_tenants_of_one_id() -> anyhow::Result<()> {
    let first = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let second = first.release_beside(DatabaseKind::Sqlite, "b").await?;
    let first_operator = first.operator().await?;
    let _second_operator = second.operator().await?;
    let (pod, second_pod) = (first.pod().await?, second.pod().await?);
    let (mine, other) = (first.tenant("mine"), second.tenant("other"));
    let mut theirs = second.tenant("theirs");
    theirs.id = mine.id;
    theirs.spec()["tenantId"] = json!(mine.id.to_string());
    first.admit([&mine]).await?;
    second.admit([&other]).await?;
    let before = first.rendered(&mine).await?;

    second.apply_tenant(&theirs).await?;
    let object = ("ChatTenant", "theirs");
    let message = second
        .await_condition(object, "Accepted", "False/Conflict")
        .await?;
    assert!(
        message.starts_with("spec.tenantId: ") && message.contains("a namespace of its own"),
        "{message}"
    );
    assert!(!message.contains("mine"), "{message}");
    second
        .await_condition(object, "Ready", "False/Conflict")
        .await?;
    second
        .await_condition(object, "Stalled", "True/Conflict")
        .await?;
    assert_eq!(first.rendered(&mine).await?, before);
    pod.chat(&mine).await?;
    second_pod.chat(&other).await?;

    // One of them loses its label: it still belongs to its operator.
    let label = json!({"metadata": {"labels": {"minichat.dev/pool": "nobodys"}}});
    let name = format!("minichat-tenant-{}", mine.id);
    let pool = first.place(&first.namespace);
    pool.patch("Secret", &name, &label).await?;
    let is_repaired = async || {
        let secret = first.rendered(&mine).await?.unwrap_or_default();
        Ok(secret["metadata"]["labels"]["minichat.dev/pool"] == "default")
    };
    eventually("labelled again", SOON, is_repaired).await?;

    // After the first tenant is deleted, the other one is served.
    first.delete("ChatTenant", "mine").await?;
    let ready = second.await_ready(&theirs).await;
    ready.with_context(|| first_operator.log().unwrap_or_default())?;
    second_pod.chat(&theirs).await
}

/// D37, D41: both would use the same Lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_release_of_a_pool_in_a_namespace_says_that_it_only_waits() -> anyhow::Result<()>
{
    let first = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let second = first
        .release_beside(DatabaseKind::Sqlite, "default")
        .await?;
    let operator = first.operator().await?;
    let pod = first.pod().await?;
    let tenant = first.tenant("acme");
    first.admit([&tenant]).await?;
    let waiting = second.operator().await?;
    let says_so = async || {
        let log = waiting.log()?;
        Ok(log.contains("this one only waits for its end") && log.contains(operator.identity()))
    };
    eventually("reported who holds the Lease", SOON, says_so).await?;
    assert_eq!(second.operator_writes()?.len(), 0);
    let is_ready = async || Ok(waiting.readiness().await?.0 == 200);
    eventually("ready to take over", SOON, is_ready).await?;
    pod.chat(&tenant).await
}

/// D37: an administrator gives a tenant to the other operator while the first one is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_operator_serves_now_is_not_left_in_the_first_pool() -> anyhow::Result<()> {
    let first = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let second = first
        .another_release(DatabaseKind::Sqlite, "default")
        .await?;
    let operator = first.operator().await?;
    let pod = first.pod().await?;
    let tenant = first.tenant("acme");
    first.admit([&tenant]).await?;
    operator.kill().await?;
    let _second_operator = second.operator().await?;
    first
        .await_condition(("ChatTenant", "acme"), "Accepted", "False/Conflict")
        .await?;

    let cleared = json!({"status": {"operatorNamespace": null}});
    let tenants = first.api("ChatTenant", &first.tenants)?;
    let parameters = PatchParams::default();
    tenants
        .patch_status("acme", &parameters, &Patch::Merge(cleared))
        .await?;
    let is_moved = async || Ok(second.rendered(&tenant).await?.is_some());
    eventually("rendered by the second", SOON, is_moved).await?;
    assert!(first.rendered(&tenant).await?.is_some());
    pod.chat(&tenant).await?;

    let _operator = first.operator().await?;
    let is_gone = async || {
        let is_rendered = first.rendered(&tenant).await?.is_some();
        Ok(!is_rendered && pod.configz(&tenant).await?.is_null())
    };
    eventually("gone from the first pool", SOON, is_gone).await?;
    let status = first.status(&tenant).await?;
    assert_eq!(status["operatorNamespace"], second.namespace.as_str());
    Ok(())
}
