//! The chart, from the first installation to its removal.

use std::fs;

use minichat_tests::installation::Installation;
use serde_json::{Value, json};
use uuid::Uuid;

const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crds/examples/scripted.yaml"
);

/// The example's objects for the tenants' namespace of `installation`, with its provider and another tenant id.
fn example(installation: &Installation, tenant: Uuid) -> anyhow::Result<String> {
    Ok(fs::read_to_string(EXAMPLE)?
        .replace("5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01", &tenant.to_string())
        .replace("http://127.0.0.1:18080", &installation.provider_url())
        .replace("  namespace: default\n", ""))
}

/// K8S-1, K8S-20, K8S-22, K8S-52, K8S-70, K8S-71; checks 18 and 20 of chapter 06
#[tokio::test(flavor = "multi_thread")]
async fn a_release_chats_through_upgrade_rollback_and_removal_and_loses_nothing()
-> anyhow::Result<()> {
    let installation = Installation::prepare("chart").await?;
    let tenant = Uuid::new_v4();
    let example = example(&installation, tenant)?;
    let namespace = format!("--namespace={}", installation.tenants());
    installation.upgrade(json!({}))?;
    let apply = ["apply", "--filename=-", &namespace];
    installation.kubectl.run_with_input(&apply, &example)?;
    installation.await_ready("acme")?;

    let user = Uuid::new_v4();
    let api = installation.serving(tenant, user).await?;
    let chat = api.create_chat(None).await?;
    let answer = api.say(&chat, "Hello").await?;
    let first_text = answer.answer();
    assert!(!first_text.is_empty());
    let metrics = installation.metrics("pool").await?;
    assert_eq!(metrics.count("mini_chat_stream_completed_total", &[])?, 1);
    let columns = installation.kubectl_of_tenants(&["get", "ctn,cq"])?;
    assert!(
        columns.contains("chattenant.minichat.dev/acme"),
        "{columns}"
    );

    // Another configuration makes another pod on the same volume; `helm test` uses its tenant.
    let settings = json!({
        "test": {"tenantId": tenant.to_string()},
        "pool": {"config": {"logging": {"level": "debug"}}},
    });
    installation.upgrade(settings)?;
    let api = installation.serving(tenant, user).await?;
    let tested = installation.helm(&["test", "minichat"])?;
    assert!(tested.contains("Succeeded"), "{tested}");
    assert_eq!(texts(&api.messages(&chat).await?), ["Hello", &first_text]);
    api.say(&chat, "And after the upgrade?").await?;

    installation.helm(&["rollback", "minichat", "1", "--wait", "--timeout=120s"])?;
    let api = installation.serving(tenant, user).await?;
    api.say(&chat, "And after the rollback?").await?;
    assert_eq!(api.messages(&chat).await?.len(), 6);

    installation.helm(&["uninstall", "minichat", "--wait"])?;
    let mut kept = installation.kubectl_of_tenants(&["get", "ctn,cq", "--output=name"])?;
    kept += &installation.kubectl(&["get", "pvc", "--output=name"])?;
    let kept: Vec<&str> = kept.lines().collect();
    assert_eq!(
        kept,
        [
            "chattenant.minichat.dev/acme",
            "chatquota.minichat.dev/acme-default",
            "chatquota.minichat.dev/acme-trial",
            "persistentvolumeclaim/data-minichat-pool-0",
        ]
    );

    // A new release finds everything: definitions, tenants, rendered Secrets and chats.
    installation.upgrade(json!({}))?;
    let api = installation.serving(tenant, user).await?;
    assert_eq!(api.messages(&chat).await?.len(), 6);
    installation.remove().await
}

fn texts(messages: &[Value]) -> Vec<&str> {
    let texts = messages.iter().map(|message| message["content"].as_str());
    texts.map(Option::unwrap_or_default).collect()
}
