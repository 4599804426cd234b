//! From `kubectl apply` to every pod of the pool.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use minichat_metrics::catalogue::OF_JOBS;
use minichat_tests::client::Api;
use minichat_tests::database::DatabaseKind;
use minichat_tests::exposition::Scrape;
use minichat_tests::manifest::Tenant;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::site::{LossyWay, Pod, Site, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::programs;

const STREAMS: usize = 200;
const EDITS: u64 = 100;
/// A time limit for what takes milliseconds, but may take longer on a busy machine.
const LOOSE: Duration = Duration::from_secs(10);

/// K8S-7, K8S-9, K8S-20, K8S-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenant_is_ready_when_all_three_pods_serve_it() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Postgres).await?;
    let operator = site.operator().await?;
    let pods = site.pods(3).await?;
    eventually("ready", LOOSE, async || {
        Ok(operator.readiness().await?.0 == 200)
    })
    .await?;

    let tenant = site.tenant("acme");
    let started = Instant::now();
    site.admit([&tenant]).await?;
    let elapsed = started.elapsed();
    eprintln!("apply -> Ready with three pods: {} ms", elapsed.as_millis());
    assert!(elapsed < LOOSE, "{elapsed:?}");
    for pod in &pods {
        pod.chat(&tenant).await?;
    }

    let status = site.status(&tenant).await?;
    let counts = json!({"ready": 3, "programmed": 3, "rejected": 0, "pods": "3/3"});
    assert_eq!(status["dataPlane"], counts, "{status:#}");
    assert_eq!(status["policyVersion"], 1, "{status:#}");
    assert_eq!(status["tenantId"], tenant.id.to_string());
    let revision = status["revision"].as_str().unwrap_or_default();
    assert!(
        revision.starts_with("1-") && revision.len() == 14,
        "{revision}"
    );
    for pod in &pods {
        assert_eq!(pod.configz(&tenant).await?["revision"], revision);
    }
    let secret = site.rendered(&tenant).await?.unwrap_or_default();
    assert_eq!(secret["type"], "minichat.dev/tenant-config");
    assert_eq!(secret["metadata"]["labels"]["minichat.dev/pool"], "default");
    assert_eq!(
        secret["metadata"]["annotations"]["minichat.dev/revision"],
        revision
    );
    // The operator counts the delivery once its write of the status is answered, which is
    // after this test can have read that status.
    let is_counted = async || {
        let scrape = operator.scrape().await?;
        let series = "mini_chat_operator_config_propagation_seconds_count";
        Ok(scrape.sum(series, &[]) > 0.5)
    };
    eventually("counted as delivered", LOOSE, is_counted).await?;
    assert_metrics(&operator.scrape().await?, &tenant)?;
    let has_events = async || Ok(site.events("acme").await? == ["Accepted", "Programmed"]);
    eventually("reported by events", LOOSE, has_events).await?;
    Ok(())
}

/// K8S-15
fn assert_metrics(scrape: &Scrape, tenant: &Tenant) -> anyhow::Result<()> {
    let is = |name: &str, value: f64| {
        let found = scrape.sum(&format!("mini_chat_operator_{name}"), &[]);
        anyhow::ensure!((found - value).abs() < 0.5, "{name} is {found}");
        Ok(())
    };
    is("rendered_tenants", 1.0)?;
    is("leader", 1.0)?;
    is("config_rejected_total", 0.0)?;
    is("reconcile_error_total", 0.0)?;
    is("config_propagation_seconds_count", 1.0)?;
    let labels = [("kind", "chat_tenant"), ("loop", "render")];
    assert!(scrape.sum("mini_chat_operator_reconcile_total", &labels) > 0.5);
    assert!(
        scrape.sum(
            "mini_chat_operator_reconcile_duration_seconds_count",
            &labels
        ) > 0.5
    );
    for sample in &scrape.samples {
        let of_jobs = OF_JOBS.map(|family| family.row().series("mini_chat"));
        assert!(
            sample.name.starts_with("mini_chat_operator_") || of_jobs.contains(&sample.name),
            "{sample:?}"
        );
        let id = tenant.id.to_string();
        assert!(
            sample
                .labels
                .values()
                .all(|value| *value != tenant.name && *value != id)
        );
    }
    Ok(())
}

