//! Rules for every request: the base path, the statuses of operations, and the
//! headers of answers.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use minichat_tests::child::refused_to_start;
use minichat_tests::client::Api;
use minichat_tests::form::FormFile;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::json;
use uuid::Uuid;

use crate::limits::Stalled;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

/// Calls every operation on one chat of `user` and checks its success status. A
/// 204 must have no body.
async fn succeed(provider: &ScriptedProvider, user: &Api) -> anyhow::Result<()> {
    let chat = user.create_chat(None).await?;
    let first = user.say(&chat, "PING").await?;
    let request = first.only("stream_started")?["request_id"].clone();
    let request = request.as_str().context("an id")?;
    let answer = user.messages(&chat).await?[1]["id"].clone();
    let reaction = format!(
        "/chats/{chat}/messages/{}/reaction",
        answer.as_str().context("an id")?
    );
    let turn = format!("/chats/{chat}/turns/{request}");

    let title = json!({"title": "a"});
    user.patch(&format!("/chats/{chat}"), &title)
        .await?
        .expect(200)?;
    for path in [
        "/chats".to_owned(),
        "/models".to_owned(),
        "/models/prem".to_owned(),
        "/quota/status".to_owned(),
        format!("/chats/{chat}"),
        format!("/chats/{chat}/messages"),
        turn.clone(),
    ] {
        user.get(&path).await?.expect(200)?;
    }
    let file = user
        .upload(&chat, &FormFile::text("a"))
        .await?
        .expect(201)?;
    let file = file["id"].as_str().context("an id")?;
    let file = format!("/chats/{chat}/attachments/{file}");
    user.get(&file).await?.expect(200)?;
    let gone = user.delete(&file).await?;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    let like = json!({"reaction": "like"});
    user.put(&reaction, &like).await?.expect(200)?;
    let gone = user.delete(&reaction).await?;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    user.cancel(&chat, request).await?.expect(200)?;

    let retried = user.open_retry(&chat, request).await?.collect().await?;
    let retried = retried.only("stream_started")?["request_id"].clone();
    let retried = retried.as_str().context("an id")?;
    let edited = user
        .open_edit(&chat, retried, "hello")
        .await?
        .collect()
        .await?;
    let edited = edited.only("stream_started")?["request_id"].clone();
    let edited = edited.as_str().context("an id")?;
    let gone = user.delete_turn(&chat, edited).await?;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));

    provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
    let mut running = user.open(&chat, &json!({"content": "hello"})).await?;
    let started = running.expect("stream_started").await?;
    running.expect("delta").await?;
    user.cancel(&chat, started.text("request_id"))
        .await?
        .expect(202)?;
    running.expect("error").await?;
    let gone = user.delete(&format!("/chats/{chat}")).await?;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    Ok(())
}

