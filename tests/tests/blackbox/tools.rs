//! Tools that the provider runs: which requests offer them, what clients see of their
//! calls, how often they may be called, and what an answer cites.

use anyhow::Context as _;
use minichat_core::ErrorCode;
use minichat_tests::client::Api;
use minichat_tests::database::DatabaseKind;
use minichat_tests::form::{FormFile, beginning};
use minichat_tests::harness::{Env, Scene, run};
use minichat_tests::on_each_database;
use minichat_tests::postgres::Transaction;
use minichat_tests::scripted_provider::Scenario;
use minichat_tests::sse::Events;
use serde_json::{Value, json};

const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

/// The completed calls that the newest turn's row has.
const COMPLETED: &str = "SELECT web_search_completed_count, code_interpreter_completed_count, \
    error_code FROM chat_turns ORDER BY started_at DESC LIMIT 1";

/// Serves a tenant whose models can use every tool.
async fn scene(env: &Env) -> anyhow::Result<Scene> {
    env.scene_with(|mut tenant| {
        for model in ["prem", "std"] {
            tenant.model(model)["toolSupport"] =
                json!({"webSearch": true, "fileSearch": true, "codeInterpreter": true});
        }
        tenant.spec()["context"] =
            json!({"webSearchGuard": "web guard", "fileSearchGuard": "file guard"});
        tenant
    })
    .await
}

fn text() -> FormFile {
    FormFile::text("the code is 4711")
}

fn spreadsheet() -> FormFile {
    FormFile::new("a.xlsx", XLSX, beginning(b"PK\x03\x04", 64))
}

/// Uploads a file, and returns its id.
async fn uploaded(user: &Api, chat: &str, file: &FormFile) -> anyhow::Result<String> {
    let file = user.upload(chat, file).await?.expect(201)?;
    Ok(file["id"].as_str().context("no id")?.to_owned())
}

fn searching(content: &str) -> Value {
    json!({"content": content, "web_search": {"enabled": true}})
}

async fn sent(user: &Api, chat: &str, body: &Value) -> anyhow::Result<Events> {
    user.open(chat, body).await?.collect().await
}

/// The body of the newest generation.
fn request(scene: &Scene) -> Value {
    let mut requests = scene.provider.requests().into_iter().rev();
    let generation = requests.find(|request| request.path == "/v1/responses");
    generation.map(|request| request.body).unwrap_or_default()
}

/// The ids of the chat's files at the provider, oldest first.
async fn file_ids(scene: &Scene) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT provider_file_id FROM attachments ORDER BY created_at";
    let rows = scene.database().query(sql).await?;
    Ok(rows.into_iter().filter_map(|row| row[0].clone()).collect())
}

/// A stream of these events.
fn stream(events: &[(&str, Value)]) -> Scenario {
    let frame = |(name, data): &(&str, Value)| format!("event: {name}\ndata: {data}\n\n");
    Scenario::raw(events.iter().map(frame).collect::<String>())
}

fn event(name: &str) -> (&str, Value) {
    (name, json!({"type": name}))
}

/// The beginning and the end of a call.
fn call<'a>(tool: &str, start: &'a str, done: &'a str) -> [(&'a str, Value); 2] {
    debug_assert!(start.contains(tool) && done.contains(tool));
    [event(start), event(done)]
}