/// K8S-22, K8S-24, QUOTA-32; check 10 of chapter 06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_reach_the_next_request_on_every_pod_and_cut_none_of_200_streams()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Postgres).await?;
    let _operator = site.operator().await?;
    let pods = site.pods(3).await?;
    let tenant = site.tenant("acme");
    site.apply(&site.quota(&tenant, 1_000)).await?;
    site.admit([&tenant]).await?;

    let quota = ("ChatQuota", "acme-default");
    site.await_condition(quota, "Ready", "True/Ready").await?;
    let first = site.status(&tenant).await?["policyVersion"].clone();

    site.provider.push_scenario(Scenario {
        times: u32::try_from(STREAMS)?,
        hold_before_end: true,
        ..Scenario::deltas(&["open"], Ending::Completed)
    });
    let opened = (0..STREAMS).map(|index| open(&pods[index % pods.len()], &tenant));
    let streams = try_join_all(opened).await?;

    let mut waits = Vec::new();
    for edit in 1..=EDITS {
        if edit.is_multiple_of(10) {
            let mut secret = tenant.others[0].clone();
            secret["stringData"]["api-key"] = json!(format!("sk-{edit}"));
            site.apply(&secret).await?;
        }
        let daily = 1_000 + edit;
        let started = Instant::now();
        site.apply(&site.quota(&tenant, daily)).await?;
        let seen = pods
            .iter()
            .map(|pod| enforced(pod, &tenant, daily, started));
        waits.extend(try_join_all(seen).await?);
    }
    waits.sort();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_millis();
    let figures = format!("p50 {} ms, p99 {} ms, max {} ms", at(50), at(99), at(100));
    eprintln!("apply of a ChatQuota -> enforced, on each of three pods: {figures}");
    assert!(at(99) < LOOSE.as_millis(), "{figures}");

    site.provider.release(STREAMS);
    let ended = streams.into_iter().map(async |stream| {
        let events = stream.collect().await?;
        events.only("done").cloned()
    });
    assert_eq!(try_join_all(ended).await?.len(), STREAMS, "none is cut");
    let others = format!("SELECT count(*) FROM chat_turns WHERE policy_version_applied <> {first}");
    assert_eq!(site.database.number(&others).await?, 0);
    let usage = site.database.payloads("mini-chat.usage_snapshot").await?;
    assert_eq!(usage.len(), STREAMS);
    let is_first = |event: &Value| event["policy_version_applied"] == first;
    assert!(
        usage.iter().all(is_first),
        "settled under the policy of the reserve"
    );

    // The newest credential is sent, without a restart of the process.
    for pod in &pods {
        pod.chat(&tenant).await?;
        let requests = site.provider.requests();
        let sent = requests
            .last()
            .and_then(|request| request.headers.get("authorization"));
        assert_eq!(sent.map(String::as_str), Some("Bearer sk-100"));
    }
    Ok(())
}

/// D36: the pod's watch shows the new Secret, but not the deletion of the previous one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_the_place_of_another_tenants_ends_that_one_although_nobody_saw_it_go()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let way = site.lossy_way().await?;
    let operator = site.operator().await?;
    let pod = site.pod_on(&way).await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    operator.kill().await?;
    let user = pod.caller(&tenant, Uuid::new_v4())?;
    let path = format!("/chats/{}", user.create_chat(None).await?);
    let revision = pod.configz(&tenant).await?["revision"].clone();

    // A Secret of the same tenant, which was deleted and created again. The chats belong to its name.
    let mut secret = site.rendered(&tenant).await?.unwrap_or_default();
    replace(&site, &way, &secret).await?;
    user.get(&path).await?.expect(200)?;
    assert_eq!(pod.configz(&tenant).await?["revision"], revision);

    // A Secret of another tenant with its own provider.
    let other = "somewhere/else";
    secret["metadata"]["annotations"]["minichat.dev/source"] = json!(other);
    let document = STANDARD.decode(secret["data"]["tenant.json"].as_str().unwrap_or_default())?;
    let mut document: Value = serde_json::from_slice(&document)?;
    document["source"] = json!(other);
    secret["data"]["tenant.json"] = json!(STANDARD.encode(document.to_string()));
    replace(&site, &way, &secret).await?;
    let is_ended = async || Ok(pod.configz(&tenant).await?["revision"].is_null());
    eventually("ended", LOOSE, is_ended).await?;
    let entry = pod.configz(&tenant).await?;
    let owner = format!("{}/acme", site.tenants);
    assert_eq!(
        (&entry["state"], &entry["stored_owner"]),
        (&json!("rejected"), &json!(owner))
    );
    assert_ne!(user.get(&path).await?.status, 200, "its chats are nobody's");
    Ok(())
}

