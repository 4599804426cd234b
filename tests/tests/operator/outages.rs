//! Outages: the operator is down, the API server is down, and pods start without them.

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, PostParams};
use minichat_tests::database::DatabaseKind;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::site::{Operator, Pod, Site, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use uuid::Uuid;

use super::programs;

const SOON: Duration = Duration::from_mins(1);

async fn has_limit(
    pod: &Pod,
    tenant: &minichat_tests::manifest::Tenant,
    daily: u64,
) -> anyhow::Result<bool> {
    let user = pod.caller(tenant, Uuid::new_v4())?;
    let status = user.get("/quota/status").await?.expect(200)?;
    let limit = format!("\"limit_credits_micro\":{}", daily * 1_000_000);
    Ok(status.to_string().contains(&limit))
}

/// K8S-3, K8S-21; check 12 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_operator_and_api_server_chats_go_on_and_with_them_an_edit_lands()
-> anyhow::Result<()> {
    let site = Site::own(programs(), DatabaseKind::Postgres).await?;
    let operator = site.operator().await?;
    let mut pods = site.pods(2).await?;
    let tenant = site.tenant("acme");
    site.apply(&site.quota(&tenant, 100)).await?;
    site.admit([&tenant]).await?;
    site.provider.push_scenario(Scenario {
        hold_before_end: true,
        ..Scenario::deltas(&["open"], Ending::Completed)
    });
    let user = pods[0].caller(&tenant, Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;
    let mut stream = user.open(&chat, &json!({"content": "PING"})).await?;
    stream.expect("stream_started").await?;

    operator.kill().await?;
    site.apply(&site.quota(&tenant, 200)).await?;
    for pod in &pods {
        pod.chat(&tenant).await?;
        assert!(
            has_limit(pod, &tenant, 100).await?,
            "an edit waits for the operator"
        );
    }

    block_in_place(|| site.tier().stop_api_server())?;
    for pod in &pods {
        pod.chat(&tenant).await?;
        assert_eq!(pod.admin.get_absolute("/readyz").await?.status, 200);
    }
    // A pod that has never loaded its source is not ready, and waits.
    let late = site.process_of_a_pod("").await?;
    let answer = late.admin.get_absolute("/readyz").await?;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(
        answer.json()?["reasons"],
        json!(["the tenants have not been loaded yet"])
    );
    site.provider.release(1);
    stream.collect().await?.only("done")?;

    block_in_place(|| site.tier().start_api_server())?;
    late.register().await?;
    late.become_ready().await?;
    late.chat(&tenant).await?;
    pods.push(late);
    for pod in &pods {
        assert!(has_limit(pod, &tenant, 100).await?);
    }
    let operator = site.operator().await?;
    for pod in &pods {
        let lands = async || has_limit(pod, &tenant, 200).await;
        eventually("the edit on every pod", SOON, lands).await?;
    }
    site.await_ready(&tenant).await?;

    // A cut watch continues, once more.
    block_in_place(|| {
        site.tier().stop_api_server()?;
        site.tier().start_api_server()
    })?;
    // If that took longer than its Lease, the operator has ended, and a kubelet would start another one.
    operator.kill().await?;
    let _operator = site.operator().await?;
    site.apply(&site.quota(&tenant, 300)).await?;
    for pod in &pods {
        let lands = async || has_limit(pod, &tenant, 300).await;
        eventually("the next edit on every pod", SOON, lands).await?;
    }
    Ok(())
}

/// K8S-14; check 7 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_past_its_lease_writes_nothing_and_another_one_leads()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.lossy_way().await?;
    let mut first = site.operator_on(&way).await?;
    let _pod = site.pod().await?;
    let (tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant]).await?;
    let second = site.operator().await?;
    let is_ready = async || Ok(second.readiness().await?.0 == 200);
    eventually("ready, though it does not lead", SOON, is_ready).await?;
    let leads = async |operator: &Operator| {
        let scrape = operator.scrape().await?;
        anyhow::Ok(scrape.sum("mini_chat_operator_leader", &[]) > 0.5)
    };
    assert!(leads(&first).await? && !leads(&second).await?);

    first.signal(Signal::STOP)?;
    let begun = Instant::now();
    site.admit([&other]).await?;
    let taken = begun.elapsed().as_secs();
    eprintln!("the other operator took over within {taken} s");
    assert!(leads(&second).await?);
    let is_reported = async || {
        Ok(site
            .events("other")
            .await?
            .contains(&"Programmed".to_owned()))
    };
    eventually("reported by an event", SOON, is_reported).await?;

    // Only the first one's writes pass here.
    let before = way.writes().len();
    assert!(before > 0);
    first.signal(Signal::CONT)?;
    assert!(
        !first.ended().await?.success(),
        "it says that it has lost the Lease"
    );
    let since = way.writes().split_off(before);
    assert!(since.is_empty(), "{since:?}");

    // An operator that receives SIGTERM releases its Lease, so that the next one does not wait 15 s.
    let third = site.operator().await?;
    let mut second = second;
    second.signal(Signal::TERM)?;
    assert!(second.ended().await?.success());
    let is_leading = async || leads(&third).await;
    eventually("leading", Duration::from_secs(8), is_leading).await
}

/// K8S-20, K8S-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_serves_the_secrets_of_its_pool_and_no_other() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let (tenant, other) = (site.tenant("acme"), site.tenant("other"));
    site.admit([&tenant, &other]).await?;
    operator.kill().await?;
    let secrets = site.api("Secret", &site.namespace)?;
    let secret = site.rendered(&tenant).await?.unwrap_or_default();
    let name = secret["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let anew = |pool: &str| -> anyhow::Result<_> {
        let mut secret = secret.clone();
        let metadata = &secret["metadata"];
        let mut labels = metadata["labels"].clone();
        labels["minichat.dev/pool"] = json!(pool);
        secret["metadata"] = json!({
            "name": metadata["name"], "labels": labels, "annotations": metadata["annotations"],
        });
        Ok(serde_json::from_value(secret)?)
    };
    let is_served = async |wanted: bool| {
        let served = async || {
            let user = pod.caller(&tenant, Uuid::new_v4())?;
            let status = user.post("/chats", &json!({})).await?.status;
            Ok((status == 201) == wanted && pod.configz(&tenant).await?.is_null() != wanted)
        };
        eventually(&format!("served: {wanted}"), SOON, served).await
    };
    for _ in 0..3 {
        secrets.delete(&name, &DeleteParams::default()).await?;
        is_served(false).await?;
        secrets
            .create(&PostParams::default(), &anew("default")?)
            .await?;
        is_served(true).await?;
        pod.chat(&tenant).await?;
    }
    secrets.delete(&name, &DeleteParams::default()).await?;
    is_served(false).await?;
    secrets
        .create(&PostParams::default(), &anew("another")?)
        .await?;
    // A later change was seen, so this one was seen too.
    let mut marker: Value = site.rendered(&other).await?.unwrap_or_default();
    marker["metadata"]["managedFields"] = Value::Null;
    marker["metadata"]["annotations"]["minichat.dev/revision"] = json!("broken");
    let marker_name = format!("minichat-tenant-{}", other.id);
    secrets
        .replace(
            &marker_name,
            &PostParams::default(),
            &serde_json::from_value(marker)?,
        )
        .await?;
    let is_marked = async || Ok(pod.configz(&other).await?["rejected_revision"] == "broken");
    eventually("refused", SOON, is_marked).await?;
    is_served(false).await?;
    pod.chat(&other).await
}