fn web_search() -> [(&'static str, Value); 2] {
    call(
        "web_search",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
    )
}

fn code_call(output: &str) -> [(&'static str, Value); 2] {
    let start = "response.code_interpreter_call.in_progress";
    let done = "response.code_interpreter_call.completed";
    let outputs = json!([
        {"type": "image", "url": "https://example.com/plot.png"},
        {"type": "logs", "logs": output},
    ]);
    [
        event(start),
        (done, json!({"type": done, "outputs": outputs})),
    ]
}

/// The end of an answer with this text and these sources.
fn completed(spoken: &str, annotations: &Value) -> (&'static str, Value) {
    let part = json!({"type": "output_text", "text": spoken, "annotations": annotations});
    let response = json!({
        "id": "resp_1",
        "output": [{"type": "message", "role": "assistant", "content": [part]}],
        "usage": {"input_tokens": 20, "output_tokens": 10},
    });
    let name = "response.completed";
    (name, json!({"type": name, "response": response}))
}

/// The `tool` events, as phase, name and details.
fn tool_events(events: &Events) -> Vec<Value> {
    let tools = events.0.iter().filter(|event| event.name == "tool");
    tools.map(|event| event.data.clone()).collect()
}

fn tool(phase: &str, name: &str, details: &Value) -> Value {
    json!({"phase": phase, "name": name, "details": details})
}

on_each_database! {
    /// CONT-2, CONT-3, CONT-32, CONT-33, CONT-72, CONT-100, CONT-106, QUOTA-38; checks 5, 11, 39
    /// and 40 of chapter 04
    async fn a_request_offers_the_tools_whose_files_are_ready(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        sent(&user, &chat, &json!({"content": "hello"})).await?.only("done")?;
        let body = request(&scene);
        assert_eq!((&body["tools"], &body["instructions"]), (&Value::Null, &Value::Null));
        assert_eq!(body["metadata"]["feature"], "none");

        sent(&user, &chat, &searching("hello")).await?.only("done")?;
        let body = request(&scene);
        assert_eq!(body["tools"], json!([{"type": "web_search", "search_context_size": "low"}]));
        assert_eq!(body["instructions"], "web guard");
        assert_eq!(body["metadata"]["feature"], "web_search");

        let note = uploaded(&user, &chat, &text()).await?;
        uploaded(&user, &chat, &spreadsheet()).await?;
        sent(&user, &chat, &searching("hello")).await?.only("done")?;
        let body = request(&scene);
        let (_, stores) = scene.provider.stored();
        let files = file_ids(&scene).await?;
        let expected = json!([
            {"type": "file_search", "vector_store_ids": stores, "max_num_results": 5},
            {"type": "web_search", "search_context_size": "low"},
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": [files[1]]}},
        ]);
        assert_eq!(body["tools"], expected);
        assert_eq!(body["instructions"], "web guard\n\nfile guard");
        assert_eq!(body["metadata"]["feature"], "file_search+web_search+code_interpreter");

        user.delete(&format!("/chats/{chat}/attachments/{note}")).await?.expect(204)?;
        sent(&user, &chat, &json!({"content": "hello"})).await?.only("done")?;
        assert_eq!(request(&scene)["metadata"]["feature"], "code_interpreter");
        assert_eq!(request(&scene)["instructions"], Value::Null);
    }

    /// CONT-12: a retry asks for the tools of the turn that it replaces; check 18 of chapter 04
    async fn a_retry_offers_the_same_tools(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let events = sent(&user, &chat, &searching("hello")).await?;
        let key = events.only("stream_started")?["request_id"].as_str().context("no id")?.to_owned();
        let before = request(&scene);
        user.open_retry(&chat, &key).await?.collect().await?.only("done")?;
        let after = request(&scene);
        assert_eq!(after["tools"], json!([{"type": "web_search", "search_context_size": "low"}]));
        assert_eq!(after["instructions"], before["instructions"]);
        let reserves = "SELECT DISTINCT reserve_tokens FROM chat_turns";
        assert_eq!(scene.database().query(reserves).await?.len(), 1, "the same surcharges");
    }

    /// CONT-37, CONT-38, CONT-107; checks 16 and 48 of chapter 04
    async fn a_provider_is_offered_only_what_it_can_run(env) {
        for (kind, tools) in [
            ("OpenAIChatCompletions", Value::Null),
            // It has not the documents.
            ("OpenAIResponses", json!([{"type": "web_search", "search_context_size": "low"}])),
        ] {
            let env = env.another().await?;
            let scene = env.scene_with(|mut tenant| {
                let mut other = tenant.spec()["providers"][0].clone();
                other["name"] = json!("other");
                other["kind"] = json!(kind);
                if let Some(providers) = tenant.spec()["providers"].as_array_mut() {
                    providers.push(other);
                }
                for model in ["prem", "std"] {
                    tenant.model(model)["toolSupport"] =
                        json!({"webSearch": true, "fileSearch": true, "codeInterpreter": true});
                }
                tenant.model("std")["providerRef"] = json!("other");
                tenant.spec()["killSwitches"] = json!({"forceStandardTier": true});
                tenant
            }).await?;
            let user = scene.new_user()?;
            let chat = user.create_chat(Some("prem")).await?;
            uploaded(&user, &chat, &text()).await?;
            uploaded(&user, &chat, &spreadsheet()).await?;
            let events = sent(&user, &chat, &searching("hello")).await?;
            assert_eq!(events.only("done")?["effective_model"], "std");
            let requests = scene.provider.requests();
            let body = &requests.last().context("no request")?.body;
            assert_eq!(body["tools"], tools, "{kind}: {body}");
        }
    }

    /// CONT-101, QUOTA-18; check 41 of chapter 04
    async fn a_tool_that_is_switched_off_is_left_out(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        uploaded(&user, &chat, &text()).await?;
        uploaded(&user, &chat, &spreadsheet()).await?;
        let switches = ["disableWebSearch", "disableFileSearch", "disableCodeInterpreter"];
        let switches = switches.map(|name| (name.to_owned(), json!(true)));
        let mut tenant = scene.tenant.clone();
        tenant.spec()["killSwitches"] = switches.into_iter().collect();
        scene.stack.apply(&tenant).await?;
        let refused = user.refused(&chat, &searching("hello")).await?;
        let code = ErrorCode::WebSearchDisabled;
        refused.problem(code.http_status(), code.token())?;
        scene.database().query("UPDATE quota_usage SET code_interpreter_calls = 50").await?;
        sent(&user, &chat, &json!({"content": "hello"})).await?.only("done")?;
        assert_eq!(request(&scene)["tools"], Value::Null);
    }

    /// API-143, CONT-104, CONT-105, CONT-111, TURN-20, TURN-29, QUOTA-71, QUOTA-73, PLAT-83; checks 44
    /// and 45 of chapter 04
    async fn calls_are_shown_and_counted(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let found = "response.file_search_call.completed";
        let mut events = vec![event("response.created")];
        events.extend(web_search());
        events.push(event("response.file_search_call.searching"));
        events.push((found, json!({"type": found, "results": [{"file_id": "a"}, {"file_id": "b"}]})));
        events.extend(code_call(&"é".repeat(9000)));
        events.push(event("response.code_interpreter_call.interpreting"));
        events.extend(code_call("2"));
        events.push(completed("Hi", &json!([])));
        scene.provider.push_scenario(stream(&events));
        let events = sent(&user, &chat, &searching("hello")).await?;
        events.check_grammar()?;
        events.only("done")?;
        let nothing = json!({});
        let long = format!("{}...[truncated]", "é".repeat(8192));
        let expected = [
            tool("start", "web_search", &nothing),
            tool("done", "web_search", &nothing),
            tool("start", "file_search", &nothing),
            tool("done", "file_search", &json!({"files_searched": 2})),
            tool("start", "code_interpreter", &nothing),
            tool("done", "code_interpreter", &json!({"output": long})),
            tool("start", "code_interpreter", &nothing),
            tool("done", "code_interpreter", &json!({"output": "2"})),
        ];
        assert_eq!(tool_events(&events), expected);

        let database = scene.database();
        let row = database.query(COMPLETED).await?;
        assert_eq!(row[0], [Some("1".to_owned()), Some("2".to_owned()), None]);
        let sums = "SELECT DISTINCT web_search_calls, code_interpreter_calls, file_search_calls \
            FROM quota_usage WHERE bucket = 'total'";
        let sums = database.query(sums).await?;
        assert_eq!(sums, [["1", "2", "1"].map(|sum| Some(sum.to_owned())).to_vec()]);
        let usage = database.payloads("mini-chat.usage_snapshot").await?;
        let counts = ["web_search_calls", "code_interpreter_calls", "file_search_calls"];
        assert_eq!(counts.map(|name| usage[0][name].clone()), [json!(1), json!(2), json!(1)]);
        let audit = database.payloads("mini-chat.audit").await?;
        let turn = audit.iter().find(|event| event["event_type"] == "turn_completed");
        let calls = &turn.context("no audit event")?["tool_calls"];
        assert_eq!(counts.map(|name| calls[name].clone()), [json!(1), json!(2), json!(1)]);
        let labels = [("model", "std")];
        let counted = scene.stack.scrape().await?;
        assert_eq!(counted.count("mini_chat_code_interpreter_calls_total", &labels)?, 2);
    }

    /// QUOTA-62, QUOTA-73: file searches alone are counted as well.
    async fn a_file_search_alone_is_counted(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let found = "response.file_search_call.completed";
        let events = [(found, json!({"results": []})), completed("Hi", &json!([]))];
        scene.provider.push_scenario(stream(&events));
        sent(&user, &chat, &json!({"content": "hello"})).await?.only("done")?;
        let sums = "SELECT DISTINCT file_search_calls FROM quota_usage WHERE bucket = 'total'";
        assert_eq!(scene.database().number(sums).await?, 1);
    }

    /// D54, QUOTA-61, QUOTA-67: a provider that has run tools has not refused the call.
    async fn a_status_after_calls_is_charged(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut events = web_search().to_vec();
        events.push(("error", json!({"code": "429", "message": "slow down"})));
        scene.provider.push_scenario(stream(&events));
        sent(&user, &chat, &searching("hello")).await?.only("error")?;
        let usage = scene.database().payloads("mini-chat.usage_snapshot").await?;
        assert_eq!(usage[0]["settlement_method"], "estimated", "{}", usage[0]);
        assert_eq!(usage[0]["web_search_calls"], 1);
    }

    /// CONT-39: what code prints has no ids of the provider.
    async fn printed_ids_are_masked(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        uploaded(&user, &chat, &spreadsheet()).await?;
        let file = file_ids(&scene).await?.remove(0);
        let mut events = code_call(&format!("/mnt/data/{file}-a.xlsx")).to_vec();
        events.push(completed("Hi", &json!([])));
        scene.provider.push_scenario(stream(&events));
        let events = sent(&user, &chat, &json!({"content": "hello"})).await?;
        let printed = &tool_events(&events)[1]["details"]["output"];
        assert_eq!(printed, "/mnt/data/[provider_id]-a.xlsx");
    }

    /// CONT-103, TURN-28, QUOTA-67, QUOTA-70, D11, API-146; checks 27 of chapter 02, 23 of chapter 03, 43 of
    /// chapter 04 and 69 of chapter 01
    async fn the_call_beyond_the_limit_ends_the_turn(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        for (most, code, calls) in [
            (2, "web_search_calls_exceeded", web_search()),
            (10, "code_interpreter_calls_exceeded", code_call("1")),
        ] {
            let chat = user.create_chat(Some("std")).await?;
            let mut events = vec![("response.output_text.delta", json!({"delta": "partial"}))];
            for _ in 0..most {
                events.extend(calls.clone());
            }
            let mut exceeding = events.clone();
            exceeding.push(calls[0].clone());
            // More than the data plane would read of a stream that it has left.
            let rest = ("response.output_text.delta", json!({"delta": "x".repeat(1_000)}));
            exceeding.extend(std::iter::repeat_n(rest, 20_000));
            events.push(completed("partial", &json!([])));
            scene.provider.push_scenario(stream(&events));
            let events = sent(&user, &chat, &searching("hello")).await?;
            events.only("done").with_context(|| format!("{code}: {most} calls"))?;
            assert_eq!(tool_events(&events).len(), 2 * most);

            let aborted = scene.provider.stats().answers_aborted;
            scene.provider.push_scenario(stream(&exceeding));
            let events = sent(&user, &chat, &searching("hello")).await?;
            assert_eq!(events.only("error")?["code"], code);
            assert_eq!(tool_events(&events).len(), 2 * most, "the call beyond is not shown");
            let row = scene.database().query(COMPLETED).await?;
            let column = usize::from(most == 10);
            assert_eq!(row[0][column], Some(most.to_string()));
            assert_eq!(row[0][2].as_deref(), Some(code));
            let provider = &scene.provider;
            let is_left = async || Ok(provider.stats().answers_aborted > aborted);
            scene.stack.eventually("the provider is left", is_left).await?;
            let kept = "SELECT count(*) FROM messages WHERE role = 'assistant'";
            let before = i64::from(most == 10) + 1;
            assert_eq!(scene.database().number(kept).await?, before, "D11");
        }
        let usage = scene.database().payloads("mini-chat.usage_snapshot").await?;
        let failed: Vec<_> = usage.iter().filter(|event| event["outcome"] == "failed").collect();
        assert_eq!(failed.len(), 2);
        for event in failed {
            assert_eq!(event["settlement_method"], "estimated", "{event}");
        }
    }

    /// CONT-102, QUOTA-24, QUOTA-49, QUOTA-50; checks 24 of chapter 03 and 42 of chapter 04
    async fn a_daily_quota_refuses_only_what_offers_the_tool(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let [plain, files] = [
            user.create_chat(Some("std")).await?,
            user.create_chat(Some("std")).await?,
        ];
        sent(&user, &plain, &searching("hello")).await?.only("done")?;
        uploaded(&user, &files, &spreadsheet()).await?;
        let refused = async |chat: &str, body: &Value| {
            let code = ErrorCode::QuotaExceeded;
            user.refused(chat, body).await?.problem(code.http_status(), code.token())
        };
        for (column, most, scope) in [
            ("web_search_calls", 75, "web_search"),
            ("code_interpreter_calls", 50, "code_interpreter"),
        ] {
            let used = |calls: i32| {
                format!("UPDATE quota_usage SET {column} = {calls} WHERE bucket = 'total'")
            };
            let (chat, body) = match scope {
                "web_search" => (&plain, searching("hello")),
                _ => (&files, json!({"content": "hello"})),
            };
            scene.database().query(&used(most)).await?;
            assert_eq!(refused(chat, &body).await?["quota_scope"], scope);
            sent(&user, &plain, &json!({"content": "hello"})).await?.only("done")?;
            scene.database().query(&used(most - 1)).await?;
            sent(&user, chat, &body).await?.only("done")?;
        }
    }

    /// API-144, CONT-108, CONT-109, CONT-110, CONT-39, TURN-26; checks 67 of chapter 01, 46 and 47 of
    /// chapter 04
    async fn sources_are_shown_by_our_names(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let note = uploaded(&user, &chat, &text()).await?;
        let file = file_ids(&scene).await?.remove(0);
        let spoken = "Zürich 🏔 is cited.";
        let of_file = |id: &str| json!({"type": "file_citation", "file_id": id, "filename": "theirs.txt"});
        let page = |start: usize, end: usize| json!({
            "type": "url_citation", "url": "https://example.com/a", "title": "A page",
            "start_index": start, "end_index": end,
        });
        let annotations = json!([
            of_file("file-unknown"), of_file(&file), page(7, 11), {"type": "file_path", "file_id": file},
            page(5, 1000),
        ]);
        let answer = |annotations: &Value| stream(&[
            ("response.output_text.delta", json!({"delta": spoken})),
            completed(spoken, annotations),
        ]);
        scene.provider.push_scenario(answer(&annotations));
        let key = uuid::Uuid::new_v4();
        let body = json!({"content": "hello", "request_id": key});
        let events = sent(&user, &chat, &body).await?;
        events.check_grammar()?;
        assert_eq!(events.names().iter().rev().take(2).collect::<Vec<_>>(), [&"done", &"citations"]);
        let expected = json!({"items": [
            {"source": "file", "title": "notes.txt", "attachment_id": note, "snippet": ""},
            {"source": "web", "title": "A page", "url": "https://example.com/a", "snippet": "🏔 is",
                "span": {"start": 7, "end": 11}},
            {"source": "web", "title": "A page", "url": "https://example.com/a", "snippet": ""},
        ]});
        assert_eq!(events.only("citations")?, &expected);

        let replayed = sent(&user, &chat, &body).await?;
        assert!(!replayed.names().contains(&"citations"), "none on a replay");

        user.delete(&format!("/chats/{chat}/attachments/{note}")).await?.expect(204)?;
        scene.provider.push_scenario(answer(&json!([of_file(&file)])));
        let events = sent(&user, &chat, &json!({"content": "again"})).await?;
        events.only("done")?;
        assert!(!events.names().contains(&"citations"), "the file is deleted");
    }
}

/// QUOTA-50, QUOTA-52: a call that is counted after a message was read, and before its
/// reserve, refuses the message.
#[test]
fn a_call_that_is_counted_meanwhile_refuses_the_message() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        uploaded(&user, &chat, &spreadsheet()).await?;
        sent(&user, &chat, &searching("hello"))
            .await?
            .only("done")?;
        let waiting = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let wait_for = async |count: i64| {
            while env.database.number(waiting).await? != count {
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        for (column, most, body) in [
            ("web_search_calls", 75, searching("hello")),
            ("code_interpreter_calls", 50, json!({"content": "hello"})),
        ] {
            let lock = "SELECT pg_advisory_xact_lock(7)";
            let lock = Transaction::begin(&env.database.url(), lock).await?;
            // The row stays locked until the lock is free.
            let count = format!(
                "WITH counted AS (UPDATE quota_usage SET {column} = {most} \
                 WHERE bucket = 'total' RETURNING id) \
                 SELECT count(*), CAST(pg_advisory_xact_lock(7) AS TEXT) FROM counted"
            );
            let counted = async { env.database.query(&count).await };
            let sent = async {
                wait_for(1).await?;
                user.refused(&chat, &body).await
            };
            let lets_go = async {
                wait_for(2).await?;
                drop(lock);
                anyhow::Ok(())
            };
            let (_, refused, ()) = tokio::try_join!(counted, sent, lets_go)?;
            let code = ErrorCode::QuotaExceeded;
            refused.problem(code.http_status(), code.token())?;
            let none = format!("UPDATE quota_usage SET {column} = 0");
            env.database.query(&none).await?;
        }
        Ok(())
    })
}
