//! What receivers get: events, keys, signatures, formats and batches.

use std::collections::BTreeSet;

use anyhow::Context as _;
use minichat_core::Timestamp;
use minichat_telemetry::Signal;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use minichat_tests::webhook_receiver::{Delivery, Reply, WebhookReceiver};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{AUDIT, USAGE, request_ids, scene, turns, webhook};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The only event of each delivery.
fn single_events(deliveries: &[Delivery]) -> anyhow::Result<Vec<Value>> {
    deliveries.iter().map(Delivery::json).collect()
}

/// Members of `event` that are amounts or counts.
fn amounts(event: &Value) -> Vec<(&String, &Value)> {
    let usage = event["usage"].as_object();
    let members = event.as_object().into_iter().chain(usage).flatten();
    let is_amount = |name: &str| {
        name.ends_with("_micro") || name.ends_with("_tokens") || name.ends_with("_calls")
    };
    members.filter(|(name, _)| is_amount(name)).collect()
}

/// The members of usage events that docs/events.md shows, but for those that only a
/// downgrade has.
fn documented_members() -> anyhow::Result<BTreeSet<String>> {
    let page = include_str!("../../../../docs/events.md");
    let section = page.split("## Usage events").nth(1).context("no section")?;
    let example = section.split("```json").nth(1).context("no example")?;
    let example = example.split("```").next().unwrap_or_default();
    let example: serde_json::Map<String, Value> = serde_json::from_str(example)?;
    let members = example.into_iter().map(|(name, _)| name);
    Ok(members
        .filter(|name| !name.starts_with("downgrade_"))
        .collect())
}

