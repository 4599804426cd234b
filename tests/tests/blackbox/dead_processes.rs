//! Processes that die, or that only seem to (TURN-68, TURN-69).

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use minichat_core::SystemClock;
use minichat_dataplane::jobs::{Report, Watchdog};
use minichat_store::{DatabaseSettings, Store};
use minichat_telemetry::Signal;
use minichat_tests::books::{check_balanced, check_books};
use minichat_tests::child::{Process, job_run, spawn};
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Env, Scene, Stack, run};
use minichat_tests::postgres_proxy::PostgresProxy;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::sse::EventStream;
use serde_json::json;
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
/// A process that is silent for so long is dead. Heartbeats come every second.
const TIMEOUT: Duration = Duration::from_secs(6);
const HASTY: &str = "MINICHAT_ORPHAN_WATCHDOG_PROCESS_TIMEOUT_SECS=6";
/// A session whose server is silent is soon given up.
const IMPATIENT: &str = "MINICHAT_DATABASE_JOB_TIMEOUT_SECS=4\n\
    MINICHAT_DATABASE_STATEMENT_TIMEOUT_SECS=2\n\
    MINICHAT_DATABASE_LOCK_TIMEOUT_SECS=2\n\
    MINICHAT_DATABASE_CONNECT_TIMEOUT_SECS=1";
/// How long a test waits for a death to be noticed: the machine may be busy, and then
/// the witness may begin anew.
const PATIENCE: Duration = Duration::from_mins(1);
const ROUNDS: u64 = 20;
/// Open streams of a process that is killed.
const STREAMS: u32 = 50;
/// Within this time after its death the chats of a process can be used.
const PROMISE: Duration = Duration::from_mins(2);

const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const ORPHANED: &str = "SELECT count(*) FROM chat_turns WHERE error_code = 'orphan_timeout'";
const PROCESSES: &str = "SELECT count(*) FROM processes";

/// A turn whose provider has sent one word and never sends another.
struct Stalled {
    user_id: Uuid,
    chat: String,
    request: String,
    _stream: EventStream,
}

/// Serves as `env.scene`, and takes a silent process for dead soon.
async fn scene(env: &Env) -> anyhow::Result<Scene> {
    let provider = minichat_tests::scripted_provider::ScriptedProvider::start().await?;
    let tenant = minichat_tests::manifest::Tenant::new("acme", provider.addr);
    let stack = env.serve_with(&[&tenant], HASTY).await?;
    Ok(Scene {
        provider,
        tenant,
        stack,
    })
}

async fn stalled(scene: &Scene, api: &Api) -> anyhow::Result<Stalled> {
    let user_id = Uuid::new_v4();
    let user = api.acting_as(scene.tenant.id, user_id)?;
    let chat = user.create_chat(Some("std")).await?;
    let hanging = Scenario::deltas(&["part"], Ending::Hang);
    scene.provider.push_scenario(hanging);
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    let started = stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    Ok(Stalled {
        user_id,
        chat,
        request: started.text("request_id").to_owned(),
        _stream: stream,
    })
}

/// The stream of a turn of `stack` that lasts until `scene.provider.release(1)`.
async fn held_at(scene: &Scene, stack: &Stack) -> anyhow::Result<EventStream> {
    scene.provider.push_scenario(Scenario {
        hold_before_end: true,
        ..Scenario::deltas(&["part"], Ending::Completed)
    });
    let user = stack.new_user(&scene.tenant)?;
    let chat = user.create_chat(Some("std")).await?;
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    Ok(stream)
}

