//! A pool of two pods on one PostgreSQL, while its tenant changes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use minichat_tests::installation::{Installation, eventually};
use minichat_tests::pool::{Answered, COMPLETED, PostgresPool};
use minichat_tests::postgres;
use minichat_tests::scripted_provider::RecordedRequest;
use minichat_tests::site;
use serde_json::Value;
use uuid::Uuid;

const STREAMS: usize = 200;
const EDITS: usize = 100;
/// The `CronJob` that the operator makes.
const WATCHDOG: &str = "minichat-pool-watchdog";
/// A Job starts each minute, and another one may run when the turn becomes an orphan.
const SCHEDULED: Duration = Duration::from_secs(150);
const USAGE: &str =
    "SELECT payload FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot' ORDER BY id";

/// K8S-22, K8S-71; check 10 of chapter 06
#[tokio::test(flavor = "multi_thread")]
async fn two_pods_keep_200_streams_exact_through_100_edits_of_quota_and_credentials()
-> anyhow::Result<()> {
    let pool = PostgresPool::start("postgres", 2).await?;
    let greetings = pool.sum(COMPLETED).await?;
    let (streams, answers) = pool.open(STREAMS).await?;
    let running = pool.counts("mini_chat_active_streams").await?;
    assert!(running.iter().all(|count| *count > 0), "{running:?}");
    for number in 0..EDITS {
        edit(&pool, number).await?;
    }
    // None of them was cut.
    assert_eq!(pool.sum("mini_chat_active_streams").await?, STREAMS);

    let mut received = BTreeSet::new();
    for Answered { api, chat, events } in pool.release(streams).await? {
        events.only("done")?;
        let stored = api.messages(&chat).await?;
        assert_eq!(stored[1]["content"], events.answer());
        received.insert(events.answer());
    }
    assert_eq!(received, answers);
    check_books(&pool, STREAMS + greetings).await?;
    check_policy_versions(&pool).await?;
    pool.remove().await
}

/// Changes a limit or the provider's key, and waits until both pods run the new revision.
async fn edit(pool: &PostgresPool, number: usize) -> anyhow::Result<()> {
    let before = pool.revisions().await?;
    if number.is_multiple_of(2) {
        pool.limit(1_000_000_000_000 + i64::try_from(number)? + 1)
            .await?;
    } else {
        pool.rotate(&key(number)).await?;
    }
    eventually("on both pods", async || {
        let now = pool.revisions().await?;
        Ok(now.iter().zip(&before).all(|(now, before)| now != before))
    })
    .await
}

/// The pods' counts add up to the stored turns: `streams`.
async fn check_books(pool: &PostgresPool, streams: usize) -> anyhow::Result<()> {
    assert_eq!(pool.counts("mini_chat_active_streams").await?, [0, 0]);
    assert_eq!(pool.sum("mini_chat_stream_started_total").await?, streams);
    assert_eq!(pool.sum(COMPLETED).await?, streams);
    // A settlement counts once for the day and once for the month.
    let settled = pool.sum("mini_chat_quota_commit_total").await?;
    assert_eq!(settled, 2 * streams);
    for (sql, expected) in [
        (
            "SELECT count(*) FROM chat_turns WHERE state = 'completed'",
            streams,
        ),
        ("SELECT count(*) FROM chat_turns", streams),
        (
            "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0",
            0,
        ),
    ] {
        let rows = postgres::query(pool.database.url(), sql).await?;
        assert_eq!(rows[0][0], Some(expected.to_string()), "{sql}");
    }
    Ok(())
}

/// Turns that were reserved before the edits were settled by the first version; later ones have the last version and
/// the last key.
async fn check_policy_versions(pool: &PostgresPool) -> anyhow::Result<()> {
    let old = settled_versions(pool).await?;
    ensure!(old.len() == 1, "{old:?}");
    let api = pool.installation.api(pool.tenant.id, Uuid::new_v4())?;
    let chat = api.create_chat(Some("std")).await?;
    api.say(&chat, "PING").await?;
    let both = settled_versions(pool).await?;
    let new = both.difference(&old).next().context("the same version")?;
    let by_quota_edits = u64::try_from(EDITS / 2)?;
    assert!(*new >= old.iter().sum::<u64>() + by_quota_edits, "{both:?}");

    let requests = pool.control(Method::GET, "requests", &Value::Null).await?;
    let requests: Vec<RecordedRequest> = serde_json::from_value(requests)?;
    let last = requests.last().context("no request")?;
    let expected = format!("Bearer {}", key(EDITS - 1));
    assert_eq!(last.headers.get("authorization"), Some(&expected));
    Ok(())
}

