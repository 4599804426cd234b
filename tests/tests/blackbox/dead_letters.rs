//! Dead letters whose queue gets another name, and dead letters that are made by hand
//! while processes run.

use anyhow::{Context as _, ensure};
use minichat_config::process::JobConfig;
use minichat_core::TenantId;
use minichat_dataplane::dead_letter::{self, Decision};
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::run;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::postgres::Transaction;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::sent_files::StoredFile;
use minichat_tests::webhook_receiver::{Reply, WebhookReceiver};

use crate::delivery_turns::{WAITING, enqueue, tenant, when_free};

const RENAMED: &str = "MINICHAT_OUTBOX_QUEUE_NAME";
const LETTERS: &str = "SELECT count(*) FROM outbox_dead_letters";

/// The settings of a command; the usage queue may have another name.
fn job(database: &Database, queue: Option<&str>) -> anyhow::Result<JobConfig> {
    let url = ("MINICHAT_DATABASE_URL".to_owned(), database.url());
    let queue = queue.map(|name| (RENAMED.to_owned(), name.to_owned()));
    Ok(JobConfig::load(None, [url].into_iter().chain(queue))?)
}

async fn bury(job: &JobConfig, tenant: &Tenant) -> anyhow::Result<String> {
    when_free(async || {
        let mut out = Vec::new();
        dead_letter::bury(job, TenantId(tenant.id), &mut out).await?;
        Ok(String::from_utf8(out)?)
    })
    .await
}

on_each_database! {
    /// PLAT-31, PLAT-35: dead letters of every kind go where their queue's name went,
    /// and are delivered under their keys.
    async fn dead_letters_follow_a_queue_to_its_new_name(env) {
        let receiver = WebhookReceiver::start().await?;
        receiver.otherwise(|_| Reply::Status(400));
        let provider = ScriptedProvider::start().await?;
        let tenant = tenant("acme", &provider, &receiver);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?;
        let refused = async || Ok(env.database.number(LETTERS).await? == 1);
        stack.eventually("refused", refused).await?;
        let file = StoredFile::image(&chat).insert(&env.database).await?;
        let file = format!("/chats/{chat}/attachments/{}", file.id);
        user.delete(&file).await?.expect(204)?;
        user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
        stack.stop().await?;
        // The other queues had other names as well.
        let columns = "partition, tenant_id, dedupe_key, payload_type, payload, created_at";
        for sql in [
            format!(
                "INSERT INTO outbox_dead_letters (queue, {columns}, message_id, failed_at) \
                 SELECT 'former.' || queue, {columns}, id, created_at FROM outbox_messages"
            ),
            "DELETE FROM outbox_messages".to_owned(),
        ] {
            env.database.query(&sql).await?;
        }
        let by_queue = "SELECT queue, CAST(count(*) AS TEXT) FROM outbox_dead_letters \
            GROUP BY queue ORDER BY queue";
        let expected = env.database.query(by_queue).await?.into_iter().flatten().flatten();
        let expected = expected.map(|text| match text.as_str() {
            "mini-chat.usage_snapshot" => "spent".to_owned(),
            text => text.strip_prefix("former.").unwrap_or(text).to_owned(),
        });
        let expected: Vec<String> = expected.collect();
        assert_eq!(expected.len(), 8, "{expected:?}");

        let usage = "SELECT id FROM outbox_dead_letters WHERE payload LIKE '%usage_snapshot%'";
        let id = env.database.number(usage).await?;
        let renamed = job(&env.database, Some("spent"))?;
        let requeue = async || {
            dead_letter::decide(&renamed, Decision::Requeue, &[id], &mut Vec::new()).await
        };
        let early = when_free(requeue).await.err().context("requeued")?.to_string();
        assert!(early.contains("start a process that serves first"), "{early}");
        let stack = env.serve_with(&[&tenant], &format!("{RENAMED}=spent")).await?;
        stack.stop().await?;
        let moved = env.database.query(by_queue).await?.into_iter().flatten().flatten();
        assert_eq!(moved.collect::<Vec<_>>(), expected);

        let before = receiver.deliveries();
        receiver.otherwise(|_| Reply::Status(200));
        assert!(when_free(requeue).await?);
        let stack = env.serve_with(&[&tenant], &format!("{RENAMED}=spent")).await?;
        let after = receiver.deliveries_at_least(before.len() + 1).await?;
        let key = |n: usize| after[n].header("idempotency-key").to_owned();
        assert_eq!(key(before.len()), key(0));
        let resolved = format!("{LETTERS} WHERE status = 'resolved'");
        let is_resolved = async || Ok(env.database.number(&resolved).await? == 1);
        stack.eventually("resolved", is_resolved).await?;
    }

    /// PLAT-31: events in a queue with a former name are buried too, and the refusal
    /// names some of their tenants, however many there are.
    async fn events_of_a_former_queue_are_buried(env) {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let served = tenant("served", &provider, &receiver);
        env.serve(&[&served]).await?.stop().await?;
        let gone: Vec<Tenant> = (0..7).map(|_| tenant("gone", &provider, &receiver)).collect();
        let many = 450;
        for tenant in &gone {
            enqueue(&env.database, tenant, many / 10).await?;
        }
        enqueue(&env.database, &gone[0], many - many / 10).await?;
        let setting = format!("{RENAMED}=spent");
        let refused = async || -> anyhow::Result<String> {
            let started = env.start_with(&env.manifests(), &setting).await;
            Ok(started.err().context("started")?.to_string())
        };
        let said = refused().await?;
        let named = gone.iter().filter(|it| said.contains(&it.id.to_string())).count();
        assert_eq!(named, 5, "{said}");
        assert!(said.contains("and more tenants"), "{said}");

        let renamed = job(&env.database, Some("spent"))?;
        for tenant in &gone {
            let out = bury(&renamed, tenant).await?;
            assert!(out.contains("after the next start"), "{out}");
        }
        let of_first = format!("{LETTERS} WHERE tenant_id = '{}'", gone[0].id);
        assert_eq!(env.database.number(&of_first).await?, i64::try_from(many)?);
        assert_eq!(env.database.number(WAITING).await?, 0);
        let stack = env.serve_with(&[&served], &setting).await?;
        let followed = format!("{LETTERS} WHERE queue = 'spent'");
        let all = env.database.number(LETTERS).await?;
        assert_eq!(env.database.number(&followed).await?, all);
        stack.stop().await?;
    }
}