/// Runs the watchdog until it has ended `count` turns; returns how many it selected.
async fn watch_until_ended(watchdog: &Watchdog, count: u32) -> anyhow::Result<(u32, u32)> {
    let began = Instant::now();
    let (mut detected, mut finalized) = (0, 0);
    while finalized < count {
        ensure!(
            began.elapsed() < PATIENCE,
            "{finalized} of {count} turns are ended"
        );
        let report = watchdog.run_once(&Signal::new()).await;
        ensure!(report.is_success(), "{report:?}");
        detected += report.detected;
        finalized += report.finalized;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((detected, finalized))
}

/// `stack`'s watchdog with a connection of its own to the database.
async fn direct_watchdog(env: &Env, stack: &Stack) -> anyhow::Result<Watchdog> {
    let settings = DatabaseSettings::new(env.database.url());
    let store = Store::open(&settings, std::sync::Arc::new(SystemClock)).await?;
    Ok(Watchdog {
        store,
        ..stack.watchdog()
    })
}

async fn chat_is_usable(stack: &Stack, scene: &Scene, turn: &Stalled) -> anyhow::Result<()> {
    let user = stack.caller(&scene.tenant, turn.user_id)?;
    let ended = user.turn(&turn.chat, &turn.request).await?;
    ensure!(
        ended["state"] == "error" && ended["error_code"] == "orphan_timeout",
        "{ended}"
    );
    let again = Scenario::deltas(&["again"], Ending::Completed);
    scene.provider.push_scenario(again);
    user.say(&turn.chat, "again").await?.only("done")?;
    Ok(())
}

/// The end of a held turn that its own process finalized.
async fn ends_well(stream: EventStream) -> anyhow::Result<()> {
    stream.collect().await?.only("done")?;
    Ok(())
}

/// What the metrics of `stack`, where the watchdog ran, say of a killed process.
async fn each_is_counted_once(stack: &Stack) -> anyhow::Result<()> {
    let scrape = stack.scrape().await?;
    let orphaned: &[(&str, &str)] = &[("error_code", "orphan_timeout")];
    for (family, labels) in [
        ("mini_chat_orphan_detected_total", &[][..]),
        ("mini_chat_orphan_finalized_total", &[]),
        ("mini_chat_stream_failed_total", orphaned),
    ] {
        let counted = scrape.sum(family, labels);
        ensure!(
            (counted - f64::from(STREAMS)).abs() < 0.5,
            "{family}: {counted}"
        );
    }
    Ok(())
}

/// TURN-62, TURN-68, TURN-69: of two processes one is killed with 50 open streams. Its chats can be used as
/// soon as it counts as dead, and nothing else changes: not what the other process
/// runs, and not a turn of a release that named no process.
#[test]
fn a_killed_process_locks_nobody_out_for_long() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let scene = scene(&env).await?;
        let living = scene.held().await?;
        let process = Process::serve(BINARY, &env, HASTY).await?;
        ensure!(env.database.number(PROCESSES).await? == 2);
        let mut turns = Vec::new();
        for _ in 0..STREAMS {
            turns.push(stalled(&scene, &process.api).await?);
        }
        let unnamed = stalled(&scene, &process.api).await?;
        let request = &unnamed.request;
        let forget =
            format!("UPDATE chat_turns SET process_id = NULL WHERE request_id = '{request}'");
        env.database.query(&forget).await?;
        let watchdog = scene.stack.watchdog();
        ensure!(watchdog.run_once(&Signal::new()).await == Report::default());
        process.kill().await?;
        let killed = Instant::now();
        let ended = watch_until_ended(&watchdog, STREAMS).await?;
        ensure!(ended == (STREAMS, STREAMS), "{ended:?}");
        // Its last heartbeat is older than its death.
        let waited = killed.elapsed();
        ensure!(waited > TIMEOUT / 2, "{waited:?}");
        ensure!(watchdog.run_once(&Signal::new()).await == Report::default());
        for turn in &turns {
            chat_is_usable(&scene.stack, &scene, turn).await?;
        }
        let waited = killed.elapsed();
        ensure!(waited < PROMISE, "{waited:?}");
        each_is_counted_once(&scene.stack).await?;
        ensure!(env.database.number(RUNNING).await? == 2);
        scene.provider.release(1);
        ends_well(living.stream).await?;
        // The old rule, for the command too.
        env.database.age_turns("state = 'running'").await?;
        let url = env.database.url();
        let job = spawn(BINARY, &["watchdog"], &[("MINICHAT_DATABASE_URL", &url)])?;
        let job = job_run(job).await?;
        ensure!(job.reports[0]["finalized"] == 1, "{job:?}");
        chat_is_usable(&scene.stack, &scene, &unnamed).await?;
        check_books(&env.database).await
    })
}

