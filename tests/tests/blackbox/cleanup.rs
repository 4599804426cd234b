//! What deletions leave at providers, and the passes that delete it. The rows of
//! uploads are written directly.

use std::time::{Duration, Instant};

use minichat_dataplane::cleanup::Stopped;
use minichat_tests::form::FormFile;
use minichat_tests::harness::Env;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::Scenario;
use minichat_tests::stored_files::{MANUAL, Row, StoredFiles, age, new_file, new_store};
use serde_json::json;
use uuid::Uuid;

const STORES: &str = "SELECT count(*) FROM chat_vector_stores";
const UNREAD: &str = "SELECT count(*) FROM outbox_messages \
    WHERE queue = 'mini-chat.chat_cleanup' AND done_at IS NULL";
const ATTEMPTS: &str = "SELECT sum(cleanup_attempts) FROM attachments";

/// The next `times` deletions at `path` are answered with `status`.
fn answered(path: &str, status: u16, times: u32) -> Scenario {
    Scenario {
        times,
        for_method: Some("DELETE".to_owned()),
        for_path: Some(path.to_owned()),
        status,
        body: Some(json!({"error": {"message": "not now, sk-test-0123456789abcdef"}})),
        ..Scenario::default()
    }
}

/// A deleted chat with one file.
async fn one_deleted(env: &Env) -> anyhow::Result<(StoredFiles, String)> {
    let world = StoredFiles::start(env, MANUAL).await?;
    let chat = world.chat_with(1).await?;
    world.delete_chat(&chat).await?;
    Ok((world, chat))
}

