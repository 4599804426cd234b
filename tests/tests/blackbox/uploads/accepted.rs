//! Files that are accepted.

use std::time::Duration;

use minichat_tests::form::{FormFile, beginning};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Reading, Scenario};
use serde_json::json;

use super::{CHUNKED, Uploader, counted, files, for_files, rows, scene, scene_with, settled};

const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

on_each_database! {
    /// API-100, API-101, API-106, API-109, CONT-39, CONT-51, CONT-52, CONT-58, CONT-59, CONT-75;
    /// checks 48, 53 and 56 of chapter 01, 19 of chapter 04
    async fn a_text_is_kept_by_the_provider_and_ready(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let content = "line\r\n--almost a boundary\r\n";
        let answer = user.upload(&chat, &FormFile::text(content)).await?;
        let file = answer.expect(201)?;
        let id = file["id"].as_str().unwrap_or_default();
        let path = format!("/chats/{chat}/attachments/{id}");
        assert!(answer.header("location").ends_with(&path));
        let expected = json!({
            "id": id, "filename": "notes.txt", "content_type": "text/plain",
            "size_bytes": content.len(), "status": "ready", "kind": "document",
            "created_at": file["created_at"],
        });
        assert_eq!(file, expected);
        assert_eq!(user.get(&path).await?.expect(200)?, file);

        let sent = files(&scene);
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].path, "/v1/files");
        let expected = json!({
            "purpose": "assistants", "filename": format!("{chat}_{id}.txt"),
            "content_type": "text/plain", "bytes": content.len(),
        });
        assert_eq!(sent[0].body, expected);
        let stored = "SELECT provider_file_id FROM attachments WHERE status = 'ready' \
            AND storage_backend = 'main'";
        let stored = scene.database().query(stored).await?;
        let stored = stored[0][0].clone().unwrap_or_default();
        assert_eq!(scene.provider.file(&stored).as_deref(), Some(content.as_bytes()));
        assert!(!answer.body.windows(stored.len()).any(|it| it == stored.as_bytes()));

        assert_eq!(counted(&scene, &before).await?, [("document/ok".to_owned(), 1.0)]);
        let scrape = scene.stack.scrape().await?;
        let bytes = scrape.sum("mini_chat_attachment_upload_bytes_sum", &[("kind", "document")]);
        assert_eq!((bytes, scrape.sum("mini_chat_attachments_pending", &[])), (27.0, 0.0));
    }

    /// API-102, CONT-53, CONT-54, CONT-56; checks 49 of chapter 01, 23 and 24 of chapter 04
    async fn a_file_has_the_type_that_its_client_or_its_name_says(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let octets = "application/octet-stream";
        let zip = beginning(b"PK\x03\x04", 40);
        let cases = [
            (FormFile::new("a.md", octets, "# a"), "text/markdown", "document"),
            (FormFile::new("a.b.HTM", octets, "<p>"), "text/html", "document"),
            (FormFile::new("a.csv", "text/csv", "a,b"), "text/plain", "document"),
            (FormFile::new("a.csv", octets, "a,b"), "text/plain", "document"),
            (FormFile::new("a", "Text/Plain; charset=utf-8", "a"), "text/plain", "document"),
            (FormFile::new("a.xlsx", XLSX, zip.clone()), XLSX, "document"),
            (FormFile::new("a.xlsx", octets, zip), XLSX, "document"),
            (FormFile::new("a.gif", "image/gif", "GIF89a.."), "image/gif", "image"),
            (FormFile::png(100), "image/png", "image"),
        ];
        for (file, content_type, kind) in cases {
            let answer = user.upload(&chat, &file).await?.expect(201)?;
            assert_eq!(answer["content_type"], content_type, "{file:?}");
            assert_eq!((&answer["kind"], &answer["status"]), (&json!(kind), &json!("ready")));
        }
        let purposes = "SELECT count(*) FROM attachments WHERE for_code_interpreter AND NOT for_file_search";
        assert_eq!(scene.database().number(purposes).await?, 2);
        let neither = "SELECT count(*) FROM attachments WHERE NOT for_code_interpreter AND NOT for_file_search";
        assert_eq!(scene.database().number(neither).await?, 2);
    }

    /// API-101, CONT-52; checks 48 of chapter 01, 25 of chapter 04
    async fn a_file_keeps_the_name_that_people_can_be_shown(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let crab = "\u{1f980}";
        let cases = [
            (format!("{}.txt", "n".repeat(300)), format!("{}.txt", "n".repeat(251))),
            (format!("{}.txt", crab.repeat(300)), format!("{}.txt", crab.repeat(251))),
            ("../../etc/passwd".to_owned(), "passwd".to_owned()),
            (r"C:\\files\\a.txt".to_owned(), "a.txt".to_owned()),
            (r#"a \"b\".txt"#.to_owned(), r#"a "b".txt"#.to_owned()),
            ("שלום\u{200f}.txt".to_owned(), "שלום\u{200f}.txt".to_owned()),
            ("..".to_owned(), "upload".to_owned()),
        ];
        for (sent, kept) in cases {
            let file = FormFile::new(&sent, "text/plain", "a");
            let answer = user.upload(&chat, &file).await?.expect(201)?;
            assert_eq!(answer["filename"], kept, "{sent}");
        }
        let mut unnamed = FormFile::text("a");
        unnamed.filename = None;
        let answer = user.upload(&chat, &unnamed).await?.expect(201)?;
        assert_eq!(answer["filename"], "upload");
        for request in files(&scene) {
            let name = request.body["filename"].as_str().unwrap_or_default().to_owned();
            assert!(name.starts_with(&chat) && !name.contains('/'), "{name}");
            assert_eq!(name.rsplit('.').next(), Some("txt"), "{name}");
        }
    }

    /// API-101, API-103, CONT-55: the first part with the name counts, and a file may be
    /// exactly as large as the limit.
    async fn the_form_around_a_file_is_ignored(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["uploads"] = json!({"maxFileSizeKb": 2, "maxTotalUploadMbPerChat": 1});
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let text = FormFile::text("x".repeat(2048));
        let mut other = FormFile::new("b.exe", "application/x-other", "other");
        other.part = "other";
        let mut second = FormFile::text("second");
        second.filename = Some("second.txt".to_owned());
        let opened = |file: &FormFile| {
            let body = file.body();
            body[..body.len() - FormFile::tail().len() + 2].to_vec()
        };
        let form = [opened(&other), opened(&text), second.body().to_vec()].concat();
        let answer = user.upload_body(&chat, form.into()).await?.expect(201)?;
        assert_eq!((&answer["filename"], &answer["size_bytes"]), (&json!("notes.txt"), &json!(2048)));
        assert_eq!(files(&scene).len(), 1);
    }

    /// CONT-59; check 20 of chapter 04
    async fn azure_has_its_own_paths(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["providers"][0]["storage"] =
                json!({"kind": "Azure", "apiVersion": "2025-04-01-preview"});
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::png(50)).await?.expect(201)?;
        let paths: Vec<_> = files(&scene).into_iter().map(|it| it.path).collect();
        assert_eq!(paths, ["/openai/files?api-version=2025-04-01-preview"]);
    }

    /// API-101, CONT-51, CONT-52, CONT-57: the file is sent on while it arrives, and GET
    /// shows it as `pending`; checks 53 of chapter 01, 34 of chapter 04.
    async fn a_slow_provider_slows_its_client(env) {
        const PIECE: usize = 64 * 1024;
        const PIECES: usize = 300;
        let scene = scene(&env).await?;
        scene.provider.push_scenario(Scenario { reading: Reading::Held, ..for_files() });
        let mut uploader = Uploader::connect(&scene).await?;
        let api = scene.stack.caller(&scene.tenant, uploader.caller.user)?;
        uploader.begin(CHUNKED).await?;
        uploader.client.write_chunk(FormFile::text("").head().as_bytes()).await?;
        let mut sent = 0;
        let piece = vec![b'x'; PIECE];
        let writing = async {
            while sent < PIECES {
                uploader.client.write_chunk(&piece).await?;
                sent += 1;
            }
            anyhow::Ok(())
        };
        // The connections hold some of it, and nobody the rest.
        let written = tokio::time::timeout(Duration::from_secs(2), writing).await;
        assert!(written.is_err() && sent < PIECES * 3 / 4, "{sent} pieces were taken");
        let id = scene.database().query("SELECT id FROM attachments").await?;
        let id = id[0][0].clone().unwrap_or_default();
        let path = format!("/chats/{}/attachments/{id}", uploader.chat);
        assert_eq!(api.get(&path).await?.expect(200)?["status"], "pending");
        let scrape = scene.stack.scrape().await?;
        assert!((scrape.sum("mini_chat_attachments_pending", &[]) - 1.0).abs() < 0.5);
        drop(uploader);
        // It was not read, so the end of the connection behind it could not be seen.
        scene.provider.release(1);
        settled(&scene).await?;
        assert_eq!(rows(&scene).await?, ["failed upload_abandoned -"]);
    }
}
