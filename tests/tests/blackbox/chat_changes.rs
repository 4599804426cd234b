//! Changes of chats and of their answers: rename, delete, react.

use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};
use uuid::Uuid;

on_each_database! {
    /// API-52, API-54
    async fn a_rename_changes_the_title_and_nothing_else(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let path = format!("/chats/{}", user.create_chat(None).await?);
        let before = user.get(&path).await?.expect(200)?;
        let body = json!({"title": " new ", "model": "std", "id": 7});
        let renamed = user.patch(&path, &body).await?.expect(200)?;
        assert_eq!((&renamed["title"], &renamed["model"]), (&json!("new"), &json!("prem")));
        assert_eq!(renamed["created_at"], before["created_at"]);
        assert!(renamed["updated_at"].as_str() > before["updated_at"].as_str());
        for body in [
            json!({"model": "std"}),
            json!({"title": null}),
            json!({"title": "  "}),
            json!({"title": "ä".repeat(256)}),
        ] {
            let problem = user.patch(&path, &body).await?.problem(400, "invalid_request")?;
            assert_eq!(problem["errors"][0]["field"], "title");
        }
        assert_eq!(user.get(&path).await?.expect(200)?, renamed);
        for path in [path, format!("/chats/{}", Uuid::new_v4())] {
            let stranger = scene.new_user()?;
            let body = json!({"title": "theirs"});
            stranger.patch(&path, &body).await?.problem(404, "chat_not_found")?;
            stranger.delete(&path).await?.problem(404, "chat_not_found")?;
        }
    }

    /// API-7, API-15, API-55, CONT-163, PLAT-5, PLAT-8
    async fn a_deleted_chat_is_gone_at_once_and_queued_for_cleanup_once(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let started = user.say(&chat, "PING").await?;
        let message = started.only("stream_started")?["message_id"].clone();
        let message = message.as_str().unwrap_or_default();
        let request = started.only("stream_started")?["request_id"].clone();
        let request = request.as_str().unwrap_or_default();
        let attachment = "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, \
            filename, content_type, size_bytes, storage_backend, status, attachment_kind, \
            created_at, updated_at) SELECT id, tenant_id, id, user_id, 'a', 'text/plain', 1, 'x', \
            'ready', 'document', created_at, updated_at FROM chats";
        scene.database().query(attachment).await?;
        let copy = "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, \
            filename, content_type, size_bytes, storage_backend, status, attachment_kind, \
            created_at, updated_at, deleted_at) SELECT user_id, tenant_id, id, user_id, 'b', \
            'text/plain', 1, 'x', 'ready', 'document', created_at, updated_at, updated_at FROM chats";
        scene.database().query(copy).await?;
        let path = format!("/chats/{chat}");
        let deleted = user.delete(&path).await?;
        assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
        user.delete(&path).await?.problem(404, "chat_not_found")?;
        user.patch(&path, &json!({"title": "a"})).await?.problem(404, "chat_not_found")?;
        let reaction = format!("{path}/messages/{message}/reaction");
        user.put(&reaction, &json!({"reaction": "like"})).await?.problem(404, "chat_not_found")?;
        user.delete(&reaction).await?.problem(404, "chat_not_found")?;
        for path in [path.clone(), format!("{path}/messages"), format!("{path}/turns/{request}")] {
            user.get(&path).await?.problem(404, "chat_not_found")?;
        }
        user.refused(&chat, &json!({"content": "a"})).await?.problem(404, "chat_not_found")?;
        assert_eq!(user.get("/chats").await?.expect(200)?["items"], json!([]));
        for (sql, rows) in [
            ("SELECT count(*) FROM chats WHERE updated_at = deleted_at", 1),
            ("SELECT count(*) FROM attachments WHERE cleanup_status IS NULL", 1),
            ("SELECT count(*) FROM attachments WHERE cleanup_status = 'pending'", 1),
            ("SELECT count(*) FROM outbox_messages WHERE queue = 'mini-chat.chat_cleanup'", 1),
        ] {
            assert_eq!(scene.database().number(sql).await?, rows, "{sql}");
        }
        let payload = "SELECT payload FROM outbox_messages WHERE queue = 'mini-chat.chat_cleanup'";
        let payload = scene.database().query(payload).await?;
        let payload: Value = serde_json::from_str(payload[0][0].as_deref().unwrap_or_default())?;
        assert_eq!(payload["reason"], "chat_soft_delete");
        assert_eq!(payload["chat_id"], chat.as_str());
        assert_eq!(payload["tenant_id"], scene.tenant.id.to_string());
        for member in ["system_request_id", "chat_deleted_at"] {
            assert!(payload[member].is_string(), "{payload}");
        }
    }

    /// API-55: the stream ends normally and is charged.
    async fn a_chat_deleted_while_it_answers_still_settles(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            ..Scenario::deltas(&["ok"], Ending::Completed)
        });
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
        user.get(&format!("/chats/{chat}")).await?.problem(404, "chat_not_found")?;
        scene.provider.release(1);
        stream.expect("delta").await?;
        stream.expect("done").await?;
        for (sql, rows) in [
            ("SELECT count(*) FROM chat_turns WHERE state = 'completed'", 1),
            ("SELECT count(*) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot'", 1),
            ("SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0", 0),
        ] {
            assert_eq!(scene.database().number(sql).await?, rows, "{sql}");
        }
        assert!(scene.database().number("SELECT count(*) FROM quota_usage WHERE spent_credits_micro > 0").await? > 0);
    }

    /// API-60, API-111
    async fn a_reaction_follows_its_users_last_word(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        let messages = user.messages(&chat).await?;
        let id = |index: usize| messages[index]["id"].as_str().unwrap_or_default().to_owned();
        let path = |id: &str| format!("/chats/{chat}/messages/{id}/reaction");
        let (question, answer) = (path(&id(0)), path(&id(1)));
        for reaction in ["like", "dislike", "like"] {
            let put = user.put(&answer, &json!({"reaction": reaction})).await?.expect(200)?;
            assert_eq!((&put["message_id"], &put["reaction"]), (&json!(id(1)), &json!(reaction)));
            assert!(put["created_at"].as_str().is_some_and(|at| at.ends_with('Z')));
            let shown = user.messages(&chat).await?;
            assert_eq!(shown[1]["my_reaction"], reaction);
            assert_eq!(shown[0]["my_reaction"], Value::Null);
        }
        // The value is checked before anything is looked up.
        let random = path(&Uuid::new_v4().to_string());
        for body in [json!({"reaction": "love"}), json!({}), json!({"reaction": 1})] {
            let problem = user.put(&random, &body).await?.problem(400, "invalid_request")?;
            assert_eq!(problem["errors"][0]["field"], "reaction");
        }
        let like = json!({"reaction": "like"});
        user.put(&question, &like).await?.problem(400, "invalid_reaction_target")?;
        user.put(&random, &like).await?.problem(404, "message_not_found")?;
        user.delete(&random).await?.problem(404, "message_not_found")?;
        let stranger = scene.new_user()?;
        stranger.put(&answer, &like).await?.problem(404, "chat_not_found")?;
        stranger.delete(&answer).await?.problem(404, "chat_not_found")?;
        for path in [&answer, &answer, &question] {
            assert_eq!(user.delete(path).await?.expect(204)?, Value::Null);
        }
        assert_eq!(user.messages(&chat).await?[1]["my_reaction"], Value::Null);
        user.put("/chats/x/messages/y/reaction", &like).await?.problem(400, "invalid_request")?;
    }
}
