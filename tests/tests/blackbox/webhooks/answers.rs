//! What becomes of events when receivers refuse them, fail or misbehave.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use minichat_tests::books::check_balanced;
use minichat_tests::child::Process;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::webhook_receiver::{Delivery, Reply, WebhookReceiver};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{AUDIT, USAGE, request_ids, scene, turns};

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const DEAD: &str = "SELECT count(*) FROM outbox_dead_letters";
const PARKED: &str = "SELECT count(*) FROM outbox_parked";

on_each_database! {
    /// QUOTA-95, QUOTA-97, PLAT-34: the same event with the same key, after about
    /// 1, 2 and 4 s, and the events after it in their order.
    async fn an_event_that_a_receiver_cannot_take_is_repeated_in_its_place(env) {
        let receiver = WebhookReceiver::start().await?;
        for _ in 0..3 {
            receiver.push(Reply::Status(503));
        }
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("usageSink", &json!({"url": receiver.url(USAGE)}))
        }).await?;
        let ids = turns(&scene.new_user()?, 3).await?;
        let deliveries = receiver.deliveries_at_least(6).await?;
        let tries = &deliveries[..4];
        for pair in tries.windows(2) {
            assert_eq!(pair[0].body, pair[1].body);
            assert_eq!(pair[0].header("idempotency-key"), pair[1].header("idempotency-key"));
        }
        assert_eq!(request_ids(&deliveries[3..])?, ids);
        for (n, pair) in tries.windows(2).enumerate() {
            let longest = Duration::from_secs(1 << n);
            let pause = pair[1].at - pair[0].at;
            // The poll that finds what is due comes once a second.
            let at_most = longest + Duration::from_millis(1500);
            assert!(pause >= longest / 2 && pause <= at_most, "pause {n}: {pause:?}");
        }
        let database = scene.database();
        scene.stack.eventually("reset", async || Ok(database.number(PARKED).await? == 0)).await?;
        assert_eq!(database.number(DEAD).await?, 0);
        assert_eq!(receiver.deliveries().len(), 6);
    }

    /// PLAT-80, QUOTA-94: whichever requests fail, each tenant's events are accepted
    /// in their order, each once.
    async fn order_is_kept_whatever_fails(env) {
        const TURNS: usize = 8;
        let receiver = WebhookReceiver::start().await?;
        let failed = Mutex::new(HashSet::new());
        receiver.otherwise(move |delivery| {
            let key = delivery.header("webhook-id").to_owned();
            // About a third of the events fail at their first attempt.
            let sum: u32 = delivery.body.iter().map(|byte| u32::from(*byte)).sum();
            let is_first = failed.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            Reply::Status(if sum.is_multiple_of(3) && is_first { 503 } else { 200 })
        });
        let provider = ScriptedProvider::start().await?;
        let tenants = ["acme", "other"].map(|name| {
            let webhook = json!({"url": receiver.url(&format!("/{name}"))});
            Tenant::new(name, provider.addr).with_webhook("usageSink", &webhook)
        });
        let stack = env.serve(&tenants.each_ref()).await?;
        let users = [stack.new_user(&tenants[0])?, stack.new_user(&tenants[1])?];
        let (one, other) = tokio::try_join!(turns(&users[0], TURNS), turns(&users[1], TURNS))?;
        receiver.wait(|all| {
            let keys: HashSet<_> = all.iter().map(|it| it.header("webhook-id")).collect();
            let last = |path| all.iter().rfind(|it| it.path == path);
            keys.len() == 2 * TURNS && [("/acme", &one), ("/other", &other)].iter().all(|(path, ids)| {
                last(*path).is_some_and(|it| {
                    request_ids(std::slice::from_ref(it)).is_ok_and(|last| last[0] == ids[TURNS - 1])
                })
            })
        }).await?;
        for (path, ids) in [("/acme", one), ("/other", other)] {
            let mut seen = request_ids(&receiver.deliveries_at(path))?;
            // A repeated event comes directly after its first attempt.
            seen.dedup();
            assert_eq!(seen, ids, "{path}");
        }
    }

    /// QUOTA-95, PLAT-33: the process is killed while the receiver has the request.
    /// Another one sends the event again, with the same key.
    async fn an_event_of_a_killed_process_is_sent_again_with_its_key(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Hang);
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr)
            .with_webhook("usageSink", &json!({"url": receiver.url(USAGE)}));
        env.write_manifest(&tenant.name, &tenant.manifest())?;
        let settings = "MINICHAT_OUTBOX_LEASE_SECS=4";
        let first = Process::serve(BINARY, &env, settings).await?;
        let ids = turns(&first.api.acting_as(tenant.id, Uuid::new_v4())?, 1).await?;
        receiver.deliveries_at_least(1).await?;
        first.kill().await?;
        let second = Process::serve(BINARY, &env, settings).await?;
        let deliveries = receiver.deliveries_at_least(2).await?;
        assert_eq!(deliveries[0].header("idempotency-key"), deliveries[1].header("idempotency-key"));
        assert_eq!(deliveries[0].body, deliveries[1].body);
        assert_eq!(request_ids(&deliveries[1..])?, ids);
        check_balanced(&env.database).await?;
        second.kill().await?;
    }

    /// D31, PLAT-41: a refused event is a dead letter, and the next one follows.
    async fn a_refused_event_is_a_dead_letter_and_the_next_is_delivered(env) {
        let receiver = WebhookReceiver::start().await?;
        for status in [422, 400, 410, 413] {
            receiver.push(Reply::Answer {
                status,
                headers: vec!["Content-Type: text/plain".to_owned()],
                body: b"no such plan".to_vec(),
            });
        }
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("usageSink", &json!({"url": receiver.url(USAGE)}))
        }).await?;
        let ids = turns(&scene.new_user()?, 5).await?;
        let deliveries = receiver.deliveries_at_least(5).await?;
        assert_eq!(request_ids(&deliveries)?, ids);
        let database = scene.database();
        scene.stack.eventually("dead", async || Ok(database.number(DEAD).await? == 4)).await?;
        let rows = database.query("SELECT last_error FROM outbox_dead_letters ORDER BY id").await?;
        for (row, status) in rows.iter().zip([422, 400, 410, 413]) {
            let error = row[0].as_deref().unwrap_or_default();
            assert!(error.contains(&format!("answered {status}")), "{error}");
            assert!(error.ends_with("it says: no such plan"), "{error}");
        }
    }

    /// PLAT-34: the events of a refused batch are repeated one by one, and only the one
    /// that is refused alone becomes a dead letter.
    async fn of_a_refused_batch_one_event_is_a_dead_letter(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|delivery| {
            let is_failed = |event: &Value| event["terminal_state"] == "failed";
            let events = delivery.events().unwrap_or_default();
            Reply::Status(if events.iter().any(is_failed) { 422 } else { 200 })
        });
        let scene = env.scene_with(|tenant| {
            let batch = json!({"maxEvents": 3, "maxSeconds": 60});
            tenant.with_webhook("usageSink", &json!({"url": receiver.url(USAGE), "batch": batch}))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        for content in ["PING", "ERROR", "PING"] {
            user.say(&chat, content).await?;
        }
        let deliveries = receiver.deliveries_at_least(4).await?;
        let batch = deliveries[0].events()?;
        let alone = deliveries[1..].iter().map(Delivery::events).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(alone, batch.iter().map(|event| vec![event.clone()]).collect::<Vec<_>>());
        let database = scene.database();
        scene.stack.eventually("dead", async || Ok(database.number(DEAD).await? == 1)).await?;
        let rows = database.query("SELECT dedupe_key FROM outbox_dead_letters").await?;
        assert_eq!(rows[0][0].as_deref(), batch[1]["dedupe_key"].as_str());
        assert_eq!(receiver.deliveries().len(), 4);
    }

    /// PLAT-43, PLAT-165: a receiver may repeat what users wrote, so its words about such
    /// an event are not kept.
    async fn words_about_an_event_with_content_are_not_kept(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Answer {
            status: 422,
            headers: vec!["Content-Type: text/plain".to_owned()],
            body: b"what is PING?".to_vec(),
        });
        let scene = env.scene_with(|tenant| {
            let mut tenant = tenant.with_webhook("auditSink", &json!({"url": receiver.url(AUDIT)}));
            tenant.spec()["auditSink"]["includeContent"] = json!(true);
            tenant
        }).await?;
        turns(&scene.new_user()?, 1).await?;
        let deliveries = receiver.deliveries_at_least(1).await?;
        assert_eq!(deliveries[0].json()?["prompt"], "PING");
        let database = scene.database();
        scene.stack.eventually("dead", async || Ok(database.number(DEAD).await? == 1)).await?;
        let rows = database.query("SELECT last_error FROM outbox_dead_letters").await?;
        let error = rows[0][0].as_deref().unwrap_or_default();
        assert!(error.ends_with("answered 422: it refuses the event"), "{error}");
    }

    /// D31: everything else is transient, hostile answers included.
    async fn every_other_answer_is_followed_by_another_attempt(env) {
        let receiver = WebhookReceiver::start().await?;
        let scene = env.scene_with(|tenant| {
            let webhook = json!({"url": receiver.url(USAGE), "timeoutSeconds": 1});
            tenant.with_webhook("usageSink", &webhook)
        }).await?;
        let user = scene.new_user()?;
        for reply in [
            Reply::Status(401),
            Reply::Status(404),
            Reply::Status(429),
            Reply::Close,
            Reply::Bytes(b"SSH-2.0-x\r\n".to_vec()),
            Reply::Hang,
            Reply::EndlessHead,
            Reply::Drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ] {
            let kind = format!("{reply:?}");
            let before = receiver.deliveries().len();
            receiver.push(reply);
            // A kept connection that is closed is replaced at once.
            receiver.push(Reply::Status(503));
            let ids = turns(&user, 1).await?;
            let deliveries = receiver.deliveries_at_least(before + 3).await?;
            let expected = vec![ids[0].clone(); 3];
            assert_eq!(request_ids(&deliveries[before..])?, expected, "{kind}");
        }
        let database = scene.database();
        scene.stack.eventually("reset", async || Ok(database.number(PARKED).await? == 0)).await?;
        assert_eq!(database.number(DEAD).await?, 0);
    }

    /// The head of a success is enough.
    async fn an_answer_whose_body_never_ends_is_delivered(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::HungBody(200));
        receiver.push(Reply::EndlessBody(200));
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("usageSink", &json!({"url": receiver.url(USAGE)}))
        }).await?;
        let ids = turns(&scene.new_user()?, 3).await?;
        assert_eq!(request_ids(&receiver.deliveries_at_least(3).await?)?, ids);
    }

    /// D48: the event goes nowhere else, and the text says what to do.
    async fn a_redirect_is_not_followed(env) {
        let (receiver, elsewhere) = (WebhookReceiver::start().await?, WebhookReceiver::start().await?);
        receiver.push(Reply::Answer {
            status: 308,
            headers: vec![format!("Location: {}", elsewhere.url(USAGE))],
            body: Vec::new(),
        });
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("usageSink", &json!({"url": receiver.url(USAGE)}))
        }).await?;
        turns(&scene.new_user()?, 1).await?;
        receiver.deliveries_at_least(1).await?;
        let database = scene.database();
        let said = async || {
            let rows = database.query("SELECT last_error FROM outbox_parked").await?;
            Ok(rows.iter().flatten().flatten().any(|error| error.contains("redirect")))
        };
        scene.stack.eventually("explained", said).await?;
        receiver.deliveries_at_least(2).await?;
        assert_eq!(elsewhere.connections(), 0);
    }

    /// PLAT-58, PLAT-80: each attempt of a configured audit sink is counted.
    async fn attempts_of_the_audit_sink_are_counted(env) {
        let receiver = WebhookReceiver::start().await?;
        for reply in [Reply::Status(503), Reply::Status(200), Reply::Status(422)] {
            receiver.push(reply);
        }
        let scene = env.scene_with(|tenant| {
            tenant.with_webhook("auditSink", &json!({"url": receiver.url(AUDIT)}))
        }).await?;
        turns(&scene.new_user()?, 3).await?;
        receiver.deliveries_at_least(4).await?;
        let counted = async || {
            let scrape = scene.stack.scrape().await?;
            let results = ["retry", "ok", "reject"].map(|result| {
                // Whole numbers.
                scrape.sum("mini_chat_audit_emit_total", &[("result", result)]).to_string()
            });
            Ok(results == ["1", "2", "1"])
        };
        scene.stack.eventually("counted", counted).await?;
    }

    /// PLAT-80: an attempt ends with the time limit of the webhook.
    async fn a_slow_receiver_is_tried_again(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.push(Reply::Hang);
        let scene = scene(&env, &receiver, &json!({"timeoutSeconds": 1})).await?;
        turns(&scene.new_user()?, 2).await?;
        receiver.wait(|all| all.len() == 5).await?;
        let (usage, audit) = (receiver.deliveries_at(USAGE), receiver.deliveries_at(AUDIT));
        let slow = if usage.len() == 3 { usage } else { audit };
        assert_eq!(slow[0].body, slow[1].body);
        assert!(slow[1].at - slow[0].at >= Duration::from_secs(1));
    }
}
