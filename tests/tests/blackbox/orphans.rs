//! Turns whose process is gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_core::{Clock as _, SystemClock, TurnId};
use minichat_dataplane::jobs::{Report, Watchdog};
use minichat_metrics::catalogue::Family;
use minichat_metrics::{Label, Recorder, RecordingMetrics};
use minichat_store::testing::{Control, Fault};
use minichat_telemetry::Signal;
use minichat_tests::books::check_balanced;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Held, Scene, run};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;

const USAGE: &str = "mini-chat.usage_snapshot";
const AUDIT: &str = "mini-chat.audit";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const ORPHANED: &str =
    "SELECT count(*) FROM chat_turns WHERE state = 'failed' AND error_code = 'orphan_timeout'";
const RESERVED: &str = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";

/// A turn whose provider has sent one word and is silent since.
async fn stalled(scene: &Scene, model: &str) -> anyhow::Result<Held> {
    scene.held_with(model, &"x".repeat(4000)).await
}

/// Runs the watchdog once with its own metrics.
async fn watch(scene: &Scene) -> (Report, Arc<RecordingMetrics>) {
    let metrics = Arc::new(RecordingMetrics::default());
    let watchdog = Watchdog {
        metrics: metrics.clone(),
        ..scene.stack.watchdog()
    };
    (watchdog.run_once(&Signal::new()).await, metrics)
}

fn report(detected: u32, finalized: u32, skipped: u32, failed: u32) -> Report {
    Report {
        detected,
        finalized,
        skipped,
        failed,
        ..Report::default()
    }
}

/// Changes the database, or fires a signal, between the selection of rows and
/// the first finalization.
struct Between {
    database: Database,
    sql: Option<String>,
    stop: Option<Signal>,
    counted: RecordingMetrics,
}

