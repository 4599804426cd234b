//! How a process ends, by a signal or a crash, and what remains of its turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use minichat_tests::books::check_balanced;
use minichat_tests::child::{Process, job, job_run};
use minichat_tests::client::Api;
use minichat_tests::harness::Env;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const RESERVED: &str = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";

async fn tenant(env: &Env) -> anyhow::Result<(ScriptedProvider, Tenant)> {
    let provider = ScriptedProvider::start().await?;
    let mut tenant = Tenant::new("acme", provider.addr);
    tenant.model("std")["providerModelId"] = json!("paced-ttft2-chunks8-interval2");
    env.write_manifest(&tenant.name, &tenant.manifest())?;
    Ok((provider, tenant))
}

fn new_user(api: &Api, tenant: &Tenant) -> anyhow::Result<Api> {
    api.acting_as(tenant.id, Uuid::new_v4())
}

async fn wait_for(
    what: &str,
    condition: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let polling = async {
        while !condition().await? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), polling)
        .await
        .with_context(|| format!("not {what}"))?
}

async fn status(admin: &Api, path: &str) -> anyhow::Result<u16> {
    Ok(admin.get_absolute(path).await?.status.as_u16())
}

on_each_database! {
    /// TURN-51, K8S-50, D29: the whole timetable.
    async fn a_drained_process_finishes_short_streams_and_cuts_long_ones(env) {
        let (provider, tenant) = tenant(&env).await?;
        let settings = "MINICHAT_DRAIN_MIN_SECS=1\nMINICHAT_DRAIN_MAX_SECS=7";
        let process = Process::serve(BINARY, &env, settings).await?;
        for ending in [Ending::Completed, Ending::Hang] {
            let held = ending == Ending::Completed;
            provider.push_scenario(Scenario {
                hold_before_end: held,
                ..Scenario::deltas(&["part"], ending)
            });
        }
        let body = json!({"content": "hello"});
        let (short_user, long_user) = (new_user(&process.api, &tenant)?, new_user(&process.api, &tenant)?);
        let mut streams = Vec::new();
        for user in [&short_user, &long_user] {
            let chat = user.create_chat(Some("prem")).await?;
            let mut stream = user.open(&chat, &body).await?;
            let started = stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            streams.push((stream, started.text("request_id").to_owned()));
        }
        let (mut long, long_request) = streams.pop().context("two streams")?;
        let (mut short, _) = streams.pop().context("two streams")?;
        // Its own connection, idle when the drain begins.
        let late = new_user(&Api::new(process.app_addr), &tenant)?;
        let late_chat = late.create_chat(Some("prem")).await?;
        // A request with an unfinished body keeps the process in its last phase
        // for a moment, in which its counters can be read.
        let mut slow = TcpStream::connect(process.app_addr).await?;
        let head = format!(
            "POST /mini-chat/v1/chats HTTP/1.1\r\nhost: a\r\nx-tenant-id: {}\r\nx-user-id: {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
            tenant.id, Uuid::new_v4()
        );
        slow.write_all(head.as_bytes()).await?;

        let signalled = Instant::now();
        process.terminate()?;
        wait_for("draining", async || Ok(status(&process.admin, "/readyz").await? == 503)).await?;
        assert_eq!(status(&process.admin, "/healthz").await?, 200);
        if signalled.elapsed() < Duration::from_millis(700) {
            let served = short_user.post("/chats", &json!({})).await?;
            served.expect(201)?;
            assert_eq!(served.header("connection"), "close");
        }
        let closed = async || Ok(TcpStream::connect(process.app_addr).await.is_err());
        wait_for("closed to new connections", closed).await?;
        assert!(signalled.elapsed() >= Duration::from_secs(1), "{:?}", signalled.elapsed());
        let refused = late.refused(&late_chat, &body).await?;
        refused.problem(503, "service_unavailable")?;
        assert_eq!(refused.header("connection"), "close");
        assert_eq!(status(&process.admin, "/healthz").await?, 200);

        provider.release(1);
        short.expect("done").await?;
        let error = long.expect("error").await?;
        assert_eq!(error.text("code"), "stream_interrupted");
        assert!(signalled.elapsed() >= Duration::from_secs(3), "{:?}", signalled.elapsed());
        let scrape = process.scrape().await?;
        let aborted = scrape.sum("mini_chat_streams_aborted_total", &[("trigger", "internal_abort")]);
        assert!((aborted - 1.0).abs() < 0.5, "{aborted}");
        assert!(process.ended().await?.success());
        drop(slow);

        let state = format!(
            "SELECT t.state, m.content FROM chat_turns t \
             JOIN messages m ON m.id = t.assistant_message_id WHERE t.request_id = '{long_request}'"
        );
        let row = env.database.query(&state).await?;
        assert_eq!(row, [[Some("cancelled".to_owned()), Some("part".to_owned())]]);
        let usage = env.database.payloads("mini-chat.usage_snapshot").await?;
        let cancelled: Vec<_> = usage.iter().filter(|event| event["terminal_state"] == "cancelled").collect();
        assert_eq!((usage.len(), cancelled.len()), (2, 1));
        assert_eq!(cancelled[0]["billing_outcome"], "aborted");
        assert_eq!(env.database.number(RUNNING).await?, 0);
        assert_eq!(env.database.number(RESERVED).await?, 0);
        check_balanced(&env.database).await?;
    }

    /// K8S-50: the second signal skips to the finalization.
    async fn a_second_signal_ends_the_drain_at_once(env) {
        let (provider, tenant) = tenant(&env).await?;
        let settings = "MINICHAT_DRAIN_MIN_SECS=600\nMINICHAT_DRAIN_MAX_SECS=600";
        let process = Process::serve(BINARY, &env, settings).await?;
        provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let user = new_user(&process.api, &tenant)?;
        let chat = user.create_chat(Some("prem")).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        process.terminate()?;
        wait_for("draining", async || Ok(status(&process.admin, "/readyz").await? == 503)).await?;
        process.terminate()?;
        let error = stream.expect("error").await?;
        assert_eq!(error.text("code"), "stream_interrupted");
        assert!(process.ended().await?.success());
        let cancelled = "SELECT count(*) FROM chat_turns WHERE state = 'cancelled'";
        assert_eq!(env.database.number(cancelled).await?, 1);
        assert_eq!(env.database.number(RESERVED).await?, 0);
    }

    /// D35
    async fn an_idle_process_does_not_exit_before_the_minimum(env) {
        let (_provider, _tenant) = tenant(&env).await?;
        let process = Process::serve(BINARY, &env, "MINICHAT_DRAIN_MIN_SECS=1").await?;
        let signalled = Instant::now();
        process.terminate()?;
        assert!(process.ended().await?.success());
        assert!(signalled.elapsed() >= Duration::from_secs(1), "{:?}", signalled.elapsed());
    }

    /// K8S-42, PLAT-140, TURN-59, TURN-62: it needs only the database.
    async fn the_watchdog_command_ends_what_a_killed_process_left(env) {
        let (provider, tenant) = tenant(&env).await?;
        let url = env.database.url();
        let process = Process::serve(BINARY, &env, "").await?;
        provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let user = new_user(&process.api, &tenant)?;
        let chat = user.create_chat(Some("prem")).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        if url.starts_with("sqlite") {
            let refused = job_run(job(BINARY, &["watchdog"], &url)?).await?;
            assert!(!refused.status.success());
            assert!(refused.stderr.contains("another process has the database file"), "{}", refused.stderr);
        }
        process.kill().await?;
        assert_eq!(env.database.number(RUNNING).await?, 1);

        let run = job_run(job(BINARY, &["watchdog"], &url)?).await?;
        assert!(run.status.success(), "{run:?}");
        assert_eq!(run.reports[0]["detected"], 0);
        env.database.age_turns("state = 'running'").await?;
        env.database.query("UPDATE chat_turns SET policy_version_applied = 999").await?;
        let run = job_run(job(BINARY, &["watchdog", "--once"], &url)?).await?;
        assert_eq!(run.status.code(), Some(1));
        assert_eq!(run.reports[0]["failed"], 1);
        env.database.query("UPDATE chat_turns SET policy_version_applied = 1").await?;
        let run = job_run(job(BINARY, &["watchdog", "--once"], &url)?).await?;
        assert!(run.status.success(), "{run:?}");
        let expected = json!({
            "job": "watchdog", "detected": 1, "finalized": 1, "skipped": 0, "failed": 0, "stopped": false,
        });
        assert_eq!(run.reports, [expected]);
        assert_eq!(env.database.number(RUNNING).await?, 0);
        assert_eq!(env.database.number(RESERVED).await?, 0);
        let migrated = job_run(job(BINARY, &["migrate"], &url)?).await?;
        assert!(migrated.status.success(), "{migrated:?}");
        check_balanced(&env.database).await?;
    }

    /// TURN-2, TURN-33, TURN-38, TURN-56, TURN-60, TURN-62, TURN-63, D1,
    /// QUOTA-63, QUOTA-85: 30 rounds of SIGKILL at random moments of a loaded
    /// process.
    async fn whenever_a_process_is_killed_every_turn_is_ended_once(env) {
        crash(env).await?;
    }
}

