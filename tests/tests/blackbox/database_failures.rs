//! Databases that fail during the transactions of a turn.

use anyhow::Context as _;
use minichat_store::testing::{Control, Fault};
use minichat_tests::books::check_balanced;
use minichat_tests::database::{DatabaseKind, Rows, WriteLock};
use minichat_tests::harness::{Env, Held, Scene, run};
use minichat_tests::on_each_database;
use minichat_tests::postgres_proxy::PostgresProxy;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;
use uuid::Uuid;

const USAGE: &str = "mini-chat.usage_snapshot";
const AUDIT: &str = "mini-chat.audit";
const RESERVED: &str = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";
const TURNS: &str = "SELECT count(*) FROM chat_turns";

on_each_database! {
    /// TURN-26, TURN-34, TURN-35, TURN-38: deltas do not wait for the database,
    /// the last event does.
    async fn done_waits_for_the_commit_and_deltas_do_not(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            ..Scenario::deltas(&["one ", "two"], Ending::Completed)
        });
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?;
        let lock = env.database.lock_writes().await?;
        scene.provider.release(1);
        stream.expect("delta").await?;
        stream.expect("delta").await?;
        scene.provider.wait_until(|stats| stats.answers_finished == 1).await;
        // The provider has finished. Nothing is committed, so the client is
        // told nothing.
        for _ in 0..20 {
            assert_eq!(user.turn(&chat, started.text("request_id")).await?["state"], "running");
        }
        drop(lock);
        stream.expect("done").await?;
        assert_eq!(user.turn(&chat, started.text("request_id")).await?["state"], "done");
    }
}

/// TURN-38, TURN-41, D1: a commit counts even if its acknowledgement is lost.
/// The turn is charged and counted once, and its client learns how it ended.
#[test]
fn a_commit_whose_answer_is_lost_is_looked_up_and_not_repeated() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        for turns in 1..=5 {
            let mut turn = scene.held().await?;
            proxy.lose_the_next_commit();
            scene.provider.release(1);
            let done = turn.stream.expect("done").await?;
            assert!(!proxy.is_waiting(), "no commit was lost");
            assert_eq!(done.data["effective_model"], "std");
            let request = turn.started.text("request_id");
            let state = turn.user.turn(&turn.chat, request).await?;
            assert_eq!(state["state"], "done");
            assert_eq!(
                state["assistant_message_id"],
                turn.started.data["message_id"]
            );
            assert_eq!(env.database.payloads(USAGE).await?.len(), turns);
            let scrape = scene.stack.scrape().await?;
            for name in ["stream_completed_total", "finalization_latency_ms_count"] {
                assert_eq!(
                    scrape.count(&format!("mini_chat_{name}"), &[])?,
                    turns,
                    "{name}"
                );
            }
            assert_eq!(scrape.count("mini_chat_stream_failed_total", &[])?, 0);
        }
        assert_eq!(env.database.number(RESERVED).await?, 0);
        let calls = "SELECT CAST(sum(calls) AS BIGINT) FROM quota_usage \
            WHERE bucket = 'total' AND period_type = 'daily'";
        assert_eq!(env.database.number(calls).await?, 5);
        Ok(())
    })
}

/// TURN-13, TURN-15: a turn whose reserve was not acknowledged still runs.
#[test]
fn a_reserve_whose_answer_is_lost_is_a_turn_all_the_same() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for turns in 1..=5 {
            proxy.lose_the_next_commit();
            let events = user.say(&chat, "PING").await?;
            assert!(!proxy.is_waiting(), "no commit was lost");
            events.only("done")?;
            assert_eq!(env.database.number(TURNS).await?, i64::try_from(turns)?);
            let scrape = scene.stack.scrape().await?;
            for name in ["stream_started", "stream_completed"] {
                assert_eq!(
                    scrape.count(&format!("mini_chat_{name}_total"), &[])?,
                    turns,
                    "{name}"
                );
            }
            let reserves = scrape.count("mini_chat_quota_reserve_total", &[("period", "daily")])?;
            assert_eq!(reserves, turns);
        }
        assert_eq!(env.database.number(RESERVED).await?, 0);
        Ok(())
    })
}

/// TURN-13, TURN-65, D1: for a while the database cannot be queried whether a
/// turn was opened. When it can, the turn runs and is counted like any other.
#[test]
fn a_reserve_whose_answer_is_lost_is_looked_up_until_the_database_is_back() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for turns in 1..=3 {
            let before = proxy.turned_away();
            proxy.go_down_with_the_next_commit();
            let back = scene.stack.eventually("turned away", async || {
                // The listener for stop requests connects too.
                Ok(proxy.turned_away() >= before + 3)
            });
            let (events, back) = tokio::join!(user.say(&chat, "PING"), async {
                back.await?;
                proxy.set_down(false);
                anyhow::Ok(())
            });
            back?;
            events?.only("done")?;
            assert_eq!(env.database.number(TURNS).await?, i64::try_from(turns)?);
            let scrape = scene.stack.scrape().await?;
            for name in ["stream_started", "stream_completed"] {
                let count = scrape.count(&format!("mini_chat_{name}_total"), &[])?;
                assert_eq!(count, turns, "{name}");
            }
        }
        assert_eq!(env.database.number(RESERVED).await?, 0);
        Ok(())
    })
}

