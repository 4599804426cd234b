//! What a change enqueues, and that neither comes without the other (PLAT-30).

use minichat_tests::on_each_database;
use serde_json::Value;
use uuid::Uuid;

on_each_database! {
    /// PLAT-31, PLAT-39, PLAT-40
    async fn each_message_lies_in_the_partition_of_its_key(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for _ in 0..5 {
            let chat = user.create_chat(Some("std")).await?;
            user.say(&chat, "PING").await?;
            user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
        }
        let rows = scene.database().query(
            "SELECT queue, partition, payload FROM outbox_messages \
             WHERE payload_type = 'application/json' ORDER BY id"
        ).await?;
        let mut queues = Vec::new();
        for row in rows {
            let [Some(queue), Some(partition), Some(payload)] = row.as_slice() else {
                anyhow::bail!("{row:?}");
            };
            let payload: Value = serde_json::from_str(payload)?;
            let key = if queue == "mini-chat.chat_cleanup" { "chat_id" } else { "tenant_id" };
            let key = payload[key].as_str().unwrap_or_default();
            let expected = Uuid::parse_str(key)?.as_u128() % 4;
            assert_eq!(partition.parse::<u128>()?, expected, "{queue} {payload}");
            for (member, value) in payload.as_object().into_iter().flatten() {
                let Some(text) = value.as_str() else { continue };
                if member.ends_with("_id") && member != "trace_id" {
                    assert_eq!(Uuid::parse_str(text)?.to_string(), text, "{member} of {payload}");
                }
                if member == "timestamp" || member.ends_with("_at") {
                    text.parse::<minichat_core::Timestamp>()?;
                    assert!(text.ends_with('Z'), "{member} of {payload}");
                }
            }
            queues.push(queue.clone());
        }
        queues.sort();
        let expected = ["mini-chat.audit", "mini-chat.chat_cleanup", "mini-chat.usage_snapshot"];
        assert_eq!(queues, expected.map(|queue| [queue; 5]).concat());
    }

    /// PLAT-30, PLAT-59, PLAT-80: a change whose message cannot be enqueued does not
    /// happen, and is counted.
    async fn nothing_changes_without_its_message(env) {
        const DELETED: &str = "SELECT (SELECT count(*) FROM chats WHERE deleted_at IS NOT NULL) \
            + (SELECT count(*) FROM chat_turns WHERE deleted_at IS NOT NULL) \
            + (SELECT count(*) FROM messages WHERE deleted_at IS NOT NULL) \
            + (SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0)";
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let events = user.say(&chat, "PING").await?;
        let turn = events.only("stream_started")?["request_id"].clone();
        let turn = turn.as_str().unwrap_or_default();
        let path = format!("/chats/{chat}");
        let database = scene.database();
        database.query("ALTER TABLE outbox_messages RENAME TO away").await?;
        for answer in [
            user.retry(&chat, turn).await?,
            user.edit(&chat, turn, "other").await?,
            user.delete_turn(&chat, turn).await?,
            user.delete(&path).await?,
        ] {
            answer.problem(500, "internal_error")?;
        }
        database.query("ALTER TABLE away RENAME TO outbox_messages").await?;
        assert_eq!(database.number(DELETED).await?, 0);
        assert_eq!(user.messages(&chat).await?.len(), 2);
        assert_eq!(user.turn(&chat, turn).await?["state"], "done");
        assert_eq!(scene.provider.requests().len(), 1);
        assert_eq!(database.number("SELECT count(*) FROM outbox_messages").await?, 2);
        user.delete_turn(&chat, turn).await?.expect(204)?;
        user.delete(&path).await?.expect(204)?;
        assert_eq!(database.number("SELECT count(*) FROM outbox_messages").await?, 4);

        database.query("ALTER TABLE outbox_messages RENAME TO away").await?;
        let chat = user.create_chat(None).await?;
        let events = user.say(&chat, "PING").await?;
        assert_eq!(events.only("error")?["code"], "stream_interrupted");
        database.query("ALTER TABLE away RENAME TO outbox_messages").await?;
        let scrape = scene.stack.scrape().await?;
        for (kind, failed) in [("usage", 1), ("audit", 4), ("chat_cleanup", 1)] {
            let labels = [("kind", kind), ("result", "error")];
            let found = scrape.sum("mini_chat_outbox_enqueue_total", &labels);
            assert!((found - f64::from(failed)).abs() < 0.5, "{kind}: {found}");
        }
    }
}