/// Deletes the rendered Secret, which `way` hides, and creates `secret` instead.
async fn replace(site: &Site, way: &LossyWay, secret: &Value) -> anyhow::Result<()> {
    let name = secret["metadata"]["name"].as_str().unwrap_or_default();
    let before = way.hidden();
    way.lose_events_of(Some(name));
    let pool = site.place(&site.namespace);
    pool.delete("Secret", name).await?;
    let is_hidden = async || Ok(way.hidden() > before);
    eventually("not shown", LOOSE, is_hidden).await?;
    way.lose_events_of(None);
    let mut new = secret.clone();
    let (metadata, old) = (&mut new["metadata"], &secret["metadata"]);
    *metadata = json!({
        "name": name, "namespace": site.namespace,
        "labels": old["labels"], "annotations": old["annotations"],
    });
    site.apply(&new).await
}

/// A stream of a new user that has begun.
async fn open(pod: &Pod, tenant: &Tenant) -> anyhow::Result<minichat_tests::sse::EventStream> {
    let user: Api = pod.caller(tenant, Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;
    let mut stream = user.open(&chat, &json!({"content": "PING"})).await?;
    stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    Ok(stream)
}

/// Time from `started` until a request to `pod` is limited to `daily` credits.
async fn enforced(
    pod: &Pod,
    tenant: &Tenant,
    daily: u64,
    started: Instant,
) -> anyhow::Result<Duration> {
    let user = pod.caller(tenant, Uuid::new_v4())?;
    let limit = format!("\"limit_credits_micro\":{}", daily * 1_000_000);
    let enforces = async || {
        let status = user.get("/quota/status").await?.expect(200)?;
        Ok(status.to_string().contains(&limit))
    };
    eventually("enforced", LOOSE, enforces).await?;
    Ok(started.elapsed())
}

/// K8S-23: it accepts connections but does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_hangs_does_not_hide_what_the_others_say() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let hangs = TcpListener::bind("127.0.0.1:0").await?;
    pod.register_another("hangs", hangs.local_addr()?.port())
        .await?;
    for edit in 0..3 {
        tenant.spec()["displayName"] = json!(format!("edit {edit}"));
        site.apply(&tenant.resource).await?;
        let is_reported = async || {
            let pending =
                site.await_condition(("ChatTenant", "acme"), "Programmed", "False/Pending");
            let message = pending.await?;
            let revision = pod.configz(&tenant).await?["revision"].clone();
            let revision = revision.as_str().unwrap_or_default();
            Ok(message == format!("1 of 2 ready pods run revision {revision}"))
        };
        eventually("reported for the one that answers", LOOSE, is_reported).await?;
    }
    Ok(())
}

/// D46: a database failure is temporary, and tenants do not see its text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_takes_no_policy_a_tenant_is_pending_and_needs_nobody()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Postgres).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    let rename = "ALTER TABLE policy_snapshots RENAME TO elsewhere";
    site.database.query(rename).await?;
    tenant.model("std")["displayName"] = json!("edited");
    site.apply(&tenant.resource).await?;
    let is_reported = async || {
        let object = ("ChatTenant", "acme");
        let pending = site.await_condition(object, "Programmed", "False/Pending");
        Ok(pending.await?.contains("to its database now"))
    };
    eventually("reported that it is tried again", LOOSE, is_reported).await?;
    let status = site.status(&tenant).await?.to_string();
    for word in ["Stalled", "policy_snapshots", "postgres"] {
        assert!(!status.contains(word), "{status}");
    }
    let entry = pod.configz(&tenant).await?;
    assert_eq!(entry["retrying"], true, "{entry}");
    assert!(!entry.to_string().contains("policy_snapshots"), "{entry}");
    assert!(pod.log()?.contains("policy_snapshots"), "the cause");
    assert!(!site.events("acme").await?.contains(&"Rejected".to_owned()));

    let rename = "ALTER TABLE elsewhere RENAME TO policy_snapshots";
    site.database.query(rename).await?;
    site.await_ready(&tenant).await?;
    pod.chat(&tenant).await
}
