//! Who delivers, and for how long: the turns of processes at a partition, and the time
//! of one delivery.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Env, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::webhook_receiver::{Delivery, Reply, WebhookReceiver};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

const WAITING: &str = "SELECT count(*) FROM outbox_messages WHERE done_at IS NULL \
    AND queue = 'mini-chat.usage_snapshot'";
const ERROR: &str = "SELECT count(*) FROM outbox_parked WHERE last_error IS NOT NULL";

/// A tenant of the first partition whose usage events go to `path`.
fn tenant(name: &str, provider: &ScriptedProvider, receiver: &WebhookReceiver) -> Tenant {
    let mut tenant = Tenant::new(name, provider.addr);
    tenant.id = Uuid::from_u128(Uuid::new_v4().as_u128() & !3);
    tenant.spec()["tenantId"] = json!(tenant.id.to_string());
    let url = receiver.url(&format!("/{name}"));
    tenant.with_webhook("usageSink", &json!({"url": url}))
}

/// Enqueues `count` events of a tenant of the first partition.
async fn enqueue(database: &Database, tenant: &Tenant, count: usize) -> anyhow::Result<()> {
    let sql = format!(
        "INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, payload, created_at) \
         SELECT 'mini-chat.usage_snapshot', 0, '{}', 'application/json', \
         '{{\"event_type\":\"usage_snapshot\"}}', now() FROM generate_series(1, {count})",
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
}
