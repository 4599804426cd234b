//! One message and its streamed, stored and metered answer.

use minichat_tests::manifest::PROVIDER_KEY;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use uuid::Uuid;

/// The row of the only turn.
const TURN: &str = "SELECT state, error_code, reserve_tokens, max_output_tokens_applied, \
    reserved_credits_micro, minimal_generation_floor_applied, effective_model FROM chat_turns";

fn texts(row: &[Option<String>]) -> Vec<&str> {
    row.iter()
        .map(|value| value.as_deref().unwrap_or("-"))
        .collect()
}

on_each_database! {
    /// TURN-2, TURN-5, TURN-8, TURN-14, TURN-31, API-60, API-63, API-70
    async fn a_turn_is_stored_as_the_client_saw_it(env) {
        let scene = env.scene().await?;
        let scenario = Scenario::deltas(&["Grüße, ", "\"Welt\"\n"], Ending::Completed);
        scene.provider.push_scenario(scenario);
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let request_id = Uuid::new_v4().to_string();
        let body = json!({"content": " hi ", "request_id": request_id});
        let events = user.open(&chat, &body).await?.collect().await?;

        assert_eq!(events.names(), ["stream_started", "delta", "delta", "done"]);
        assert_eq!(events.answer(), "Grüße, \"Welt\"\n");
        let started = events.only("stream_started")?;
        assert_eq!(started["request_id"], request_id.as_str());
        assert_eq!(started["is_new_turn"], true);
        assert!(started.get("thread_summary_applied").is_none());

        let turn = user.turn(&chat, &request_id).await?;
        assert_eq!(turn["state"], "done");
        assert_eq!(turn["assistant_message_id"], started["message_id"]);
        assert!(turn.get("error_code").is_none());
        let messages = user.messages(&chat).await?;
        let [question, answer] = messages.as_slice() else {
            anyhow::bail!("expected two messages: {messages:?}");
        };
        assert_eq!((&question["role"], &question["content"]), (&json!("user"), &json!(" hi ")));
        assert_eq!(answer["role"], "assistant");
        assert_eq!(answer["content"], events.answer());
        assert_eq!(answer["id"], started["message_id"]);
        assert_eq!(answer["model"], "prem");
        for message in &messages {
            assert_eq!(message["request_id"], request_id.as_str());
            assert_eq!(message["attachments"], json!([]));
            assert!(message["my_reaction"].is_null());
        }

        let rows = scene.database().query(TURN).await?;
        assert_eq!(texts(&rows[0])[..2], ["completed", "-"]);
        let unfinished = "SELECT count(*) FROM chat_turns WHERE completed_at IS NULL";
        assert_eq!(scene.database().number(unfinished).await?, 0);
    }

    /// API-132; QUOTA-33, QUOTA-35, QUOTA-43, QUOTA-53; TURN-8, TURN-11
    async fn turn_message_and_reserve_are_durable_before_the_provider_answers(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            usage: Some(minichat_tests::scripted_provider::Tokens { input: 30, output: 2 }),
            ..Scenario::deltas(&["ok"], Ending::Completed)
        });
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        let mut stream = user.open(&chat, &json!({"content": "x".repeat(4000)})).await?;
        let started = stream.expect("stream_started").await?;

        let turn = user.turn(&chat, started.text("request_id")).await?;
        assert_eq!(turn["state"], "running");
        assert!(turn.get("assistant_message_id").is_none() && turn.get("error_code").is_none());
        let rows = scene.database().query(TURN).await?;
        assert_eq!(texts(&rows[0]), ["running", "-", "2210", "1000", "18630", "50", "prem"]);
        let messages = user.messages(&chat).await?;
        assert_eq!(messages.len(), 1);
        let unknown = format!("/chats/{chat}/turns/{}", Uuid::new_v4());
        user.get(&unknown).await?.problem(404, "turn_not_found")?;
        let shown = user.get(&format!("/chats/{chat}")).await?.expect(200)?;
        assert!(shown["updated_at"].as_str() > shown["created_at"].as_str(), "{shown}");
        let cells = "SELECT reserved_credits_micro, spent_credits_micro FROM quota_usage";
        let rows = scene.database().query(cells).await?;
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| texts(row) == ["18630", "0"]), "{rows:?}");

        scene.provider.release(1);
        stream.expect("delta").await?;
        stream.expect("done").await?;
        assert!(stream.next().await?.is_none());
        // The reserve stays in the row (TURN-5).
        let rows = scene.database().query(TURN).await?;
        assert_eq!(texts(&rows[0]), ["completed", "-", "2210", "1000", "18630", "50", "prem"]);
        let cells = "SELECT bucket, spent_credits_micro, reserved_credits_micro, calls, \
            input_tokens, output_tokens FROM quota_usage ORDER BY bucket, period_type";
        let rows = scene.database().query(cells).await?;
        let premium = ["tier:premium", "120", "0", "1", "0", "0"];
        let total = ["total", "120", "0", "1", "30", "2"];
        let rows: Vec<_> = rows.iter().map(|row| texts(row)).collect();
        assert_eq!(rows, [premium, premium, total, total]);
    }

    /// QUOTA-2, QUOTA-9, QUOTA-10, QUOTA-37, QUOTA-78, CONT-2, CONT-4
    async fn a_standard_chat_carries_its_history_and_leaves_premium_alone(env) {
        let scene = env.scene().await?;
        for _ in 0..2 {
            scene.provider.push_scenario(Scenario {
                usage: Some(minichat_tests::scripted_provider::Tokens { input: 30, output: 2 }),
                ..Scenario::deltas(&["PONG"], Ending::Completed)
            });
        }
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let message = "x".repeat(4000);
        user.say(&chat, &message).await?;
        user.say(&chat, &message).await?;

        let reserves = "SELECT reserve_tokens, reserved_credits_micro FROM chat_turns \
            ORDER BY started_at";
        let rows = scene.database().query(reserves).await?;
        assert_eq!(texts(&rows[0]), ["2210", "4210"]);
        assert_eq!(texts(&rows[1]), ["2242", "4242"]);
        let cells = "SELECT bucket, spent_credits_micro, reserved_credits_micro, calls \
            FROM quota_usage";
        let rows = scene.database().query(cells).await?;
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| texts(row) == ["total", "72", "0", "2"]), "{rows:?}");

        let requests = scene.provider.requests();
        let roles = |body: &Value| -> Vec<String> {
            let input = body["input"].as_array().cloned().unwrap_or_default();
            input.iter().map(|item| item["role"].as_str().unwrap_or("").to_owned()).collect()
        };
        assert_eq!(roles(&requests[0].body), ["user"]);
        assert_eq!(roles(&requests[1].body), ["user", "assistant", "user"]);
    }

    /// TURN-18, PLAT-101, PLAT-103, QUOTA-22, QUOTA-42
    async fn the_provider_is_asked_for_the_effective_model(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["streaming"] = json!({"maxOutputTokens": 400});
            tenant.model("std")["systemPrompt"] = json!("Be brief.");
            tenant
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?;

        let requests = scene.provider.requests();
        assert_eq!(requests.len(), 1);
        let request = &requests[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/responses"));
        assert_eq!(request.headers["authorization"], format!("Bearer {PROVIDER_KEY}"));
        assert_eq!(request.body["model"], "std-at-provider");
        assert_eq!(request.body["instructions"], "Be brief.");
        assert_eq!(request.body["max_output_tokens"], 400);
        assert_eq!(request.body["store"], false);
        assert_eq!(request.body["stream"], true);
        let caller = request.body["user"].as_str().unwrap_or_default();
        assert!(caller.len() == 64 && caller.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(request.body.get("tools").is_none());
    }

    /// CONT-30, PLAT-100, PLAT-102, QUOTA-47
    async fn a_downgraded_turn_goes_to_the_provider_of_its_effective_model(env) {
        let second = ScriptedProvider::start().await?;
        let scene = env.scene_with(|mut tenant| {
            let mut entry = tenant.spec()["providers"][0].clone();
            entry["name"] = json!("second");
            entry["kind"] = json!("OpenAIChatCompletions");
            entry["baseUrl"] = json!(format!("http://{}", second.addr));
            entry["auth"]["header"] = json!("api-key");
            entry["auth"]["prefix"] = json!("");
            let first = tenant.spec()["providers"][0].clone();
            tenant.spec()["providers"] = json!([first, entry]);
            tenant.model("std")["providerRef"] = json!("second");
            tenant.with_limits((1_000_000, 1_000_000), (0, 0))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        let events = user.say(&chat, "PING").await?;
        assert_eq!(events.only("done")?["effective_model"], "std");
        assert!(scene.provider.requests().is_empty());
        let [request]: [_; 1] = second.requests().try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
        assert_eq!(request.path, "/v1/chat/completions");
        assert_eq!(request.body["model"], "std-at-provider");
        assert_eq!(request.headers["api-key"], PROVIDER_KEY);
        assert!(!request.headers.contains_key("authorization"), "{:?}", request.headers);
    }

    /// API-145, TURN-27, QUOTA-99, QUOTA-102
    async fn done_carries_usage_models_and_the_quota_status(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let events = user.say(&chat, "PING").await?;
        assert_eq!(events.answer(), "PONG");
        let done = events.only("done")?;
        assert!(done["usage"]["input_tokens"].as_u64() > Some(0), "{done}");
        assert_eq!(done["usage"]["output_tokens"], 2);
        assert_eq!(done["usage"].as_object().map(serde_json::Map::len), Some(2));
        assert_eq!((&done["effective_model"], &done["selected_model"]), (&json!("prem"), &json!("prem")));
        assert_eq!(done["quota_decision"], "allow");
        for absent in ["downgrade_from", "downgrade_reason", "message_id"] {
            assert!(done.get(absent).is_none(), "{done}");
        }
        let status = user.get("/quota/status").await?.expect(200)?;
        let mut cells = Vec::new();
        for tier in status["tiers"].as_array().into_iter().flatten() {
            for period in tier["periods"].as_array().into_iter().flatten() {
                cells.push(json!({
                    "tier": tier["tier"],
                    "period": period["period"],
                    "remaining_percentage": period["remaining_percentage"],
                    "warning": period["warning"],
                    "exhausted": period["exhausted"],
                }));
            }
        }
        assert_eq!(cells.len(), 4);
        assert_eq!(done["quota_warnings"], json!(cells));
    }

    /// API-63
    async fn a_missing_request_id_is_made_by_the_server(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let events = user.say(&chat, "PING").await?;
        let started = events.only("stream_started")?;
        let request_id = started["request_id"].as_str().unwrap_or_default();
        let parsed: Uuid = request_id.parse()?;
        assert_eq!(parsed.get_version_num(), 4);
        assert_eq!(user.turn(&chat, request_id).await?["state"], "done");
    }

    /// API-67, QUOTA-66
    async fn sending_a_completed_request_again_replays_it_without_any_effect(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let body = json!({"content": "hello", "request_id": Uuid::new_v4().to_string()});
        let first = user.open(&chat, &body).await?.collect().await?;
        let before = scene.stack.scrape().await?;
        let replayed = user.open(&chat, &body).await?.collect().await?;
        assert_eq!(replayed.names(), ["stream_started", "delta", "done"]);
        let started = replayed.only("stream_started")?;
        assert_eq!(started["is_new_turn"], false);
        assert_eq!(started["message_id"], first.only("stream_started")?["message_id"]);
        assert_eq!(replayed.answer(), first.answer());
        let (done, original) = (replayed.only("done")?, first.only("done")?);
        assert_eq!(done["usage"], original["usage"]);
        assert!(done.get("quota_warnings").is_none());
        assert_eq!(scene.provider.requests().len(), 1);
        assert_eq!(scene.stack.scrape().await?.increases(&before), []);
        let events = "SELECT count(*) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot'";
        assert_eq!(scene.database().number(events).await?, 1);
    }

    /// QUOTA-85 to QUOTA-93
    async fn a_turn_leaves_one_usage_event(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        let payloads = "SELECT payload, dedupe_key FROM outbox_messages \
            WHERE queue = 'mini-chat.usage_snapshot'";
        let rows = scene.database().query(payloads).await?;
        assert_eq!(rows.len(), 1);
        let [Some(payload), Some(key)] = rows[0].as_slice() else {
            anyhow::bail!("{rows:?}");
        };
        let event: Value = serde_json::from_str(payload)?;
        assert_eq!(key.len(), 98);
        assert_eq!(event["dedupe_key"], key.as_str());
        assert_eq!(event["tenant_id"], scene.tenant.id.to_string());
        for (member, expected) in [
            ("event_type", "usage_snapshot"), ("requester_type", "user"),
            ("selected_model", "prem"), ("effective_model", "prem"),
            ("quota_decision", "allow"), ("terminal_state", "completed"),
            ("billing_outcome", "completed"), ("outcome", "completed"),
            ("settlement_method", "actual"),
        ] {
            assert_eq!(event[member], expected, "{member} in {event}");
        }
        let spent = "SELECT spent_credits_micro FROM quota_usage \
            WHERE bucket = 'total' AND period_type = 'daily'";
        let spent = scene.database().number(spent).await?;
        assert_eq!(event["committed_credits_micro"], spent);
        assert_eq!(event["actual_credits_micro"], spent);
        // The turn's row says the same.
        let booked = "SELECT settled_credits_micro FROM chat_turns WHERE settlement_method = 'actual'";
        assert_eq!(scene.database().number(booked).await?, spent);
        let day = scene.database().query("SELECT reserve_day FROM chat_turns").await?;
        assert_eq!(event["reserve_day"], json!(day[0][0]));
        assert!(!payload.contains("PONG") && !payload.contains("resp_"), "{payload}");
    }
}
