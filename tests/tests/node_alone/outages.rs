//! The pool without its operator and without the API server.

use bytes::Bytes;
use http::Method;
use minichat_cluster::NodeTier;
use minichat_tests::client::Api;
use minichat_tests::installation::{Installation, eventually};
use minichat_tests::scripted_provider::Scenario;
use serde_json::{Value, json};
use uuid::Uuid;

async fn control(provider: &Api, call: &str, body: &Value) -> anyhow::Result<()> {
    let path = format!("/_control/{call}");
    let body = Bytes::from(body.to_string());
    let answer = provider.send(Method::POST, &path, &[], body).await?;
    anyhow::ensure!(answer.status() == 200, "{call}: {}", answer.status());
    Ok(())
}

/// K8S-3; check 12 of chapter 06
#[tokio::test(flavor = "multi_thread")]
async fn chats_go_on_without_operator_and_api_server_and_an_edit_lands_when_they_are_back()
-> anyhow::Result<()> {
    let installation = Installation::start("outage", json!({})).await?;
    let plenty = (1_000_000_000, 10_000_000_000);
    let tenant = installation.tenant("acme").with_limits(plenty, plenty);
    installation.admit(&tenant)?;
    let api = installation.serving(tenant.id, Uuid::new_v4()).await?;
    let provider = installation.provider()?;
    let node = NodeTier::open()?;

    let operator = ["scale", "deployment/minichat-operator"];
    installation.kubectl(&[&operator[..], &["--replicas=0"]].concat())?;
    let gone = async || Ok(installation.pods("operator")?.is_empty());
    eventually("without an operator", gone).await?;
    let chat = api.create_chat(Some("std")).await?;
    api.say(&chat, "PING").await?;

    let held = Scenario {
        hold_before_end: true,
        ..Scenario::default()
    };
    control(&provider, "scenarios", &json!(held)).await?;
    let long = api.create_chat(Some("std")).await?;
    let mut open = api.open(&long, &json!({"content": "PING"})).await?;
    open.expect("stream_started").await?;
    open.expect("delta").await?;
    node.api().stop_api_server()?;
    assert!(!installation.kubectl.is_server_ready());
    let short = api.create_chat(Some("std")).await?;
    let answer = api.say(&short, "PING").await?;
    answer.only("done")?;
    control(&provider, "release", &Value::Null).await?;
    open.collect().await?.only("done")?;

    node.api().start_api_server()?;
    installation.kubectl(&[&operator[..], &["--replicas=1"]].concat())?;
    let nothing = json!({"spec": {"limits": {"standard": {"daily": 0}, "premium": {"daily": 0}}}});
    let nothing = nothing.to_string();
    let quota = ["patch", "chatquota/acme-default", "--type=merge", "--patch"];
    installation.kubectl_of_tenants(&[&quota[..], &[nothing.as_str()]].concat())?;
    eventually("refused by the new limits", async || {
        let answer = api.refused(&short, &json!({"content": "PING"})).await?;
        Ok(answer.status == 429)
    })
    .await?;
    installation.remove().await
}
