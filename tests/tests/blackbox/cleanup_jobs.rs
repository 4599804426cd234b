//! The clean-up as processes of its own, which run side by side, out of time, and are
//! killed.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use minichat_metrics::catalogue::OF_JOBS;
use minichat_metrics::{JobReport, Metrics as _, RecordingMetrics};
use minichat_tests::books::check_balanced;
use minichat_tests::child::{JobRun, job, job_run, spawn, terminate, variables_of_a_pool};
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::Env;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Scenario, ScriptedProvider};
use minichat_tests::stored_files::{MANUAL, StoredFiles};
use serde_json::json;
use tokio::process::Child;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const STORES: &str = "SELECT count(*) FROM chat_vector_stores";
const CLAIMS: &str = "SELECT count(*) FROM cleanup_claims";
const SHORT: &str = "MINICHAT_CLEANUP_WORKER_CALL_TIMEOUT_SECS=3";
const TURNS: &str = "SELECT count(*) FROM chat_turns";
/// With their messages, more rows than a purge deletes at a time.
const TURNS_OF_A_CHAT: i64 = 60;
/// Number of jobs that are killed.
const KILLS: u64 = 50;

fn count(status: &str) -> String {
    format!("SELECT count(*) FROM attachments WHERE cleanup_status = '{status}'")
}

/// Starts the job on the database and the manifests of `env`.
fn start(env: &Env, arguments: &[&str], settings: &str) -> anyhow::Result<Child> {
    let arguments: Vec<_> = ["cleanup"].iter().chain(arguments).copied().collect();
    let mut variables = variables_of_a_pool(&env.database.url(), settings);
    let manifests = env.manifests().display().to_string();
    variables.push(("MINICHAT_SOURCE_MANIFESTS".to_owned(), manifests));
    let variables: Vec<_> = variables
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    spawn(BINARY, &arguments, &variables)
}

async fn run(env: &Env, arguments: &[&str], settings: &str) -> anyhow::Result<JobRun> {
    job_run(start(env, arguments, settings)?).await
}

/// Deleted chats with `files` files each, of which some have a store, and a living
/// chat with one. Nobody serves any more.
async fn deleted_chats(env: &Env, chats: usize, files: usize) -> anyhow::Result<ScriptedProvider> {
    let world = StoredFiles::start(env, MANUAL).await?;
    world.chat_with(1).await?;
    for _ in 0..chats {
        let chat = world.chat_with(files).await?;
        world.delete_chat(&chat).await?;
    }
    let StoredFiles {
        provider, stack, ..
    } = world;
    stack.stop().await?;
    wait_until_free(env).await?;
    Ok(provider)
}

/// The last task of what has served may still have the file open.
async fn wait_until_free(env: &Env) -> anyhow::Result<()> {
    let is_free =
        async || anyhow::Ok(job_run(job(BINARY, &["migrate"], &env.database.url())?).await?);
    while !is_free().await?.status.success() {}
    Ok(())
}

fn slow(delay_ms: u64) -> Scenario {
    Scenario {
        times: 1000,
        for_method: Some("DELETE".to_owned()),
        for_path: Some("/v1/".to_owned()),
        delay_before_head_ms: delay_ms,
        ..Scenario::default()
    }
}

/// What the report at `path` counts of a family; 0 if it was never written.
fn counted(path: &Path) -> anyhow::Result<RecordingMetrics> {
    let metrics = RecordingMetrics::default();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if !text.is_empty() {
        metrics.replay(&JobReport::parse(&text)?);
    }
    Ok(metrics)
}

/// As if all claims had expired and what failed was due again.
async fn everything_is_due(database: &Database) -> anyhow::Result<()> {
    for sql in [
        "DELETE FROM cleanup_claims",
        "UPDATE attachments SET cleanup_due_at = NULL",
        "UPDATE chat_vector_stores SET cleanup_due_at = created_at \
         WHERE cleanup_due_at IS NOT NULL",
    ] {
        database.query(sql).await?;
    }
    Ok(())
}

