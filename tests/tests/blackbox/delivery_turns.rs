//! Who delivers, and for how long: the turns of processes at a partition, and the time
//! of one delivery.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_config::process::JobConfig;
use minichat_core::TenantId;
use minichat_dataplane::dead_letter::{self, Decision, Output};
use minichat_tests::books::check_balanced;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Env, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::webhook_receiver::{Delivery, Reply, WebhookReceiver};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) const WAITING: &str = "SELECT count(*) FROM outbox_messages WHERE done_at IS NULL \
    AND queue = 'mini-chat.usage_snapshot'";
const AUDIT: &str = "SELECT count(*) FROM outbox_messages WHERE done_at IS NULL \
    AND queue = 'mini-chat.audit'";
const ERROR: &str = "SELECT count(*) FROM outbox_parked WHERE last_error IS NOT NULL";

/// A tenant of the first partition whose usage events go to `path`.
pub(crate) fn tenant(
    name: &str,
    provider: &ScriptedProvider,
    receiver: &WebhookReceiver,
) -> Tenant {
    let mut tenant = Tenant::new(name, provider.addr);
    tenant.id = Uuid::from_u128(Uuid::new_v4().as_u128() & !3);
    tenant.spec()["tenantId"] = json!(tenant.id.to_string());
    let url = receiver.url(&format!("/{name}"));
    tenant.with_webhook("usageSink", &json!({"url": url}))
}

/// Enqueues `count` events of a tenant of the first partition.
pub(crate) async fn enqueue(
    database: &Database,
    tenant: &Tenant,
    count: usize,
) -> anyhow::Result<()> {
    let now = match database.kind() {
        DatabaseKind::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        DatabaseKind::Postgres => "now()",
    };
    let sql = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) \
         INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, payload, created_at) \
         SELECT 'mini-chat.usage_snapshot', 0, '{}', 'application/json', \
         '{{\"event_type\":\"usage_snapshot\"}}', {now} FROM numbers",
        tenant.id
    );
    database.query(&sql).await?;
    Ok(())
}

/// A process of the database of `env` that serves `tenant` alone.
async fn alone(env: &Env, tenant: &Tenant) -> anyhow::Result<Stack> {
    let manifests = env.file(&format!("of-{}", tenant.name));
    std::fs::create_dir(&manifests)?;
    let file = manifests.join(format!("{}.yaml", tenant.name));
    std::fs::write(file, tenant.manifest())?;
    let stack = env.start_with(&manifests, "").await?;
    let is_ready = async || Ok(stack.admin.get_absolute("/readyz").await?.status == 200);
    stack.eventually("ready", is_ready).await?;
    Ok(stack)
}

/// Runs a command on a file that may be in use for a moment.
pub(crate) async fn when_free<T>(
    command: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match command().await {
            Err(error)
                if format!("{error:#}").contains("another process has")
                    && Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ended => return ended,
        }
    }
}

/// PLAT-33: a process that always has something to deliver does not keep the
/// partition from one that serves other tenants.
#[test]
fn a_busy_process_leaves_others_their_turn() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let busy = tenant("busy", &provider, &receiver);
        let other = tenant("other", &provider, &receiver);
        let (first, second) = (alone(&env, &busy).await?, alone(&env, &other).await?);
        enqueue(&env.database, &busy, 20_000).await?;
        receiver.deliveries_at_least(100).await?;
        for round in 1..=3 {
            let began = Instant::now();
            enqueue(&env.database, &other, 1).await?;
            let arrived =
                |all: &[Delivery]| all.iter().filter(|it| it.path == "/other").count() == round;
            receiver.wait(arrived).await?;
            ensure!(
                began.elapsed() < Duration::from_secs(5),
                "{:?}",
                began.elapsed()
            );
        }
        ensure!(
            env.database.number(WAITING).await? > 0,
            "the backlog was too short"
        );
        first.stop().await?;
        second.stop().await
    })
}

/// PLAT-33: a delivery that takes longer than its tenant is parked at a time is not
/// repeated before it has ended.
#[test]
fn a_long_delivery_is_not_repeated_while_it_runs() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Hang);
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        let stack = env
            .serve_with(&[&tenant], "MINICHAT_OUTBOX_LEASE_SECS=17")
            .await?;
        enqueue(&env.database, &tenant, 1).await?;
        let deliveries = receiver.deliveries_at_least(2).await?;
        let gap = deliveries[1].at - deliveries[0].at;
        ensure!(gap > Duration::from_secs(15), "{gap:?}");
        stack.stop().await
    })
}