/// Policy versions of all settled turns.
async fn settled_versions(pool: &PostgresPool) -> anyhow::Result<BTreeSet<u64>> {
    let rows = postgres::query(pool.database.url(), USAGE).await?;
    let version = |row: &Vec<Option<String>>| -> anyhow::Result<u64> {
        let event: Value = serde_json::from_str(row[0].as_deref().context("no payload")?)?;
        event["policy_version_applied"]
            .as_u64()
            .context("no version")
    };
    rows.iter().map(version).collect()
}

fn key(number: usize) -> String {
    format!("sk-test-rotated-{number:04}")
}

/// TURN-59, TURN-62, K8S-7, K8S-9, K8S-40, K8S-41, K8S-44, K8S-71; check 15 of chapter 06
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_of_a_killed_pod_is_ended_by_the_watchdog_and_counted_by_the_operator()
-> anyhow::Result<()> {
    let pool = PostgresPool::start("watchdog", 1).await?;
    let (streams, _) = pool.open(1).await?;
    let pod = pool.pods[0].name.as_str();
    let installation = &pool.installation;
    installation.await_cron_job(WATCHDOG)?;
    installation.kubectl(&["delete", "pod", pod, "--grace-period=1"])?;
    drop(streams);
    let url = pool.database.url();
    let aged = "UPDATE chat_turns SET last_progress_at = last_progress_at - INTERVAL '1 hour' \
                WHERE state = 'running' RETURNING id";
    let running = postgres::query(url, aged).await?;
    assert_eq!(running.len(), 1, "nobody has ended the turn");

    let turns = "SELECT state, error_code FROM chat_turns WHERE state <> 'completed'";
    let ended = [["failed", "orphan_timeout"].map(|text| Some(text.to_owned()))];
    let is_ended = async || Ok(postgres::query(url, turns).await? == ended);
    site::eventually("ended by a Job of the schedule", SCHEDULED, is_ended).await?;
    let reserved = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";
    let reserved = postgres::query(url, reserved).await?;
    assert_eq!(reserved[0][0].as_deref(), Some("0"));

    eventually("on the operator's metrics page", async || {
        Ok(counted(installation).await? == (1, 1))
    })
    .await?;
    let event = "--field-selector=reason=OrphansFinalized";
    let name = "--output=jsonpath={.items[*].regarding.name}";
    let events = async || installation.kubectl(&["get", "events.events.k8s.io", event, name]);
    eventually("event of the Job", async || Ok(!events().await?.is_empty())).await?;
    let job = events().await?;
    let job: Vec<_> = job.split_whitespace().collect();
    let [job] = job.as_slice() else {
        anyhow::bail!("several Jobs have ended it: {job:?}");
    };
    let mark = "--output=jsonpath={.metadata.ownerReferences[0].name} {.metadata.annotations.minichat\\.dev/reported}";
    eventually("the Job is marked", async || {
        let mark = installation.kubectl(&["get", "job", job, mark])?;
        Ok(mark
            .strip_prefix(WATCHDOG)
            .is_some_and(|mark| mark.len() > 1))
    })
    .await?;
    let healthy = "--for=condition=JobsHealthy";
    installation.kubectl_of_tenants(&["wait", "chattenant/acme", healthy, "--timeout=60s"])?;

    // The next operator begins with what was counted, and counts it no more.
    let operator = "deployment/minichat-operator";
    installation.kubectl(&["rollout", "restart", operator])?;
    installation.kubectl(&["rollout", "status", operator, "--timeout=120s"])?;
    eventually("on the page of the next operator", async || {
        Ok(counted(installation).await? == (1, 1))
    })
    .await?;
    assert_eq!(&events().await?, job);
    pool.remove().await
}

/// Turns that the operator counts as ended, and as failed for that reason.
async fn counted(installation: &Installation) -> anyhow::Result<(usize, usize)> {
    let metrics = installation.metrics("operator").await?;
    let failed = [("error_code", "orphan_timeout")];
    Ok((
        metrics.count("mini_chat_orphan_finalized_total", &[])?,
        metrics.count("mini_chat_stream_failed_total", &failed)?,
    ))
}
