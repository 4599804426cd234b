//! The transaction that ends a turn, when it fails and when several race.

use std::sync::Arc;
use std::time::Duration;

use minichat_config::process::JobConfig;
use minichat_core::SystemClock;
use minichat_dataplane::jobs::Watchdog;
use minichat_dataplane::open_turns::OpenTurns;
use minichat_dataplane::outbox::Outbox;
use minichat_metrics::RecordingMetrics;
use minichat_store::{DatabaseSettings, Store};
use minichat_telemetry::Signal;
use minichat_tests::books::check_balanced;
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Held, Scene, run};
use minichat_tests::on_each_database;
use serde_json::json;
use tokio::sync::Barrier;

const USAGE: &str = "mini-chat.usage_snapshot";
const AUDIT: &str = "mini-chat.audit";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const RESERVED: &str = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";

on_each_database! {
    /// TURN-33, TURN-41, PLAT-80 to PLAT-85: one usage event and one audit
    /// event, for every kind of end.
    async fn every_end_leaves_one_usage_and_one_audit_event(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for content in ["PING", "TRUNCATE", "ERROR"] {
            let chat = user.create_chat(Some("std")).await?;
            user.say(&chat, content).await?;
        }
        let abandoned = scene.held().await?;
        drop(abandoned.stream);
        let database = scene.database();
        scene.stack.eventually("ended", async || Ok(database.number(RUNNING).await? == 0)).await?;
        let audit = database.payloads(AUDIT).await?;
        let usage = database.payloads(USAGE).await?;
        let types: Vec<_> = audit.iter().map(|event| event["event_type"].as_str()).collect();
        let [completed, failed] = [Some("turn_completed"), Some("turn_failed")];
        assert_eq!(types, [completed, completed, failed, failed]);
        assert_eq!(usage.len(), audit.len());
        for (usage, audit) in usage.iter().zip(&audit) {
            for member in ["turn_id", "request_id", "chat_id", "tenant_id", "user_id", "terminal_state", "effective_model"] {
                assert_eq!(usage[member], audit[member], "{member}");
            }
            assert_eq!(audit["type"], "turn");
            assert_eq!(audit["policy_decisions"]["quota"], json!({"decision": "allow"}));
            assert_eq!(audit["trace_id"].as_str().map(str::len), Some(32));
            assert!(audit["latency_ms"]["total_ms"].is_u64(), "{audit}");
            let key = usage["dedupe_key"].as_str().unwrap_or_default();
            let parts: Vec<_> = key.split('/').map(str::len).collect();
            assert_eq!(parts, [32, 32, 32]);
            let text = audit.to_string();
            assert!(!text.contains("PONG") && !text.contains("part") && !text.contains("resp_"), "{text}");
        }
        assert!(audit[0]["latency_ms"]["ttft_ms"].is_u64(), "{}", audit[0]);
        assert_eq!(audit[1]["completion_signal"]["reason"], "max_tokens");
        assert_eq!(audit[2]["error_code"], "provider_error");
        assert_eq!(audit[3]["terminal_state"], "cancelled");
        let codes = "SELECT count(*) FROM chat_turns WHERE error_code IS NOT NULL AND state <> 'failed'";
        assert_eq!(database.number(codes).await?, 0);
    }

    /// TURN-37: the id of the answer is taken, so it cannot be stored.
    async fn an_answer_that_cannot_be_stored_fails_the_turn(env) {
        let scene = env.scene().await?;
        let Held { user, chat, started, mut stream } = scene.held().await?;
        let database = scene.database();
        database.query(&format!(
            "INSERT INTO messages (id, tenant_id, chat_id, request_id, role, created_at) \
             SELECT chat_id, tenant_id, chat_id, request_id, 'assistant', created_at \
             FROM messages WHERE request_id = '{}'", started.text("request_id")
        )).await?;
        scene.provider.release(1);
        assert_eq!(stream.expect("error").await?.text("code"), "message_persistence_failed");
        assert!(stream.next().await?.is_none());
        let turn = user.turn(&chat, started.text("request_id")).await?;
        assert_eq!(turn["error_code"], "message_persistence_failed");
        let usage = database.payloads(USAGE).await?;
        assert_eq!(usage.len(), 1);
        assert_eq!((&usage[0]["terminal_state"], &usage[0]["settlement_method"]), (&json!("failed"), &json!("actual")));
        assert_eq!(database.number(RESERVED).await?, 0);
        let failed = scene.stack.scrape().await?
            .sum("mini_chat_stream_failed_total", &[("error_code", "message_persistence_failed")]);
        assert!((failed - 1.0).abs() < 0.5);
    }

    /// TURN-38, PLAT-30: no `done` without a commit; the watchdog ends the turn.
    async fn a_turn_that_cannot_be_committed_is_left_to_the_watchdog(env) {
        let scene = env.scene().await?;
        let Held { user, chat, started, mut stream } = scene.held().await?;
        let database = scene.database();
        database.query("ALTER TABLE outbox_messages RENAME TO away").await?;
        scene.provider.release(1);
        assert_eq!(stream.expect("error").await?.text("code"), "stream_interrupted");
        assert!(stream.next().await?.is_none());
        assert_eq!(user.turn(&chat, started.text("request_id")).await?["state"], "running");
        assert_eq!(user.messages(&chat).await?.len(), 1);
        database.query("ALTER TABLE away RENAME TO outbox_messages").await?;
        database.age_turns("state = 'running'").await?;
        let report = scene.stack.watchdog().run_once(&Signal::new()).await;
        assert_eq!((report.finalized, report.failed), (1, 0));
        assert_eq!(database.payloads(USAGE).await?.len(), 1);
        assert_eq!(database.number(RESERVED).await?, 0);
        let scrape = scene.stack.scrape().await?;
        let ended = scrape.sum("mini_chat_stream_failed_total", &[("error_code", "orphan_timeout")]);
        assert!((ended - 1.0).abs() < 0.5);
        assert!(scrape.sum("mini_chat_stream_completed_total", &[]) < 0.5);
    }

    /// TURN-42: the second finalizer changes nothing.
    async fn a_result_that_comes_after_another_end_is_discarded(env) {
        let scene = env.scene().await?;
        let Held { user, chat, started, mut stream } = scene.held().await?;
        let database = scene.database();
        database.query(
            "UPDATE chat_turns SET state = 'failed', error_code = 'internal_error', \
             completed_at = updated_at WHERE state = 'running'"
        ).await?;
        let turn = user.turn(&chat, started.text("request_id")).await?;
        scene.provider.release(1);
        assert_eq!(stream.expect("error").await?.text("code"), "stream_interrupted");
        assert_eq!(user.turn(&chat, started.text("request_id")).await?, turn);
        assert_eq!(user.messages(&chat).await?.len(), 1);
        assert_eq!(database.payloads(USAGE).await?.len(), 0);
        let scrape = scene.stack.scrape().await?;
        for name in ["stream_completed_total", "stream_failed_total", "finalization_latency_ms_count"] {
            assert!(scrape.sum(&format!("mini_chat_{name}"), &[]) < 0.5, "{name}");
        }
    }

    /// TURN-58: a scan that cannot select rows is counted, and the next one
    /// works.
    async fn a_scan_without_a_database_is_told_and_counted(env) {
        let scene = env.scene().await?;
        let metrics = Arc::new(RecordingMetrics::default());
        let watchdog = Watchdog { metrics: metrics.clone(), ..scene.stack.watchdog() };
        env.database.query("ALTER TABLE chat_turns RENAME TO away").await?;
        let run = watchdog.run_once(&Signal::new()).await;
        assert!(!run.is_success() && run.error.is_some(), "{run:?}");
        env.database.query("ALTER TABLE away RENAME TO chat_turns").await?;
        assert!(watchdog.run_once(&Signal::new()).await.is_success());
        assert_eq!(metrics.observations("orphan_scan_duration_seconds", &[]).len(), 2);
    }

    /// TURN-42, TURN-61, D1: the provider's end, a disconnect, a watchdog and a
    /// drain start at one barrier; each turn ends once.
    async fn of_all_that_race_for_a_turn_one_wins(env) {
        const TURNS: usize = 40;
        let scene = env.scene().await?;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(scene.held().await?);
        }
        let database = scene.database().clone();
        database.age_turns("state = 'running'").await?;
        let barrier = Arc::new(Barrier::new(TURNS / 2 + 3));
        let (mut leaving, mut staying) = (Vec::new(), Vec::new());
        for (index, turn) in turns.into_iter().enumerate() {
            if index % 2 == 0 {
                let barrier = Arc::clone(&barrier);
                leaving.push(tokio::spawn(async move {
                    barrier.wait().await;
                    drop(turn.stream);
                }));
            } else {
                staying.push(turn);
            }
        }
        let watch = |watchdog: Watchdog| {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                watchdog.run_once(&Signal::new()).await
            })
        };
        let watching = [watch(scene.stack.watchdog()), watch(scene.stack.watchdog())];
        let Scene { provider, stack, .. } = scene;
        barrier.wait().await;
        provider.release(TURNS);
        stack.stop().await?;
        for run in watching {
            let run = run.await?;
            assert!(run.is_success(), "{run:?}");
        }
        for task in leaving {
            task.await?;
        }
        for mut turn in staying {
            // TURN-38: the last event matches the row.
            let last = turn.stream.next().await?.map(|event| event.name);
            let row = database.query(&format!(
                "SELECT state FROM chat_turns WHERE request_id = '{}'", turn.started.text("request_id")
            )).await?;
            let completed = row[0][0].as_deref() == Some("completed");
            assert_eq!(last.as_deref() == Some("done"), completed, "{last:?} {row:?}");
        }
        let turns = i64::try_from(TURNS)?;
        assert_eq!(database.number(RUNNING).await?, 0);
        assert_eq!(database.number(RESERVED).await?, 0);
        let once = "SELECT count(DISTINCT dedupe_key) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot'";
        assert_eq!(database.number(once).await?, turns);
        assert_eq!(database.payloads(AUDIT).await?.len(), TURNS);
        let calls = "SELECT CAST(sum(calls) AS BIGINT) FROM quota_usage \
            WHERE bucket = 'total' AND period_type = 'daily'";
        assert_eq!(database.number(calls).await?, turns);
        check_balanced(&database).await?;
    }
}