/// TURN-1, TURN-7: the row is as old as the search for its turn took, and its
/// task lives.
#[test]
fn a_turn_that_was_long_in_doubt_is_no_orphan() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        scene.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&["part"], Ending::Completed)
        });
        let before = proxy.turned_away();
        proxy.go_down_with_the_next_commit();
        let body = json!({"content": "hello"});
        let (stream, aged) = tokio::join!(user.open(&chat, &body), async {
            let searched = async || Ok(proxy.turned_away() >= before + 3);
            scene.stack.eventually("searched", searched).await?;
            env.database.age_turns("state = 'running'").await?;
            proxy.set_down(false);
            anyhow::Ok(())
        });
        aged?;
        let mut stream = stream?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        let watchdog = scene.stack.watchdog();
        let run = watchdog.run_once(&minichat_telemetry::Signal::new()).await;
        assert_eq!((run.detected, run.failed), (0, 0), "{run:?}");
        scene.provider.release(1);
        stream.expect("done").await?;
        Ok(())
    })
}

/// TURN-55, API-74: a deletion that was committed without acknowledgement is
/// answered as a success.
#[test]
fn a_deletion_whose_answer_is_lost_is_looked_up_and_not_repeated() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for deletions in 1..=3 {
            let events = user.say(&chat, "PING").await?;
            let request = events.only("stream_started")?["request_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            proxy.lose_the_next_commit();
            let answer = user.delete_turn(&chat, &request).await?;
            assert!(!proxy.is_waiting(), "no commit was lost");
            assert_eq!(answer.status, 204, "{answer:?}");
            assert!(user.messages(&chat).await?.is_empty());
            let scrape = scene.stack.scrape().await?;
            let result = |result| {
                let labels = [("op", "delete"), ("result", result)];
                scrape.count("mini_chat_turn_mutation_total", &labels)
            };
            assert_eq!((result("ok")?, result("error")?), (deletions, 0));
            let audits = env.database.payloads(AUDIT).await?;
            let audited = audits
                .iter()
                .filter(|event| event["event_type"] == "turn_delete");
            assert_eq!(audited.count(), deletions);
        }
        Ok(())
    })
}

/// Waits until the process has given up the transaction whose commit is held,
/// and then until it queries the database for the result.
async fn asked_about(env: &Env, scene: &Scene, proxy: &PostgresProxy) -> anyhow::Result<()> {
    // More than all retries together with the listener for stop requests.
    let given_up = async || Ok(proxy.turned_away() >= 7);
    scene.stack.eventually("given up", given_up).await?;
    proxy.set_down(false);
    let lock_waits = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = async || Ok(env.database.number(lock_waits).await? == 1);
    scene.stack.eventually("looked up", waiting).await
}

/// Who waits for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// Cuts the connection of a statement that waits for `lock`, and frees the lock
/// when the database is asked again.
async fn cut_while_waiting(
    env: &Env,
    scene: &Scene,
    proxy: &PostgresProxy,
    lock: WriteLock,
) -> anyhow::Result<()> {
    let waiting = async |count| Ok(env.database.number(WAITING).await? == count);
    scene
        .stack
        .eventually("waiting", async || waiting(1).await)
        .await?;
    let before = proxy.turned_away();
    proxy.set_down(true);
    let cut = async || Ok(proxy.turned_away() > before);
    scene.stack.eventually("cut", cut).await?;
    proxy.set_down(false);
    scene
        .stack
        .eventually("asked about", async || waiting(2).await)
        .await?;
    drop(lock);
    Ok(())
}

/// TURN-38, D1: the connection of a finalization is lost while its statement is
/// under way, and it takes place beside another attempt.
#[test]
fn a_finalization_that_is_under_way_is_counted_once() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let mut turn = scene.held().await?;
        let lock = env.database.lock_rows("quota_usage").await?;
        scene.provider.release(1);
        cut_while_waiting(&env, &scene, &proxy, lock).await?;
        turn.stream.expect("done").await?;
        let request = turn.started.text("request_id");
        assert_eq!(turn.user.turn(&turn.chat, request).await?["state"], "done");
        assert_eq!(env.database.payloads(USAGE).await?.len(), 1);
        assert_eq!(env.database.number(RESERVED).await?, 0);
        let scrape = scene.stack.scrape().await?;
        assert_eq!(scrape.count("mini_chat_stream_completed_total", &[])?, 1);
        Ok(())
    })
}

