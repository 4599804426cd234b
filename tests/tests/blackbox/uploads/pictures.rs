//! Thumbnails of images.

use minichat_tests::form::{FormFile, png};
use minichat_tests::on_each_database;
use serde_json::json;

use super::{rows, scene, scene_with};

on_each_database! {
    /// API-107, CONT-51, CONT-62, CONT-66; checks 54 of chapter 01, 22 of chapter 04
    async fn an_image_has_a_thumbnail_and_no_other_file_has_one(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        for (width, height, expected) in [(1000, 500, (128, 64)), (90, 180, (64, 128)), (20, 10, (20, 10))] {
            let picture = FormFile::new("a.png", "image/png", png(width, height)?);
            let file = user.upload(&chat, &picture).await?.expect(201)?;
            let thumbnail = &file["img_thumbnail"];
            assert_eq!(thumbnail["content_type"], "image/webp");
            let size = (&thumbnail["width"], &thumbnail["height"]);
            assert_eq!(size, (&json!(expected.0), &json!(expected.1)), "{width} {height}");
            // `RIFF` in Base64.
            let data = thumbnail["data_base64"].as_str().unwrap_or_default();
            assert!(data.starts_with("UklGR") && data.len() % 4 == 0, "{data}");
            let path = format!("/chats/{chat}/attachments/{}", file["id"].as_str().unwrap_or_default());
            assert_eq!(user.get(&path).await?.expect(200)?, file);
        }
        let text = user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        assert!(text.get("img_thumbnail").is_none());
    }

    /// API-107, CONT-66; check 22 of chapter 04
    async fn an_image_that_cannot_be_decoded_is_ready_without_a_thumbnail(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let cut = png(1000, 500)?[..2000].to_vec();
        // More pixels than the file has data for, and than may be decoded.
        let huge = png(65_000, 65_000)?[..33].to_vec();
        for content in [b"\x89PNG\r\n\x1a\n".to_vec(), cut, huge] {
            let picture = FormFile::new("a.png", "image/png", content);
            let file = user.upload(&chat, &picture).await?.expect(201)?;
            assert_eq!(file["status"], "ready");
            assert!(file.get("img_thumbnail").is_none() && file.get("error_code").is_none());
        }
        let picture = FormFile::new("a.png", "image/png", png(200, 200)?);
        let file = user.upload(&chat, &picture).await?.expect(201)?;
        assert!(file.get("img_thumbnail").is_some());
        assert_eq!(rows(&scene).await?, ["ready - -"; 4]);
    }

    /// API-107, CONT-66: all five numbers are settings.
    async fn thumbnails_have_limits(env) {
        for (setting, width) in [
            ("MINICHAT_THUMBNAIL_WIDTH=40", Some(40)),
            ("MINICHAT_THUMBNAIL_HEIGHT=10", Some(20)),
            ("MINICHAT_THUMBNAIL_MAX_BYTES=10", None),
            ("MINICHAT_THUMBNAIL_MAX_PIXELS=19999", None),
            ("MINICHAT_THUMBNAIL_MAX_DECODE_BYTES=79999", None),
        ] {
            let env = env.another().await?;
            let scene = scene_with(&env, setting, |_| {}).await?;
            let user = scene.new_user()?;
            let chat = user.create_chat(None).await?;
            let picture = FormFile::new("a.png", "image/png", png(200, 100)?);
            let file = user.upload(&chat, &picture).await?.expect(201)?;
            let found = file.get("img_thumbnail").map(|it| it["width"].clone());
            assert_eq!(found, width.map(|it| json!(it)), "{setting}");
        }
    }
}