on_each_database! {
    /// CONT-172, K8S-42, K8S-44, D15
    async fn a_job_reports_what_it_did(env) {
        let provider = deleted_chats(&env, 2, 2).await?;
        let file = env.file("report");
        let settings = format!("{SHORT}\nMINICHAT_JOB_REPORT_FILE={}", file.display());
        let done = run(&env, &["--once"], &settings).await?;
        assert!(done.status.success(), "{done:?}");
        assert_eq!(done.reports, [json!({
            "job": "cleanup", "processed": 6, "completed": 6, "retried": 0, "failed": 0,
            "purged": 0, "remaining_pending": 0, "remaining_failed": 0, "stopped": "done",
        })]);
        let stored = provider.stored();
        assert_eq!((stored.0.len(), stored.1.len()), (1, 1), "those of the living chat");
        let report = JobReport::parse(&std::fs::read_to_string(&file)?)?;
        assert_eq!((report.job.as_str(), report.count("cleanup_completed")), ("cleanup", 6));
        // The operator has a family for everything in the report.
        for family in report.families() {
            assert!(OF_JOBS.iter().any(|of_jobs| of_jobs.row().name == family), "{family}");
        }
        let again = run(&env, &[], &settings).await?;
        assert_eq!(again.reports[0]["processed"], 0);
    }

    /// CONT-171, CONT-172; check 68 of chapter 04
    async fn a_job_ends_within_its_time(env) {
        let provider = deleted_chats(&env, 1, 20).await?;
        provider.push_scenario(slow(400));
        let began = std::time::Instant::now();
        let first = run(&env, &["--time-budget", "8"], SHORT).await?;
        assert!(first.status.success(), "{first:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let report = &first.reports[0];
        assert_eq!((&report["stopped"], &report["failed"]), (&json!("budget"), &json!(0)), "{report}");
        let done = env.database.number(&count("done")).await?;
        assert!((1..20).contains(&done), "{done}");
        assert_eq!(env.database.number(&count("pending")).await?, 20 - done);
        assert_eq!(env.database.number("SELECT sum(cleanup_attempts) FROM attachments").await?, 0);
        assert_eq!(env.database.number(CLAIMS).await?, 0);

        let stopped = start(&env, &[], SHORT)?;
        let seen = provider.requests().len();
        while provider.requests().len() < seen + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        terminate(&stopped)?;
        let stopped = job_run(stopped).await?;
        assert!(stopped.status.success(), "{stopped:?}");
        assert_eq!(stopped.reports[0]["stopped"], "signal");
        assert!(env.database.number(&count("pending")).await? > 0);
        assert_eq!(env.database.number("SELECT sum(cleanup_attempts) FROM attachments").await?, 0);
        assert_eq!(env.database.number(CLAIMS).await?, 0, "free at once");

        provider.clear_scenarios();
        let last = run(&env, &[], SHORT).await?;
        assert_eq!((&last.reports[0]["stopped"], &last.reports[0]["remaining_pending"]), (&json!("done"), &json!(0)));
        assert_eq!(env.database.number(&count("done")).await?, 20);
        assert_eq!(provider.stored().0.len(), 1);
    }

    /// CONT-172: a time within which no call of a provider could begin is refused.
    async fn a_job_without_time_for_a_call_is_refused(env) {
        let slow_calls = "MINICHAT_CLEANUP_WORKER_CALL_TIMEOUT_SECS=240";
        let short: &[&str] = &["--time-budget", "3"];
        for (arguments, settings, least) in [(short, SHORT, 3), (&["--once"], slow_calls, 240)] {
            let refused = run(&env, arguments, settings).await?;
            assert!(!refused.status.success(), "{refused:?}");
            let least = format!("write more than {least}, ");
            assert!(refused.stderr.contains("--time-budget: ") && refused.stderr.contains(&least), "{refused:?}");
            assert!(refused.reports.is_empty(), "{refused:?}");
        }
    }

    /// CONT-173: on SQLite, where one process has the file, what a killed job has claimed
    /// is free for the next one at once.
    async fn the_claims_of_a_killed_job_end_with_the_next_one_on_sqlite(env) {
        let provider = deleted_chats(&env, 1, 2).await?;
        let held = Scenario { hold_before_head: true, times: 1, ..slow(0) };
        provider.push_scenario(held);
        let seen = provider.requests().len();
        let mut killed = start(&env, &[], SHORT)?;
        provider.wait_until(|stats| stats.answers_open == 1).await;
        killed.kill().await?;
        assert_eq!(provider.requests().len(), seen + 1);
        assert_eq!(env.database.number(CLAIMS).await?, 1);
        let next = run(&env, &[], SHORT).await?;
        assert!(next.status.success(), "{next:?}");
        let left = match env.database.kind() {
            DatabaseKind::Sqlite => 0,
            // It may be at work.
            DatabaseKind::Postgres => 2,
        };
        assert_eq!(next.reports[0]["remaining_pending"], left, "{next:?}");
    }

    /// CONT-172; check 69 of chapter 04
    async fn a_job_fails_only_if_nothing_could_be_done(env) {
        let provider = deleted_chats(&env, 1, 2).await?;
        provider.push_scenario(Scenario { status: 500, body: Some(json!({})), ..slow(0) });
        let failing = run(&env, &[], SHORT).await?;
        assert!(failing.status.success(), "{failing:?}");
        assert_eq!((&failing.reports[0]["retried"], &failing.reports[0]["completed"]), (&json!(2), &json!(0)));
        let disabled = format!("{SHORT}\nMINICHAT_CLEANUP_WORKER_ENABLED=false");
        let disabled = run(&env, &[], &disabled).await?;
        assert!(disabled.status.success(), "{disabled:?}");
        assert_eq!(env.database.number(&count("pending")).await?, 2);
        let url = match env.database.kind() {
            DatabaseKind::Sqlite => "sqlite:///nowhere/at/all.db",
            DatabaseKind::Postgres => "postgres://127.0.0.1:1/none?sslmode=disable",
        };
        let down = format!("{SHORT}\nMINICHAT_DATABASE_URL={url}\nMINICHAT_DATABASE_ACQUIRE_TIMEOUT_SECS=1");
        let down = run(&env, &[], &down).await?;
        assert!(!down.status.success(), "{down:?}");
        let no_tenants = format!("{SHORT}\nMINICHAT_SOURCE_POOL=x");
        let refused = run(&env, &[], &no_tenants).await?;
        assert!(!refused.status.success(), "{refused:?}");
    }

    /// CONT-175, CONT-173, CONT-161; check 71 of chapter 04: killed at any moment, it leaves
    /// nothing behind in the end, takes nothing of a living chat, and counts nothing twice.
    async fn a_job_may_be_killed_at_any_moment(env) {
        let provider = deleted_chats(&env, 40, 4).await?;
        provider.push_scenario(slow(2));
        let report = env.file("report");
        let settings = format!("{SHORT}\nMINICHAT_JOB_REPORT_FILE={}", report.display());
        let (mut files, mut stores, mut kills_at_work) = (0, 0, 0);
        for kill in 0..KILLS {
            std::fs::write(&report, "")?;
            let seen = provider.requests().len();
            let mut killed = start(&env, &[], &settings)?;
            let mut has_ended = false;
            while provider.requests().len() == seen && !has_ended {
                let wait = tokio::time::timeout(Duration::from_millis(1), killed.wait());
                has_ended = wait.await.is_ok();
            }
            // Its calls and its commits take about as long.
            let moment = Duration::from_micros(kill * 7_919 % 24_000);
            let has_ended = tokio::time::timeout(moment, killed.wait()).await.is_ok();
            if !has_ended {
                killed.kill().await?;
                kills_at_work += 1;
            }
            let metrics = counted(&report)?;
            files += metrics.counter("cleanup_completed", &["file"]);
            stores += metrics.counter("cleanup_completed", &["vector_store"]);
            // As if its claims had expired.
            env.database.query("DELETE FROM cleanup_claims").await?;
        }
        let last = run(&env, &[], &settings).await?;
        assert!(last.status.success(), "{last:?}");
        let metrics = counted(&report)?;
        files += metrics.counter("cleanup_completed", &["file"]);
        stores += metrics.counter("cleanup_completed", &["vector_store"]);
        let stored = provider.stored();
        assert_eq!((stored.0.len(), stored.1.len()), (1, 1), "those of the living chat");
        assert_eq!(env.database.number(&count("done")).await?, 160);
        assert_eq!(env.database.number(STORES).await?, 1);
        assert_eq!(env.database.number("SELECT sum(cleanup_attempts) FROM attachments").await?, 0);
        assert!(kills_at_work > 10, "{kills_at_work}");
        // The count of the row at which it was killed may be lost with it.
        let counts = files + stores;
        assert!(files <= 160 && stores <= 40, "{files} files, {stores} stores");
        assert!(counts + kills_at_work >= 200, "{counts} of 200, {kills_at_work} kills");
    }
}

on_each_database! {
    /// PLAT-21: killed while it removes deleted chats, it leaves books that balance, and the
    /// next one goes on.
    async fn a_purge_may_be_killed_at_any_moment(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        for model in ["std", "prem", "std", "prem"] {
            let chat = world.user.create_chat(Some(model)).await?;
            // More rows than are deleted at a time.
            for _ in 0..TURNS_OF_A_CHAT {
                world.user.say(&chat, "PING").await?;
            }
            world.delete_chat(&chat).await?;
        }
        let (turns, all) = (world.stack.database.number(TURNS).await?, 4 * TURNS_OF_A_CHAT);
        assert_eq!(turns, all);
        let year = match env.database.kind() {
            DatabaseKind::Sqlite => "31536000000000",
            DatabaseKind::Postgres => "INTERVAL '365 days'",
        };
        let age = format!("UPDATE chats SET deleted_at = deleted_at - {year}");
        env.database.query(&age).await?;
        world.stack.stop().await?;
        wait_until_free(&env).await?;
        check_balanced(&env.database).await?;
        let settings = format!("{SHORT}\nMINICHAT_RETENTION_PURGE_GRACE_DAYS=1");
        let mut half_purged = 0;
        for kill in 0..30_u64 {
            let left = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM chats)";
            let before = env.database.number(left).await?;
            if before == 0 {
                break;
            }
            let mut killed = start(&env, &[], &settings)?;
            // Until it has begun, and then a moment.
            while env.database.number(left).await? == before {
                let wait = tokio::time::timeout(Duration::from_millis(1), killed.wait());
                assert!(wait.await.is_err(), "it has purged nothing");
            }
            let moment = Duration::from_micros(kill * 1_317 % 4_000);
            if tokio::time::timeout(moment, killed.wait()).await.is_err() {
                killed.kill().await?;
            }
            check_balanced(&env.database).await?;
            let without_turns = "SELECT count(*) FROM chats c WHERE NOT EXISTS \
                (SELECT 1 FROM chat_turns t WHERE t.chat_id = c.id)";
            half_purged += env.database.number(without_turns).await?;
        }
        let last = run(&env, &[], &settings).await?;
        assert!(last.status.success(), "{last:?}");
        let rolled_up = "SELECT CAST(sum(turns) AS BIGINT) FROM turn_rollups";
        assert_eq!(env.database.number(rolled_up).await?, all);
        for sql in [TURNS, "SELECT count(*) FROM chats", "SELECT count(*) FROM messages"] {
            assert_eq!(env.database.number(sql).await?, 0, "{sql}");
        }
        check_balanced(&env.database).await?;
        eprintln!("{half_purged} chats were half purged");
    }
}