/// PLAT-31: a process that delivers some of the events meanwhile does not keep the
/// others from becoming dead letters.
#[test]
fn what_is_delivered_meanwhile_does_not_end_a_burial() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let served = tenant("served", &provider, &receiver);
        env.serve(&[&served]).await?.stop().await?;
        let gone = tenant("gone", &provider, &receiver);
        enqueue(&env.database, &gone, 450).await?;
        // As if they were being delivered: the first batch, but for one event.
        let hold = "SELECT pg_advisory_xact_lock(7)";
        let hold = Transaction::begin(&env.database.url(), hold).await?;
        let deliver = "WITH done AS (UPDATE outbox_messages SET done_at = now() WHERE id IN \
            (SELECT id FROM outbox_messages ORDER BY id LIMIT 199) RETURNING id) \
            SELECT count(*), CAST(pg_advisory_xact_lock(7) AS TEXT) FROM done";
        let blocked = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let wait_for = async |count: i64| {
            while env.database.number(blocked).await? != count {
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        let job = job(&env.database, None)?;
        let deliver = async { env.database.query(deliver).await };
        let buries = async {
            wait_for(1).await?;
            bury(&job, &gone).await
        };
        let lets_go = async {
            wait_for(2).await?;
            drop(hold);
            anyhow::Ok(())
        };
        let (_, out, ()) = tokio::try_join!(deliver, buries, lets_go)?;
        ensure!(out.starts_with("251 events of"), "{out}");
        ensure!(env.database.number(WAITING).await? == 0, "{out}");
        Ok(())
    })
}