impl Recorder for Between {
    fn add(&self, family: Family, labels: &[Label<'_>], increment: u64) {
        if family.row().name == "orphan_detected" {
            if let Some(sql) = self.sql.clone() {
                let database = self.database.clone();
                let changed = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(database.query(&sql)).unwrap();
                });
                changed.join().unwrap();
            }
            self.stop.iter().for_each(Signal::fire);
        }
        self.counted.add(family, labels, increment);
    }

    fn shift(&self, family: Family, step: i64) {
        self.counted.shift(family, step);
    }

    fn set(&self, family: Family, labels: &[Label<'_>], value: u64) {
        self.counted.set(family, labels, value);
    }

    fn observe(&self, family: Family, labels: &[Label<'_>], value: f64) {
        self.counted.observe(family, labels, value);
    }
}

on_each_database! {
    /// TURN-56, TURN-57, TURN-60, TURN-61, D1; QUOTA-34, QUOTA-59: the
    /// settlement uses the row and the policy that priced it, although the
    /// tenant's prices have changed since.
    async fn an_orphan_is_settled_from_what_is_stored(env) {
        let scene = env.scene().await?;
        let Held { user, chat, mut stream, started } = stalled(&scene, "prem").await?;
        let stack = &scene.stack;
        let before = stack.configz(&scene.tenant).await?;
        let mut dearer = scene.tenant.clone();
        dearer.model("prem")["inputTokensCreditMultiplierMicro"] = json!(30_000_000);
        dearer.model("prem")["tier"] = json!("Standard");
        dearer.model("prem")["preference"] = json!({"isDefault": false});
        stack.write_manifest("acme", &dearer.manifest())?;
        stack.eventually("reloaded", async || {
            Ok(stack.configz(&dearer).await?["revision"] != before["revision"])
        }).await?;
        let database = scene.database();
        database.age_turns("state = 'running'").await?;
        let messages = user.messages(&chat).await?;

        let (run, metrics) = watch(&scene).await;
        assert_eq!(run, report(1, 1, 0, 0));
        assert!(run.is_success());
        let turn = user.turn(&chat, started.text("request_id")).await?;
        assert_eq!((&turn["state"], &turn["error_code"]), (&json!("error"), &json!("orphan_timeout")));
        assert_eq!(user.messages(&chat).await?, messages);
        let cells = "SELECT count(*) FROM quota_usage \
            WHERE spent_credits_micro = 4380 AND reserved_credits_micro = 0 AND calls = 1";
        assert_eq!(database.number(cells).await?, 4);
        check_balanced(database).await?;

        let usage = database.payloads(USAGE).await?;
        assert_eq!(usage.len(), 1);
        for (member, expected) in [
            ("terminal_state", json!("failed")), ("billing_outcome", json!("aborted")),
            ("settlement_method", json!("estimated")), ("error_code", json!("orphan_timeout")),
            ("selected_model", json!("prem")), ("effective_model", json!("prem")),
            ("committed_credits_micro", json!(4380)), ("policy_version_applied", json!(1)),
            ("usage", json!(null)),
        ] {
            assert_eq!(usage[0][member], expected, "{member} in {}", usage[0]);
        }
        let audit = database.payloads(AUDIT).await?;
        assert_eq!(audit.len(), 1);
        assert_eq!(audit[0]["event_type"], "turn_failed");
        assert_eq!(audit[0]["error_code"], "orphan_timeout");
        assert_eq!(audit[0]["usage"]["input_tokens"], 0);
        assert_eq!(audit[0]["latency_ms"], json!({}));
        assert_eq!(audit[0]["policy_decisions"]["quota"], json!({"decision": "unknown"}));

        let counted = |name: &str, labels: &[&str]| assert_eq!(metrics.counter(name, labels), 1, "{name}");
        counted("orphan_detected", &["stale_progress"]);
        counted("orphan_finalized", &["stale_progress"]);
        counted("streams_aborted", &["orphan_timeout"]);
        counted("stream_failed", &["main", "prem", "orphan_timeout"]);
        assert_eq!(metrics.observations("finalization_latency_ms", &[]).len(), 1);
        assert_eq!(metrics.observations("orphan_scan_duration_seconds", &[]).len(), 1);
        assert_eq!(metrics.counter_sum("quota_commit"), 0);

        // TURN-38, TURN-42: the task that is still alive has lost.
        scene.provider.release(1);
        assert_eq!(stream.expect("error").await?.text("code"), "stream_interrupted");
        assert_eq!(user.turn(&chat, started.text("request_id")).await?, turn);
        assert_eq!(database.payloads(USAGE).await?, usage);
        let scrape = stack.scrape().await?;
        for name in ["stream_completed", "stream_failed", "finalization_latency_ms"] {
            assert!(scrape.sum(&format!("mini_chat_{name}_total"), &[]) < 0.5, "{name}");
        }
        scene.provider.push_scenario(Scenario::deltas(&["new"], Ending::Completed));
        user.say(&chat, "again").await?;
        let body = json!({"content": "again", "request_id": started.text("request_id")});
        user.refused(&chat, &body).await?.problem(409, "request_id_conflict")?;
    }

    /// TURN-57: neither age nor state alone makes an orphan.
    async fn what_lives_or_ended_or_is_deleted_is_left_alone(env) {
        let scene = env.scene().await?;
        let fresh = stalled(&scene, "std").await?;
        let deleted = stalled(&scene, "std").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        let database = scene.database();
        database.age_turns("TRUE").await?;
        // A turn that began long ago may still be alive.
        for (turn, change) in [(&fresh, "last_progress_at"), (&deleted, "deleted_at")] {
            let request = turn.started.text("request_id");
            database.query(&format!(
                "UPDATE chat_turns SET started_at = last_progress_at, {change} = updated_at \
                 WHERE request_id = '{request}'"
            )).await?;
        }
        let before = database.query("SELECT id, state, error_code, updated_at FROM chat_turns ORDER BY id").await?;
        let (run, _) = watch(&scene).await;
        assert_eq!(run, report(0, 0, 0, 0));
        let after = database.query("SELECT id, state, error_code, updated_at FROM chat_turns ORDER BY id").await?;
        assert_eq!(after, before);
    }

    /// TURN-57: a turn that is open in the watchdog's process lives as long as
    /// its task may take. A task that takes longer hangs.
    async fn a_turn_whose_task_hangs_is_an_orphan_although_it_is_open_here(env) {
        let scene = env.scene().await?;
        let turn = stalled(&scene, "std").await?;
        let database = scene.database();
        database.age_turns("state = 'running'").await?;
        let rows = database.query("SELECT id FROM chat_turns").await?;
        let id: TurnId = rows[0][0].as_deref().context("no id")?.parse()?;
        let watchdog = scene.stack.watchdog();
        let live = watchdog.open_turns.enter(id, Duration::from_mins(1));
        assert_eq!(watchdog.run_once(&Signal::new()).await, report(1, 0, 1, 0));
        assert_eq!(database.number(RUNNING).await?, 1);
        drop(live);
        let _hanging = watchdog.open_turns.enter(id, Duration::ZERO);
        assert_eq!(watchdog.run_once(&Signal::new()).await, report(1, 1, 0, 0));
        assert_eq!(database.number(RESERVED).await?, 0);
        // The chat goes on, and the task that wakes up changes nothing.
        turn.user.say(&turn.chat, "PING").await?.only("done")?;
        let usage = database.payloads(USAGE).await?.len();
        scene.provider.release(1);
        let mut stream = turn.stream;
        assert_eq!(stream.expect("error").await?.text("code"), "stream_interrupted");
        assert_eq!(database.payloads(USAGE).await?.len(), usage);
        check_balanced(database).await?;
    }

    /// TURN-60: the compare-and-set checks the whole condition again.
    async fn a_sign_of_life_after_the_selection_saves_the_turn(env) {
        let scene = env.scene().await?;
        let turn = stalled(&scene, "std").await?;
        let database = scene.database();
        database.age_turns("state = 'running'").await?;
        let between = Arc::new(Between {
            database: database.clone(),
            sql: Some("UPDATE chat_turns SET last_progress_at = started_at".to_owned()),
            stop: None,
            counted: RecordingMetrics::default(),
        });
        let watchdog = Watchdog { metrics: between.clone(), ..scene.stack.watchdog() };
        assert_eq!(watchdog.run_once(&Signal::new()).await, report(1, 0, 1, 0));
        assert_eq!(between.counted.counter_sum("orphan_detected"), 1);
        assert_eq!(between.counted.counter_sum("orphan_finalized"), 0);
        assert_eq!(between.counted.counter_sum("stream_failed"), 0);
        assert_eq!(database.number(RUNNING).await?, 1);
        assert_eq!(database.payloads(USAGE).await?.len(), 0);
        assert_eq!(database.payloads(AUDIT).await?.len(), 0);
        drop(turn);
    }

    /// TURN-58, TURN-62: the other rows are still handled, and the run reports
    /// that it left something.
    async fn rows_that_cannot_be_finalized_do_not_starve_the_rest(env) {
        let scene = env.scene().await?;
        let _turn = stalled(&scene, "std").await?;
        let database = scene.database();
        database.copy_running_turn(249).await?;
        database.age_turns("state = 'running'").await?;
        let poisoned = "id IN (SELECT id FROM chat_turns ORDER BY id LIMIT 3)";
        database.query(&format!(
            "UPDATE chat_turns SET policy_version_applied = 999 WHERE {poisoned}"
        )).await?;
        database.age_turns(poisoned).await?;
        let (run, metrics) = watch(&scene).await;
        assert_eq!(run, report(250, 247, 0, 3));
        assert!(!run.is_success());
        assert_eq!(metrics.counter_sum("orphan_finalized"), 247);
        assert_eq!(metrics.observations("orphan_scan_duration_seconds", &[]).len(), 3);
        assert_eq!(database.number(ORPHANED).await?, 247);
        assert_eq!(database.payloads(USAGE).await?.len(), 247);
        // The next run finds only the rest.
        database.query("UPDATE chat_turns SET policy_version_applied = 1").await?;
        let (run, _) = watch(&scene).await;
        assert_eq!(run, report(3, 3, 0, 0));
        assert_eq!(database.number(RESERVED).await?, 0);
    }

    /// TURN-58: it stops between rows.
    async fn a_stop_signal_ends_a_run_before_its_next_row(env) {
        let scene = env.scene().await?;
        let _turn = stalled(&scene, "std").await?;
        let database = scene.database();
        database.copy_running_turn(4).await?;
        database.age_turns("state = 'running'").await?;
        let stop = Signal::new();
        let between = Arc::new(Between {
            database: database.clone(),
            sql: None,
            stop: Some(stop.clone()),
            counted: RecordingMetrics::default(),
        });
        let watchdog = Watchdog { metrics: between, ..scene.stack.watchdog() };
        let run = watchdog.run_once(&stop).await;
        assert_eq!(run, Report { stopped: true, ..report(5, 0, 0, 0) });
        assert_eq!(database.number(RUNNING).await?, 5);
    }

    /// TURN-60, QUOTA-69
    async fn a_turn_without_a_reserve_is_ended_without_settlement(env) {
        let scene = env.scene().await?;
        let _turn = stalled(&scene, "std").await?;
        let database = scene.database();
        database.age_turns("state = 'running'").await?;
        database.query("UPDATE chat_turns SET reserve_tokens = NULL").await?;
        let cells = "SELECT * FROM quota_usage ORDER BY id";
        let before = database.query(cells).await?;
        let (run, _) = watch(&scene).await;
        assert_eq!(run, report(1, 1, 0, 0));
        assert_eq!(database.query(cells).await?, before);
        let usage = database.payloads(USAGE).await?;
        assert_eq!(usage[0]["committed_credits_micro"], 0);
        assert_eq!(usage[0]["reserved_credits_micro"], 0);
        assert_eq!(usage[0]["billing_outcome"], "aborted");
    }
}

/// TURN-59, TURN-64, D16: the process that owns the file runs the watchdog,
/// unless it is disabled. It ends turns that no process runs, and never its own
/// running turns, however old their last progress is.
#[test]
fn the_owner_of_a_file_hosts_its_watchdog() -> anyhow::Result<()> {
    for (enabled, found) in [(false, 0_i32), (true, 1)] {
        minichat_tests::harness::run(
            minichat_tests::database::DatabaseKind::Sqlite,
            async |env| {
                let provider = minichat_tests::scripted_provider::ScriptedProvider::start().await?;
                let tenant = minichat_tests::manifest::Tenant::new("acme", provider.addr);
                let settings = format!(
                    "MINICHAT_ORPHAN_WATCHDOG_ENABLED={enabled}\n\
                 MINICHAT_ORPHAN_WATCHDOG_SCAN_INTERVAL_SECS=1"
                );
                let stack = env.serve_with(&[&tenant], &settings).await?;
                let scene = Scene {
                    provider,
                    tenant,
                    stack,
                };
                let mut turn = stalled(&scene, "std").await?;
                let database = scene.database();
                database.copy_running_turn(1).await?;
                database.age_turns("state = 'running'").await?;
                // The live turn is handled first.
                let request = turn.started.text("request_id");
                let is_live = format!("request_id = '{request}'");
                database.age_turns(&is_live).await?;
                if enabled {
                    scene
                        .stack
                        .eventually("found", async || Ok(database.number(ORPHANED).await? == 1))
                        .await?;
                } else {
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                }
                assert_eq!(scene.database().number(ORPHANED).await?, i64::from(found));
                let finalized = scene
                    .stack
                    .scrape()
                    .await?
                    .sum("mini_chat_orphan_finalized_total", &[]);
                assert!((finalized - f64::from(found)).abs() < 0.5);
                scene.provider.release(1);
                turn.stream.expect("done").await?;
                scene.stack.stop().await?;
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// TURN-58, D43: a run ends if the database cannot serve, for example because
/// the disk is full; the next run finds everything.
#[test]
fn a_database_that_cannot_serve_is_not_asked_for_each_orphan() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let scene = env.scene().await?;
        let _turn = stalled(&scene, "std").await?;
        env.database.copy_running_turn(9).await?;
        env.database.age_turns("state = 'running'").await?;
        let writer = scene.stack.watchdog().store.writer();
        let writer = writer.context("SQLite without a writer")?;
        for _ in 0..100 {
            writer.fail(Control::Commit, 0, Fault::Full);
        }
        // No commit is in doubt, which would be retried for a minute.
        let soon = Duration::from_secs(40);
        let (run, _) = tokio::time::timeout(soon, watch(&scene)).await?;
        assert!(run.error.is_some(), "{run:?}");
        assert_eq!((run.detected, run.finalized, run.failed), (10, 0, 1));
        assert!(writer.recover() > 0);
        let (run, _) = watch(&scene).await;
        assert_eq!(run, report(10, 10, 0, 0));
        Ok(())
    })
}

/// TURN-63: an owner that could not recover before it served ends the turns of
/// the previous owner, but none of its own.
#[test]
fn a_late_recovery_ends_only_what_was_left_before() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let scene = env.scene().await?;
        let mut old = scene.held().await?;
        let opened_at = SystemClock.now();
        let mut new = scene.held().await?;
        let watchdog = scene.stack.watchdog();
        let recovered = watchdog.recover_before(opened_at, &Signal::new()).await;
        assert_eq!(recovered, report(1, 1, 0, 0));
        scene.provider.release(2);
        let error = old.stream.expect("error").await?;
        assert_eq!(error.text("code"), "stream_interrupted");
        new.stream.expect("done").await?;
        let aborted = [("trigger", "pod_crash")];
        let scrape = scene.stack.scrape().await?;
        assert_eq!(
            scrape.count("mini_chat_streams_aborted_total", &aborted)?,
            1
        );
        Ok(())
    })
}