/// CONT-173; check 70 of chapter 04
#[test]
fn two_jobs_at_once_count_everything_once() -> anyhow::Result<()> {
    minichat_tests::harness::run(DatabaseKind::Postgres, async |env: Env| {
        let provider = deleted_chats(&env, 50, 2).await?;
        let files = [env.file("one"), env.file("other")];
        let jobs = files.each_ref().map(|file| {
            let settings = format!("{SHORT}\nMINICHAT_JOB_REPORT_FILE={}", file.display());
            start(&env, &[], &settings)
        });
        let [one, other] = jobs;
        let (one, other) = tokio::join!(job_run(one?), job_run(other?));
        let mut sums = [0, 0];
        for (ended, file) in [one?, other?].iter().zip(&files) {
            assert!(ended.status.success(), "{ended:?}");
            let metrics = counted(file).context("a report")?;
            sums[0] += metrics.counter("cleanup_completed", &["file"]);
            sums[1] += metrics.counter("cleanup_completed", &["vector_store"]);
        }
        // One may end while the other still works on what it has claimed.
        assert_eq!(sums, [100, 50]);
        assert_eq!(env.database.number(&count("done")).await?, 100);
        assert_eq!(env.database.number(STORES).await?, 1);
        assert_eq!(provider.stored().0.len(), 1);
        Ok(())
    })
}

