//! Chats, messages, models and the quota status, without the details of a turn.

use minichat_tests::on_each_database;
use serde_json::json;
use uuid::Uuid;

on_each_database! {
    /// API-50, API-51
    async fn a_chat_is_created_with_the_default_model(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let answer = user.post("/chats", &json!({"title": "  a ", "tenant_id": "x"})).await?;
        let chat = answer.expect(201)?;
        let id = chat["id"].as_str().unwrap_or_default();
        assert_eq!(answer.header("location"), format!("/mini-chat/v1/chats/{id}"));
        assert_eq!(chat["model"], "prem");
        assert_eq!(chat["title"], "a");
        assert_eq!(chat["message_count"], 0);
        assert_eq!(chat["is_temporary"], false);
        assert_eq!(chat["created_at"], chat["updated_at"]);
        assert!(chat["created_at"].as_str().is_some_and(|at| at.ends_with('Z')));
        assert!(chat.get("tenant_id").is_none());
        let untitled = user.post("/chats", &json!({"model": "std"})).await?.expect(201)?;
        assert_eq!(untitled["model"], "std");
        assert!(untitled.get("title").is_none());
        let shown = user.get(&format!("/chats/{}", id.to_uppercase())).await?.expect(200)?;
        assert_eq!(shown, chat);
    }

    /// API-51, API-52
    async fn titles_and_models_of_new_chats_are_checked(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.model("std")["enabled"] = json!(false);
            tenant
        }).await?;
        let user = scene.new_user()?;
        for body in [
            json!({"title": "   "}),
            json!({"title": "ä".repeat(256)}),
            json!({"title": 5}),
            json!({"model": ""}),
            json!({"model": "std"}),
            json!({"model": "unknown"}),
        ] {
            user.post("/chats", &body).await?.problem(400, "invalid_request")?;
        }
        user.post("/chats", &json!({"title": "ä".repeat(255)})).await?.expect(201)?;
    }

    /// API-54, PLAT-5
    async fn a_message_moves_its_chat_to_the_front(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let oldest = user.create_chat(None).await?;
        user.create_chat(None).await?;
        user.say(&oldest, "PING").await?;
        let list = user.get("/chats").await?.expect(200)?;
        assert_eq!(list["items"][0]["id"], oldest.as_str());
        assert_eq!(list["items"][0]["message_count"], 2);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    }

    /// PLAT-6
    async fn messages_of_no_turn_are_neither_listed_nor_sent(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?;
        let loose = "INSERT INTO messages (id, tenant_id, chat_id, role, content, created_at) \
            SELECT id, tenant_id, id, 'system', 'of no turn', created_at FROM chats";
        scene.database().query(loose).await?;
        user.say(&chat, "PING").await?;
        assert_eq!(user.messages(&chat).await?.len(), 4);
        let shown = user.get(&format!("/chats/{chat}")).await?.expect(200)?;
        assert_eq!(shown["message_count"], 4);
        let sent = scene.provider.requests()[1].body.to_string();
        assert!(sent.contains("PONG") && !sent.contains("of no turn"), "{sent}");
        for (rows, count) in [
            ("request_kind = 'chat' AND content_type = 'text' AND deleted_at IS NULL \
              AND CAST(features_used AS TEXT) = '[]' AND NOT is_compressed", 4),
            ("role = 'user' AND model IS NULL AND provider_response_id IS NULL \
              AND input_tokens = 0", 2),
            ("role = 'assistant' AND model = 'std' AND provider_response_id IS NOT NULL \
              AND input_tokens > 0 AND output_tokens = 2", 2),
        ] {
            let rows = format!("SELECT count(*) FROM messages WHERE request_id IS NOT NULL AND {rows}");
            assert_eq!(scene.database().number(&rows).await?, count, "{rows}");
        }
    }

    /// API-40 to API-43
    async fn pages_of_chats_hold_each_chat_once_in_both_directions(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for _ in 0..5 {
            user.create_chat(None).await?;
        }
        // All have the same instant, so that only their ids differ.
        let together = "UPDATE chats SET updated_at = (SELECT max(created_at) FROM chats)";
        scene.database().query(together).await?;
        let mut pages = vec![user.get("/chats?limit=2").await?.expect(200)?];
        assert!(pages[0]["page_info"]["prev_cursor"].is_null());
        while let Some(cursor) = pages.last().and_then(|page| page["page_info"]["next_cursor"].as_str()) {
            let next = user.get(&format!("/chats?limit=2&cursor={cursor}")).await?.expect(200)?;
            pages.push(next);
        }
        let mut ids: Vec<_> = pages
            .iter()
            .flat_map(|page| page["items"].as_array().cloned().unwrap_or_default())
            .map(|chat| chat["id"].clone().to_string())
            .collect();
        assert_eq!((pages.len(), ids.len()), (3, 5));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 5);
        let back = pages[2]["page_info"]["prev_cursor"].as_str().unwrap_or_default();
        let back = user.get(&format!("/chats?limit=2&cursor={back}")).await?.expect(200)?;
        assert_eq!(back["items"], pages[1]["items"]);
    }

    /// API-110, QUOTA-20
    async fn models_show_exactly_what_users_may_know(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.model("prem")["multimodalCapabilities"] = json!(["VISION_INPUT"]);
            tenant.model("prem")["multiplierDisplay"] = json!("3x");
            tenant.model("prem")["description"] = json!("The good one.");
            tenant.model("std")["enabled"] = json!(false);
            tenant
        }).await?;
        let user = scene.new_user()?;
        let models = user.get("/models").await?.expect(200)?;
        let expected = json!({
            "model_id": "prem", "display_name": "PREM", "tier": "premium",
            "multiplier_display": "3x", "description": "The good one.",
            "multimodal_capabilities": ["VISION_INPUT"], "context_window": 128_000,
        });
        assert_eq!(models, json!({"items": [expected]}));
        assert_eq!(user.get("/models/prem").await?.expect(200)?, expected);
        user.get("/models/std").await?.problem(404, "model_not_found")?;
        user.get("/models/other").await?.problem(404, "model_not_found")?;
    }

    /// API-14, API-15
    async fn a_foreign_chat_looks_like_one_that_does_not_exist(env) {
        let scene = env.scene().await?;
        let owner = scene.new_user()?;
        let chat = owner.create_chat(None).await?;
        let started = owner.say(&chat, "PING").await?;
        let request = started.only("stream_started")?["request_id"].clone();
        let request = request.as_str().unwrap_or_default();
        let other = scene.new_user()?;
        for id in [chat, Uuid::new_v4().to_string()] {
            for path in [
                format!("/chats/{id}"),
                format!("/chats/{id}/messages"),
                format!("/chats/{id}/turns/{request}"),
            ] {
                let problem = other.get(&path).await?.problem(404, "chat_not_found")?;
                assert!(!problem["detail"].to_string().contains(&id), "{problem}");
            }
            let body = json!({"content": "PING"});
            other.refused(&id, &body).await?.problem(404, "chat_not_found")?;
        }
        let list = other.get("/chats").await?.expect(200)?;
        assert_eq!(list["items"], json!([]));
        assert_eq!(scene.provider.requests().len(), 1);
    }

    /// QUOTA-99, QUOTA-100, API-17
    async fn a_fresh_user_sees_four_full_cells(env) {
        let scene = env.scene().await?;
        let spender = scene.new_user()?;
        let chat = spender.create_chat(None).await?;
        spender.say(&chat, "PING").await?;
        let status = scene.new_user()?.get("/quota/status").await?.expect(200)?;
        assert_eq!(status["warning_threshold_pct"], 80);
        let limits = [
            ("premium", 50_000_000, 500_000_000),
            ("total", 100_000_000, 1_000_000_000_i64),
        ];
        for (tier, (name, daily, monthly)) in limits.into_iter().enumerate() {
            let tier = &status["tiers"][tier];
            assert_eq!(tier["tier"], name);
            for (index, limit) in [daily, monthly].into_iter().enumerate() {
                let cell = &tier["periods"][index];
                assert_eq!(cell["limit_credits_micro"], limit);
                assert_eq!(cell["used_credits_micro"], 0);
                assert_eq!(cell["remaining_credits_micro"], limit);
                assert_eq!(cell["remaining_percentage"], 100);
                assert_eq!((&cell["warning"], &cell["exhausted"]), (&json!(false), &json!(false)));
            }
        }
    }
}
