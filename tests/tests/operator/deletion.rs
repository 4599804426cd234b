//! What remains of a deleted tenant, and of a deleted release (D52).

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Operator, Site, eventually};
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_secs(30);

async fn is_unrendered(site: &Site, tenant: &Tenant, what: &str) -> anyhow::Result<()> {
    let is_gone = async || Ok(site.rendered(tenant).await?.is_none());
    eventually(what, SOON, is_gone).await
}

/// K8S-13, K8S-28, D52
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_and_its_namespace_go_without_the_operator_which_then_cleans_up()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let _pod = site.pod().await?;
    let (gone, kept) = (site.tenant("gone"), site.tenant("kept"));
    site.admit([&gone, &kept]).await?;
    operator.kill().await?;

    site.delete("ChatTenant", "gone").await?;
    assert!(
        site.get("ChatTenant", "gone").await?.is_none(),
        "nothing holds it"
    );
    assert!(site.rendered(&gone).await?.is_some());
    let operator = site.operator().await?;
    is_unrendered(&site, &gone, "the deletion that was missed is made up for").await?;
    site.await_ready(&kept).await?;
    assert!(site.rendered(&kept).await?.is_some());
    operator.kill().await?;

    let namespaces: Api<Namespace> = Api::all(site.client.clone());
    namespaces
        .delete(&site.tenants, &DeleteParams::default())
        .await?;
    let is_gone = async || Ok(namespaces.get_opt(&site.tenants).await?.is_none());
    eventually("the namespace is gone", SOON, is_gone).await?;
    Ok(())
}

/// D52: older operators gave tenants a finalizer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_finalizer_of_older_versions_is_taken_away_and_no_other() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let tenant = site.tenant("acme");
    let mut object = tenant.resource.clone();
    object["metadata"]["finalizers"] = json!(["minichat.dev/tenant", "example.com/other"]);
    for other in &tenant.others {
        site.apply(other).await?;
    }
    site.apply(&object).await?;
    let _operator = site.operator().await?;
    let finalizers = async || {
        let object = site.get("ChatTenant", "acme").await?.unwrap_or_default();
        anyhow::Ok(object["metadata"]["finalizers"].clone())
    };
    let only_other = async || Ok(finalizers().await? == json!(["example.com/other"]));
    eventually("without ours", SOON, only_other).await?;
    site.await_ready(&tenant).await?;

    // Another finalizer does not keep it served.
    site.delete("ChatTenant", "acme").await?;
    is_unrendered(&site, &tenant, "not served while it ends").await?;
    assert_eq!(finalizers().await?, json!(["example.com/other"]));
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let tenants = site.api("ChatTenant", &site.tenants)?;
    tenants
        .patch("acme", &PatchParams::default(), &none)
        .await?;
    assert!(site.get("ChatTenant", "acme").await?.is_none());
    Ok(())
}

/// D52: a backup, another field manager or an older operator may have left the finalizer on a tenant that is deleted
/// while no operator runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_ends_with_an_old_finalizer_of_anybody_is_let_go() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let (mut held, other) = (site.tenant("held"), site.tenant("other"));
    site.admit([&held]).await?;
    operator.kill().await?;
    let finalizers = json!({"metadata": {"finalizers": ["minichat.dev/tenant"]}});
    let patch = Patch::Merge(&finalizers);
    let velero = PatchParams {
        field_manager: Some("velero-server".to_owned()),
        ..PatchParams::default()
    };
    let tenants = site.api("ChatTenant", &site.tenants)?;
    tenants.patch("held", &velero, &patch).await?;
    site.delete("ChatTenant", "held").await?;
    let object = site.get("ChatTenant", "held").await?.unwrap_or_default();
    assert!(object["metadata"]["deletionTimestamp"].is_string());

    let _operator = site.operator().await?;
    let is_gone = async || Ok(site.get("ChatTenant", "held").await?.is_none());
    eventually("let go", SOON, is_gone).await?;
    is_unrendered(&site, &held, "cleaned up").await?;
    // Nothing delayed its deletion, and it can be created again.
    site.admit([&other]).await?;
    held.spec()["displayName"] = json!("again");
    site.admit([&held]).await?;
    pod.chat(&held).await
}

/// D52: `helm uninstall` deletes the `ConfigMap`, and the cluster's garbage collector the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_rendered_goes_with_the_release() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let owners = async || {
        let secret = site.rendered(&tenant).await?.unwrap_or_default();
        anyhow::Ok(secret["metadata"]["ownerReferences"].clone())
    };
    let config_maps = site.api("ConfigMap", &site.namespace)?;
    let managed = config_maps.get("minichat-managed").await?;
    let owner = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "minichat-managed",
        "uid": managed.metadata.uid, "controller": true,
    }]);
    assert_eq!(owners().await?, owner);

    operator.kill().await?;
    config_maps
        .delete("minichat-managed", &DeleteParams::default())
        .await?;
    is_unrendered(&site, &tenant, "gone with the release").await?;

    // It is deleted by mistake: tenants are served again, and have an owner once it is back.
    let managed: Value = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "minichat-managed", "namespace": site.namespace},
    });
    site.apply(&managed).await?;
    let _operator = site.operator().await?;
    site.await_ready(&tenant).await?;
    config_maps
        .delete("minichat-managed", &DeleteParams::default())
        .await?;
    is_unrendered(&site, &tenant, "gone with its owner").await?;
    let is_back = async || Ok(site.rendered(&tenant).await?.is_some());
    eventually("rendered without an owner", SOON, is_back).await?;
    assert!(owners().await?.is_null());
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await?;
    site.apply(&managed).await?;
    let is_owned = async || Ok(owners().await?[0]["name"] == "minichat-managed");
    eventually("owned again", SOON, is_owned).await?;
    Ok(())
}

