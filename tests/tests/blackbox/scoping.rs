//! Whose rows a request or a job touches (PLAT-16 to PLAT-18).

use minichat_telemetry::Signal;
use minichat_tests::form::FormFile;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::json;
use uuid::Uuid;

on_each_database! {
    /// PLAT-17, PLAT-19; check 12 of chapter 05
    async fn ids_in_a_body_decide_nothing(env) {
        let scene = env.scene().await?;
        let (owner, other) = (Uuid::new_v4(), Uuid::new_v4());
        let user = scene.stack.caller(&scene.tenant, owner)?;
        let body = json!({
            "id": other, "tenant_id": other, "user_id": other, "chat_id": other, "turn_id": other,
            "message_id": other, "requester_user_id": other, "provider_response_id": "resp_foreign",
            "content": "PING", "reaction": "like",
        });
        let chat = user.post("/chats", &body).await?.expect(201)?;
        let chat = chat["id"].as_str().unwrap_or_default().to_owned();
        user.open(&chat, &body).await?.collect().await?.only("done")?;
        let answer = user.messages(&chat).await?[1]["id"].clone();
        let answer = answer.as_str().unwrap_or_default();
        let reaction = format!("/chats/{chat}/messages/{answer}/reaction");
        user.put(&reaction, &body).await?.expect(200)?;

        let of_tenant = format!("tenant_id = '{}'", scene.tenant.id);
        for (table, own, rows) in [
            ("chats", format!("user_id = '{owner}' AND id = '{chat}'"), 1),
            ("chat_turns", format!("requester_user_id = '{owner}' AND chat_id = '{chat}'"), 1),
            ("messages", format!("chat_id = '{chat}'"), 2),
            ("message_reactions", format!("user_id = '{owner}' AND message_id = '{answer}'"), 1),
            ("quota_usage", format!("user_id = '{owner}'"), 4),
            ("outbox_messages", "payload_type = 'application/json'".to_owned(), 2),
        ] {
            let all = format!("SELECT count(*) FROM {table}");
            assert_eq!(scene.database().number(&all).await?, rows, "{table}");
            let own = format!("{all} WHERE {of_tenant} AND {own}");
            assert_eq!(scene.database().number(&own).await?, rows, "{own}");
        }
        for table in ["messages", "chat_turns"] {
            let foreign =
                format!("SELECT count(*) FROM {table} WHERE provider_response_id = 'resp_foreign'");
            assert_eq!(scene.database().number(&foreign).await?, 0, "{table}");
        }
    }

    /// PLAT-16, CONT-50, CONT-70: of one user in two tenants, the files of one tenant do
    /// not exist in the other.
    async fn files_belong_to_their_tenant(env) {
        let provider = ScriptedProvider::start().await?;
        let tenants = ["acme", "other"].map(|name| Tenant::new(name, provider.addr));
        let stack = env.serve(&tenants.each_ref()).await?;
        let id = Uuid::new_v4();
        let (user, namesake) = (stack.caller(&tenants[0], id)?, stack.caller(&tenants[1], id)?);
        let (chat, own) = (user.create_chat(None).await?, namesake.create_chat(None).await?);
        let text = FormFile::text("a");
        let file = user.upload(&chat, &text).await?.expect(201)?;
        let file_id = file["id"].as_str().unwrap_or_default();
        for (chat, code) in [(&chat, "chat_not_found"), (&own, "attachment_not_found")] {
            let path = format!("/chats/{chat}/attachments/{file_id}");
            namesake.get(&path).await?.problem(404, code)?;
            namesake.delete(&path).await?.problem(404, code)?;
        }
        namesake.upload(&chat, &text).await?.problem(404, "chat_not_found")?;
        let body = json!({"content": "look", "attachment_ids": [file_id]});
        namesake.refused(&own, &body).await?.problem(400, "invalid_attachment")?;
        let path = format!("/chats/{chat}/attachments/{file_id}");
        assert_eq!(user.get(&path).await?.expect(200)?, file);
        user.open(&chat, &body).await?.collect().await?.only("done")?;
    }

    /// PLAT-18, QUOTA-34; check 13 of chapter 05: of one user in two tenants,
    /// whose policies differ and have the same version.
    async fn a_watchdog_settles_each_turn_in_its_own_tenant(env) {
        let provider = ScriptedProvider::start().await?;
        let cheap = Tenant::new("cheap", provider.addr);
        let mut dear = Tenant::new("dear", provider.addr);
        dear.model("std")["inputTokensCreditMultiplierMicro"] = json!(10_000_000);
        dear.model("std")["outputTokensCreditMultiplierMicro"] = json!(30_000_000);
        let stack = env.serve(&[&cheap, &dear]).await?;
        let [user, other] = [Uuid::new_v4(), Uuid::new_v4()];
        let mut streams = Vec::new();
        for (tenant, user) in [(&cheap, user), (&dear, user), (&cheap, other)] {
            provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
            let caller = stack.caller(tenant, user)?;
            let chat = caller.create_chat(Some("std")).await?;
            let body = json!({"content": "x".repeat(4000)});
            let mut stream = caller.open(&chat, &body).await?;
            stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            streams.push(stream);
        }
        // Spent and reserved, alike of day and month.
        let cells = async |tenant: &Tenant, user: Uuid| {
            let cells = format!(
                "SELECT DISTINCT spent_credits_micro, reserved_credits_micro FROM quota_usage \
                 WHERE tenant_id = '{}' AND user_id = '{user}'",
                tenant.id
            );
            let rows = env.database.query(&cells).await?;
            anyhow::Ok(rows.concat().into_iter().flatten().collect::<Vec<_>>())
        };
        assert_eq!(cells(&cheap, user).await?, ["0", "4210"]);
        assert_eq!(cells(&dear, user).await?, ["0", "42100"]);
        let first = format!("tenant_id = '{}' AND requester_user_id = '{user}'", cheap.id);
        env.database.age_turns(&first).await?;
        assert_eq!(stack.watchdog().run_once(&Signal::new()).await.finalized, 1);
        assert_eq!(cells(&cheap, user).await?, ["1360", "0"]);
        assert_eq!(cells(&dear, user).await?, ["0", "42100"]);
        assert_eq!(cells(&cheap, other).await?, ["0", "4210"]);
        env.database.age_turns("state = 'running'").await?;
        assert_eq!(stack.watchdog().run_once(&Signal::new()).await.finalized, 2);
        assert_eq!(cells(&cheap, user).await?, ["1360", "0"]);
        assert_eq!(cells(&dear, user).await?, ["13600", "0"]);
        assert_eq!(cells(&cheap, other).await?, ["1360", "0"]);
        drop(streams);
    }
}
