//! A pool that verifies the certificate of its PostgreSQL.

use minichat_cluster::Authority;
use minichat_store::testing::{ServerTls, TestPostgres};
use minichat_tests::installation::{Installation, eventually};
use minichat_tests::postgres;
use serde_json::{Value, json};
use uuid::Uuid;

const QUERY: &str = "sslmode=verify-full&sslrootcert=/etc/minichat-database/ca.crt";
const ENCRYPTED: &str = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
    WHERE application_name = 'minichat'";

/// A `ConfigMap` with the authority that the pool believes.
fn trust(installation: &Installation, authority: &Authority) -> anyhow::Result<()> {
    installation.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"},
        "data": {"ca.crt": authority.certificate()},
    }))
}

/// A Service `database` that leads to `port` of this machine.
fn service(installation: &Installation, port: u16) -> anyhow::Result<()> {
    installation.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "database"},
        "spec": {"ports": [{"name": "postgres", "port": 5432}]},
    }))?;
    installation.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "database",
            "labels": {"kubernetes.io/service-name": "database"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "postgres", "port": port}],
        "endpoints": [{"addresses": [postgres::address_for_pods()?]}],
    }))
}

/// D43, K8S-71
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_believes_the_certificate_of_its_database_and_no_other() -> anyhow::Result<()> {
    let installation = Installation::prepare("tls").await?;
    let (authority, another) = (Authority::create()?, Authority::create()?);
    let host = format!("database.{}.svc", installation.namespace());
    let identity = authority.server(&[&host], &[])?;
    let (server, port) = TestPostgres::start_with_tls(&ServerTls {
        certificate: identity.certificate,
        key: identity.key,
        client_ca: authority.certificate(),
        address: Some(postgres::address_for_pods()?.to_string()),
    })?;
    let database = server.create_database().await?;
    let (_, name) = database.rsplit_once('/').unwrap_or_default();
    service(&installation, port)?;
    trust(&installation, &authority)?;
    let url = format!("postgres://postgres@{host}/{name}?{QUERY}");
    let certificates = json!({"database": {"certificates": {"existingConfigMap": "authority"}}});
    installation.on_postgres(&url, 1, certificates)?;

    let tenant = installation.tenant("acme");
    installation.admit(&tenant)?;
    let api = installation.serving(tenant.id, Uuid::new_v4()).await?;
    let chat = api.create_chat(Some("std")).await?;
    let answer = api.say(&chat, "PING").await?;
    answer.only("done")?;
    assert_eq!(api.messages(&chat).await?[1]["content"], answer.answer());
    let encrypted = postgres::query(&database, ENCRYPTED).await?;
    assert_eq!(encrypted, [[Some("t".to_owned())]]);

    // A pod that starts now believes another authority.
    installation.await_cron_job("minichat-pool-watchdog")?;
    trust(&installation, &another)?;
    installation.kubectl(&[
        "create",
        "job",
        "refused",
        "--from=cronjob/minichat-pool-watchdog",
    ])?;
    let failed = [
        "wait",
        "job/refused",
        "--for=condition=failed",
        "--timeout=90s",
    ];
    installation.kubectl(&failed)?;
    check_refusal(&installation.kubectl(&["logs", "job/refused"])?);
    installation.kubectl(&["rollout", "restart", "deployment/minichat-pool"])?;
    eventually("refused by the new pod", async || {
        let pods = installation.kubectl(&["get", "pods", "--output=json", POOL])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let pods = pods["items"].as_array().into_iter().flatten();
        let mut crashed = pods.filter(|pod| {
            let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
            restarts.and_then(Value::as_u64) > Some(0)
        });
        let name = crashed
            .next()
            .and_then(|pod| pod["metadata"]["name"].as_str());
        let Some(name) = name else {
            return Ok(false);
        };
        check_refusal(&installation.kubectl(&["logs", "--previous", name])?);
        Ok(true)
    })
    .await?;
    installation.remove().await
}

const POOL: &str = "--selector=app.kubernetes.io/component=pool";

fn check_refusal(said: &str) {
    // Both authorities have the same name.
    for words in ["TLS with postgresql", "BadSignature", "sslrootcert"] {
        assert!(said.contains(words), "{said}");
    }
}