/// TURN-13, TURN-15: the first reserve of a user makes the rows that it locks, in
/// a transaction whose commit reaches the server later than the question.
#[test]
fn a_reserve_whose_commit_is_under_way_is_waited_for() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async move |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        proxy.hold_the_next_commit();
        let conducted = async {
            asked_about(&env, &scene, &proxy).await?;
            proxy.deliver_the_held_commit().await
        };
        let (events, conducted) = tokio::join!(user.say(&chat, "PING"), conducted);
        conducted?;
        events?.only("done")?;
        assert_eq!(env.database.number(TURNS).await?, 1);
        assert_eq!(env.database.number(RESERVED).await?, 0);
        Ok(())
    })
}

/// TURN-13, TURN-15: the connection of a reserve is lost while its statement is
/// under way.
#[test]
fn a_reserve_that_is_under_way_is_waited_for() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async move |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?.only("done")?;
        let lock = env.database.lock_rows("quota_usage").await?;
        let (events, conducted) = tokio::join!(
            user.say(&chat, "PING"),
            cut_while_waiting(&env, &scene, &proxy, lock)
        );
        conducted?;
        events?.only("done")?;
        assert_eq!(env.database.number(TURNS).await?, 2);
        assert_eq!(env.database.number(RESERVED).await?, 0);
        Ok(())
    })
}

/// TURN-13, TURN-15: a reserve that comes to the server after it was asked about
/// opens nothing that nobody would know of.
#[test]
fn a_reserve_that_comes_too_late_opens_nothing() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async move |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?.only("done")?;
        proxy.hold_the_next_commit();
        let body = json!({"content": "PING"});
        let back = async {
            let turned_away = async || Ok(proxy.turned_away() > 0);
            scene.stack.eventually("turned away", turned_away).await?;
            proxy.set_down(false);
            anyhow::Ok(())
        };
        let (refused, back) = tokio::join!(user.refused(&chat, &body), back);
        back?;
        refused?.problem(503, "service_unavailable")?;
        proxy.deliver_the_held_commit().await?;
        assert_eq!(env.database.number(TURNS).await?, 1);
        assert_eq!(env.database.number(RESERVED).await?, 0);
        user.say(&chat, "PING").await?.only("done")?;
        Ok(())
    })
}

/// TURN-55, API-74: the same of a deletion.
#[test]
fn a_deletion_whose_commit_is_under_way_is_waited_for() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let events = user.say(&chat, "PING").await?;
        let request = &events.only("stream_started")?["request_id"];
        let request = request.as_str().unwrap_or_default();
        proxy.hold_the_next_commit();
        let conducted = async {
            asked_about(&env, &scene, &proxy).await?;
            proxy.deliver_the_held_commit().await
        };
        let (deleted, conducted) = tokio::join!(user.delete_turn(&chat, request), conducted);
        conducted?;
        assert_eq!(deleted?.status, 204);
        assert!(user.messages(&chat).await?.is_empty());
        Ok(())
    })
}

/// TURN-37, TURN-38: an outage is no reason to drop the answer.
#[test]
fn a_finalization_whose_session_is_ended_is_tried_again() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let scene = env.scene().await?;
        let mut turn = scene.held().await?;
        let lock = env.database.lock_writes().await?;
        scene.provider.release(1);
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let stack = &scene.stack;
        stack
            .eventually("waiting", async || {
                Ok(env.database.number(ended).await? == 1)
            })
            .await?;
        drop(lock);
        turn.stream.expect("done").await?;
        assert_eq!(turn.user.messages(&turn.chat).await?[1]["content"], "part");
        assert_eq!(env.database.payloads(USAGE).await?.len(), 1);
        Ok(())
    })
}

/// Number of attempts at a finalization that fail first.
const FAILED_ATTEMPTS: usize = 6;

/// TURN-38, D43: the client gets `done`, and everything that it implies is
/// stored once.
async fn check_done(scene: &Scene, mut turn: Held) -> anyhow::Result<()> {
    turn.stream.expect("done").await?;
    assert!(turn.stream.next().await?.is_none());
    let database = scene.database();
    assert_eq!(turn.user.messages(&turn.chat).await?[1]["content"], "part");
    assert_eq!(database.payloads(USAGE).await?.len(), 1);
    assert_eq!(database.number(RESERVED).await?, 0);
    check_balanced(database).await?;
    let scrape = scene.stack.scrape().await?;
    for (name, count) in [("stream_completed", 1), ("stream_failed", 0)] {
        let name = format!("mini_chat_{name}_total");
        assert_eq!(scrape.count(&name, &[])?, count, "{name}");
    }
    Ok(())
}

