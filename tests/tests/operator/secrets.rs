//! Which Secrets tenants may name, and what their status says about unusable ones (D49).

use std::time::Duration;

use minichat_tests::database::DatabaseKind;
use minichat_tests::site::{Site, eventually};
use serde_json::{Value, json};

use super::programs;

const SOON: Duration = Duration::from_secs(30);
const TENANT: (&str, &str) = ("ChatTenant", "acme");
const PASSWORD: &str = "a-database-password";

fn labelled(value: &Value) -> Value {
    json!({"metadata": {"labels": {"minichat.dev/credentials": value}}})
}

/// D49: without the label, no Secret of the namespace is used, and the status says how to label it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_used_once_it_is_labelled_and_its_keys_are_told_to_nobody() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let database = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "database", "namespace": site.tenants},
        "stringData": {"password": PASSWORD, "another-key": "x"},
    });
    site.apply(&database).await?;
    let mut tenant = site.tenant("acme");
    let reference = json!({"name": "database", "key": "password"});
    tenant.spec()["providers"][0]["auth"]["secretKeyRef"] = reference;
    site.apply(&tenant.resource).await?;
    let unlabelled = "False/SecretNotLabelled";
    let message = site
        .await_condition(TENANT, "ResolvedRefs", unlabelled)
        .await?;
    let command = format!(
        "kubectl label secret database --namespace {} minichat.dev/credentials=true",
        site.tenants
    );
    assert!(message.contains(&command), "{message}");
    assert!(!message.contains("another-key"), "{message}");
    assert!(site.rendered(&tenant).await?.is_none());

    // Another value of the label does not count.
    site.home()
        .patch("Secret", "database", &labelled(&json!("yes")))
        .await?;
    site.await_condition(TENANT, "ResolvedRefs", unlabelled)
        .await?;
    site.home()
        .patch("Secret", "database", &labelled(&json!("true")))
        .await?;
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await?;

    // A missing key is named, but not the existing ones.
    tenant.spec()["providers"][0]["auth"]["secretKeyRef"]["key"] = json!("none");
    site.apply(&tenant.resource).await?;
    let message = site
        .await_condition(TENANT, "ResolvedRefs", "False/KeyMissing")
        .await?;
    assert!(
        message.contains("none") && !message.contains("another-key"),
        "{message}"
    );

    // Without the label, the tenant keeps running, as without the Secret.
    tenant.spec()["providers"][0]["auth"]["secretKeyRef"]["key"] = json!("password");
    site.admit([&tenant]).await?;
    site.home()
        .patch("Secret", "database", &labelled(&Value::Null))
        .await?;
    site.await_condition(TENANT, "Degraded", "True/OldCredentials")
        .await?;
    site.await_condition(TENANT, "ResolvedRefs", unlabelled)
        .await?;
    pod.chat(&tenant).await?;
    assert!(!operator.log()?.contains(PASSWORD));
    Ok(())
}

/// D49: a value that no header may contain is distinguished from a missing key, and is shown nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_used_is_invalid_and_not_shown() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let _pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.apply_tenant(&tenant).await?;
    site.await_ready(&tenant).await?;
    for (value, why) in [
        ("sk-visible\n".to_owned(), "ends in a line break"),
        ("sk-\u{7}visible".to_owned(), "control characters"),
        ("sk-visible-ü".to_owned(), "printable ASCII"),
        (String::new(), "is empty"),
        ("x".repeat(9000), "has 9000 bytes"),
    ] {
        let change = json!({"stringData": {"api-key": value}});
        site.home()
            .patch("Secret", "acme-provider", &change)
            .await?;
        let is_reported = async || {
            let condition = site.await_condition(TENANT, "ResolvedRefs", "False/SecretInvalid");
            Ok(condition.await?.contains(why))
        };
        eventually(why, SOON, is_reported).await?;
        let status = site.status(&tenant).await?.to_string();
        assert!(
            !status.contains("visible") && !status.contains("xxx"),
            "{status}"
        );
    }
    let binary = json!({"data": {"api-key": "c2steP8="}});
    site.home()
        .patch("Secret", "acme-provider", &binary)
        .await?;
    let is_reported = async || {
        let condition = site.await_condition(TENANT, "ResolvedRefs", "False/SecretInvalid");
        Ok(condition.await?.contains("is not UTF-8 text"))
    };
    eventually("no text", SOON, is_reported).await?;
    site.await_condition(TENANT, "Degraded", "True/OldCredentials")
        .await?;
    assert!(!operator.log()?.contains("visible"));
    Ok(())
}

/// D49: the operator's own namespace has the credentials of all tenants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_is_served_from_the_namespace_of_the_operator() -> anyhow::Result<()> {
    // This operator watches tenants everywhere.
    let mut site = Site::own(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    site.tenants.clone_from(&site.namespace);
    let mut tenant = site.tenant("acme");
    let rendered = json!({"name": "minichat-tenant-x", "key": "credentials.json"});
    tenant.spec()["providers"][0]["auth"]["secretKeyRef"] = rendered;
    site.apply_tenant(&tenant).await?;
    let message = site
        .await_condition(TENANT, "Accepted", "False/NamespaceNotAllowed")
        .await?;
    assert!(
        message.starts_with("metadata.namespace: ") && message.contains("another namespace"),
        "{message}"
    );
    assert!(site.rendered(&tenant).await?.is_none());
    Ok(())
}

/// D49: if a Secret is withdrawn from a tenant, its value must not be sent elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_value_of_a_secret_is_sent_only_where_it_was_sent_before() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    site.home()
        .patch("Secret", "acme-provider", &labelled(&Value::Null))
        .await?;
    site.await_condition(TENANT, "Degraded", "True/OldCredentials")
        .await?;
    let before = site.rendered(&tenant).await?;

    let provider = |change: &dyn Fn(&mut Value)| {
        let mut tenant = tenant.clone();
        change(&mut tenant.spec()["providers"][0]);
        tenant.resource
    };
    for resource in [
        provider(&|provider| provider["baseUrl"] = json!("http://127.0.0.1:9")),
        provider(&|provider| provider["auth"]["header"] = json!("X-Another")),
        provider(&|provider| provider["auth"]["prefix"] = json!("")),
    ] {
        site.apply(&resource).await?;
        let message = site
            .await_condition(TENANT, "ResolvedRefs", "False/SecretNotLabelled")
            .await?;
        assert!(message.contains("to which it was sent before"), "{message}");
        assert_eq!(site.rendered(&tenant).await?, before);
        pod.chat(&tenant).await?;
    }

    // An edit that does not change the provider is delivered.
    let mut renamed = tenant.clone();
    renamed.spec()["models"][0]["displayName"] = json!("edited");
    site.apply(&renamed.resource).await?;
    site.await_condition(TENANT, "Programmed", "True/Programmed")
        .await?;
    site.await_condition(TENANT, "Degraded", "True/OldCredentials")
        .await?;
    assert_ne!(site.rendered(&tenant).await?, before);
    pod.chat(&tenant).await
}