/// TURN-42, TURN-69: a process that lives but cannot reach the database is taken for
/// dead. Its turns are ended once, by the watchdog, and it tells no client `done`.
/// With the database it serves again.
#[test]
fn a_process_that_is_cut_off_loses_its_turns_and_serves_again() -> anyhow::Result<()> {
    for silently in [false, true] {
        run(DatabaseKind::Postgres, async |env| {
            let (cut_off, proxy) = env.proxied_scene(&format!("{HASTY}\n{IMPATIENT}")).await?;
            let other = env.serve_with(&[&cut_off.tenant], HASTY).await?;
            let (mut finishing, mut waiting) = (cut_off.held().await?, cut_off.held().await?);
            set_away(&proxy, silently, true);
            // Its answer is complete, and only the database is missing.
            cut_off.provider.release(1);
            let ended = watch_until_ended(&other.watchdog(), 2).await?;
            ensure!(ended == (2, 2), "{ended:?}");
            let rows = "SELECT id, state, error_code, completed_at, finalization_id, \
                settled_credits_micro FROM chat_turns ORDER BY id";
            let rows_then = env.database.query(rows).await?;
            set_away(&proxy, silently, false);
            cut_off.provider.release(1);
            for held in [&mut finishing, &mut waiting] {
                let error = held.stream.expect("error").await?;
                ensure!(error.text("code") == "stream_interrupted", "{error:?}");
            }
            ensure!(env.database.query(rows).await? == rows_then);
            for held in [&finishing, &waiting] {
                held.user.say(&held.chat, "PING").await?.only("done")?;
            }
            // It is as alive as before.
            let fresh = "SELECT count(*) FROM processes \
                WHERE heartbeat_at > statement_timestamp() - INTERVAL '3 seconds'";
            let beats = async || Ok(env.database.number(fresh).await? == 2);
            cut_off.stack.eventually("alive", beats).await?;
            check_books(&env.database).await
        })?;
    }
    Ok(())
}

fn set_away(proxy: &PostgresProxy, silently: bool, away: bool) {
    if silently {
        proxy.set_silent(away);
    } else {
        proxy.set_down(away);
    }
}

/// TURN-69: after an outage of the database every heartbeat is old. The watchdog, which
/// never stops looking, ends no turn of a living process.
#[test]
fn an_outage_of_the_database_ends_no_turn_of_a_living_process() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (here, proxy) = env.proxied_scene(HASTY).await?;
        let other_proxy = PostgresProxy::start(&env.database.url()).await?;
        let behind = format!("{HASTY}\nMINICHAT_DATABASE_URL={}", other_proxy.url());
        let there = env.serve_with(&[&here.tenant], &behind).await?;
        let ours = here.held().await?;
        let theirs = held_at(&here, &there).await?;
        let watchdog = direct_watchdog(&env, &here.stack).await?;
        // Each of them has been steady for long enough to be a witness.
        let watching = async |time: Duration| {
            let began = Instant::now();
            while began.elapsed() < time {
                let report = watchdog.run_once(&Signal::new()).await;
                ensure!(report == Report::default(), "{report:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        watching(TIMEOUT + Duration::from_secs(2)).await?;
        for proxy in [&proxy, &other_proxy] {
            proxy.set_down(true);
        }
        watching(TIMEOUT + Duration::from_secs(3)).await?;
        other_proxy.set_down(false);
        // One of them finds the database a little later.
        watching(Duration::from_secs(2)).await?;
        proxy.set_down(false);
        watching(TIMEOUT + Duration::from_secs(3)).await?;
        ensure!(env.database.number(RUNNING).await? == 2);
        here.provider.release(2);
        ends_well(ours.stream).await?;
        ends_well(theirs).await?;
        check_books(&env.database).await
    })
}

/// TURN-68: a process that ends is there no more; what it could not finalize need not
/// wait.
#[test]
fn a_process_that_ends_takes_its_row_away() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let scene = scene(&env).await?;
        let process = Process::serve(BINARY, &env, HASTY).await?;
        ensure!(env.database.number(PROCESSES).await? == 2);
        process.terminate()?;
        ensure!(process.ended().await?.success());
        ensure!(env.database.number(PROCESSES).await? == 1);
        scene.stack.stop().await?;
        ensure!(env.database.number(PROCESSES).await? == 0);
        Ok(())
    })
}