/// A small random generator, so that a failing seed can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What the clients of all rounds saw.
#[derive(Default)]
struct Seen {
    /// Request ids whose stream ended with `done`.
    done: Mutex<Vec<String>>,
    over: AtomicBool,
}

/// Sends messages until the process is gone. Disconnects from every fourth
/// stream after its first event.
async fn client(api: Api, tenant: Tenant, seen: Arc<Seen>) -> anyhow::Result<()> {
    let user = new_user(&api, &tenant)?;
    let mut sent = 0;
    while !seen.over.load(Ordering::Relaxed) {
        let chat = user.create_chat(Some("std")).await?;
        let request = Uuid::new_v4().to_string();
        let body = json!({"content": "hello", "request_id": request});
        let mut stream = user.open(&chat, &body).await?;
        sent += 1;
        while let Some(event) = stream.next().await? {
            if event.name == "done" {
                let mut done = seen.done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push(request.clone());
            }
            if sent % 4 == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// The terminal counters of a scrape.
fn ended(scrape: &minichat_tests::exposition::Scrape) -> f64 {
    scrape.sum("mini_chat_stream_completed_total", &[])
        + scrape.sum("mini_chat_stream_failed_total", &[])
}

async fn crash(env: Env) -> anyhow::Result<()> {
    let number = match std::env::var("MINICHAT_TEST_SEED") {
        Ok(given) => given.parse()?,
        Err(_) => Uuid::new_v4().as_u64_pair().0,
    };
    eprintln!("MINICHAT_TEST_SEED={number}");
    let mut dice = Dice(number.max(1));
    let (_provider, tenant) = tenant(&env).await?;
    let is_sqlite = env.database.url().starts_with("sqlite");
    let seen = Arc::new(Seen::default());
    // Orphans that processes and jobs report.
    let (mut recovered, mut counted_started, mut counted_ended) = (0.0, 0.0, 0.0);
    for _ in 0..30 {
        let process = Process::serve(BINARY, &env, "").await?;
        if is_sqlite {
            // TURN-63: before the first request is served.
            ensure!(
                env.database.number(RUNNING).await? == 0,
                "a turn is left running"
            );
        }
        let first = process.scrape().await?;
        let orphans = first.sum(
            "mini_chat_streams_aborted_total",
            &[("trigger", "pod_crash")],
        );
        ensure!(
            (ended(&first) - orphans).abs() < 0.5,
            "recovery counts each orphan once"
        );
        recovered += orphans;
        let clients: Vec<_> = (0..6)
            .map(|_| {
                tokio::spawn(client(
                    process.api.clone(),
                    tenant.clone(),
                    Arc::clone(&seen),
                ))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(5 + dice.below(200))).await;
        let last = process.scrape().await?;
        process.kill().await?;
        for client in clients {
            // It ends with the error of its connection.
            drop(client.await?);
        }
        counted_started += last.sum("mini_chat_stream_started_total", &[]);
        counted_ended += ended(&last) - orphans;
        if !is_sqlite {
            recovered += watchdog(&env).await?;
        }
    }
    check_last_process(&env, &tenant, &seen, &mut recovered).await?;
    // The server may commit a transaction of the killed process after the
    // watchdog of that round has run.
    recovered += watchdog(&env).await?;
    check_rows(&env, &seen, recovered, (counted_started, counted_ended)).await
}

/// Ends every turn of a dead process and returns their number.
async fn watchdog(env: &Env) -> anyhow::Result<f64> {
    env.database.age_turns("state = 'running'").await?;
    let run = job_run(job(BINARY, &["watchdog"], &env.database.url())?).await?;
    ensure!(run.status.success(), "{run:?}");
    run.reports[0]["finalized"].as_f64().context("no count")
}

/// A process that ends normally has exact counters: D1 within one process.
async fn check_last_process(
    env: &Env,
    tenant: &Tenant,
    seen: &Arc<Seen>,
    recovered: &mut f64,
) -> anyhow::Result<()> {
    let process = Process::serve(BINARY, env, "").await?;
    let orphans = ended(&process.scrape().await?);
    *recovered += orphans;
    let clients: Vec<_> = (0..6)
        .map(|_| {
            tokio::spawn(client(
                process.api.clone(),
                tenant.clone(),
                Arc::clone(seen),
            ))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    seen.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    wait_for("idle", async || {
        let scrape = process.scrape().await?;
        let active = scrape.sum("mini_chat_active_streams", &[]);
        let started = scrape.sum("mini_chat_stream_started_total", &[]);
        Ok(active < 0.5 && (started - (ended(&scrape) - orphans)).abs() < 0.5)
    })
    .await?;
    process.terminate()?;
    ensure!(process.ended().await?.success());
    Ok(())
}

/// `stream_started = stream_completed + stream_failed` over all processes.
/// A killed process loses what it counted after its last scrape, so its
/// counters are lower bounds. But each count has a row: `started` is counted
/// for every committed reserve, which is a row, and the terminal counter by the
/// process that moved the row out of `running`. The counts of recovery and
/// watchdogs were read completely, so they must equal the rows with their error
/// code. The other rows were ended by live processes. As there is one usage
/// event per row, no turn was ended twice, so the sums are equal.
async fn check_rows(
    env: &Env,
    seen: &Seen,
    recovered: f64,
    (counted_started, counted_ended): (f64, f64),
) -> anyhow::Result<()> {
    let number = async |sql: &str| env.database.number(sql).await;
    assert_eq!(number(RUNNING).await?, 0);
    assert_eq!(number(RESERVED).await?, 0);
    check_balanced(&env.database).await?;
    let turns = number("SELECT count(*) FROM chat_turns").await?;
    let events = |what: &str, queue: &str| {
        format!("SELECT count({what}) FROM outbox_messages WHERE queue = '{queue}'")
    };
    assert_eq!(
        number(&events("*", "mini-chat.usage_snapshot")).await?,
        turns
    );
    assert_eq!(
        number(&events("DISTINCT dedupe_key", "mini-chat.usage_snapshot")).await?,
        turns
    );
    assert_eq!(number(&events("*", "mini-chat.audit")).await?, turns);
    let orphans =
        number("SELECT count(*) FROM chat_turns WHERE error_code = 'orphan_timeout'").await?;
    let exact = |count: i64| f64::from(i32::try_from(count).unwrap_or(i32::MAX));
    assert!(
        (recovered - exact(orphans)).abs() < 0.5,
        "{recovered} of {orphans}"
    );
    assert!(
        counted_started <= exact(turns) + 0.5,
        "{counted_started} of {turns}"
    );
    let ended_alive = exact(turns - orphans);
    assert!(
        counted_ended <= ended_alive + 0.5,
        "{counted_ended} of {ended_alive}"
    );
    assert!(
        orphans > 0 && turns > orphans,
        "{orphans} orphans of {turns} turns: no load"
    );

    let completed = "SELECT request_id FROM chat_turns WHERE state = 'completed'";
    let completed = env.database.query(completed).await?;
    let completed: std::collections::HashSet<_> = completed
        .into_iter()
        .filter_map(|mut row| row.pop()?)
        .collect();
    let done = seen.done.lock().unwrap_or_else(PoisonError::into_inner);
    let lost: Vec<_> = done
        .iter()
        .filter(|request| !completed.contains(*request))
        .collect();
    assert!(lost.is_empty(), "seen as done, but not completed: {lost:?}");
    assert!(!done.is_empty());
    eprintln!(
        "{turns} turns, {orphans} orphans, {} seen as done",
        done.len()
    );
    Ok(())
}
