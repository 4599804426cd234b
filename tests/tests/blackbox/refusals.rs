//! Every code of the API's problem documents, and what a refused message leaves
//! behind.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Method;
use minichat_core::ErrorCode;
use minichat_tests::client::{Answer, Api};
use minichat_tests::harness::{Env, Scene};
use minichat_tests::manifest::PROVIDER_KEY;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::{Value, json};
use uuid::Uuid;

/// Codes of images: the tests of `message_attachments` cause them.
const OF_IMAGES: [ErrorCode; 3] = [
    ErrorCode::TooManyImages,
    ErrorCode::ImagesDisabled,
    ErrorCode::UnsupportedMedia,
];

/// Codes of files, which the tests of `attachments` and `uploads` cause.
const OF_FILES: [ErrorCode; 12] = [
    ErrorCode::DocumentLimitExceeded,
    ErrorCode::StorageLimitExceeded,
    ErrorCode::CodeInterpreterUnavailable,
    ErrorCode::AttachmentNotFound,
    ErrorCode::AttachmentLocked,
    ErrorCode::ProviderMismatch,
    ErrorCode::FileTooLarge,
    ErrorCode::UnsupportedFileType,
    ErrorCode::ProviderError,
    ErrorCode::VectorStoreTimeout,
    ErrorCode::UploadConcurrencyLimit,
    ErrorCode::ProviderTimeout,
];

/// Codes that need another process, database or tenant. These tests cause them:
/// `a_database_that_fails_…` below, `a_drained_process_…`,
/// `exhausted_limits_refuse_…`, those of `limits`, and
/// `a_switched_off_web_search_…`.
const ELSEWHERE: [ErrorCode; 8] = [
    ErrorCode::InternalError,
    ErrorCode::ServiceUnavailable,
    ErrorCode::QuotaExceeded,
    ErrorCode::PayloadTooLarge,
    ErrorCode::TooManyRequests,
    ErrorCode::InFlightLimit,
    ErrorCode::RequestTimeout,
    ErrorCode::WebSearchDisabled,
];

fn check(answer: &Answer, code: ErrorCode) -> anyhow::Result<ErrorCode> {
    answer.problem(code.http_status(), code.token())?;
    Ok(code)
}

/// Requests that are refused before a handler looks anything up.
async fn refused_at_the_door(scene: &Scene, user: &Api) -> anyhow::Result<Vec<ErrorCode>> {
    let api = &scene.stack.api;
    let stranger = api.acting_as(Uuid::new_v4(), Uuid::new_v4())?;
    let reader = user.with_header("x-scopes", "ai:mini_chat:read")?;
    let anonymous = api.get("/chats").await?;
    assert_eq!(anonymous.header("www-authenticate"), "Bearer");
    let put = user
        .exchange(Method::PUT, "/chats", &[], Bytes::new())
        .await?;
    assert!(put.header("allow").contains("POST"), "{:?}", put.headers);
    let plain = [("content-type", "text/plain")];
    let plain = user
        .exchange(Method::POST, "/chats", &plain, "{}".into())
        .await?;
    Ok(vec![
        check(&anonymous, ErrorCode::Unauthenticated)?,
        check(&api.get("/nothing").await?, ErrorCode::Unauthenticated)?,
        check(
            &stranger.get("/models").await?,
            ErrorCode::FeatureNotLicensed,
        )?,
        check(
            &reader.post("/chats", &json!({})).await?,
            ErrorCode::InsufficientPermissions,
        )?,
        check(&user.get("/nothing").await?, ErrorCode::NotFound)?,
        check(&put, ErrorCode::MethodNotAllowed)?,
        check(&plain, ErrorCode::UnsupportedContentType)?,
        check(&user.get("/chats/xyz").await?, ErrorCode::InvalidRequest)?,
    ])
}

