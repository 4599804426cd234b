//! Only one watchdog scans at a time, as far as a Lease can ensure.

use std::time::Duration;

use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::postgres::Transaction;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::site::{Site, eventually};
use serde_json::json;
use uuid::Uuid;

use super::programs;

const SOON: Duration = Duration::from_secs(30);
const TURNS: i64 = 50;
/// Number of turns that are older than the locked one.
const BEFORE: i64 = 24;

const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const RESERVED: &str = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
const AGED: &str = "UPDATE chat_turns t \
                    SET last_progress_at = now() - INTERVAL '2 hours' + n * INTERVAL '1 second' \
                    FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM chat_turns) r \
                    WHERE r.id = t.id";

/// Leaves turns of a killed pod, each a second younger than the previous one.
async fn leave_behind(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let tenant = site.tenant("acme");
    site.admit([&tenant]).await?;
    site.provider
        .push_scenario(Scenario::deltas(&["part"], Ending::Hang));
    let user = pod.caller(&tenant, Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    stream.expect("stream_started").await?;
    pod.kill().await?;
    operator.kill().await?;
    site.database
        .copy_running_turn(usize::try_from(TURNS - 1)?)
        .await?;
    site.database.query(AGED).await?;
    Ok(())
}

/// TURN-61; check 57 of chapter 02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watchdog_that_loses_its_lease_stops_before_the_next_row() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Postgres).await?;
    leave_behind(&site).await?;
    let Database::Postgres(postgres) = &site.database else {
        anyhow::bail!("not PostgreSQL")
    };
    let at = format!("SELECT id FROM chat_turns ORDER BY last_progress_at OFFSET {BEFORE} LIMIT 1");
    let lock = format!("SELECT 1 FROM chat_turns WHERE id = ({at}) FOR UPDATE");
    let lock = Transaction::begin(postgres.url(), &lock).await?;
    let are_waiting = async |count: i64| {
        let are = async || Ok(site.database.number(WAITING).await? == count);
        eventually(&format!("{count} at the locked turn"), SOON, are).await
    };

    let first = site.watchdog().await?;
    are_waiting(1).await?;
    assert_eq!(site.database.number(RUNNING).await?, TURNS - BEFORE);
    let second = site.watchdog().await?;
    second.says("another process holds the Lease").await?;
    site.give_lease("somebody else").await?;
    first.says("the Lease is lost").await?;
    site.give_lease("").await?;
    // Both are at the same turn now, which no Lease could prevent.
    are_waiting(2).await?;
    drop(lock);

    let (status, report) = first.ended().await?;
    assert!(!status.success(), "{report}");
    assert_eq!(report["stopped"], true);
    let error = report["error"].as_str().unwrap_or_default();
    assert!(error.contains("was lost"), "{report}");
    let finalized = report["finalized"].as_i64().unwrap_or_default();
    assert!(
        finalized == BEFORE || finalized == BEFORE + 1,
        "{finalized}"
    );
    let (status, report) = second.ended().await?;
    assert!(status.success(), "{report}");
    assert_eq!(report["finalized"], TURNS - finalized);

    assert_eq!(site.database.number(RUNNING).await?, 0);
    assert_eq!(site.database.number(RESERVED).await?, 0);
    let settled = site.database.payloads("mini-chat.usage_snapshot").await?;
    assert_eq!(i64::try_from(settled.len())?, TURNS);
    assert_eq!(site.lease_holder().await?, "", "it is freed at the end");
    Ok(())
}
