//! HTTP rules about the head of a request, on every route.

use anyhow::Context as _;
use http::Method;
use minichat_dataplane::http::routes;
use minichat_tests::client::BASE;
use minichat_tests::harness::Scene;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::raw_client::RawClient;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use uuid::Uuid;

/// The beginning of a gzip stream.
const ENCODED: &[u8] = &[0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00];

/// Every operation, below the base path, with ids that do not exist.
fn operations() -> impl Iterator<Item = (Method, String)> {
    routes().into_iter().map(|(method, template)| {
        let id = Uuid::new_v4().to_string();
        let names = [
            "{id}",
            "{request_id}",
            "{msg_id}",
            "{attachment_id}",
            "{model_id}",
        ]
        .iter();
        let path = names.fold(template.to_owned(), |path, name| path.replace(name, &id));
        (method, path)
    })
}

/// Every path of an operation, and some others.
fn paths() -> Vec<(Method, String)> {
    let operations = operations().map(|(method, path)| (method, format!("{BASE}{path}")));
    let others = [
        "/openapi.json",
        "/docs",
        "/mini-chat/v1/nothing",
        "/nothing",
    ];
    let others = others.map(|path| (Method::GET, path.to_owned()));
    operations.chain(others).collect()
}

/// Sends a head and reads the whole answer. Returns status line and body.
async fn exchange(address: std::net::SocketAddr, head: &str) -> anyhow::Result<(String, String)> {
    let mut client = RawClient::connect(address).await?;
    client
        .write(&format!("{head}connection: close\r\n\r\n"))
        .await?;
    let text = client.read_to_end().await?;
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// The same as a user.
fn identified(scene: &Scene, line: &str) -> String {
    let (tenant, user) = (scene.tenant.id, Uuid::new_v4());
    format!("{line}\r\nx-tenant-id: {tenant}\r\nx-user-id: {user}\r\n")
}

on_each_database! {
    /// RFC 9112 section 3.2: this is checked before anything else, such as the
    /// identity.
    async fn a_request_without_exactly_one_host_is_refused(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve_with(&[&tenant], "MINICHAT_SERVER_DOCS_ENABLED=true").await?;
        let scene = Scene { provider, tenant, stack };
        for (method, path) in paths() {
            for hosts in ["", "host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n", "host: a b\r\n", "host: a/b\r\n"] {
                let head = format!("{method} {path} HTTP/1.1\r\n{hosts}");
                let (status, body) = exchange(scene.stack.app_addr(), &head).await?;
                assert_eq!(status, "HTTP/1.1 400 Bad Request", "{head}");
                let problem: Value = serde_json::from_str(&body)?;
                assert_eq!(problem["code"], "invalid_request");
                assert_eq!(problem["errors"][0]["field"], "Host", "{problem}");
            }
        }
        // The host does not matter, even if the target names another one.
        let target = format!("{BASE}/models");
        for line in [
            format!("GET {target} HTTP/1.1\r\nhost: a.example:80"),
            format!("GET {target} HTTP/1.1\r\nhost:"),
            format!("GET http://b.example{target} HTTP/1.1\r\nhost: a.example"),
            format!("GET {target} HTTP/1.0"),
        ] {
            let head = identified(&scene, &line);
            let (status, body) = exchange(scene.stack.app_addr(), &head).await?;
            assert!(status.ends_with(" 200 OK"), "{line}: {status} {body}");
        }
        for hosts in ["", "host: a\r\nhost: b\r\n"] {
            for path in ["/healthz", "/readyz", "/metrics", "/configz", "/nothing"] {
                let head = format!("GET {path} HTTP/1.1\r\n{hosts}");
                let (status, body) = exchange(scene.stack.admin_addr(), &head).await?;
                assert_eq!(status, "HTTP/1.1 400 Bad Request", "{head}");
                assert!(body.contains("send exactly one"), "{body}");
            }
        }
        scene.check_nothing_written().await?;
    }

    /// API-23, RFC 9110 section 15.5.16: on every route that has a body.
    async fn an_encoded_body_is_refused(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let mut refused = 0;
        for (method, path) in operations() {
            for coding in ["gzip", "br", "identity, gzip", "x-unknown"] {
                let headers = [("content-type", "application/json"), ("content-encoding", coding)];
                let answer = user.exchange(method.clone(), &path, &headers, ENCODED.into()).await?;
                if answer.status == 415 {
                    answer.problem(415, "unsupported_content_type")?;
                    assert_eq!(answer.header("accept-encoding"), "identity");
                    refused += 1;
                } else {
                    // The route has no body; one that is sent is ignored. An erasure needs its
                    // own scope.
                    assert!(matches!(answer.status.as_u16(), 200 | 403 | 404), "{method} {path}: {answer:?}");
                }
            }
        }
        // The operations that create and change a chat, a message, a turn, a file and a
        // reaction.
        assert_eq!(refused, 6 * 4);
        let plain = [("content-type", "application/json"), ("content-encoding", "identity")];
        user.exchange(Method::POST, "/chats", &plain, "{}".into()).await?.expect(201)?;
        let text = [("content-type", "text/plain")];
        let answer = user.exchange(Method::POST, "/chats", &text, "{}".into()).await?;
        answer.problem(415, "unsupported_content_type")?;
        assert_eq!(answer.header("accept"), "application/json");
    }

    /// RFC 8259 section 8.1
    async fn a_byte_order_mark_before_a_body_is_skipped(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let json = [("content-type", "application/json; charset=utf-8")];
        let marked = |body: Value| format!("\u{feff}{body}");
        let exchange = async |method: Method, path: &str, body: Value| {
            user.exchange(method, path, &json, marked(body).into()).await
        };
        let chat = exchange(Method::POST, "/chats", json!({"title": "a"})).await?.expect(201)?;
        let chat = chat["id"].as_str().context("an id")?;
        let path = format!("/chats/{chat}");
        exchange(Method::PATCH, &path, json!({"title": "b"})).await?.expect(200)?;
        let stream = exchange(Method::POST, &format!("{path}/messages:stream"), json!({"content": "PING"})).await?;
        assert_eq!(stream.status, 200);
        let messages = user.messages(chat).await?;
        assert_eq!(messages[0]["content"], "PING");
        let id = |index: usize, member: &str| messages[index][member].as_str().unwrap_or_default().to_owned();
        let reaction = format!("{path}/messages/{}/reaction", id(1, "id"));
        exchange(Method::PUT, &reaction, json!({"reaction": "like"})).await?.expect(200)?;
        let turn = format!("{path}/turns/{}", id(0, "request_id"));
        let stream = exchange(Method::PATCH, &turn, json!({"content": "hello"})).await?;
        assert_eq!(stream.status, 200);
    }

    /// RFC 3986 section 6.2.2: a character that needs no encoding means the
    /// same when encoded.
    async fn a_path_means_the_same_however_it_is_encoded(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let encode = |path: &str, lower: bool| -> String {
            let encoded = path.bytes().map(|byte| match byte {
                b'/' => "/".to_owned(),
                byte if lower => format!("%{byte:02x}"),
                byte => format!("%{byte:02X}"),
            });
            encoded.collect()
        };
        let body = json!({"content": "PING"});
        for name in ["messages%3Astream", "messages%3astream", "%6Dessages:stream"] {
            let answer = user.post(&format!("/chats/{chat}/{name}"), &body).await?;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
        }
        for (method, path) in operations() {
            let body = json!({"content": "a", "title": "a", "reaction": "like"});
            let plain = user.send_json(method.clone(), &path, &body).await?;
            for lower in [false, true] {
                let encoded = user.send_json(method.clone(), &encode(&path, lower), &body).await?;
                assert_eq!(encoded.status, plain.status, "{method} {path}");
            }
        }
        // A character that would split a segment stays encoded.
        user.get(&format!("/chats%2F{chat}")).await?.problem(404, "not_found")?;
        user.get("/models/a%2Fb").await?.problem(404, "model_not_found")?;
    }
}