on_each_database! {
    /// PLAT-40, PLAT-41, QUOTA-86; check 24 of chapter 05: whatever the end of its turn,
    /// that by the watchdog included, a usage event has all members.
    async fn a_usage_event_of_each_end_has_every_member(env) {
        let receiver = WebhookReceiver::start().await?;
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("usageSink", &webhook(&receiver.url(USAGE), &json!({})))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for content in ["PING", "ERROR"] {
            user.say(&chat, content).await?;
        }
        let held = scene.held().await?;
        let request_id = held.started.data["request_id"].as_str().context("no id")?.to_owned();
        held.user.cancel(&held.chat, &request_id).await?.expect(202)?;
        drop(held.stream.collect().await?);
        let orphaned = scene.held().await?;
        scene.database().age_turns("state = 'running'").await?;
        let report = scene.stack.watchdog().run_once(&Signal::new()).await;
        assert_eq!(report.finalized, 1, "{report:?}");
        let deliveries = receiver.deliveries_at_least(4).await?;
        let events = single_events(&deliveries)?;
        let ends: Vec<_> = events.iter().map(|it| (&it["terminal_state"], &it["error_code"])).collect();
        assert_eq!(ends.last(), Some(&(&json!("failed"), &json!("orphan_timeout"))));
        let documented = documented_members()?;
        for event in &events {
            let members = event.as_object().context("no object")?;
            let members: BTreeSet<String> = members.keys().cloned().collect();
            let mut documented = documented.clone();
            if event["error_code"] == "orphan_timeout" {
                // The request that a watchdog ends is over.
                documented.remove("trace_id");
            }
            assert_eq!(members, documented, "{event}");
        }
        drop(orphaned);
    }

    /// QUOTA-85 to QUOTA-93, QUOTA-97: one request per turn that reserved credits.
    async fn each_turn_is_one_usage_event(env) {
        let receiver = WebhookReceiver::start().await?;
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("usageSink", &webhook(&receiver.url(USAGE), &json!({})))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for content in ["PING", "ERROR", "TRUNCATE"] {
            user.say(&chat, content).await?;
        }
        let held = scene.held().await?;
        let request_id = held.started.data["request_id"].as_str().context("no id")?.to_owned();
        held.user.cancel(&held.chat, &request_id).await?.expect(202)?;
        drop(held.stream.collect().await?);
        scene.provider.release(1);
        let deliveries = receiver.deliveries_at_least(4).await?;
        let events = single_events(&deliveries)?;
        let states: Vec<_> = events.iter().map(|event| &event["terminal_state"]).collect();
        assert_eq!(states, ["completed", "failed", "completed", "cancelled"]);
        for (delivery, event) in deliveries.iter().zip(&events) {
            assert_eq!((delivery.method.as_str(), delivery.path.as_str()), ("POST", USAGE));
            let key = event["dedupe_key"].as_str().context("no key")?;
            assert_eq!(key.len(), 98);
            for header in ["idempotency-key", "webhook-id"] {
                assert_eq!(delivery.header(header), key);
            }
            assert_eq!(delivery.header("content-type"), "application/json");
            assert_eq!(event["event_type"], "usage_snapshot");
            assert_eq!(event["tenant_id"], scene.tenant.id.to_string());
            assert!(!amounts(event).is_empty());
            for (name, value) in amounts(event) {
                assert!(value.is_i64() || value.is_u64(), "{name}: {value}");
            }
            let text = String::from_utf8_lossy(&delivery.body);
            for foreign in ["resp_", "-at-provider", "PING", "PONG", "sk-test"] {
                assert!(!text.contains(foreign), "{foreign} in {text}");
            }
        }
        let rows = scene.database().query(
            "SELECT payload FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot' ORDER BY id"
        ).await?;
        for (row, delivery) in rows.iter().zip(&deliveries) {
            assert_eq!(row[0].as_deref().map(str::as_bytes), Some(delivery.body.as_slice()));
        }
        user.say(&chat, "PING").await?;
        assert_eq!(receiver.deliveries_at_least(5).await?.len(), 5);
    }

    /// PLAT-80 to PLAT-84: one event per turn and per change, in their order.
    async fn each_turn_and_each_change_is_one_audit_event(env) {
        let receiver = WebhookReceiver::start().await?;
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("auditSink", &webhook(&receiver.url(AUDIT), &json!({})))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let first = user.say(&chat, "PING").await?;
        let id = |events: &minichat_tests::sse::Events| -> anyhow::Result<String> {
            let started = events.only("stream_started")?;
            Ok(started["request_id"].as_str().context("no id")?.to_owned())
        };
        let retried = user.open_retry(&chat, &id(&first)?).await?.collect().await?;
        let edited = user.open_edit(&chat, &id(&retried)?, "ERROR").await?.collect().await?;
        user.delete_turn(&chat, &id(&edited)?).await?.expect(204)?;
        let deliveries = receiver.deliveries_at_least(6).await?;
        let events = single_events(&deliveries)?;
        let types: Vec<_> = events.iter().map(|event| event["event_type"].as_str()).collect();
        let expected = [
            "turn_completed", "turn_retry", "turn_completed", "turn_edit", "turn_failed",
            "turn_delete",
        ];
        assert_eq!(types, expected.map(Some));
        let mut keys: Vec<_> = deliveries.iter().map(|it| it.header("webhook-id")).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 6);
        for (event, delivery) in events.iter().zip(&deliveries) {
            assert!(event.get("prompt").is_none() && event.get("response").is_none(), "{event}");
            let trace = event["trace_id"].as_str().context("no trace")?;
            let parent = delivery.header("traceparent");
            assert!(parent.starts_with(&format!("00-{trace}-")), "{parent}");
        }
    }

    /// Standard Webhooks: both secrets sign while one follows the other, and nothing
    /// restarts.
    async fn a_signing_secret_is_rotated_without_a_gap(env) {
        let receiver = WebhookReceiver::start().await?;
        let with = |tenant: minichat_tests::manifest::Tenant, secrets: &str| {
            let signed = json!({"signingSecretRef": {"name": "signing", "key": "value"}});
            tenant
                .with_webhook("usageSink", &webhook(&receiver.url(USAGE), &signed))
                .with_secret("signing", secrets)
        };
        let scene = env.scene_with(|tenant| with(tenant, OLD)).await?;
        let user = scene.new_user()?;
        for (secrets, expected) in [
            (OLD.to_owned(), (1, 0)),
            (format!("{NEW} {OLD}"), (1, 1)),
            (NEW.to_owned(), (0, 1)),
        ] {
            let before = receiver.deliveries().len();
            let manifest = with(scene.tenant.clone(), &secrets).manifest();
            scene.stack.write_manifest(&scene.tenant.name, &manifest)?;
            // The change is applied in the background.
            scene.stack.eventually("signed anew", async || {
                let count = receiver.deliveries().len();
                turns(&user, 1).await?;
                let deliveries = receiver.deliveries_at_least(count + 1).await?;
                let last = &deliveries[count];
                let found = (last.signatures_of(OLD)?, last.signatures_of(NEW)?);
                assert_ne!(found, (0, 0), "no gap");
                Ok(found == expected)
            }).await?;
            for delivery in &receiver.deliveries()[before..] {
                let sent: i64 = delivery.header("webhook-timestamp").parse()?;
                let event = delivery.json()?;
                let ended: Timestamp = event["timestamp"].as_str().context("no time")?.parse()?;
                let later = sent - ended.as_micros() / 1_000_000;
                assert!((0..120).contains(&later), "{sent} {event}");
            }
        }
    }

    /// PLAT-140: a static header.
    async fn a_credential_is_sent_in_its_header(env) {
        let receiver = WebhookReceiver::start().await?;
        let options = json!({
            "authHeader": "X-Api-Key", "secretRef": {"name": "hook", "key": "value"},
        });
        let scene = env.scene_with(|tenant| {
            tenant
                .with_webhook("usageSink", &webhook(&receiver.url(USAGE), &options))
                .with_secret("hook", "Key of-the-hook")
        }).await?;
        receiver.push(Reply::Answer {
            status: 422,
            headers: vec!["Content-Type: application/json".to_owned()],
            body: br#"{"error": "of-the-hook may not"}"#.to_vec(),
        });
        turns(&scene.new_user()?, 1).await?;
        let deliveries = receiver.deliveries_at_least(1).await?;
        assert_eq!(deliveries[0].header("x-api-key"), "Key of-the-hook");
        let database = scene.database();
        let errors = "SELECT last_error FROM outbox_dead_letters";
        scene.stack.eventually("dead", async || {
            Ok(!database.query(errors).await?.is_empty())
        }).await?;
        let error = format!("{:?}", database.query(errors).await?);
        assert!(error.contains("may not") && !error.contains("of-the-hook"), "{error}");
    }

    /// A batch is an array of the stored events in their order; each event comes
    /// once, also after failures.
    async fn batches_hold_the_events_of_a_tenant_in_their_order(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Status(503));
        let options = json!({"batch": {"maxEvents": 3, "maxSeconds": 0}});
        let scene = scene(&env, &receiver, &options).await?;
        let ids = turns(&scene.new_user()?, 8).await?;
        receiver.wait(|all| {
            let accepted = |path| {
                let all: Vec<_> = all.iter().filter(|it| it.path == path).cloned().collect();
                request_ids(&all).is_ok_and(|found| ids.iter().all(|id| found.contains(id)))
            };
            accepted(USAGE) && accepted(AUDIT)
        }).await?;
        for path in [USAGE, AUDIT] {
            let deliveries = receiver.deliveries_at(path);
            for delivery in &deliveries {
                assert!(delivery.json()?.is_array());
                assert!((1..=3).contains(&delivery.events()?.len()));
                assert_eq!(delivery.header("idempotency-key").len(), 64);
            }
            // Only the very first request of both sinks was refused.
            let mut found = request_ids(&deliveries)?;
            found.dedup();
            let repeated = found.len() - ids.len();
            assert_eq!(found[repeated..], ids, "{path}");
        }
    }

    /// PLAT-43: events wait for others of their batch, while those of another tenant of
    /// the partition are delivered.
    async fn a_batch_that_is_not_full_waits(env) {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let in_first_partition = |name: &str, options: &Value| {
            let mut tenant = Tenant::new(name, provider.addr);
            tenant.id = Uuid::from_u128(Uuid::new_v4().as_u128() & !3);
            tenant.spec()["tenantId"] = json!(tenant.id.to_string());
            tenant.with_webhook("usageSink", &webhook(&receiver.url(&format!("/{name}")), options))
        };
        let batch = json!({"batch": {"maxEvents": 2, "maxSeconds": 60}});
        let batched = in_first_partition("batched", &batch);
        let single = in_first_partition("single", &json!({}));
        let stack = env.serve(&[&batched, &single]).await?;
        let user = stack.new_user(&batched)?;
        let mut ids = turns(&user, 1).await?;
        for round in 1..=2 {
            turns(&stack.new_user(&single)?, 1).await?;
            receiver.wait(|all| all.iter().filter(|it| it.path == "/single").count() == round).await?;
        }
        assert!(receiver.deliveries_at("/batched").is_empty());
        ids.extend(turns(&user, 1).await?);
        receiver.wait(|all| all.iter().any(|it| it.path == "/batched")).await?;
        assert_eq!(request_ids(&receiver.deliveries_at("/batched"))?, ids);
    }

    /// CloudEvents 1.0
    async fn cloud_events_carry_the_same_events(env) {
        let receiver = WebhookReceiver::start().await?;
        let scene = scene(&env, &receiver, &json!({"format": "CloudEvents"})).await?;
        scene.provider.push_scenario(Scenario::deltas(&["answer"], Ending::Completed));
        turns(&scene.new_user()?, 1).await?;
        receiver.deliveries_at_least(2).await?;
        for (path, kind) in [
            (USAGE, "dev.minichat.usage.v1"),
            (AUDIT, "dev.minichat.audit.turn.v1"),
        ] {
            let deliveries = receiver.deliveries_at(path);
            let [delivery] = deliveries.as_slice() else {
                anyhow::bail!("{path}: {deliveries:?}");
            };
            assert_eq!(delivery.header("content-type"), "application/cloudevents+json");
            let event = delivery.json()?;
            assert_eq!(event["specversion"], "1.0");
            assert_eq!(event["type"], kind);
            assert_eq!(event["id"], delivery.header("webhook-id"));
            assert_eq!(event["source"], format!("/minichat/tenants/{}", scene.tenant.id));
            assert_eq!(event["subject"], event["data"]["turn_id"]);
            assert_eq!(event["time"], event["data"]["timestamp"]);
            let trace = event["data"]["trace_id"].as_str().unwrap_or_default();
            let parent = event["traceparent"].as_str().unwrap_or_default();
            assert!(trace.len() == 32 && parent.starts_with(&format!("00-{trace}-")), "{event}");
        }
    }

    /// CloudEvents 1.0, PLAT-43: changes have types of their own.
    async fn cloud_events_of_changes_have_their_types(env) {
        let receiver = WebhookReceiver::start().await?;
        let options = json!({"format": "CloudEvents"});
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("auditSink", &webhook(&receiver.url(AUDIT), &options))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let id = |events: &minichat_tests::sse::Events| -> anyhow::Result<String> {
            let started = events.only("stream_started")?;
            Ok(started["request_id"].as_str().context("no id")?.to_owned())
        };
        let first = user.say(&chat, "PING").await?;
        let retried = user.open_retry(&chat, &id(&first)?).await?.collect().await?;
        user.delete_turn(&chat, &id(&retried)?).await?.expect(204)?;
        let events = single_events(&receiver.deliveries_at_least(4).await?)?;
        let types = events.iter().map(|event| event["type"].as_str().unwrap_or_default());
        let expected = ["turn", "mutation", "turn", "delete"];
        let expected = expected.map(|kind| format!("dev.minichat.audit.{kind}.v1"));
        assert_eq!(types.collect::<Vec<_>>(), expected);
        for event in &events {
            assert_eq!(event["subject"], event["data"]["turn_id"]);
        }
    }
}
