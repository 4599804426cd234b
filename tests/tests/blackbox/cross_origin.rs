//! Requests of browsers for pages of other origins (API-28).

use bytes::Bytes;
use http::Method;
use minichat_tests::client::{Answer, Api, BASE};
use minichat_tests::harness::Stack;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::json;

const PAGE: &str = "https://chat.example.com";
const EXPOSED: &str = "location, retry-after, x-request-id";

/// A data plane with `settings`, one tenant, and its provider.
async fn serve(
    env: &minichat_tests::harness::Env,
    settings: &[&str],
) -> anyhow::Result<(Stack, Tenant, ScriptedProvider)> {
    let provider = ScriptedProvider::start().await?;
    let tenant = Tenant::new("acme", provider.addr);
    let settings: Vec<_> = settings
        .iter()
        .map(|setting| format!("MINICHAT_SERVER_{setting}"))
        .collect();
    let stack = env.serve_with(&[&tenant], &settings.join("\n")).await?;
    Ok((stack, tenant, provider))
}

async fn preflight(api: &Api, path: &str, origin: &str) -> anyhow::Result<Answer> {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type",
        ),
    ];
    api.exchange(Method::OPTIONS, path, &headers, Bytes::new())
        .await
}

async fn from(api: &Api, origin: &str, method: Method, path: &str) -> anyhow::Result<Answer> {
    let headers = [("origin", origin), ("content-type", "application/json")];
    api.exchange(method, path, &headers, Bytes::from_static(b"{}"))
        .await
}

fn cors_headers(answer: &Answer) -> Vec<String> {
    let names = answer.headers.keys().map(|name| name.as_str().to_owned());
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

on_each_database! {
    /// Check 20 of chapter 01
    async fn without_the_setting_no_answer_speaks_of_origins(env) {
        let (stack, tenant, _provider) = serve(&env, &[]).await?;
        let user = stack.new_user(&tenant)?;
        let refused = preflight(&stack.api, "/chats", PAGE).await?;
        refused.problem(401, "unauthenticated")?;
        let wrong = preflight(&user, "/chats", PAGE).await?;
        wrong.problem(405, "method_not_allowed")?;
        let created = from(&user, PAGE, Method::POST, "/chats").await?;
        created.expect(201)?;
        for answer in [refused, wrong, created] {
            assert_eq!(cors_headers(&answer), [""; 0]);
        }
    }

    /// API-28; check 20 of chapter 01: without identity, without rate limit, on
    /// any path.
    async fn a_preflight_is_answered_before_everything_else(env) {
        let limited = ["CORS_ENABLED=true", "RATE_LIMIT_PER_SECOND=1", "RATE_LIMIT_BURST=1"];
        let (stack, _tenant, _provider) = serve(&env, &limited).await?;
        for path in ["/chats", "/models", "/nothing"] {
            for _ in 0..5 {
                let answer = preflight(&stack.api, path, PAGE).await?;
                assert_eq!(answer.status, 204);
                assert!(answer.body.is_empty());
                assert_eq!(answer.header("access-control-allow-origin"), "*");
                assert_eq!(answer.header("access-control-allow-headers"), "authorization, *");
                let methods = answer.header("access-control-allow-methods");
                assert_eq!(methods, "GET, POST, PUT, PATCH, DELETE, OPTIONS");
                assert_eq!(answer.header("access-control-max-age"), "600");
                assert!(answer.headers.get("access-control-allow-credentials").is_none());
                assert!(!answer.header("x-request-id").is_empty());
                assert!(answer.headers.get("x-ratelimit-limit").is_none());
            }
        }
        // It is a preflight only with both headers.
        for headers in [&[("origin", PAGE)][..], &[("access-control-request-method", "GET")], &[]] {
            let answer = stack.api.exchange(Method::OPTIONS, "/chats", headers, Bytes::new()).await?;
            answer.problem(401, "unauthenticated")?;
        }
    }

    /// API-28: errors of every layer, and streams.
    async fn a_page_may_read_answers_errors_and_streams(env) {
        let limited = ["CORS_ENABLED=true", "RATE_LIMIT_PER_SECOND=1", "RATE_LIMIT_BURST=3"];
        let (stack, tenant, _provider) = serve(&env, &limited).await?;
        let user = stack.new_user(&tenant)?;
        let created = from(&user, PAGE, Method::POST, "/chats").await?;
        let chat = created.expect(201)?["id"].as_str().unwrap_or_default().to_owned();
        let unknown = from(&user, PAGE, Method::GET, "/nothing").await?;
        unknown.problem(404, "not_found")?;
        let stranger = from(&stack.api, PAGE, Method::GET, "/chats").await?;
        stranger.problem(401, "unauthenticated")?;
        let mut limited = from(&user, PAGE, Method::GET, "/models").await?;
        while limited.status != 429 {
            limited = from(&user, PAGE, Method::GET, "/models").await?;
        }
        for answer in [created, unknown, stranger, limited] {
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{answer:?}");
            assert_eq!(answer.header("access-control-expose-headers"), EXPOSED, "{answer:?}");
        }
        let headers = [("origin", PAGE), ("content-type", "application/json")];
        let body = Bytes::from(json!({"content": "hello"}).to_string());
        let path = format!("{BASE}/chats/{chat}/messages:stream");
        let stream = user.send(Method::POST, &path, &headers, body).await?;
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.headers()["access-control-allow-origin"], "*");
        assert_eq!(stream.headers()["access-control-expose-headers"], EXPOSED);
    }

    /// API-28
    async fn only_named_origins_may_and_credentials_only_with_them(env) {
        let named = [
            "CORS_ENABLED=true",
            "CORS_ALLOWED_ORIGINS=https://chat.example.com, http://localhost:5173",
            "CORS_ALLOW_CREDENTIALS=true",
            "CORS_ALLOWED_METHODS=GET,POST",
            "CORS_MAX_AGE_SECS=5",
        ];
        let (stack, tenant, _provider) = serve(&env, &named).await?;
        let user = stack.new_user(&tenant)?;
        for page in [PAGE, "http://localhost:5173"] {
            let preflight_answer = preflight(&stack.api, "/chats", page).await?;
            // With credentials, `*` would be the name of a header.
            let headers = preflight_answer.header("access-control-allow-headers");
            assert_eq!(headers, "authorization, authorization,content-type");
            assert_eq!(preflight_answer.header("access-control-allow-methods"), "GET, POST");
            assert_eq!(preflight_answer.header("access-control-max-age"), "5");
            let answer = from(&user, page, Method::GET, "/chats").await?;
            answer.expect(200)?;
            for answer in [preflight_answer, answer] {
                assert_eq!(answer.header("access-control-allow-origin"), page);
                assert_eq!(answer.header("access-control-allow-credentials"), "true");
                assert!(answer.headers.get_all("vary").iter().any(|value| value == "origin"));
            }
        }
        for stranger in ["https://evil.example.com", "https://chat.example.com.evil.com", "http://chat.example.com", "null"] {
            let preflight_answer = preflight(&stack.api, "/chats", stranger).await?;
            assert_eq!(preflight_answer.status, 204);
            let answer = from(&user, stranger, Method::GET, "/chats").await?;
            for answer in [preflight_answer, answer] {
                assert_eq!(cors_headers(&answer), [""; 0], "{stranger}");
                assert!(answer.headers.get_all("vary").iter().any(|value| value == "origin"));
            }
        }
    }
}