/// D52: Argo CD deletes in this way too; it shows the `ConfigMap` as long as a finalizer holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_release_is_deleted_in_the_foreground_nothing_is_rendered() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let _pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let config_maps = site.api("ConfigMap", &site.namespace)?;
    let finalizers = |names: Value| Patch::Merge(json!({"metadata": {"finalizers": names}}));
    let held = finalizers(json!(["example.com/held"]));
    let parameters = PatchParams::default();
    config_maps
        .patch("minichat-managed", &parameters, &held)
        .await?;
    config_maps
        .delete("minichat-managed", &DeleteParams::foreground())
        .await?;
    let secret = format!("minichat-tenant-{}", tenant.id);
    // The garbage collector may have been faster.
    let secrets = site.api("Secret", &site.namespace)?;
    let _ = secrets.delete(&secret, &DeleteParams::default()).await;
    is_unrendered(&site, &tenant, "gone with the release").await?;

    tenant.spec()["displayName"] = json!("edited");
    site.apply(&tenant.resource).await?;
    site.await_condition(("ChatTenant", "acme"), "Programmed", "False/Pending")
        .await?;
    operator.kill().await?;
    assert!(site.rendered(&tenant).await?.is_none());
    config_maps
        .patch("minichat-managed", &parameters, &finalizers(Value::Null))
        .await?;
    Ok(())
}

/// D52: the tenant changes while its finalizer is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_finalizer_is_taken_away_although_the_tenant_has_just_changed() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let mut object = site.tenant("held").resource;
    object["metadata"]["finalizers"] = json!(["minichat.dev/tenant"]);
    site.apply(&object).await?;
    site.delete("ChatTenant", "held").await?;
    let way = site.lossy_way().await?;
    way.refuse_patches_of_tenants(1);
    let _operator = site.operator_on(&way).await?;
    let is_gone = async || Ok(site.get("ChatTenant", "held").await?.is_none());
    eventually("let go", SOON, is_gone).await
}

const TENANT: (&str, &str) = ("ChatTenant", "acme");

fn finalizers(names: &Value) -> Value {
    json!({"metadata": {"finalizers": names}})
}

/// Deletes the object called `name` in the operator's namespace, which a finalizer then keeps.
async fn delete_held(site: &Site, kind: &str, name: &str) -> anyhow::Result<()> {
    let api = site.api(kind, &site.namespace)?;
    let held = Patch::Merge(finalizers(&json!(["example.com/held"])));
    api.patch(name, &PatchParams::default(), &held).await?;
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

async fn let_go(site: &Site, kind: &str, name: &str) -> anyhow::Result<()> {
    let none = Patch::Merge(finalizers(&Value::Null));
    let api = site.api(kind, &site.namespace)?;
    api.patch(name, &PatchParams::default(), &none).await?;
    Ok(())
}

/// An edit waits for the object called `name`, and condition, event and log say for what, and what to do.
async fn is_told(site: &Site, operator: &Operator, kind: &str, name: &str) -> anyhow::Result<()> {
    site.await_condition(TENANT, "Programmed", "False/Pending")
        .await?;
    let message = site
        .await_condition(TENANT, "Programmed", "False/Blocked")
        .await?;
    let command = format!(
        "kubectl patch {} {name} --namespace {}",
        kind.to_lowercase(),
        site.namespace
    );
    for part in ["example.com/held", &command] {
        assert!(message.contains(part), "{message}");
    }
    site.await_condition(TENANT, "Stalled", "True/Blocked")
        .await?;
    let is_event = async || Ok(site.events("acme").await?.contains(&"Blocked".to_owned()));
    eventually("told by an event", SOON, is_event).await?;
    let log = operator.log()?;
    let is_logged = |line: &str| line.contains("\"WARN\"") && line.contains(&command);
    assert!(log.lines().any(is_logged), "{log}");
    Ok(())
}

/// K8S-8, K8S-9, D46: what is written into a Secret that is being deleted would go with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_waits_for_a_rendered_secret_that_a_finalizer_keeps_and_says_so()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let before = site.status(&tenant).await?["revision"].clone();
    let secret = format!("minichat-tenant-{}", tenant.id);
    delete_held(&site, "Secret", &secret).await?;
    tenant.spec()["displayName"] = json!("edited");
    site.apply(&tenant.resource).await?;
    is_told(&site, &operator, "Secret", &secret).await?;
    assert_eq!(site.status(&tenant).await?["revision"], before);
    pod.chat(&tenant).await?;

    let_go(&site, "Secret", &secret).await?;
    let is_new = async || {
        let rendered = site.rendered(&tenant).await?.unwrap_or_default();
        let revision = &rendered["metadata"]["annotations"]["minichat.dev/revision"];
        Ok(revision.is_string() && *revision != before)
    };
    eventually("rendered anew", SOON, is_new).await?;
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await
}

/// K8S-9, D46, D52
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_waits_for_the_config_map_that_a_finalizer_keeps_and_says_so() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let (mut tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant, &other]).await?;
    delete_held(&site, "ConfigMap", "minichat-managed").await?;
    tenant.spec()["displayName"] = json!("edited");
    site.apply(&tenant.resource).await?;
    is_told(&site, &operator, "ConfigMap", "minichat-managed").await?;
    // It has nothing to deliver.
    site.await_ready(&other).await?;
    pod.chat(&tenant).await?;

    let_go(&site, "ConfigMap", "minichat-managed").await?;
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await
}