on_each_database! {
    /// PLAT-36: a commit wakes the dispatcher, which does not wait for its next poll.
    async fn a_commit_wakes_the_dispatcher(env) {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("std")).await?;
        let mut waits = Vec::new();
        for count in 1..=5 {
            user.say(&chat, "PING").await?;
            let ended = Instant::now();
            let deliveries = receiver.deliveries_at_least(count).await?;
            waits.push(deliveries[count - 1].at.saturating_duration_since(ended));
        }
        waits.sort_unstable();
        // A poll comes a second after the one that delivered the last event.
        assert!(waits[2] < Duration::from_millis(500), "{waits:?}");
    }

    /// PLAT-33, check 19 of chapter 05: what takes longer than the lease without the
    /// headroom ends, and is tried again. By default these are 58 seconds.
    async fn a_delivery_ends_before_its_lease(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Hang);
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        let settings = "MINICHAT_OUTBOX_LEASE_SECS=4\nMINICHAT_OUTBOX_ACK_HEADROOM_SECS=1";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?;
        let has_failed = async || Ok(stack.database.number(ERROR).await? == 1);
        stack.eventually("failed", has_failed).await?;
        let deliveries = receiver.deliveries_at_least(2).await?;
        let gap = deliveries[1].at - deliveries[0].at;
        // The lease, and a wait of up to a second.
        assert!(gap > Duration::from_millis(3400) && gap < Duration::from_secs(6), "{gap:?}");
        assert_eq!(deliveries[0].body, deliveries[1].body);
        let keys = deliveries.iter().map(|it| it.header("idempotency-key"));
        let keys: Vec<_> = keys.collect();
        assert_eq!(keys[0], keys[1]);
    }

    /// PLAT-36: the last claim of a process that ends takes what its last poll has not
    /// seen.
    async fn events_of_the_last_moment_are_delivered(env) {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        for round in 1..=4 {
            let stack = env.serve(&[&tenant]).await?;
            enqueue(&env.database, &tenant, 1).await?;
            stack.stop().await?;
            assert_eq!(receiver.deliveries().len(), round);
            assert_eq!(env.database.number(WAITING).await?, 0);
        }
    }

    /// PLAT-36: a delivery that does not end with its process is left to others at once.
    async fn a_process_that_ends_holds_nothing(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|_| Reply::Hang);
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        let stack = env.serve(&[&tenant]).await?;
        enqueue(&env.database, &tenant, 1).await?;
        let running = "SELECT count(*) FROM outbox_parked WHERE locked_by IS NOT NULL";
        let runs = async || Ok(env.database.number(running).await? == 1);
        stack.eventually("parked while it runs", runs).await?;
        stack.stop().await?;
        assert_eq!(env.database.number(running).await?, 0);
        assert_eq!(env.database.number("SELECT count(*) FROM outbox_parked").await?, 1);
        let leased = "SELECT count(*) FROM outbox_partitions WHERE locked_by IS NOT NULL";
        assert_eq!(env.database.number(leased).await?, 0);
    }

    /// PLAT-31: the number of partitions can be changed once what waits is delivered.
    async fn partitions_are_changed_after_the_queue_is_drained(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|_| Reply::Status(503));
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        let stack = env.serve(&[&tenant]).await?;
        let say = async |stack: &Stack| {
            let user = stack.new_user(&tenant)?;
            let chat = user.create_chat(Some("std")).await?;
            user.say(&chat, "PING").await
        };
        say(&stack).await?;
        receiver.deliveries_at_least(1).await?;
        stack.stop().await?;
        let eight = "MINICHAT_OUTBOX_NUM_PARTITIONS=8";
        let refused = env.start_with(&env.manifests(), eight).await.err();
        let refused = refused.context("started")?.to_string();
        assert!(refused.contains("which has 4 partitions, not 8"), "{refused}");

        receiver.otherwise(|_| Reply::Status(200));
        let stack = env.serve(&[&tenant]).await?;
        let is_drained = async || Ok(stack.database.number(WAITING).await? == 0);
        stack.eventually("drained", is_drained).await?;
        stack.stop().await?;
        let before = receiver.deliveries().len();
        let stack = env.serve_with(&[&tenant], eight).await?;
        say(&stack).await?;
        let deliveries = receiver.deliveries_at_least(before + 1).await?;
        let event: Value = deliveries[before].json()?;
        assert_eq!(event["tenant_id"], tenant.id.to_string());
    }

    /// PLAT-31, PLAT-35: events of a tenant that nobody serves any more keep the number
    /// of partitions, until somebody makes dead letters of them.
    async fn events_of_a_tenant_that_is_gone_are_buried(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|_| Reply::Status(503));
        let provider = ScriptedProvider::start().await?;
        let (gone, other) = (
            tenant("gone", &provider, &receiver),
            tenant("other", &provider, &receiver),
        );
        let stack = env.serve(&[&gone, &other]).await?;
        for tenant in [&gone, &gone, &other] {
            let user = stack.new_user(tenant)?;
            let chat = user.create_chat(Some("std")).await?;
            user.say(&chat, "PING").await?;
        }
        let is_audited = async || Ok(stack.database.number(AUDIT).await? == 0);
        stack.eventually("without audit events", is_audited).await?;
        stack.stop().await?;
        let eight = "MINICHAT_OUTBOX_NUM_PARTITIONS=8";
        let refused = async || -> anyhow::Result<String> {
            let started = env.start_with(&env.manifests(), eight).await;
            Ok(started.err().context("started")?.to_string())
        };
        let said = refused().await?;
        for part in [&gone.id.to_string(), &other.id.to_string(), "dead-letter bury --tenant"] {
            assert!(said.contains(part), "{part}: {said}");
        }

        let url = ("MINICHAT_DATABASE_URL".to_owned(), env.database.url());
        let job = JobConfig::load(None, [url])?;
        let waiting = async || -> anyhow::Result<Vec<Value>> {
            let out = when_free(async || {
                let mut out = Vec::new();
                dead_letter::waiting(&job, Output::Json, &mut out).await?;
                Ok(String::from_utf8(out)?)
            });
            let out = out.await?;
            Ok(out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
        };
        let bury = async |tenant: &Tenant| -> anyhow::Result<String> {
            let id = TenantId(tenant.id);
            when_free(async || {
                let mut out = Vec::new();
                dead_letter::bury(&job, id, &mut out).await?;
                Ok(String::from_utf8(out)?)
            })
            .await
        };
        let lines = waiting().await?;
        let usage = |lines: &[Value], tenant: &Tenant| {
            let id = tenant.id.to_string();
            let of_tenant = |it: &&Value| it["kind"] == "usage" && it["tenant_id"] == id;
            let lines = lines.iter().filter(of_tenant);
            lines.filter_map(|it| it["messages"].as_u64()).sum::<u64>()
        };
        assert_eq!((usage(&lines, &gone), usage(&lines, &other)), (2, 1), "{lines:?}");
        let keys = "SELECT dedupe_key FROM outbox_messages WHERE done_at IS NULL \
            AND queue = 'mini-chat.usage_snapshot' ORDER BY id";
        let keys = env.database.query(keys).await?;

        let out = bury(&gone).await?;
        assert!(out.starts_with(&format!("2 events of {}", gone.id)), "{out}");
        let lines = waiting().await?;
        assert_eq!((usage(&lines, &gone), usage(&lines, &other)), (0, 1), "{lines:?}");
        let nothing = bury(&gone).await.err().context("buried again")?;
        assert!(nothing.to_string().contains("no event of"), "{nothing}");
        let said = refused().await?;
        assert!(!said.contains(&gone.id.to_string()), "{said}");
        check_balanced(&env.database).await?;

        bury(&other).await?;
        let letters = "SELECT dedupe_key FROM outbox_dead_letters \
            WHERE status = 'pending' AND attempts = 0 ORDER BY message_id";
        assert_eq!(env.database.query(letters).await?, keys);
        receiver.otherwise(|_| Reply::Status(200));
        let before = receiver.deliveries_at("/gone").len();
        // Served once more, it gets what was buried under the same keys.
        let ids = format!("SELECT id FROM outbox_dead_letters WHERE tenant_id = '{}' ORDER BY id", gone.id);
        let ids = env.database.query(&ids).await?.into_iter().flatten().flatten();
        let ids: Vec<i64> = ids.map(|id| id.parse()).collect::<Result<_, _>>()?;
        let stack = env.start_with(&env.manifests(), eight).await?;
        stack.stop().await?;
        let requeue = async || {
            dead_letter::decide(&job, Decision::Requeue, &ids, &mut Vec::new()).await
        };
        assert!(when_free(requeue).await?, "{ids:?}");
        let stack = env.start_with(&env.manifests(), eight).await?;
        let arrived = async || Ok(receiver.deliveries_at("/gone").len() >= before + 2);
        stack.eventually("delivered", arrived).await?;
        let arrived = receiver.deliveries_at("/gone").split_off(before);
        let arrived = arrived.iter().map(|it| vec![Some(it.header("idempotency-key").to_owned())]);
        assert_eq!(arrived.collect::<Vec<_>>(), keys[..2]);
    }
}