/// D16, TURN-68: a file has one process, which needs no heartbeats.
#[test]
fn the_owner_of_a_file_has_no_heartbeats() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?.only("done")?;
        ensure!(env.database.number(PROCESSES).await? == 0);
        let named = "SELECT count(*) FROM chat_turns WHERE process_id IS NOT NULL";
        ensure!(env.database.number(named).await? == 0);
        Ok(())
    })
}

/// Sends messages until the process is gone, retries among them.
async fn client(user: Api) -> anyhow::Result<()> {
    let chat = user.create_chat(Some("std")).await?;
    loop {
        let stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let events = stream.collect().await?;
        let request = events.only("stream_started")?["request_id"].clone();
        let request = request.as_str().context("no id")?;
        user.open_retry(&chat, request).await?.collect().await?;
    }
}

/// Makes every process but `witness` dead at once, and `witness` steady since long ago.
async fn bury(database: &Database, witness: &str) -> anyhow::Result<()> {
    let hour = "INTERVAL '1 hour'";
    database
        .query(&format!(
            "UPDATE processes SET heartbeat_at = heartbeat_at - {hour} WHERE id <> '{witness}'"
        ))
        .await?;
    let steady =
        format!("UPDATE processes SET steady_since = started_at - {hour} WHERE id = '{witness}'");
    database.query(&steady).await?;
    Ok(())
}

/// TURN-33, TURN-60, TURN-69: rounds of SIGKILL at random moments of a loaded process,
/// each followed by one run of the watchdog beside a living process. Every chat can be
/// used, every turn is ended once, and the books balance.
#[test]
fn whenever_a_process_dies_one_run_settles_what_it_left() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let mut scene = scene(&env).await?;
        scene.tenant.model("std")["providerModelId"] = json!("paced-ttft2-chunks8-interval2");
        scene.stack.apply(&scene.tenant).await?;
        let witness = env.database.query("SELECT id FROM processes").await?;
        let witness = witness[0][0].clone().context("no process")?;
        let seed = Uuid::new_v4().as_u64_pair().0;
        eprintln!("seed {seed}");
        let mut ended = 0;
        for round in 0..ROUNDS {
            let process = Process::serve(BINARY, &env, HASTY).await?;
            let users: Vec<Uuid> = (0..6).map(|_| Uuid::new_v4()).collect();
            let mut clients = Vec::new();
            for user in &users {
                let user = process.api.acting_as(scene.tenant.id, *user)?;
                clients.push(tokio::spawn(client(user)));
            }
            let moment = seed.rotate_left(u32::try_from(round * 3)?) % 150;
            tokio::time::sleep(Duration::from_millis(moment)).await;
            process.kill().await?;
            for client in clients {
                // It ends with the error of its connection.
                drop(client.await?);
            }
            ended += settle_all(&env, &scene, &witness).await?;
            for user in &users {
                let user = scene.stack.caller(&scene.tenant, *user)?;
                let chats = user.get("/chats").await?.expect(200)?;
                for chat in chats["items"].as_array().context("no chats")? {
                    let chat = chat["id"].as_str().context("no id")?;
                    user.say(chat, "again").await?.only("done")?;
                }
            }
            check_balanced(&env.database).await?;
        }
        ensure!(ended > 0, "no turn was open");
        ensure!(env.database.number(ORPHANED).await? == i64::from(ended));
        eprintln!("{ended} turns were ended");
        check_books(&env.database).await
    })
}

/// One run of the watchdog, and more if the server committed something of the killed
/// process later.
async fn settle_all(env: &Env, scene: &Scene, witness: &str) -> anyhow::Result<u32> {
    let watchdog = scene.stack.watchdog();
    let began = Instant::now();
    let mut ended = 0;
    while began.elapsed() < PATIENCE {
        bury(&env.database, witness).await?;
        let report = watchdog.run_once(&Signal::new()).await;
        ensure!(report.is_success(), "{report:?}");
        ended += report.finalized;
        if env.database.number(RUNNING).await? == 0 {
            return Ok(ended);
        }
    }
    anyhow::bail!("turns are left")
}