/// Ways in which a deletion fails (CONT-167).
fn failure(seed: u64) -> Scenario {
    let statuses = [500, 503, 429, 401, 403, 400, 408, 504, 301];
    let at = usize::try_from(seed % 11).unwrap_or_default();
    let scenario = Scenario {
        times: 1,
        status: statuses.get(at).copied().unwrap_or(200),
        body: Some(json!({})),
        ..slow(0)
    };
    match at {
        9 => Scenario {
            drop_connection: true,
            ..scenario
        },
        10 => Scenario {
            hold_before_head: true,
            ..scenario
        },
        _ => scenario,
    }
}

/// CONT-167, CONT-173, CONT-175, CONT-161: two jobs at once, of which one or the other is
/// killed at any moment, while the provider fails in every way.
#[test]
fn two_jobs_are_killed_while_the_provider_fails() -> anyhow::Result<()> {
    minichat_tests::harness::run(DatabaseKind::Postgres, async |env: Env| {
        let provider = deleted_chats(&env, 40, 4).await?;
        let reports = [env.file("one"), env.file("other")];
        let start_at = |place: usize| {
            std::fs::write(&reports[place], "")?;
            let limits = "MINICHAT_CLEANUP_WORKER_MAX_ATTEMPTS=1000\n\
                MINICHAT_CLEANUP_WORKER_CALL_TIMEOUT_SECS=1";
            let report = reports[place].display();
            start(
                &env,
                &[],
                &format!("{limits}\nMINICHAT_JOB_REPORT_FILE={report}"),
            )
        };
        let mut sums = [0, 0];
        let mut add = |place: usize| {
            let metrics = counted(&reports[place])?;
            sums[0] += metrics.counter("cleanup_completed", &["file"]);
            sums[1] += metrics.counter("cleanup_completed", &["vector_store"]);
            anyhow::Ok(())
        };
        let mut jobs = [start_at(0)?, start_at(1)?];
        let (mut state, mut kills_at_work) = (20_261_201_u64, 0);
        for _ in 0..KILLS {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let random = state >> 33;
            provider.push_scenario(failure(random));
            provider.push_scenario(Scenario {
                times: 4,
                ..slow(2)
            });
            let place = usize::from(random % 2 == 0);
            let seen = provider.requests().len();
            let began = std::time::Instant::now();
            let mut has_ended = false;
            while provider.requests().len() == seen && !has_ended && began.elapsed().as_secs() < 2 {
                let wait = tokio::time::timeout(Duration::from_millis(1), jobs[place].wait());
                has_ended = wait.await.is_ok();
            }
            let moment = Duration::from_micros(random % 24_000);
            if tokio::time::timeout(moment, jobs[place].wait())
                .await
                .is_err()
            {
                jobs[place].kill().await?;
                kills_at_work += 1;
            }
            add(place)?;
            everything_is_due(&env.database).await?;
            jobs[place] = start_at(place)?;
        }
        provider.clear_scenarios();
        for (place, job) in jobs.into_iter().enumerate() {
            assert!(job_run(job).await?.status.success());
            add(place)?;
        }
        everything_is_due(&env.database).await?;
        assert!(job_run(start_at(0)?).await?.status.success());
        add(0)?;
        let kept = provider.stored();
        assert_eq!(
            (kept.0.len(), kept.1.len()),
            (1, 1),
            "those of the living chat"
        );
        assert_eq!(env.database.number(&count("done")).await?, 160);
        assert_eq!(env.database.number(STORES).await?, 1);
        let [files, stores] = sums;
        assert!(kills_at_work > 10, "{kills_at_work}");
        assert!(
            files <= 160 && stores <= 40,
            "{files} files, {stores} stores"
        );
        // The count of the row at which one was killed may be lost with it.
        assert!(
            files + stores + kills_at_work >= 200,
            "{files}, {stores}, {kills_at_work} kills"
        );
        Ok(())
    })
}
