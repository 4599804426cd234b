//! Uploads that break: by the provider, by the client, by a deletion.

use minichat_tests::form::FormFile;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Reading, Scenario};
use serde_json::json;

use super::{CHUNKED, Uploader, counted, files, for_files, rows, scene, scene_with, settled};

on_each_database! {
    /// API-32, API-104, API-106, CONT-39, CONT-60, CONT-63, CONT-75; checks 51 of chapter 01, 31
    /// of chapter 04
    async fn a_provider_that_takes_no_file_fails_the_upload(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["providers"][0]["timeouts"] = json!({"firstByteSeconds": 1});
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let said = json!({"error": {"message": "no file-abc123 for sk-secret at https://internal.example"}});
        let unreadable = json!({"name": "no id"});
        let failing = |status: u16, body: &serde_json::Value| Scenario {
            status,
            body: Some(body.clone()),
            ..for_files()
        };
        for (scenario, status, code) in [
            (failing(500, &said), 502, "provider_error"),
            (failing(400, &said), 502, "provider_error"),
            (failing(429, &said), 502, "provider_error"),
            (failing(200, &unreadable), 502, "provider_error"),
            (failing(504, &said), 504, "provider_timeout"),
            (Scenario { drop_connection: true, ..for_files() }, 502, "provider_error"),
            (Scenario { hold_before_head: true, ..for_files() }, 504, "provider_timeout"),
        ] {
            scene.provider.push_scenario(scenario);
            let answer = user.upload(&chat, &FormFile::text("a")).await?;
            let problem = answer.problem(status, code)?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            for secret in ["file-abc123", "sk-secret", "internal"] {
                assert!(!detail.contains(secret), "{detail}");
            }
        }
        scene.provider.release(1);
        assert_eq!(rows(&scene).await?, ["failed upload_failed -"; 7]);
        assert_eq!(counted(&scene, &before).await?, [("document/provider_error".to_owned(), 7.0)]);
        settled(&scene).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
    }

    /// CONT-60: a provider that keeps no files says so, and nothing is stored.
    async fn a_provider_without_a_storage_keeps_no_files(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["providers"][0]["storage"] = json!({"kind": "None"});
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let answer = user.upload(&chat, &FormFile::text("a")).await?;
        let problem = answer.problem(502, "provider_error")?;
        assert_eq!(problem["detail"], "The provider of the chat's model keeps no files.");
        assert!(rows(&scene).await?.is_empty());
        assert_eq!(counted(&scene, &before).await?, [("document/provider_error".to_owned(), 1.0)]);
    }

    /// CONT-57: what the client has sent reaches the provider before the rest is there.
    async fn a_file_is_sent_on_while_it_arrives(env) {
        let scene = scene(&env).await?;
        scene.provider.push_scenario(Scenario {
            reading: Reading::Dropped { after_bytes: 100_000 },
            ..for_files()
        });
        let mut uploader = Uploader::connect(&scene).await?;
        uploader.begin(CHUNKED).await?;
        uploader.client.write_chunk(FormFile::text("").head().as_bytes()).await?;
        uploader.client.write_chunk(&vec![b'x'; 200_000]).await?;
        uploader.client.read_to("\"code\":\"provider_error\"").await?;
        assert_eq!(rows(&scene).await?, ["failed upload_failed -"]);
    }

    /// API-109, CONT-63, CONT-65, CONT-75: a client that leaves; check 56 of chapter 01
    async fn a_client_that_leaves_ends_its_upload_everywhere(env) {
        let scene = scene(&env).await?;
        let before = scene.stack.scrape().await?;
        let head = FormFile::text("").head();
        for is_reset in [true, false] {
            let mut uploader = Uploader::connect(&scene).await?;
            uploader.begin("content-length: 1000000").await?;
            uploader.client.write(&head).await?;
            uploader.client.write(&"x".repeat(100_000)).await?;
            scene.provider.wait_until(|stats| stats.connections_open == 1).await;
            if is_reset {
                uploader.client.reset()?;
            } else {
                drop(uploader);
            }
            scene.provider.wait_until(|stats| stats.connections_open == 0).await;
            settled(&scene).await?;
        }
        assert_eq!(rows(&scene).await?, ["failed upload_abandoned -"; 2]);
        assert!(files(&scene).is_empty() && scene.provider.stored().0.is_empty());
        assert_eq!(counted(&scene, &before).await?, [("document/other".to_owned(), 2.0)]);

        // Before there is a row.
        let mut uploader = Uploader::connect(&scene).await?;
        uploader.begin("content-length: 1000000").await?;
        uploader.client.write(&head[..20]).await?;
        uploader.client.reset()?;
        let is_counted = async || {
            Ok(counted(&scene, &before).await? == [("document/other".to_owned(), 3.0)])
        };
        scene.stack.eventually("counted", is_counted).await?;
        assert_eq!(rows(&scene).await?.len(), 2);
    }

    /// CONT-52: whoever sends nothing holds no permit for long.
    async fn a_client_that_falls_silent_is_not_waited_for(env) {
        let settings = "MINICHAT_SERVER_REQUEST_DEADLINE_SECS=1\nMINICHAT_RAG_MAX_CONCURRENT_UPLOADS=1";
        let scene = scene_with(&env, settings, |_| {}).await?;
        let head = FormFile::text("").head();
        for sent in [head[..20].to_owned(), head.clone(), format!("{head}{}", "x".repeat(1000))] {
            let mut uploader = Uploader::connect(&scene).await?;
            uploader.begin("content-length: 1000000").await?;
            uploader.client.write(&sent).await?;
            uploader.client.read_to("HTTP/1.1 504").await?;
            uploader.client.read_to("\"code\":\"request_timeout\"").await?;
        }
        assert_eq!(rows(&scene).await?, ["failed upload_abandoned -"]);
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
    }

    /// API-26: an upload may take longer than other requests.
    async fn an_upload_outlives_the_deadline_of_requests(env) {
        let settings = "MINICHAT_SERVER_REQUEST_DEADLINE_SECS=1";
        let scene = scene_with(&env, settings, |_| {}).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        scene.provider.push_scenario(Scenario { delay_before_head_ms: 1500, ..for_files() });
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
    }

    /// CONT-58, CONT-63, CONT-64; check 33 of chapter 04
    async fn a_file_that_is_deleted_on_its_way_is_left_to_the_clean_up(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        for of_chat in [false, true] {
            let chat = user.create_chat(None).await?;
            let before = scene.stack.scrape().await?;
            scene.provider.push_scenario(Scenario { hold_before_head: true, ..for_files() });
            let text = FormFile::text("a");
            let upload = user.upload(&chat, &text);
            let deletion = async {
                scene.provider.wait_until(|stats| stats.answers_open == 1).await;
                let id = "SELECT id FROM attachments WHERE cleanup_status IS NULL";
                let id = scene.database().query(id).await?;
                let id = id[0][0].clone().unwrap_or_default();
                let path = format!("/chats/{chat}");
                let path = if of_chat { path } else { format!("{path}/attachments/{id}") };
                user.delete(&path).await?.expect(204)?;
                scene.provider.release(1);
                anyhow::Ok(())
            };
            let (answer, deleted) = futures_util::future::join(upload, deletion).await;
            deleted?;
            answer?.problem(404, "attachment_not_found")?;
            assert_eq!(counted(&scene, &before).await?, [("document/other".to_owned(), 1.0)]);
        }
        assert_eq!(rows(&scene).await?, ["pending - pending"; 2]);
        let known = "SELECT count(*) FROM attachments WHERE provider_file_id IS NOT NULL";
        assert_eq!(scene.database().number(known).await?, 2);
    }
}