/// Lookups of missing objects, and invalid list queries.
async fn refused_reads(user: &Api, chat: &str) -> anyhow::Result<Vec<ErrorCode>> {
    let random = Uuid::new_v4();
    let get = async |path: String| user.get(&path).await;
    Ok(vec![
        check(
            &get(format!("/chats/{random}")).await?,
            ErrorCode::ChatNotFound,
        )?,
        check(
            &get(format!("/chats/{chat}/turns/{random}")).await?,
            ErrorCode::TurnNotFound,
        )?,
        check(
            &get("/models/nothing".to_owned()).await?,
            ErrorCode::ModelNotFound,
        )?,
        check(
            &get("/chats?limit=0".to_owned()).await?,
            ErrorCode::InvalidLimit,
        )?,
        check(
            &get("/chats?limit=x".to_owned()).await?,
            ErrorCode::InvalidRequest,
        )?,
        check(
            &get("/chats?cursor=garbage".to_owned()).await?,
            ErrorCode::InvalidCursor,
        )?,
        check(
            &get("/chats?$filter=nothing".to_owned()).await?,
            ErrorCode::InvalidFilter,
        )?,
        check(
            &get("/chats?$orderby=nothing".to_owned()).await?,
            ErrorCode::InvalidOrderby,
        )?,
    ])
}

/// Messages that are refused and leave nothing behind.
async fn refused_messages(user: &Api, chat: &str) -> anyhow::Result<Vec<ErrorCode>> {
    let mut codes = Vec::new();
    let ids: Vec<Value> = (0..21).map(|_| json!(Uuid::new_v4().to_string())).collect();
    for (body, code) in [
        (json!({}), ErrorCode::InvalidRequest),
        (json!({"content": "  \n"}), ErrorCode::InvalidRequest),
        (json!({"content": 5}), ErrorCode::InvalidRequest),
        (json!({"content": "a\0b"}), ErrorCode::InvalidRequest),
        (
            json!({"content": "a", "request_id": "x"}),
            ErrorCode::InvalidRequest,
        ),
        (
            json!({"content": "a", "attachment_ids": ["x"]}),
            ErrorCode::InvalidRequest,
        ),
        (
            json!({"content": "a", "attachment_ids": ids}),
            ErrorCode::InvalidRequest,
        ),
        (
            json!({"content": "a", "attachment_ids": ids[..1]}),
            ErrorCode::InvalidAttachment,
        ),
        (
            json!({"content": "a", "web_search": {"enabled": true}}),
            ErrorCode::WebSearchDisabled,
        ),
        // At 4 bytes per token: over `max_input_tokens`, then over the window
        // only.
        (
            json!({"content": "x".repeat(16_000)}),
            ErrorCode::InputTooLong,
        ),
        (
            json!({"content": "x".repeat(9_000)}),
            ErrorCode::ContextBudgetExceeded,
        ),
    ] {
        let answer = user.refused(chat, &body).await?;
        codes.push(check(&answer, code)?);
    }
    let problem = user.refused(chat, &json!({"content": 5})).await?.json()?;
    assert_eq!(problem["errors"][0]["field"], "content");
    Ok(codes)
}

/// A tenant without web search, with a model whose window is smaller than its
/// input limit.
async fn narrow_scene(env: &Env, quotas: Vec<Value>) -> anyhow::Result<Scene> {
    env.scene_with(|mut tenant| {
        tenant.others.extend(quotas);
        let model = tenant.model("std");
        model["contextWindow"] = json!(3000);
        model["maxInputTokens"] = json!(4000);
        model["maxOutputTokens"] = json!(1000);
        tenant.spec()["killSwitches"] = json!({"disableWebSearch": true});
        tenant
    })
    .await
}