on_each_database! {
    /// API-1
    async fn the_api_is_below_its_prefixes_and_nowhere_else(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_SERVER_ROOT_PREFIX=//cf/\nMINICHAT_URL_PREFIX=chat";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let user = stack.new_user(&tenant)?;
        user.get_absolute("/cf/chat/v1/models").await?.expect(200)?;
        for path in ["/chat/v1/models", "/mini-chat/v1/models", "/cf/chat/models", "/v1/models"] {
            user.get_absolute(path).await?.problem(404, "not_found")?;
        }
        let json = [("content-type", "application/json")];
        let created = user
            .send(Method::POST, "/cf/chat/v1/chats", &json, Bytes::from_static(b"{}"))
            .await?;
        let location = created.headers()["location"].to_str()?.to_owned();
        assert!(location.starts_with("/cf/chat/v1/chats/"), "{location}");
        user.get_absolute(&location).await?.expect(200)?;
        stack.stop().await?;

        for prefix in ["/a/../b", "/a b"] {
            let settings = format!("MINICHAT_SERVER_ROOT_PREFIX={prefix}");
            let output = refused_to_start(BINARY, &env, &settings).await?;
            assert!(output.contains("server.root_prefix"), "{output}");
        }
    }

    /// API-6, API-7, D22
    async fn every_operation_succeeds_with_its_status(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        succeed(&scene.provider, &user).await?;
        let turn = format!("/chats/{}/turns/{}:retry", Uuid::new_v4(), Uuid::new_v4());
        let answer = user.post(&turn, &json!({})).await?.problem(405, "method_not_allowed")?;
        assert_eq!(answer["instance"], format!("/mini-chat/v1{turn}"));
    }

    /// API-20, API-21: the path is checked before the body.
    async fn the_earliest_fault_is_told(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let anonymous = &scene.stack.api;
        anonymous.get("/nothing").await?.problem(401, "unauthenticated")?;
        user.get("/nothing").await?.problem(404, "not_found")?;
        let reader = user.with_header("x-scopes", "ai:mini_chat:read")?;
        reader.post("/nothing", &json!({})).await?.problem(403, "insufficient_permissions")?;
        let problem = user
            .post("/chats/xyz/messages:stream", &json!({"content": 5}))
            .await?
            .problem(400, "invalid_request")?;
        assert_eq!(problem["errors"][0]["field"], "id");
        let stranger = format!("/chats/{}/messages:stream", Uuid::new_v4());
        let problem = user.post(&stranger, &json!({"content": 5})).await?.problem(400, "invalid_request")?;
        assert_eq!(problem["errors"][0]["field"], "content");
        user.post(&stranger, &json!({"content": "a"})).await?.problem(404, "chat_not_found")?;
        scene.check_nothing_written().await?;
    }

    /// API-22, PLAT-162
    async fn every_answer_names_its_request(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        for named in ["abc", "A-9_.z"] {
            let user = user.with_header("x-request-id", named)?;
            assert_eq!(user.get("/models").await?.header("x-request-id"), named);
            assert_eq!(user.get("/nothing").await?.header("x-request-id"), named);
            let anonymous = scene.stack.api.with_header("x-request-id", named)?;
            assert_eq!(anonymous.get("/models").await?.header("x-request-id"), named);
            let stream = user.open(&chat, &json!({"content": "PING"})).await?;
            assert_eq!(stream.headers["x-request-id"], named);
            stream.collect().await?.check_grammar()?;
        }
        let too_long = "a".repeat(129);
        for replaced in ["a b", "a/b", &too_long] {
            let user = user.with_header("x-request-id", replaced)?;
            let made: Uuid = user.get("/models").await?.header("x-request-id").parse()?;
            assert_eq!(made.get_version_num(), 4);
        }
    }

    /// API-2, API-23: which bodies are accepted, and what is ignored in them.
    async fn a_body_is_json_whatever_the_client_accepts(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let extra = json!({"title": "a", "colour": "red", "user_id": Uuid::new_v4()});
        let chat = user.post("/chats", &extra).await?.expect(201)?;
        assert!(chat.get("colour").is_none() && chat.get("user_id").is_none(), "{chat}");
        let merge = [("content-type", "application/merge-patch+json; charset=utf-8")];
        user.exchange(Method::POST, "/chats", &merge, "{}".into()).await?.expect(201)?;

        let path = format!("/chats/{}/messages:stream", chat["id"].as_str().context("an id")?);
        let json = [("content-type", "application/json"), ("accept", "text/event-stream")];
        for (body, field) in [
            (r#"{"content":"a"#, None),
            ("", Some("body")),
            ("[]", Some("body")),
            (r#"["a",null,null,null]"#, Some("body")),
            (r#"{"content":"a","web_search":[true]}"#, Some("web_search")),
            ("{}", Some("content")),
            (r#"{"content":null}"#, Some("content")),
            (r#"{"content":5}"#, Some("content")),
            (r#"{"content":" "}"#, Some("content")),
            (r#"{"content":"a","web_search":{"enabled":"x"}}"#, Some("web_search.enabled")),
        ] {
            let answer = user.exchange(Method::POST, &path, &json, body.into()).await?;
            let problem = answer.problem(400, "invalid_request")?;
            if let Some(field) = field {
                assert_eq!(problem["errors"][0]["field"], field, "{body}");
            }
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "text/json"] {
            let kind = [("content-type", kind)];
            let answer = user.exchange(Method::POST, &path, &kind, r#"{"content":"a"}"#.into()).await?;
            answer.problem(415, "unsupported_content_type")?;
        }
        scene.check_nothing_written().await?;
    }

    /// API-3, API-4
    async fn ids_and_instants_have_one_form(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.post("/chats", &json!({"title": null})).await?.expect(201)?;
        assert!(chat.get("title").is_none(), "{chat}");
        let id = chat["id"].as_str().context("an id")?;
        let parsed: Uuid = id.parse()?;
        assert_eq!(parsed.as_hyphenated().to_string(), id);
        for form in [id.to_uppercase(), parsed.as_simple().to_string()] {
            assert_eq!(user.get(&format!("/chats/{form}")).await?.expect(200)?["id"], id);
        }
        for member in ["created_at", "updated_at"] {
            let at = chat[member].as_str().context("an instant")?;
            assert!(at.ends_with('Z') && at.contains('T'), "{at}");
        }
    }

    /// API-26: the deadline applies up to the response head.
    async fn a_stream_outlives_the_deadline_of_its_request(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_SERVER_REQUEST_DEADLINE_SECS=1";
        let stack = env.serve_with(&[&tenant], settings).await?;
        provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&["part"], Ending::Completed)
        });
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let opened = stream.expect("stream_started").await?.at;
        stream.expect("delta").await?;
        // Started after the stream, and still late.
        let late = Stalled::begin(&stack, &tenant).await?;
        late.answer().await?.problem(504, "request_timeout")?;
        assert!(opened.elapsed() >= Duration::from_secs(1));
        provider.release(1);
        stream.expect("done").await?;
        assert!(stream.next().await?.is_none());
    }
}
