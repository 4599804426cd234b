//! Files of a chat: reading and deleting them.

use minichat_tests::client::Api;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use serde_json::{Value, json};
use uuid::Uuid;

/// The row of a file that `user` uploaded to `chat`.
struct Row {
    id: String,
    path: String,
}

/// Inserts a file with `status`, and `values` for further columns.
async fn insert(
    scene: &Scene,
    chat: &str,
    status: &str,
    values: &[(&str, &str)],
) -> anyhow::Result<Row> {
    let id = Uuid::new_v4().to_string();
    let (names, values): (Vec<_>, Vec<_>) = values
        .iter()
        .map(|(name, value)| (format!(", {name}"), format!(", {value}")))
        .unzip();
    let (names, values) = (names.concat(), values.concat());
    let sql = format!(
        "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
         content_type, size_bytes, storage_backend, status, attachment_kind, created_at, \
         updated_at{names}) SELECT '{id}', tenant_id, id, user_id, 'a.txt', 'text/plain', 5, \
         'main', '{status}', 'document', created_at, updated_at{values} FROM chats WHERE id = '{chat}'"
    );
    scene.database().query(&sql).await?;
    let path = format!("/chats/{chat}/attachments/{id}");
    Ok(Row { id, path })
}

async fn events(scene: &Scene) -> anyhow::Result<Vec<Value>> {
    let sql = "SELECT payload FROM outbox_messages WHERE queue = 'mini-chat.attachment_cleanup' ORDER BY id";
    let rows = scene.database().query(sql).await?;
    let payloads = rows.into_iter().flatten().flatten();
    let events: Result<_, _> = payloads.map(|it| serde_json::from_str(&it)).collect();
    Ok(events?)
}

/// Sends a message in `chat` and links the file to it.
async fn link(scene: &Scene, user: &Api, chat: &str, file: &Row) -> anyhow::Result<String> {
    let events = user.say(chat, "PING").await?;
    let started = events.only("stream_started")?;
    let sql = format!(
        "INSERT INTO message_attachments (chat_id, message_id, attachment_id, tenant_id, created_at) \
         SELECT chat_id, id, '{}', tenant_id, created_at FROM messages \
         WHERE chat_id = '{chat}' AND role = 'user'",
        file.id
    );
    scene.database().query(&sql).await?;
    Ok(started["request_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

on_each_database! {
    /// API-100, CONT-50, CONT-51
    async fn a_file_is_shown_without_the_steps_of_the_server(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        for (status, shown) in [("pending", "pending"), ("uploaded", "pending"), ("ready", "ready")] {
            let row = insert(&scene, &chat, status, &[("provider_file_id", "'file-abc'")]).await?;
            let mut file = user.get(&row.path).await?.expect(200)?;
            assert!(file["created_at"].take().is_string());
            let expected = json!({
                "id": row.id, "filename": "a.txt", "content_type": "text/plain", "size_bytes": 5,
                "status": shown, "kind": "document", "created_at": null,
            });
            assert_eq!(file, expected);
        }
        let failed = insert(&scene, &chat, "failed", &[("error_code", "'upload_failed'")]).await?;
        let file = user.get(&failed.path).await?.expect(200)?;
        assert_eq!((&file["status"], &file["error_code"]), (&json!("failed"), &json!("upload_failed")));

        let picture = [
            ("img_thumbnail", "CAST('webp' AS BLOB)"),
            ("img_thumbnail_width", "128"),
            ("img_thumbnail_height", "64"),
        ];
        let picture = picture.map(|(name, value)| match scene.database().kind() {
            minichat_tests::database::DatabaseKind::Sqlite => (name, value),
            minichat_tests::database::DatabaseKind::Postgres => {
                (name, if value.ends_with("BLOB)") { "'webp'::bytea" } else { value })
            }
        });
        let expected = json!({"content_type": "image/webp", "width": 128, "height": 64, "data_base64": "d2VicA=="});
        for (status, thumbnail) in [("ready", Some(&expected)), ("uploaded", None)] {
            let row = insert(&scene, &chat, status, &picture).await?;
            assert_eq!(user.get(&row.path).await?.expect(200)?.get("img_thumbnail"), thumbnail);
        }
    }

    /// API-15, API-16, API-108, CONT-50, CONT-73, CONT-162, PLAT-39; checks 10 and 55 of
    /// chapter 01, 34 and 37 of chapter 04
    async fn a_file_is_deleted_once_and_gone_at_once(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let other = user.create_chat(None).await?;
        let stored = [("provider_file_id", "'file-abc'"), ("for_file_search", "TRUE")];
        let row = insert(&scene, &chat, "ready", &stored).await?;
        let through_other = format!("/chats/{other}/attachments/{}", row.id);
        let of_nobody = format!("/chats/{}/attachments/{}", Uuid::new_v4(), row.id);
        let unknown = format!("/chats/{chat}/attachments/{}", Uuid::new_v4());
        let stranger = scene.new_user()?;
        for (caller, path, code) in [
            (&user, &through_other, "attachment_not_found"),
            (&user, &unknown, "attachment_not_found"),
            (&user, &of_nobody, "chat_not_found"),
            (&stranger, &row.path, "chat_not_found"),
        ] {
            caller.get(path).await?.problem(404, code)?;
            caller.delete(path).await?.problem(404, code)?;
        }
        assert!(events(&scene).await?.is_empty());

        for _ in 0..2 {
            let gone = user.delete(&row.path).await?;
            assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
        }
        user.get(&row.path).await?.problem(404, "attachment_not_found")?;
        let events = events(&scene).await?;
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0]["deleted_at"].is_string());
        let expected = json!({
            "event_type": "attachment_deleted", "tenant_id": scene.tenant.id, "chat_id": chat,
            "attachment_id": row.id, "provider_file_id": "file-abc", "vector_store_id": null,
            "storage_backend": "main", "attachment_kind": "document",
            "deleted_at": events[0]["deleted_at"],
        });
        assert_eq!(events[0], expected);
        let due = "SELECT count(*) FROM attachments WHERE cleanup_status = 'pending' \
            AND deleted_at = updated_at AND cleanup_updated_at = deleted_at";
        assert_eq!(scene.database().number(due).await?, 1);
    }

    /// API-16, API-108, CONT-73; check 37 of chapter 04
    async fn a_file_of_a_message_or_of_another_user_stays(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let linked = insert(&scene, &chat, "ready", &[]).await?;
        let request = link(&scene, &user, &chat, &linked).await?;
        user.delete(&linked.path).await?.problem(409, "attachment_locked")?;
        user.open_retry(&chat, &request).await?.collect().await?;
        user.delete(&linked.path).await?.problem(409, "attachment_locked")?;
        user.get(&linked.path).await?.expect(200)?;

        let foreign = insert(&scene, &chat, "ready", &[]).await?;
        let sql = format!(
            "UPDATE attachments SET uploaded_by_user_id = '{}' WHERE id = '{}'",
            Uuid::new_v4(),
            foreign.id
        );
        scene.database().query(&sql).await?;
        user.delete(&foreign.path).await?.problem(403, "insufficient_permissions")?;
        user.get(&foreign.path).await?.expect(200)?;
        assert!(events(&scene).await?.is_empty());

        // With their chat, files are gone at once.
        user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
        for file in [&linked, &foreign] {
            user.get(&file.path).await?.problem(404, "chat_not_found")?;
            user.delete(&file.path).await?.problem(404, "chat_not_found")?;
        }
    }
}