on_each_database! {
    /// API-20, API-30, API-31, API-32, API-65, TURN-9, CONT-1
    async fn every_code_is_answered_to_the_request_that_deserves_it(env) {
        let scene = narrow_scene(&env, Vec::new()).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut codes = refused_at_the_door(&scene, &user).await?;
        codes.extend(refused_reads(&user, &chat).await?);
        codes.extend(refused_messages(&user, &chat).await?);
        scene.check_nothing_written().await?;
        codes.extend(refused_while_running(&scene, &user, &chat).await?);
        codes.extend(refused_reactions(&user, &chat).await?);

        let answered: BTreeSet<&str> = codes
            .iter()
            .chain(&OF_IMAGES)
            .chain(&OF_FILES)
            .chain(&ELSEWHERE)
            .map(|code| code.token())
            .collect();
        let all: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.token()).collect();
        assert_eq!(answered, all);
    }

    /// QUOTA-44, D35: of several reasons the first one is answered. A decision about
    /// the quota counts, although a later check refuses the message.
    async fn the_first_check_of_a_preflight_that_fails_answers(env) {
        let poor = Uuid::new_v4();
        let nothing = json!({"daily": "0", "monthly": "0"});
        let quota = json!({
            "apiVersion": "minichat.dev/v1alpha1",
            "kind": "ChatQuota",
            "metadata": {"name": "nothing", "namespace": "default"},
            "spec": {
                "tenantRef": {"name": "acme"},
                "subjects": [{"kind": "User", "name": poor.to_string()}],
                "limits": {"standard": nothing, "premium": nothing},
            },
        });
        let scene = narrow_scene(&env, vec![quota]).await?;
        let rich = scene.new_user()?;
        let poor = scene.stack.caller(&scene.tenant, poor)?;
        // Over the input limit and the window, and over the window alone.
        let (longest, long) = ("x".repeat(16_000), "x".repeat(9_000));
        let searching = json!({"content": longest, "web_search": {"enabled": true}});
        let mut counted = Vec::new();
        for (user, body, code) in [
            (&poor, searching, ErrorCode::WebSearchDisabled),
            (&poor, json!({"content": longest}), ErrorCode::QuotaExceeded),
            (&rich, json!({"content": longest}), ErrorCode::InputTooLong),
            (&rich, json!({"content": long}), ErrorCode::ContextBudgetExceeded),
        ] {
            let chat = user.create_chat(Some("std")).await?;
            check(&user.refused(&chat, &body).await?, code)?;
            let scrape = scene.stack.scrape().await?;
            let count = |decision| {
                scrape.count("mini_chat_quota_preflight_total", &[("decision", decision)])
            };
            let estimated = scrape.count("mini_chat_quota_estimated_tokens_count", &[])?;
            counted.push([count("reject")?, count("allow")?, estimated]);
        }
        assert_eq!(counted, [[0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 2, 2]]);
        scene.check_nothing_written().await?;
    }

    /// TURN-9, QUOTA-18, CONT-101: nothing is written, the message is accepted
    /// without web search, and the switch is read for each request.
    async fn a_switched_off_web_search_is_refused(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["killSwitches"] = json!({"disableWebSearch": true});
            tenant
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let body = |enabled: bool| json!({"content": "PING", "web_search": {"enabled": enabled}});
        check(&user.refused(&chat, &body(true)).await?, ErrorCode::WebSearchDisabled)?;
        scene.check_nothing_written().await?;
        user.open(&chat, &body(false)).await?.collect().await?.only("done")?;
        let stack = &scene.stack;
        for is_off in [false, true] {
            let before = stack.configz(&scene.tenant).await?["revision"].clone();
            let mut tenant = scene.tenant.clone();
            tenant.spec()["killSwitches"] = json!({"disableWebSearch": is_off});
            stack.write_manifest("acme", &tenant.manifest())?;
            stack.eventually("reloaded", async || {
                Ok(stack.configz(&tenant).await?["revision"] != before)
            }).await?;
            if is_off {
                check(&user.refused(&chat, &body(true)).await?, ErrorCode::WebSearchDisabled)?;
            } else {
                user.open(&chat, &body(true)).await?.collect().await?.only("done")?;
            }
        }
    }

    /// API-31, API-32: the database's error is only logged.
    async fn a_database_that_fails_is_an_internal_error_without_a_word_of_it(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let database = scene.database();
        database.query("ALTER TABLE chats RENAME TO away").await?;
        for answer in [
            user.get("/chats").await?,
            user.get(&format!("/chats/{chat}/messages")).await?,
            user.refused(&chat, &json!({"content": "hello"})).await?,
            user.post("/chats", &json!({})).await?,
        ] {
            let detail = answer.problem(500, "internal_error")?["detail"].to_string();
            for word in ["chats", "table", "relation", "SELECT", "INSERT", "sql", "SQL"] {
                assert!(!detail.contains(word), "{word} in {detail}");
            }
        }
        database.query("ALTER TABLE away RENAME TO chats").await?;
        user.get(&format!("/chats/{chat}")).await?.expect(200)?;
        scene.check_nothing_written().await?;
    }

    /// API-5, PLAT-19: no identifier of a provider or a database.
    async fn no_answer_tells_ids_of_tenants_users_or_providers(env) {
        let scene = env.scene().await?;
        let user_id = Uuid::new_v4();
        let user = scene.stack.caller(&scene.tenant, user_id)?;
        let chat = user.create_chat(None).await?;
        let mut seen = Vec::new();
        let mut turns = Vec::new();
        for content in ["PING", "ERROR", "TRUNCATE"] {
            let stream = user.open(&chat, &json!({"content": content})).await?;
            seen.push(format!("{:?}", stream.headers));
            let events = stream.collect().await?;
            seen.extend(events.0.iter().map(|event| event.data.to_string()));
            let request = events.only("stream_started")?["request_id"].clone();
            turns.push(format!("/chats/{chat}/turns/{}", request.as_str().unwrap_or_default()));
        }
        let created = user.post("/chats", &json!({"title": "a"})).await?;
        seen.push(minichat_tests::harness::whole_text(&created));
        let messages = format!("/chats/{chat}/messages");
        let paths = ["/chats", "/models", "/models/prem", "/quota/status", "/chats/xyz", "/nothing", &messages];
        for path in paths.into_iter().chain(turns.iter().map(String::as_str)) {
            seen.push(minichat_tests::harness::whole_text(&user.get(path).await?));
        }
        let own = [
            scene.tenant.id.to_string(),
            user_id.to_string(),
            scene.provider.addr.to_string(),
        ];
        let words = ["resp_", "at-provider", PROVIDER_KEY, "tenant_id", "user_id"];
        for text in seen {
            for secret in own.iter().map(String::as_str).chain(words) {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
    }
}

/// Reactions to messages that allow none.
async fn refused_reactions(user: &Api, chat: &str) -> anyhow::Result<Vec<ErrorCode>> {
    let like = json!({"reaction": "like"});
    let question = user.messages(chat).await?[0]["id"].clone();
    let path = |id: &str| format!("/chats/{chat}/messages/{id}/reaction");
    let question = path(question.as_str().unwrap_or_default());
    let random = path(&Uuid::new_v4().to_string());
    Ok(vec![
        check(
            &user.put(&question, &like).await?,
            ErrorCode::InvalidReactionTarget,
        )?,
        check(&user.put(&random, &like).await?, ErrorCode::MessageNotFound)?,
    ])
}

/// Messages that meet a running turn (API-68).
async fn refused_while_running(
    scene: &Scene,
    user: &Api,
    chat: &str,
) -> anyhow::Result<Vec<ErrorCode>> {
    scene.provider.push_scenario(Scenario {
        hold_before_head: true,
        ..Scenario::deltas(&["ok"], Ending::Completed)
    });
    let id = Uuid::new_v4().to_string();
    let same = json!({"content": "hello", "request_id": id});
    let mut stream = user.open(chat, &same).await?;
    stream.expect("stream_started").await?;
    let other = json!({"content": "hello"});
    let codes = vec![
        check(
            &user.refused(chat, &same).await?,
            ErrorCode::RequestIdConflict,
        )?,
        check(
            &user.refused(chat, &other).await?,
            ErrorCode::GenerationInProgress,
        )?,
        check(&user.retry(chat, &id).await?, ErrorCode::InvalidTurnState)?,
    ];
    scene.provider.release(1);
    stream.expect("delta").await?;
    stream.expect("done").await?;
    user.delete_turn(chat, &id).await?.expect(204)?;
    let gone = user.delete_turn(chat, &id).await?;
    user.say(chat, "hello").await?;
    Ok([codes, vec![check(&gone, ErrorCode::NotLatestTurn)?]].concat())
}
