//! Delivery of events: who gets them, in which order, and what becomes of those that
//! are refused.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_config::process::JobConfig;
use minichat_dataplane::dead_letter::{self, Decision, Listing, Output};
use minichat_tests::books::check_balanced;
use minichat_tests::child::Process;
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Env, Scene, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::webhook_receiver::{Delivery, Reply, WebhookReceiver};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const WAITING: &str = "SELECT count(*) FROM outbox_messages \
    WHERE done_at IS NULL AND queue <> 'mini-chat.chat_cleanup'";
const PARKED: &str = "SELECT count(*) FROM outbox_parked";

fn log() -> Value {
    json!({"type": "Log"})
}

fn webhook(receiver: &WebhookReceiver, path: &str) -> Value {
    json!({"type": "Webhook", "webhook": {"url": receiver.url(path)}})
}

/// The fixture with these sinks; null is none.
fn with_sinks(mut tenant: Tenant, usage: &Value, audit: &Value) -> Tenant {
    for (field, sink) in [("usageSink", usage), ("auditSink", audit)] {
        if !sink.is_null() {
            tenant.spec()[field] = sink.clone();
        }
    }
    tenant
}

/// One finished turn of a new user.
async fn turn(stack: &Stack, tenant: &Tenant) -> anyhow::Result<()> {
    let user = stack.new_user(tenant)?;
    let chat = user.create_chat(Some("std")).await?;
    user.say(&chat, "PING").await?;
    Ok(())
}

async fn delivered(stack: &Stack) -> anyhow::Result<()> {
    let done = async || Ok(stack.database.number(WAITING).await? == 0);
    stack.eventually("delivered", done).await
}

/// Keys of usage events, in the order of their delivery.
fn keys(deliveries: &[Delivery]) -> Vec<String> {
    let bodies = deliveries.iter().map(|it| &it.body);
    let events = bodies.filter_map(|body| serde_json::from_slice::<Value>(body).ok());
    events
        .filter_map(|event| Some(event["dedupe_key"].as_str()?.to_owned()))
        .collect()
}

/// Keys of usage events of a tenant, in the order in which they were enqueued.
async fn enqueued(database: &Database, tenant: &Tenant) -> anyhow::Result<Vec<String>> {
    let sql = format!(
        "SELECT dedupe_key FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot' \
         AND tenant_id = '{}' ORDER BY id",
        tenant.id
    );
    let rows = database.query(&sql).await?;
    Ok(rows
        .into_iter()
        .filter_map(|mut row| row.remove(0))
        .collect())
}

fn job(database: &Database) -> anyhow::Result<JobConfig> {
    let url = ("MINICHAT_DATABASE_URL".to_owned(), database.url());
    Ok(JobConfig::load(None, [url])?)
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 0.5
}

/// The number of handler runs with a result.
async fn handled(stack: &Stack, kind: &str, result: &str) -> anyhow::Result<f64> {
    let labels = [("kind", kind), ("result", result)];
    Ok(stack
        .scrape()
        .await?
        .sum("mini_chat_outbox_handler_total", &labels))
}

/// A tenant whose id lies in the partition of `other`.
fn neighbour(name: &str, provider: &ScriptedProvider, other: &Tenant) -> Tenant {
    let mut tenant = Tenant::new(name, provider.addr);
    let partition = other.id.as_u128() % 4;
    tenant.id = Uuid::from_u128((Uuid::new_v4().as_u128() & !3) | partition);
    tenant.spec()["tenantId"] = json!(tenant.id.to_string());
    tenant
}