/// TURN-38, D43: a complete answer waits for the database.
#[test]
fn a_finished_answer_outlasts_a_database_that_is_away() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let turn = scene.held().await?;
        proxy.set_down(true);
        let before = proxy.turned_away();
        scene.provider.release(1);
        // The listener for stop requests connects too, a few times a second at
        // most.
        let tried = async || Ok(proxy.turned_away() >= before + 2 * FAILED_ATTEMPTS);
        scene.stack.eventually("tried often", tried).await?;
        proxy.set_down(false);
        check_done(&scene, turn).await
    })
}

/// The same for a file on a full disk.
#[test]
fn a_finished_answer_outlasts_a_full_disk() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let scene = env.scene().await?;
        let turn = scene.held().await?;
        let writer = scene.stack.watchdog().store.writer();
        let writer = writer.context("SQLite without a writer")?;
        for _ in 0..FAILED_ATTEMPTS {
            writer.fail(Control::Commit, 0, Fault::Full);
        }
        scene.provider.release(1);
        check_done(&scene, turn).await?;
        assert_eq!(writer.recover(), 0, "the commit did not fail often");
        Ok(())
    })
}

/// TURN-38, TURN-51: if the process ends during an outage, its clients get an
/// error, never `done`, and a watchdog ends the turn after the outage.
#[test]
fn without_a_database_the_stream_ends_without_an_outcome() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let mut turn = scene.held().await?;
        proxy.set_down(true);
        scene.provider.release(1);
        let (error, stopped) = tokio::join!(turn.stream.expect("error"), scene.stack.stop());
        stopped?;
        assert_eq!(error?.text("code"), "stream_interrupted");
        assert!(turn.stream.next().await?.is_none());
        env.database.age_turns("state = 'running'").await?;
        let next = env.serve(&[&scene.tenant]).await?;
        let run = next
            .watchdog()
            .run_once(&minichat_telemetry::Signal::new())
            .await;
        assert_eq!((run.finalized, run.failed), (1, 0), "{run:?}");
        assert_eq!(env.database.number(RESERVED).await?, 0);
        assert_eq!(env.database.payloads(USAGE).await?.len(), 1);
        check_balanced(&env.database).await?;
        Ok(())
    })
}

/// What happens to the connection that listens for stop requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Listener {
    /// It does not exist when the stop is requested.
    Away,
    /// The server ended its session, and it listens in a new one.
    Back,
    /// The server has just ended its session.
    Cut,
}

/// The sessions whose last statement is that of a listener.
const LISTENERS: &str = "SELECT CAST(pid AS TEXT) FROM pg_stat_activity \
    WHERE datname = current_database() AND pid <> pg_backend_pid() \
    AND query LIKE '%stop_requested_at IS NOT NULL%'";

/// Ends the listening sessions of both processes.
async fn cut_listeners(env: &Env) -> anyhow::Result<Rows> {
    let listeners = env.database.query(LISTENERS).await?;
    assert_eq!(listeners.len(), 2, "{listeners:?}");
    for row in &listeners {
        let pid = row[0].as_deref().unwrap_or_default();
        let ends = format!("SELECT CAST(pg_terminate_backend({pid}) AS INTEGER)");
        assert_eq!(env.database.number(&ends).await?, 1);
    }
    Ok(listeners)
}

/// D3: a process that is not listening learns of a stop request as soon as it
/// listens again.
#[test]
fn a_stop_reaches_a_process_whose_listener_was_cut_off() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let other = env.serve(&[&scene.tenant]).await?;
        let user_id = Uuid::new_v4();
        let here = scene.stack.caller(&scene.tenant, user_id)?;
        let there = other.caller(&scene.tenant, user_id)?;
        for listener in [Listener::Away, Listener::Back, Listener::Cut] {
            let chat = here.create_chat(None).await?;
            scene
                .provider
                .push_scenario(Scenario::deltas(&["part"], Ending::Hang));
            let mut stream = here.open(&chat, &json!({"content": "hello"})).await?;
            let started = stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            match listener {
                Listener::Away => proxy.set_down(true),
                Listener::Cut => drop(cut_listeners(&env).await?),
                Listener::Back => {
                    let gone = cut_listeners(&env).await?;
                    let listens = async || {
                        let now = env.database.query(LISTENERS).await?;
                        Ok(now.len() == 2 && now.iter().all(|pid| !gone.contains(pid)))
                    };
                    other.eventually("listening", listens).await?;
                }
            }
            let request = started.text("request_id");
            there.cancel(&chat, request).await?.expect(202)?;
            proxy.set_down(false);
            assert_eq!(stream.expect("error").await?.text("code"), "cancelled");
            assert_eq!(here.turn(&chat, request).await?["state"], "cancelled");
        }
        Ok(())
    })
}
