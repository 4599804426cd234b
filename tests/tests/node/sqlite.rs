//! A pool on SQLite, whose only pod comes and goes while the volume with the file stays.

use minichat_tests::installation::{Installation, eventually};
use serde_json::json;
use uuid::Uuid;

/// K8S-50, K8S-71, D50
#[tokio::test(flavor = "multi_thread")]
async fn chats_and_credits_outlive_a_deleted_pod_on_sqlite() -> anyhow::Result<()> {
    let installation = Installation::start("sqlite", json!({})).await?;
    let tenant = installation.tenant("acme");
    installation.admit(&tenant)?;
    let user = Uuid::new_v4();
    let api = installation.serving(tenant.id, user).await?;
    let chat = api.create_chat(Some("std")).await?;
    let answer = api.say(&chat, "PING").await?.answer();
    let quotas = async || api.get("/quota/status").await?.expect(200);
    let (messages, spent) = (api.messages(&chat).await?, quotas().await?);
    let credits = |status: &serde_json::Value| -> u64 {
        let spent = status.pointer("/tiers/1/periods/0/used_credits_micro");
        spent
            .and_then(serde_json::Value::as_u64)
            .unwrap_or_default()
    };
    assert!(credits(&spent) > 0, "{spent:#}");

    let pod = "pod/minichat-pool-0";
    let uid = ["get", pod, "--output=jsonpath={.metadata.uid}"];
    let before = installation.kubectl(&uid)?;
    installation.kubectl(&["delete", pod, "--timeout=120s"])?;
    let is_new = async || Ok(installation.kubectl(&uid)? != before);
    eventually("another pod", is_new).await?;
    installation.kubectl(&["wait", pod, "--for=condition=Ready", "--timeout=120s"])?;
    let api = installation.serving(tenant.id, user).await?;
    assert_eq!(api.messages(&chat).await?, messages);
    assert_eq!(messages[1]["content"], answer);
    assert_eq!(api.get("/quota/status").await?.expect(200)?, spent);
    api.say(&chat, "PING").await?;
    let more = api.get("/quota/status").await?.expect(200)?;
    assert!(credits(&more) > credits(&spent), "{more:#}");
    installation.remove().await
}
