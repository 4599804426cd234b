//! What who runs the service reads of a turn: its ids, times and counts, and no
//! word of what was said.

use minichat_tests::child::Process;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const FINISHED: &str = "stream finished";

on_each_database! {
    /// PLAT-163, PLAT-164, PLAT-167
    async fn the_end_of_a_stream_is_one_line_that_joins_its_ids(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        env.write_manifest("acme", &tenant.manifest())?;
        let mut process = Process::serve(BINARY, &env, "").await?;
        let user_id = Uuid::new_v4();
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let user = process.api.acting_as(tenant.id, user_id)?.with_header("traceparent", &parent)?;
        let chat = user.create_chat(Some("std")).await?;
        for (content, terminal, code) in [
            ("PING", "completed", Value::Null),
            ("ERROR", "failed", json!("provider_error")),
        ] {
            let events = user.say(&chat, content).await?;
            let request = &events.only("stream_started")?["request_id"];
            let line: Value = serde_json::from_str(&process.says(FINISHED).await?)?;
            for (member, expected) in [
                ("request_id", request.clone()), ("trace_id", json!(TRACE)),
                ("chat_id", json!(chat)), ("tenant_id", json!(tenant.id)),
                ("user_id", json!(user_id)), ("provider", json!("main")),
                ("effective_model", json!("std")), ("selected_model", json!("std")),
                ("terminal", json!(terminal)), ("error_code", code),
            ] {
                assert_eq!(line[member], expected, "{member} in {line}");
            }
            for member in ["input_tokens", "output_tokens", "total_ms"] {
                assert!(line[member].is_u64(), "{member} in {line}");
            }
            let stored = "SELECT provider_response_id FROM chat_turns ORDER BY started_at DESC LIMIT 1";
            let stored = env.database.query(stored).await?;
            assert_eq!(line["provider_response_id"].as_str(), stored[0][0].as_deref(), "{line}");
            let audit = env.database.payloads("mini-chat.audit").await?;
            let event = audit.last().cloned().unwrap_or_default();
            assert_eq!((&event["request_id"], &event["trace_id"]), (request, &json!(TRACE)));
            if terminal == "completed" {
                assert!(line["provider_response_id"].is_string(), "{line}");
                assert!(line["ttft_ms"].is_u64(), "{line}");
            }
        }
    }

    /// PLAT-139, PLAT-165
    async fn no_log_and_no_admin_page_holds_what_users_wrote(env) {
        const WORDS: [&str; 3] = ["title-of-the-chat", "text-of-the-message", "text-of-the-answer"];
        let [title, message, answer] = WORDS;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        env.write_manifest("acme", &tenant.manifest())?;
        let mut process = Process::serve(BINARY, &env, "").await?;
        let user = process.api.acting_as(tenant.id, Uuid::new_v4())?;
        let chat = user.post("/chats", &json!({"title": title})).await?.expect(201)?;
        let chat = chat["id"].as_str().unwrap_or_default();
        for ending in [Ending::Completed, Ending::Cut] {
            provider.push_scenario(Scenario::deltas(&[answer], ending));
            user.say(chat, message).await?;
            let mut shown = Vec::new();
            while !shown.last().is_some_and(|line: &String| line.contains(FINISHED)) {
                shown.push(process.says("").await?);
            }
            for path in ["/metrics", "/configz", "/healthz", "/readyz"] {
                let page = process.admin.get_absolute(path).await?;
                assert_eq!(page.status, 200, "{path}");
                shown.push(minichat_tests::harness::whole_text(&page));
            }
            for text in shown {
                assert!(!WORDS.iter().any(|word| text.contains(word)), "{text}");
            }
        }
    }
}