on_each_database! {
    /// PLAT-36, PLAT-41, PLAT-80, PLAT-87, QUOTA-97; checks 22 and 26 of chapter 05.
    async fn events_are_logged_soon_after_their_commit(env) {
        let scene = env.scene_with(|tenant| with_sinks(tenant, &log(), &log())).await?;
        turn(&scene.stack, &scene.tenant).await?;
        let committed = Instant::now();
        delivered(&scene.stack).await?;
        assert!(committed.elapsed() < Duration::from_secs(1), "{:?}", committed.elapsed());
        let scrape = scene.stack.scrape().await?;
        for (name, labels) in [
            ("outbox_enqueue_total", &[("kind", "usage"), ("result", "ok")][..]),
            ("outbox_handler_total", &[("kind", "usage"), ("result", "success")]),
            ("outbox_handler_total", &[("kind", "audit"), ("result", "success")]),
            ("outbox_pending_age_seconds_count", &[("kind", "audit")]),
            ("audit_emit_total", &[("result", "ok")]),
        ] {
            let found = scrape.sum(&format!("mini_chat_{name}"), labels);
            assert!(close(found, 1.0), "{name} {labels:?}: {found}");
        }
        let configz = scene.stack.configz(&scene.tenant).await?;
        assert_eq!(configz["sinks"], json!({"usage": {"state": "ok"}, "audit": {"state": "ok"}}));
    }

    /// PLAT-41: without sinks, which is the default, nothing is handled.
    async fn events_without_a_sink_are_done(env) {
        let scene = env.scene().await?;
        turn(&scene.stack, &scene.tenant).await?;
        delivered(&scene.stack).await?;
        assert!(close(handled(&scene.stack, "usage", "success").await?, 0.0));
        assert!(close(scene.stack.scrape().await?.sum("mini_chat_audit_emit_total", &[]), 0.0));
        assert_eq!(scene.stack.configz(&scene.tenant).await?.get("sinks"), None);
    }

    /// PLAT-34, PLAT-41, QUOTA-95; check 20 of chapter 05: the waits double, and the
    /// order stays.
    async fn a_failing_webhook_gets_its_events_later_and_in_order(env) {
        let receiver = WebhookReceiver::start().await?;
        for _ in 0..3 {
            receiver.push(Reply::Status(503));
        }
        let usage = webhook(&receiver, "/usage");
        let scene = env.scene_with(|tenant| with_sinks(tenant, &usage, &Value::Null)).await?;
        turn(&scene.stack, &scene.tenant).await?;
        turn(&scene.stack, &scene.tenant).await?;
        let failing = async || {
            let configz = scene.stack.configz(&scene.tenant).await?;
            Ok(configz["sinks"]["usage"]["state"] == "failing")
        };
        scene.stack.eventually("failing", failing).await?;
        let deliveries = receiver.deliveries_at_least(5).await?;
        let expected = enqueued(&scene.stack.database, &scene.tenant).await?;
        let got = keys(&deliveries);
        assert_eq!(got[..4], [expected[0].as_str(); 4], "{got:?}");
        assert_eq!(got[4], expected[1]);
        for (pair, whole) in deliveries.windows(2).zip([1.0, 2.0, 4.0]) {
            let gap = (pair[1].at - pair[0].at).as_secs_f64();
            assert!(gap > whole / 2.0 - 0.05 && gap < whole + 2.5, "{gap} s of {whole} s");
        }
        delivered(&scene.stack).await?;
        assert_eq!(scene.stack.database.number(PARKED).await?, 0);
        assert!(close(handled(&scene.stack, "usage", "retry").await?, 3.0));
    }

    /// PLAT-33: a tenant that is suspended gets what waits for it.
    async fn events_of_a_suspended_tenant_are_delivered(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|_| Reply::Status(503));
        let usage = webhook(&receiver, "/usage");
        let scene = env.scene_with(|tenant| with_sinks(tenant, &usage, &Value::Null)).await?;
        turn(&scene.stack, &scene.tenant).await?;
        receiver.deliveries_at_least(1).await?;
        let mut suspended = scene.tenant.clone();
        suspended.spec()["suspended"] = json!(true);
        scene.stack.write_manifest(&suspended.name, &suspended.manifest())?;
        let is_suspended = async || Ok(scene.stack.configz(&scene.tenant).await?["suspended"] == true);
        scene.stack.eventually("suspended", is_suspended).await?;
        receiver.otherwise(|_| Reply::Status(200));
        delivered(&scene.stack).await?;
        assert_eq!(scene.stack.database.number("SELECT count(*) FROM outbox_dead_letters").await?, 0);
    }

    /// PLAT-32, PLAT-33, QUOTA-94: a tenant whose sink fails or hangs holds up nobody of its partition.
    async fn other_tenants_of_the_partition_go_on(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|delivery| match delivery.path.as_str() {
            "/failing" => Reply::Status(500),
            "/hanging" => Reply::Hang,
            _ => Reply::Status(200),
        });
        let provider = ScriptedProvider::start().await?;
        let failing = Tenant::new("failing", provider.addr);
        let hanging = neighbour("hanging", &provider, &failing);
        let healthy = neighbour("healthy", &provider, &failing);
        let tenants = [("/failing", failing), ("/hanging", hanging), ("/healthy", healthy)]
            .map(|(path, tenant)| with_sinks(tenant, &webhook(&receiver, path), &Value::Null));
        let stack = env.serve(&tenants.each_ref()).await?;
        for tenant in &tenants {
            turn(&stack, tenant).await?;
        }
        let reached = |path: &'static str| {
            let receiver = &receiver;
            async move || Ok(!receiver.deliveries_at(path).is_empty())
        };
        for path in ["/failing", "/hanging", "/healthy"] {
            stack.eventually(path, reached(path)).await?;
        }
        for round in 1..4 {
            let began = Instant::now();
            turn(&stack, &tenants[2]).await?;
            let next = async || Ok(receiver.deliveries_at("/healthy").len() > round);
            stack.eventually("delivered", next).await?;
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
        let expected = enqueued(&stack.database, &tenants[2]).await?;
        assert_eq!(keys(&receiver.deliveries_at("/healthy")), expected);
        assert_eq!(receiver.deliveries_at("/hanging").len(), 1);
        stack.stop().await?;
        // What ran is not lost.
        assert_eq!(env.database.number(WAITING).await?, 2);
    }

    /// PLAT-35, PLAT-42, PLAT-59, QUOTA-98; checks 21 and 25 of chapter 05.
    async fn a_refused_event_waits_for_a_decision(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Status(422));
        let usage = webhook(&receiver, "/usage");
        let scene = env.scene_with(|tenant| with_sinks(tenant, &usage, &Value::Null)).await?;
        turn(&scene.stack, &scene.tenant).await?;
        turn(&scene.stack, &scene.tenant).await?;
        let deliveries = receiver.deliveries_at_least(2).await?;
        let refused = keys(&deliveries)[0].clone();
        let ready = scene.stack.admin.get_absolute("/readyz").await?;
        let degraded = async || {
            let ready = scene.stack.admin.get_absolute("/readyz").await?.expect(200)?;
            Ok(ready["status"] == "degraded")
        };
        assert_eq!(ready.status, 200);
        scene.stack.eventually("degraded", degraded).await?;
        let letters = scene.stack.admin.get_absolute("/dead-letters?kind=usage").await?.expect(200)?;
        let letter = &letters[0];
        assert_eq!(letter["key"], refused.as_str());
        assert_eq!((&letter["status"], &letter["kind"]), (&json!("pending"), &json!("usage")));
        assert_eq!(letter.get("payload"), None);
        let id = letter["id"].as_i64().context("an id")?;
        let one = scene.stack.admin.get_absolute(&format!("/dead-letters/{id}")).await?.expect(200)?;
        assert_eq!(&one, letter);
        let unknown = scene.stack.admin.get_absolute("/dead-letters/999").await?;
        assert_eq!(unknown.status, 404);
        let scrape = scene.stack.scrape().await?;
        let backlog = scrape.sum("mini_chat_outbox_dead_letter_backlog", &[("kind", "usage")]);
        assert!(close(backlog, 1.0), "{backlog}");

        let Scene { stack, tenant, provider: _provider } = scene;
        delivered(&stack).await?;
        stack.stop().await?;
        let job = job(&env.database)?;
        // A file may be in use for a moment.
        let opened = async || Ok(dead_letter::show(&job, id, &mut Vec::new()).await.is_ok());
        wait_for("free", opened).await?;
        let mut out = Vec::new();
        dead_letter::list(&job, &Listing::default(), Output::Json, &mut out).await?;
        let line: Value = serde_json::from_slice(&out)?;
        assert_eq!(line["id"], id);
        let mut out = Vec::new();
        dead_letter::show(&job, id, &mut out).await?;
        let shown: Value = serde_json::from_slice(&out)?;
        assert_eq!(shown["payload"]["dedupe_key"], refused.as_str());
        assert!(dead_letter::decide(&job, Decision::Requeue, &[id], &mut Vec::new()).await?);
        let again = dead_letter::decide(&job, Decision::Discard, &[id], &mut Vec::new()).await?;
        assert!(!again, "it is on its way");

        let stack = env.serve(&[&tenant]).await?;
        let deliveries = receiver.deliveries_at_least(3).await?;
        assert_eq!(keys(&deliveries)[2], refused);
        let resolved = "SELECT count(*) FROM outbox_dead_letters WHERE status = 'resolved'";
        let done = async || Ok(stack.database.number(resolved).await? == 1);
        stack.eventually("resolved", done).await?;
        let ready = async || {
            let ready = stack.admin.get_absolute("/readyz").await?.expect(200)?;
            Ok(ready["status"] == "ok")
        };
        stack.eventually("no longer degraded", ready).await?;
    }

    /// PLAT-34, PLAT-35: with `outbox.max_attempts` the last failure is a refusal.
    async fn the_last_attempt_makes_a_dead_letter(env) {
        let receiver = WebhookReceiver::start().await?;
        for _ in 0..2 {
            receiver.push(Reply::Status(503));
        }
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let tenant = with_sinks(tenant, &webhook(&receiver, "/usage"), &Value::Null);
        let stack = env.serve_with(&[&tenant], "MINICHAT_OUTBOX_MAX_ATTEMPTS_USAGE=2").await?;
        turn(&stack, &tenant).await?;
        turn(&stack, &tenant).await?;
        let got = keys(&receiver.deliveries_at_least(3).await?);
        assert!(got[0] == got[1] && got[1] != got[2], "{got:?}");
        delivered(&stack).await?;
        let dead = format!("SELECT count(*) FROM outbox_dead_letters WHERE status = 'pending' \
            AND attempts = 2 AND last_error LIKE '%the last one%' AND dedupe_key = '{}'", got[0]);
        assert_eq!(stack.database.number(&dead).await?, 1);
    }

    /// PLAT-35, PLAT-39; check 21 of chapter 05: what cannot be read is refused, and
    /// the next message proceeds.
    async fn an_unreadable_event_is_refused_alone(env) {
        let scene = env.scene_with(|tenant| with_sinks(tenant, &Value::Null, &log())).await?;
        let tenant = scene.tenant.id;
        let sql = format!("INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, \
            payload, created_at) VALUES ('mini-chat.audit', {}, '{tenant}', 'application/json', \
            'no event', {})", tenant.as_u128() % 4, now(&env));
        scene.stack.database.query(&sql).await?;
        turn(&scene.stack, &scene.tenant).await?;
        delivered(&scene.stack).await?;
        let refused = "SELECT count(*) FROM outbox_dead_letters WHERE status = 'pending' \
            AND last_error LIKE '%not an event%' AND payload = 'no event'";
        assert_eq!(scene.stack.database.number(refused).await?, 1);
        assert!(close(handled(&scene.stack, "audit", "success").await?, 1.0));
        assert!(close(handled(&scene.stack, "audit", "reject").await?, 1.0));
    }

    /// PLAT-31: messages that wait decide.
    async fn a_queue_with_messages_keeps_its_name_and_partitions(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
        scene.stack.stop().await?;
        let waits = "INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, \
            payload, created_at) SELECT 'mini-chat.usage_snapshot', 0, tenant_id, \
            'application/json', '{}', created_at FROM chats";
        env.database.query(waits).await?;
        for (setting, said) in [
            ("MINICHAT_OUTBOX_NUM_PARTITIONS=8", "which has 4 partitions, not 8"),
            ("MINICHAT_OUTBOX_CHAT_CLEANUP_QUEUE_NAME=other", "Give the queue its name back"),
        ] {
            let started = env.start_with(&env.manifests(), setting).await;
            let error = started.err().context(setting)?;
            assert!(error.to_string().contains(said), "{error:#}");
        }
        // Messages of deletions have no order, so they may wait in any partition.
        let ordered = "DELETE FROM outbox_messages WHERE queue <> 'mini-chat.chat_cleanup'";
        env.database.query(ordered).await?;
        let settings = "MINICHAT_OUTBOX_NUM_PARTITIONS=8";
        let stack = env.start_with(&env.manifests(), settings).await?;
        turn_once_ready(&stack, &scene.tenant).await?;
        delivered(&stack).await?;
    }

    /// PLAT-33, PLAT-34; check 19 of chapter 05: another process delivers what a
    /// killed one held, long before the delivery would have ended.
    async fn events_of_a_killed_process_are_delivered(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Hang);
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let tenant = with_sinks(tenant, &webhook(&receiver, "/usage"), &Value::Null);
        env.write_manifest(&tenant.name, &tenant.manifest())?;
        let first = Process::serve(BINARY, &env, "").await?;
        let user = first.api.acting_as(tenant.id, Uuid::new_v4())?;
        say(&user).await?;
        receiver.deliveries_at_least(1).await?;
        let parked = async || Ok(env.database.number(PARKED).await? == 1);
        wait_for("parked while it runs", parked).await?;
        first.kill().await?;
        let killed = Instant::now();
        let second = Process::serve(BINARY, &env, "").await?;
        let deliveries = receiver.deliveries_at_least(2).await?;
        assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
        let got = keys(&deliveries);
        assert_eq!(got[0], got[1]);
        let done = async || Ok(env.database.number(PARKED).await? == 0);
        wait_for("delivered", done).await?;
        check_balanced(&env.database).await?;
        second.kill().await?;
    }
}

/// The current instant in a column.
fn now(env: &Env) -> &'static str {
    match env.database.kind() {
        DatabaseKind::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        DatabaseKind::Postgres => "now()",
    }
}

async fn say(user: &Api) -> anyhow::Result<()> {
    let chat = user.create_chat(Some("std")).await?;
    user.say(&chat, "PING").await?;
    Ok(())
}

async fn turn_once_ready(stack: &Stack, tenant: &Tenant) -> anyhow::Result<()> {
    let ready = async || Ok(stack.admin.get_absolute("/readyz").await?.status == 200);
    stack.eventually("ready", ready).await?;
    turn(stack, tenant).await
}

async fn wait_for(
    what: &str,
    condition: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition().await? {
        ensure!(Instant::now() < until, "not {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