on_each_database! {
    /// CONT-163, CONT-166, CONT-169; check 59 of chapter 04
    async fn a_deleted_chat_leaves_nothing_at_its_provider(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let living = world.chat_with(2).await?;
        let chat = world.chat_with(3).await?;
        let empty = world.user.create_chat(None).await?;
        world.delete_chat(&chat).await?;
        world.delete_chat(&empty).await?;
        assert_eq!(world.count("pending").await?, 3);
        assert_eq!(world.deletions(), Vec::<String>::new(), "nobody waits for the provider");
        let report = world.pass().await;
        assert_eq!((report.processed, report.completed, report.retried), (4, 4, 0), "{report:?}");
        assert_eq!((report.remaining_pending, report.stopped), (0, Stopped::Done));
        let deletions = world.deletions();
        assert_eq!(deletions.len(), 4, "{deletions:?}");
        assert!(deletions[..3].iter().all(|path| path.starts_with("/v1/files/")), "{deletions:?}");
        assert!(deletions[3].starts_with("/v1/vector_stores/"), "{deletions:?}");
        assert_eq!(world.stored(), (2, 1), "the living chat's");
        assert_eq!(world.count("done").await?, 3);
        let database = &world.stack.database;
        assert_eq!(database.number(STORES).await?, 1);
        let left = format!("SELECT count(*) FROM chat_vector_stores WHERE chat_id = '{living}'");
        assert_eq!(database.number(&left).await?, 1);
        assert_eq!(database.number(UNREAD).await?, 0);
        assert_eq!(database.number("SELECT count(*) FROM cleanup_claims").await?, 0);
        assert_eq!(world.counted("completed", &[("resource_type", "file")]).await?, 3);
        assert_eq!(world.counted("completed", &[("resource_type", "vector_store")]).await?, 1);
        assert_eq!(world.counted("vector_store_with_failed_attachments", &[]).await?, 0);
        let again = world.pass().await;
        assert_eq!((again.processed, world.deletions().len()), (0, 4));
    }

    /// CONT-160, CONT-161, CONT-165, CONT-169; checks 58 and 63 of chapter 04
    async fn a_deleted_attachment_leaves_its_store_first(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let chat = world.chat_with(0).await?;
        let (id, file) = world.document(&chat).await?;
        let (other, _) = world.document(&chat).await?;
        world.delete_attachment(id).await?;
        let report = world.pass().await;
        assert_eq!((report.processed, report.completed), (1, 1), "{report:?}");
        let deletions = world.deletions();
        assert_eq!(deletions.len(), 2, "{deletions:?}");
        assert!(deletions[0].starts_with("/v1/vector_stores/"), "{deletions:?}");
        assert!(deletions[0].ends_with(&format!("/files/{file}")), "{deletions:?}");
        assert_eq!(deletions[1], format!("/v1/files/{file}"));
        assert_eq!(world.stored(), (1, 1));
        assert_eq!(world.counted("completed", &[("resource_type", "file")]).await?, 1);

        // Deleted while the provider fails, then its chat: the chat's pass deletes it.
        world.delete_attachment(other).await?;
        world.provider.push_scenario(answered("/vector_stores/", 500, 1));
        assert_eq!(world.pass().await.retried, 1);
        world.delete_chat(&chat).await?;
        age(&world.stack.database).await?;
        let report = world.pass().await;
        assert_eq!((report.completed, report.remaining_pending), (2, 0), "{report:?}");
        assert_eq!(world.stored(), (0, 0));
        assert_eq!(world.counted("completed", &[("resource_type", "file")]).await?, 2);
    }

    /// CONT-166, CONT-167, CONT-168; check 60 of chapter 04
    async fn each_failure_of_a_deletion_has_its_reason(env) {
        let (world, _) = one_deleted(&env).await?;
        let failures = [
            (answered("/files/", 500, 1), "provider_5xx"),
            (answered("/files/", 400, 1), "provider_4xx"),
            (answered("/files/", 301, 1), "provider_4xx"),
            (answered("/files/", 429, 1), "rate_limited"),
            (answered("/files/", 408, 1), "timeout"),
            (answered("/files/", 504, 1), "timeout"),
            (Scenario { hold_before_head: true, ..answered("/files/", 200, 1) }, "timeout"),
            // A kept connection that breaks is replaced once; after a timeout there is none.
            (Scenario { drop_connection: true, ..answered("/files/", 200, 1) }, "transport"),
        ];
        let set = "UPDATE attachments SET cleanup_attempts = 0, cleanup_due_at = NULL";
        for (scenario, reason) in failures {
            let is_refusal = scenario.status == 400;
            let labels = [("resource_type", "file"), ("reason", reason)];
            let before = world.counted("retry", &labels).await?;
            let calls = world.deletions().len();
            world.provider.push_scenario(scenario);
            let report = world.pass().await;
            assert_eq!((report.retried, report.remaining_pending), (1, 1), "{reason}: {report:?}");
            assert_eq!(world.counted("retry", &labels).await?, before + 1, "{reason}");
            let attempts = i64::from(is_refusal);
            assert_eq!(world.stack.database.number(ATTEMPTS).await?, attempts, "{reason}");
            let error = world.stack.database.query("SELECT last_cleanup_error FROM attachments").await?;
            let error = error[0][0].clone().unwrap_or_default();
            assert!(!error.is_empty() && error.len() <= 1024 && !error.contains("0123456789abcdef"), "{error}");
            let seen = world.deletions();
            assert!(seen[calls..].iter().all(|path| path.starts_with("/v1/files/")), "{seen:?}");
            world.stack.database.query(set).await?;
        }
        let gone = answered("/files/", 404, 1);
        world.provider.push_scenario(gone);
        let report = world.pass().await;
        assert_eq!((report.completed, world.count("done").await?), (2, 1), "{report:?}");
    }

    /// CONT-161, CONT-166 to CONT-169, CONT-177; checks 60 and 75 of chapter 04
    async fn a_file_is_given_up_after_its_attempts(env) {
        let (world, chat) = one_deleted(&env).await?;
        world.provider.push_scenario(answered("/files/", 400, 5));
        for attempt in 1..=5 {
            let report = world.pass().await;
            let expected = if attempt < 5 { (1, 0, 0) } else { (0, 1, 1) };
            assert_eq!((report.retried, report.failed, report.completed), expected, "{report:?}");
            let calls = world.deletions().len();
            assert_eq!(world.pass().await.processed, 0, "too soon");
            assert_eq!(world.deletions().len(), calls);
            age(&world.stack.database).await?;
        }
        assert_eq!(world.count("failed").await?, 1);
        assert_eq!(world.stack.database.number(ATTEMPTS).await?, 5);
        assert_eq!(world.stack.database.number(STORES).await?, 0, "failed files do not keep the store");
        assert_eq!(world.stored(), (1, 0));
        for _ in 0..3 {
            let report = world.pass().await;
            assert_eq!((report.processed, report.remaining_failed), (0, 1));
        }
        assert_eq!(world.counted("failed", &[("resource_type", "file")]).await?, 1);
        assert_eq!(world.counted("retry", &[("reason", "provider_4xx")]).await?, 4);
        assert_eq!(world.counted("vector_store_with_failed_attachments", &[]).await?, 1);
        let error = "SELECT count(*) FROM attachments WHERE last_cleanup_error LIKE '%400%'";
        assert_eq!(world.stack.database.number(error).await?, 1, "{chat}");
    }

    /// CONT-167, CONT-168: an outage gives up no file, and after three answers of it the
    /// provider is left alone.
    async fn an_outage_gives_up_no_file(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let chat = world.chat_with(5).await?;
        world.delete_chat(&chat).await?;
        for status in [503, 429, 401, 403, 500, 503, 429] {
            world.provider.push_scenario(answered("/files/", status, 3));
            let calls = world.deletions().len();
            let report = world.pass().await;
            assert_eq!((report.retried, report.failed), (3, 0), "{status}: {report:?}");
            assert_eq!(world.deletions().len(), calls + 3, "{status}");
            age(&world.stack.database).await?;
        }
        assert_eq!(world.stack.database.number(ATTEMPTS).await?, 0);
        let report = world.pass().await;
        assert_eq!((report.completed, report.remaining_failed), (6, 0), "{report:?}");
    }

    /// CONT-168, CONT-173; check 61 of chapter 04
    async fn two_passes_try_a_failing_file_once(env) {
        let (world, _) = one_deleted(&env).await?;
        world.provider.push_scenario(answered("/files/", 400, 10));
        let (one, other) = tokio::join!(world.pass(), world.pass());
        assert_eq!(one.retried + other.retried, 1, "{one:?} {other:?}");
        assert_eq!(world.deletions().len(), 1);
        assert_eq!(world.stack.database.number(ATTEMPTS).await?, 1);
        assert_eq!(world.counted("retry", &[]).await?, 1);
    }

    /// CONT-166; check 62 of chapter 04
    async fn a_store_is_tried_until_it_is_gone(env) {
        let (world, _) = one_deleted(&env).await?;
        world.provider.push_scenario(answered("/vector_stores/", 500, 2));
        for _ in 0..2 {
            let report = world.pass().await;
            assert_eq!(report.retried, 1, "{report:?}");
            assert_eq!(world.stack.database.number(STORES).await?, 1);
            age(&world.stack.database).await?;
        }
        assert_eq!(world.pass().await.completed, 1);
        assert_eq!(world.stack.database.number(STORES).await?, 0);
        let labels = [("resource_type", "vector_store"), ("reason", "provider_5xx")];
        assert_eq!(world.counted("retry", &labels).await?, 2);
        assert_eq!(world.counted("completed", &[("resource_type", "vector_store")]).await?, 1);
    }

    /// CONT-164, CONT-166, PLAT-35; check 64 of chapter 04
    async fn a_message_that_does_not_fit_the_rows_is_a_dead_letter(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let chat = world.chat_with(1).await?;
        let (tenant, database) = (world.tenant.id, &world.stack.database);
        let payload = json!({"reason": "chat_soft_delete", "tenant_id": tenant, "chat_id": chat});
        let of_another = json!({"reason": "chat_soft_delete", "tenant_id": Uuid::new_v4(), "chat_id": chat});
        for payload in [payload.to_string(), "nonsense".to_owned(), of_another.to_string()] {
            let sql = format!(
                "INSERT INTO outbox_messages (queue, partition, tenant_id, payload_type, payload, \
                 created_at) SELECT 'mini-chat.chat_cleanup', 3, tenant_id, 'application/json', \
                 '{payload}', created_at FROM chats"
            );
            database.query(&sql).await?;
        }
        assert_eq!(world.pass().await.processed, 0);
        assert_eq!(world.deletions(), Vec::<String>::new());
        assert_eq!(database.number(UNREAD).await?, 0);
        let letters = "SELECT last_error FROM outbox_dead_letters WHERE status = 'pending' ORDER BY id";
        let letters = database.query(letters).await?;
        let told = |index: usize| letters[index][0].clone().unwrap_or_default();
        assert_eq!(letters.len(), 3);
        assert_eq!(told(0), "the chat is not deleted");
        for index in [1, 2] {
            assert!(told(index).contains("can read"), "{}", told(index));
        }
        let labels = [("kind", "chat_cleanup"), ("result", "reject")];
        assert_eq!(world.stack.scrape().await?.count("mini_chat_outbox_handler_total", &labels)?, 3);
    }

    /// CONT-164; check 65 of chapter 04
    async fn a_chat_that_fails_does_not_hold_up_others(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let failing = world.user.create_chat(None).await?;
        let (_, file) = world.document(&failing).await?;
        world.delete_chat(&failing).await?;
        for _ in 0..3 {
            let healthy = world.chat_with(2).await?;
            world.delete_chat(&healthy).await?;
        }
        world.provider.push_scenario(answered(&file, 500, 10));
        let report = world.pass().await;
        assert_eq!((report.completed, report.retried), (9, 1), "{report:?}");
        assert_eq!(world.stored(), (1, 0));
    }

    /// CONT-167: a provider that never answers is left to the next pass, and what is not tried
    /// is not counted.
    async fn a_silent_provider_is_left_alone_for_the_rest_of_the_pass(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        for _ in 0..3 {
            let chat = world.chat_with(2).await?;
            world.delete_chat(&chat).await?;
        }
        let silent = Scenario { hold_before_head: true, ..answered("/files/", 200, 20) };
        world.provider.push_scenario(silent);
        let report = world.pass().await;
        assert_eq!((report.processed, report.retried, report.remaining_pending), (3, 3, 6), "{report:?}");
        assert_eq!(world.deletions().len(), 3);
    }

    /// CONT-167: a provider is called no earlier than it wants, and what is not tried is
    /// not counted.
    async fn a_provider_that_wants_to_be_called_later_is(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let chat = world.chat_with(3).await?;
        world.delete_chat(&chat).await?;
        let later = |seconds: &str| answered("/files/", 429, 1).with_header("retry-after", seconds);
        world.provider.push_scenario(later("3600"));
        let report = world.pass().await;
        assert_eq!((report.processed, report.retried, report.remaining_pending), (1, 1, 3), "{report:?}");
        assert_eq!(world.deletions().len(), 1);

        world.provider.push_scenario(later("1"));
        let began = Instant::now();
        let report = world.pass().await;
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!((report.retried, report.completed, report.remaining_pending), (1, 1, 2), "{report:?}");
        assert_eq!(world.stack.database.number(ATTEMPTS).await?, 0, "an outage is no refusal");
    }

    /// CONT-167, CONT-168; check 66 of chapter 04
    async fn a_label_leads_to_its_provider(env) {
        let world = StoredFiles::start_with(&env, MANUAL, |mut tenant| {
            tenant.spec()["providers"][0]["storage"] =
                json!({"kind": "Azure", "apiVersion": "2025-04-01-preview", "backend": "files-eu"});
            tenant
        }).await?;
        let chat = world.user.create_chat(None).await?;
        let store = new_store(world.provider.addr).await?;
        world.insert_store(&chat, Some(&store), "files-eu").await?;
        for backend in ["files-eu", "main", "elsewhere"] {
            let file = new_file(world.provider.addr).await?;
            world.insert(&chat, Row { file: Some(&file), status: "ready", backend }).await?;
        }
        world.delete_chat(&chat).await?;
        let report = world.pass().await;
        assert_eq!((report.completed, report.retried, report.remaining_pending), (2, 1, 1), "{report:?}");
        let deletions = world.deletions();
        assert!(
            deletions.iter().all(|path| path.starts_with("/openai/files/")
                && path.ends_with("?api-version=2025-04-01-preview")),
            "{deletions:?}"
        );
        assert_eq!(world.stack.database.number(ATTEMPTS).await?, 0, "no attempt without a provider");
        let labels = [("resource_type", "file"), ("reason", "config")];
        assert_eq!(world.counted("retry", &labels).await?, 1);
        let rename = "UPDATE attachments SET storage_backend = 'main' WHERE storage_backend = 'elsewhere'";
        world.stack.database.query(rename).await?;
        assert_eq!(world.pass().await.completed, 2);
        assert_eq!(world.stored(), (0, 0));
    }

    /// CONT-174, CONT-65; check 72 of chapter 04
    async fn what_no_deletion_has_marked_is_repaired(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let provider = world.provider.addr;
        let (living, dead) = (world.user.create_chat(None).await?, world.user.create_chat(None).await?);
        world.insert_store(&living, None, "main").await?;
        let row = |file, status| Row { file, status, backend: "main" };
        let (uploaded, failed, raced) =
            (new_file(provider).await?, new_file(provider).await?, new_file(provider).await?);
        world.insert(&living, row(Some(&uploaded), "uploaded")).await?;
        world.insert(&living, row(Some(&failed), "failed")).await?;
        world.insert(&living, row(None, "pending")).await?;
        let (_, kept) = world.document(&living).await?;
        world.delete_chat(&dead).await?;
        world.insert(&dead, row(Some(&raced), "ready")).await?;
        let report = world.pass().await;
        assert_eq!(report.completed, 2, "not what may still be uploaded: {report:?}");
        assert_eq!(world.provider.stored().0.len(), 2);
        age(&world.stack.database).await?;
        let report = world.pass().await;
        assert_eq!((report.completed, report.remaining_pending), (1, 0), "{report:?}");
        assert_eq!(world.provider.stored().0, [kept]);
        let abandoned = "SELECT count(*) FROM attachments WHERE status = 'failed' \
            AND error_code = 'upload_abandoned'";
        assert_eq!(world.stack.database.number(abandoned).await?, 2);
        assert_eq!(world.stack.database.number(STORES).await?, 0);
        let living = "SELECT count(*) FROM attachments WHERE cleanup_status IS NULL";
        assert_eq!(world.stack.database.number(living).await?, 2, "the ready one and the one without a file");
    }

    /// CONT-64, CONT-162 to CONT-166, PLAT-39; check 58 of chapter 04: from the upload to the
    /// provider and back, by the API alone.
    async fn an_uploaded_file_is_gone_after_its_deletion(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let (user, database) = (&world.user, &world.stack.database);
        let mut attachments = Vec::new();
        for text in ["one", "two", "three"] {
            let chat = user.create_chat(None).await?;
            let uploaded = user.upload(&chat, &FormFile::text(text)).await?.expect(201)?;
            let id = uploaded["id"].as_str().unwrap_or_default().to_owned();
            attachments.push((chat, id));
        }
        assert_eq!(world.provider.stored().0.len(), 3);
        let (chat, id) = &attachments[0];
        user.delete(&format!("/chats/{chat}/attachments/{id}")).await?.expect(204)?;
        world.delete_chat(&attachments[1].0).await?;
        let report = world.pass().await;
        assert_eq!((report.retried, report.remaining_pending), (0, 0), "{report:?}");
        assert_eq!(world.provider.stored().0.len(), 1, "that of the living chat");
        assert_eq!(world.count("done").await?, 2);
        let unread = "SELECT count(*) FROM outbox_messages WHERE done_at IS NULL \
            AND queue IN ('mini-chat.chat_cleanup', 'mini-chat.attachment_cleanup')";
        assert_eq!(database.number(unread).await?, 0);
        assert_eq!(database.number("SELECT count(*) FROM outbox_dead_letters").await?, 0);
        assert_eq!(world.counted("completed", &[("resource_type", "file")]).await?, 2);
    }

    /// PLAT-22
    async fn a_pass_goes_on_with_the_erasure_of_a_person(env) {
        let mut world = StoredFiles::start(&env, MANUAL).await?;
        world.user = world.user.with_header("x-scopes", "ai:mini_chat ai:mini_chat:erase")?;
        world.chat_with(2).await?;
        let open = "SELECT count(*) FROM erasures WHERE user_id IS NOT NULL";
        assert_eq!(world.user.delete("/me").await?.status.as_u16(), 202);
        assert_eq!(world.stack.database.number(open).await?, 1);
        assert_eq!(world.pass().await.completed, 3);
        assert_eq!(world.stored(), (0, 0));
        assert_eq!(world.stack.database.number(open).await?, 0);
        assert_eq!(world.stack.database.number("SELECT count(*) FROM attachments").await?, 0);
    }

    /// CONT-169; check 67 of chapter 04
    async fn the_backlog_is_that_of_the_database(env) {
        let settings = format!("{MANUAL}\nMINICHAT_CLEANUP_WORKER_POLL_INTERVAL_SECS=1");
        let world = StoredFiles::start(&env, &settings).await?;
        let backlog = async |state: &str, expected: usize| {
            let stack = &world.stack;
            stack.eventually("exported", async || {
                let labels = [("state", state), ("resource_type", "file")];
                let scrape = stack.scrape().await?;
                Ok(scrape.has("mini_chat_cleanup_backlog", &labels)
                    && scrape.count("mini_chat_cleanup_backlog", &labels)? == expected)
            }).await
        };
        backlog("pending", 0).await?;
        backlog("failed", 0).await?;
        let chat = world.chat_with(3).await?;
        world.delete_chat(&chat).await?;
        backlog("pending", 3).await?;
        let one = "UPDATE attachments SET cleanup_status = 'failed' WHERE CAST(id AS TEXT) = \
            (SELECT min(CAST(id AS TEXT)) FROM attachments)";
        world.stack.database.query(one).await?;
        backlog("failed", 1).await?;
        backlog("pending", 2).await?;
    }

    /// CONT-170, D16; check 74 of chapter 04
    async fn on_sqlite_the_process_itself_cleans_up(env) {
        let world = StoredFiles::start(&env, "MINICHAT_CLEANUP_WORKER_POLL_INTERVAL_SECS=1").await?;
        let chat = world.chat_with(2).await?;
        world.delete_chat(&chat).await?;
        if !is_sqlite(&world) {
            // A process on PostgreSQL leaves it to the job, and only exports the backlog.
            let pending = [("state", "pending")];
            world.stack.eventually("exported", async || {
                Ok(world.stack.scrape().await?.count("mini_chat_cleanup_backlog", &pending)? == 2)
            }).await?;
            assert_eq!(world.deletions(), Vec::<String>::new());
            assert_eq!(world.stack.database.number(UNREAD).await?, 1);
            return Ok(());
        }
        world.stack.eventually("cleaned up", async || Ok(world.stored() == (0, 0))).await?;
        world.stack.eventually("recorded", async || {
            Ok(world.stack.database.number(STORES).await? == 0)
        }).await?;
        assert_eq!(world.count("done").await?, 2);
        world.stack.stop().await?;
        let off = env.serve_with(&[&world.tenant], "MINICHAT_CLEANUP_WORKER_ENABLED=false").await?;
        let user = off.new_user(&world.tenant)?;
        let chat = user.create_chat(None).await?;
        user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
        off.stop().await?;
        assert_eq!(env.database.number(UNREAD).await?, 1, "kept for later");
    }
}

fn is_sqlite(world: &StoredFiles) -> bool {
    world.stack.database.kind() == minichat_tests::database::DatabaseKind::Sqlite
}