/// TURN-61: two watchdogs with their own connections and a live process work on
/// 500 rows of one database.
#[test]
fn two_watchdogs_and_a_live_finalizer_settle_500_turns_once() -> anyhow::Result<()> {
    const LIVE: usize = 60;
    const TURNS: usize = 500;
    run(DatabaseKind::Postgres, async |env| {
        let scene = env.scene().await?;
        let original = scene.held().await?;
        let database = scene.database().clone();
        database.copy_running_turn(TURNS - LIVE).await?;
        let mut live = vec![original];
        for _ in 1..LIVE {
            live.push(scene.held().await?);
        }
        database.age_turns("state = 'running'").await?;
        let barrier = Arc::new(Barrier::new(3));
        let mut watching = Vec::new();
        for _ in 0..2 {
            let store = Store::open(
                &DatabaseSettings::new(database.url()),
                Arc::new(SystemClock),
            )
            .await?;
            let metrics = Arc::new(RecordingMetrics::default());
            let config = JobConfig::load(None, [])?;
            let watchdog = Watchdog {
                store,
                metrics: metrics.clone(),
                timeout: Duration::from_mins(5),
                process_timeout: Duration::from_secs(30),
                open_turns: OpenTurns::default(),
                outbox: Arc::new(Outbox::without_dispatcher(config.outbox)),
            };
            let barrier = Arc::clone(&barrier);
            watching.push(tokio::spawn(async move {
                barrier.wait().await;
                (watchdog.run_once(&Signal::new()).await, metrics)
            }));
        }
        barrier.wait().await;
        scene.provider.release(LIVE);
        let mut by_watchdogs = 0;
        for run in watching {
            let (run, metrics) = run.await?;
            assert!(run.is_success(), "{run:?}");
            assert_eq!(
                metrics.counter_sum("orphan_finalized"),
                u64::from(run.finalized)
            );
            assert_eq!(
                metrics.counter_sum("stream_failed"),
                u64::from(run.finalized)
            );
            by_watchdogs += i64::from(run.finalized);
        }
        for mut turn in live {
            while turn.stream.next().await?.is_some() {}
        }
        let orphaned = "SELECT count(*) FROM chat_turns WHERE error_code = 'orphan_timeout'";
        assert_eq!(database.number(orphaned).await?, by_watchdogs);
        let completed = "SELECT count(*) FROM chat_turns WHERE state = 'completed'";
        let by_process = scene
            .stack
            .scrape()
            .await?
            .sum("mini_chat_stream_completed_total", &[]);
        let completed = database.number(completed).await?;
        assert!((by_process - f64::from(i32::try_from(completed)?)).abs() < 0.5);
        assert_eq!(completed + by_watchdogs, i64::try_from(TURNS)?);
        assert_eq!(database.number(RESERVED).await?, 0);
        let events =
            "SELECT count(*) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot'";
        assert_eq!(database.number(events).await?, i64::try_from(TURNS)?);
        assert_eq!(database.payloads(AUDIT).await?.len(), TURNS);
        check_balanced(&database).await
    })
}
