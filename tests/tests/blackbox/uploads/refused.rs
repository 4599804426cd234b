//! Files that are refused.

use minichat_tests::client::Answer;
use minichat_tests::form::{BOUNDARY, FormFile, beginning};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::Scenario;
use serde_json::json;

use super::{CHUNKED, Uploader, counted, files, for_files, rows, scene, scene_with, settled};

const MIB: usize = 1 << 20;
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

fn check_field(answer: &Answer, field: &str) -> anyhow::Result<()> {
    let problem = answer.problem(400, "invalid_request")?;
    assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    Ok(())
}

fn xlsx() -> FormFile {
    FormFile::new("a.xlsx", XLSX, beginning(b"PK\x03\x04", 40))
}

on_each_database! {
    /// API-21, API-101, API-104, CONT-52, CONT-75, D35; checks 48 and 56 of chapter 01, 29 of
    /// chapter 04
    async fn a_form_that_cannot_be_read_is_refused_with_the_field(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let path = format!("/chats/{chat}/attachments");
        for content_type in ["text/plain", "multipart/form-data", "multipart/mixed; boundary=a"] {
            let headers = [("content-type", content_type)];
            let answer = user.exchange(http::Method::POST, &path, &headers, "a".into()).await?;
            check_field(&answer, "Content-Type")?;
        }
        let text = |filename: &str| FormFile::new(filename, "text/plain", "a");
        let mut other = text("a.txt");
        other.part = "document";
        let mut untyped = text("a.txt");
        untyped.content_type = None;
        let nested = format!(
            "--{BOUNDARY}\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\
             Content-Disposition: form-data; name=\"file\"\r\nContent-Type: text/plain\r\n\r\na\r\n--c--\
             \r\n--{BOUNDARY}--"
        );
        let many = format!("--{BOUNDARY}\r\n\r\n\r\n").repeat(10_000);
        let large = format!("--{BOUNDARY}\r\nA: {}\r\n\r\n", "x".repeat(MIB));
        let truncated = text("a.txt").body();
        let unquoted = text("a\"b.txt").body();
        for (body, field) in [
            (other.body(), "file"),
            (untyped.body(), "file"),
            (FormFile::text("").body(), "file"),
            (text("a\0.txt").body(), "filename"),
            (text("a\u{1b}[2J.txt").body(), "filename"),
            (text("gpj.\u{202e}txt").body(), "filename"),
            ("".into(), "body"),
            ("--".into(), "body"),
            (nested.into(), "file"),
            (many.into(), "body"),
            (large.into(), "body"),
            (truncated.slice(..30), "body"),
            (truncated.slice(..truncated.len() - 20), "body"),
            (unquoted, "body"),
        ] {
            check_field(&user.upload_body(&chat, body.clone()).await?, field)?;
        }
        assert_eq!(rows(&scene).await?.len() + files(&scene).len(), 0);
        assert_eq!(counted(&scene, &before).await?, [("document/other".to_owned(), 17.0)]);

        // The end of the form is missing, which shows only behind the file.
        let long = FormFile::text("x".repeat(2000)).body();
        check_field(&user.upload_body(&chat, long.slice(..long.len() - 20)).await?, "body")?;
        assert_eq!(rows(&scene).await?, ["failed upload_failed -"]);
        assert!(files(&scene).is_empty() && scene.provider.stored().0.is_empty());
    }

    /// API-15, API-23, CONT-50, CONT-75: what is refused before the chat is found counts
    /// nowhere.
    async fn a_chat_that_is_not_there_takes_no_files(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let stranger = scene.new_user()?;
        stranger.upload(&chat, &FormFile::text("a")).await?.problem(404, "chat_not_found")?;
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let headers = [("content-type", content_type.as_str()), ("content-encoding", "gzip")];
        let path = format!("/chats/{chat}/attachments");
        let answer = user.exchange(http::Method::POST, &path, &headers, "a".into()).await?;
        answer.problem(415, "unsupported_content_type")?;
        user.delete(&format!("/chats/{chat}")).await?;
        user.upload(&chat, &FormFile::text("a")).await?.problem(404, "chat_not_found")?;
        assert!(counted(&scene, &before).await?.is_empty());
    }

    /// API-102, CONT-54, CONT-75; checks 49 of chapter 01, 24 of chapter 04
    async fn a_type_that_is_unknown_or_wrong_is_refused(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        for file in [
            FormFile::new("a.zip", "application/zip", "PK\x03\x04"),
            FormFile::new("a.exe", "application/octet-stream", "MZ"),
            FormFile::new("a.txt", "multipart/mixed", "a"),
            FormFile::new("a.pdf", "application/pdf", "a text"),
            FormFile::new("a.txt", "text/plain", "%PDF-1.7"),
            FormFile::new("a.txt", "text/plain", "a\0b"),
            FormFile::new("a.xlsx", XLSX, "a,b"),
            FormFile::new("a.tiff", "image/tiff", "II*\0"),
            FormFile::new("a.png", "image/png", "GIF89a"),
            FormFile::new("a.png", "image/png", "a"),
        ] {
            let answer = user.upload(&chat, &file).await?;
            answer.problem(415, "unsupported_file_type")?;
        }
        assert!(rows(&scene).await?.is_empty());
        let expected = [("document/unsupported_type".to_owned(), 7.0), ("image/unsupported_type".to_owned(), 3.0)];
        assert_eq!(counted(&scene, &before).await?, expected);
    }

    /// API-102, CONT-54
    async fn settings_decide_about_tables_and_contents(env) {
        let settings = "MINICHAT_RAG_ALLOW_CSV_UPLOAD=false\nMINICHAT_RAG_VERIFY_MAGIC=false";
        let scene = scene_with(&env, settings, |_| {}).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let csv = FormFile::new("a.csv", "text/csv", "a,b");
        user.upload(&chat, &csv).await?.problem(415, "unsupported_file_type")?;
        let odd = FormFile::new("a.pdf", "application/pdf", "no pdf");
        user.upload(&chat, &odd).await?.expect(201)?;
    }

    /// API-103, API-104, CONT-52, CONT-55, CONT-63; checks 50 of chapter 01, 26 of chapter 04
    async fn a_file_over_its_limit_is_refused_as_early_as_it_shows(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.model("std")["maxFileSizeMb"] = json!(1);
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        user.upload(&chat, &FormFile::png(6 * MIB)).await?.problem(413, "file_too_large")?;
        let pdf = FormFile::new("a.pdf", "application/pdf", beginning(b"%PDF-", 26 * MIB));
        user.upload(&chat, &pdf).await?.problem(413, "file_too_large")?;
        let small = user.create_chat(Some("std")).await?;
        let text = FormFile::text("x".repeat(2 * MIB));
        user.upload(&small, &text).await?.problem(413, "file_too_large")?;
        assert!(rows(&scene).await?.is_empty() && files(&scene).is_empty());
        // As much as the form may have besides the file, but too much for the file.
        let over = FormFile::text("x".repeat(MIB + 1));
        user.upload(&small, &over).await?.problem(413, "file_too_large")?;
        assert_eq!(rows(&scene).await?, ["failed file_too_large -"]);
        user.upload(&small, &FormFile::text("x".repeat(MIB))).await?.expect(201)?;

        let mut uploader = Uploader::connect(&scene).await?;
        uploader.begin(CHUNKED).await?;
        let png = FormFile::png(6 * MIB);
        uploader.client.write_chunk(&png.body()).await?;
        uploader.client.read_to("HTTP/1.1 413").await?;
        uploader.client.read_to("\"code\":\"file_too_large\"").await?;
        settled(&scene).await?;
        let last = rows(&scene).await?.pop();
        assert_eq!(last.as_deref(), Some("failed file_too_large -"));
        let expected = [
            ("document/ok".to_owned(), 1.0),
            ("document/file_too_large".to_owned(), 3.0),
            ("image/file_too_large".to_owned(), 2.0),
        ];
        assert_eq!(counted(&scene, &before).await?, expected);
        assert_eq!(scene.provider.stored().0.len(), 1, "what broke off was not kept");
    }

    /// QUOTA-74, API-103, API-104, CONT-55, CONT-63, CONT-64; checks 51 of chapter 01, 27 of chapter 04
    async fn a_chat_takes_no_more_than_it_may_hold(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["uploads"] = json!({"maxDocumentsPerChat": 2, "maxTotalUploadMbPerChat": 1});
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let half = FormFile::text("x".repeat(MIB / 2));
        user.upload(&chat, &half).await?.expect(201)?;
        let over = FormFile::text("x".repeat(MIB / 2 + 1));
        user.upload(&chat, &over).await?.problem(400, "storage_limit_exceeded")?;
        assert_eq!(rows(&scene).await?.len(), 1);

        // Without a length it shows only in the end.
        let mut uploader = Uploader::connect(&scene).await?;
        let api = scene.stack.caller(&scene.tenant, uploader.caller.user)?;
        api.upload(&uploader.chat, &half).await?.expect(201)?;
        uploader.begin(CHUNKED).await?;
        uploader.client.write_chunk(&over.body()).await?;
        uploader.client.write("0\r\n\r\n").await?;
        uploader.client.read_to("\"code\":\"storage_limit_exceeded\"").await?;
        let last = rows(&scene).await?.pop();
        assert_eq!(last.as_deref(), Some("failed storage_limit_exceeded pending"));

        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        let third = user.upload(&chat, &FormFile::text("a")).await?;
        third.problem(400, "document_limit_exceeded")?;
        user.upload(&chat, &FormFile::png(10)).await?.expect(201)?;
        let expected = [
            ("document/ok".to_owned(), 3.0),
            ("document/storage_limit_exceeded".to_owned(), 2.0),
            ("document/document_limit_exceeded".to_owned(), 1.0),
            ("image/ok".to_owned(), 1.0),
        ];
        assert_eq!(counted(&scene, &before).await?, expected);
    }

    /// API-105, CONT-57; checks 52 of chapter 01, 28 of chapter 04
    async fn further_uploads_at_once_are_refused_without_waiting(env) {
        let scene = scene(&env).await?;
        let before = scene.stack.scrape().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            times: 10,
            ..for_files()
        });
        let text = FormFile::text("a");
        let slow = futures_util::future::join_all((0..10).map(|_| user.upload(&chat, &text)));
        let refused = async {
            scene.provider.wait_until(|stats| stats.answers_open == 10).await;
            let answer = user.upload(&chat, &text).await?;
            scene.provider.release(10);
            anyhow::Ok(answer)
        };
        let (slow, refused) = futures_util::future::join(slow, refused).await;
        let refused = refused?;
        refused.problem(503, "upload_concurrency_limit")?;
        assert_eq!(refused.header("retry-after"), "5");
        for answer in slow {
            answer?.expect(201)?;
        }
        user.upload(&chat, &text).await?.expect(201)?;
        let expected = [("document/ok".to_owned(), 11.0), ("document/concurrency_limit".to_owned(), 1.0)];
        assert_eq!(counted(&scene, &before).await?, expected);
    }

    /// CONT-55, CONT-57: a tenant lowers the size of its files, and how many uploads it
    /// and each of its users have at a time.
    async fn a_tenant_has_limits_of_its_own(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["uploads"] = json!({
                "maxFileSizeKb": 1, "maxImageSizeKb": 2,
                "maxConcurrentUploads": 2, "maxConcurrentUploadsPerUser": 1,
            });
        })
        .await?;
        let [one, other, third] = [scene.new_user()?, scene.new_user()?, scene.new_user()?];
        let mut chats = Vec::new();
        for user in [&one, &other, &third] {
            chats.push(user.create_chat(None).await?);
        }
        let text = |bytes: usize| FormFile::text("x".repeat(bytes));
        one.upload(&chats[0], &text(1025)).await?.problem(413, "file_too_large")?;
        one.upload(&chats[0], &FormFile::png(2049)).await?.problem(413, "file_too_large")?;
        one.upload(&chats[0], &text(1024)).await?.expect(201)?;
        one.upload(&chats[0], &FormFile::png(2048)).await?.expect(201)?;

        let held = Scenario { hold_before_head: true, times: 2, ..for_files() };
        scene.provider.push_scenario(held);
        let small = text(1);
        let refused = async {
            scene.provider.wait_until(|stats| stats.answers_open == 1).await;
            let again = one.upload(&chats[0], &small).await?;
            let more = async {
                scene.provider.wait_until(|stats| stats.answers_open == 2).await;
                let third = third.upload(&chats[2], &small).await?;
                scene.provider.release(2);
                anyhow::Ok(third)
            };
            let (more, third) = tokio::join!(other.upload(&chats[1], &small), more);
            more?.expect(201)?;
            anyhow::Ok([again, third?])
        };
        let (slow, refused) = tokio::join!(one.upload(&chats[0], &small), refused);
        slow?.expect(201)?;
        for refused in refused? {
            refused.problem(503, "upload_concurrency_limit")?;
        }
        third.upload(&chats[2], &small).await?.expect(201)?;
    }

    /// API-32, API-104, CONT-52, CONT-56; checks 51 of chapter 01, 30 and 36 of chapter 04
    async fn switches_and_models_keep_files_out(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let with = user.create_chat(Some("prem")).await?;
        let without = user.create_chat(Some("std")).await?;
        user.upload(&with, &xlsx()).await?.expect(201)?;
        user.upload(&without, &xlsx()).await?.problem(400, "code_interpreter_unavailable")?;
        user.upload(&without, &FormFile::text("a")).await?.expect(201)?;
        let mut tenant = scene.tenant.clone();
        tenant.spec()["killSwitches"] = json!({"disableImages": true, "disableCodeInterpreter": true});
        scene.stack.write_manifest("acme", &tenant.manifest())?;
        let is_off = async || Ok(user.upload(&with, &xlsx()).await?.status == 400);
        scene.stack.eventually("switched off", is_off).await?;
        user.upload(&with, &xlsx()).await?.problem(400, "code_interpreter_unavailable")?;
        let refused = user.upload(&with, &FormFile::png(10)).await?;
        assert_eq!(refused.problem(400, "images_disabled")?["errors"][0]["field"], "file");
        user.upload(&with, &FormFile::text("a")).await?.expect(201)?;
    }

    /// CONT-56, API-103: a model that has left the catalog.
    async fn a_chat_without_a_model_takes_what_needs_none(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut tenant = scene.tenant.clone();
        tenant.model("std")["id"] = json!("other");
        scene.stack.write_manifest("acme", &tenant.manifest())?;
        let is_gone = async || Ok(user.get("/models/std").await?.status == 404);
        scene.stack.eventually("gone", is_gone).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        user.upload(&chat, &xlsx()).await?.problem(503, "service_unavailable")?;
    }
}
