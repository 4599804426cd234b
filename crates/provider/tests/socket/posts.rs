//! POST requests to the receivers of tenants: connections, limits, hostile
//! answers, and what is kept of an answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use minichat_config::outbound::{Outbound, Proxies};
use minichat_config::tenant::Scheme;
use minichat_config::{AllowPrivate, Secret};
use minichat_core::TenantId;
use minichat_provider::{Post, PostAnswer, PostError, ProviderClient};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::servers::{Authority, Proxy};
use crate::support::client;

/// What the server writes after a request, in pieces.
#[derive(Clone)]
enum Script {
    /// These bytes; the connection is kept.
    Bytes(String),
    /// These bytes, then it is closed.
    Last(String),
    /// These bytes, then these again and again.
    Endless(String, String),
}

/// Serves one script per request and records the requests.
struct Server {
    addr: SocketAddr,
    scripts: Arc<Mutex<VecDeque<Script>>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    /// Connections that are over.
    ended: usize,
    requests: Vec<String>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            scripts: Arc::default(),
            seen: Arc::default(),
        };
        let (scripts, seen) = (Arc::clone(&server.scripts), Arc::clone(&server.seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.lock().unwrap().connections += 1;
                let (scripts, seen) = (Arc::clone(&scripts), Arc::clone(&seen));
                tokio::spawn(async move {
                    serve(stream, scripts, Arc::clone(&seen)).await;
                    seen.lock().unwrap().ended += 1;
                });
            }
        });
        server
    }

    async fn answering(answer: &str) -> Self {
        let server = Self::start().await;
        server.push(Script::Bytes(answer.to_owned()));
        server
    }

    fn push(&self, script: Script) {
        self.scripts.lock().unwrap().push_back(script);
    }

    fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    fn ended(&self) -> usize {
        self.seen.lock().unwrap().ended
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    scripts: Arc<Mutex<VecDeque<Script>>>,
    seen: Arc<Mutex<Seen>>,
) -> Option<()> {
    let mut read = Vec::new();
    loop {
        // Every request of these tests ends with its body, `"end"`.
        while !read.ends_with(b"\"end\"") {
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        }
        let request = String::from_utf8(std::mem::take(&mut read)).unwrap();
        seen.lock().unwrap().requests.push(request);
        let script = scripts.lock().unwrap().pop_front()?;
        match script {
            Script::Bytes(bytes) => stream.write_all(bytes.as_bytes()).await.ok()?,
            Script::Last(bytes) => return stream.write_all(bytes.as_bytes()).await.ok(),
            Script::Endless(first, again) => {
                stream.write_all(first.as_bytes()).await.ok()?;
                loop {
                    stream.write_all(again.as_bytes()).await.ok()?;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn allowing() -> ProviderClient {
    client(Outbound {
        allow_private: AllowPrivate::everything(),
        ..Outbound::default()
    })
}

fn post_to(addr: SocketAddr, limit: Duration) -> Post<'static> {
    Post {
        tenant: TenantId::from(uuid::Uuid::from_u128(1)),
        scheme: Scheme::Http,
        host: "127.0.0.1",
        port: addr.port(),
        path: "/hook?x=1",
        headers: HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]),
        body: Bytes::from_static(b"\"end\""),
        secrets: &[],
        expires_at: Instant::now() + limit,
    }
}

async fn post(server: &Server) -> Result<PostAnswer, PostError> {
    let limit = Duration::from_secs(20);
    allowing().post(&post_to(server.addr, limit)).await
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// PLAT-105: the body arrives as it is, and one connection serves all.
#[tokio::test]
async fn posts_to_one_receiver_share_a_kept_connection() {
    let server = Server::start().await;
    let client = allowing();
    for answer in [
        OK.to_owned(),
        answer("200 OK", "thanks"),
        answer("503 X", "later"),
        answer("200 OK", &"x".repeat(4096)),
        OK.to_owned(),
    ] {
        server.push(Script::Bytes(answer));
        let sent = post_to(server.addr, Duration::from_secs(20));
        client.post(&sent).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    let port = server.addr.port();
    let expected = format!(
        "POST /hook?x=1 HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: \
         application/json\r\ncontent-length: 5\r\n\r\n\"end\""
    );
    for request in server.requests() {
        assert_eq!(request, expected);
    }
}

/// A receiver may close a kept connection at the moment when it is used again.
#[tokio::test]
async fn a_kept_connection_that_breaks_is_replaced_once() {
    let server = Server::answering(OK).await;
    let client = allowing();
    for script in [Script::Last(String::new()), Script::Bytes(OK.to_owned())] {
        server.push(script);
    }
    for _ in 0..2 {
        let sent = post_to(server.addr, Duration::from_secs(20));
        let answer = client.post(&sent).await.unwrap();
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
    }
    assert_eq!((server.connections(), server.requests().len()), (2, 3));
    // A new connection that breaks is not replaced.
    let server = Server::start().await;
    server.push(Script::Last(String::new()));
    let error = post(&server).await.unwrap_err();
    assert!(matches!(error, PostError::Broken(_)), "{error}");
    assert_eq!(server.connections(), 1);
}

/// D48
#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let elsewhere = Server::answering(OK).await;
    let address = elsewhere.addr;
    for status in [301, 302, 303, 307, 308] {
        let server = Server::answering(&format!(
            "HTTP/1.1 {status} X\r\nLocation: http://{address}/\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        let answer = post(&server).await.unwrap();
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.words, "");
    }
    assert_eq!(elsewhere.connections(), 0);
}

/// The head of a success is enough; the body may be hung or endless.
#[tokio::test]
async fn a_success_counts_as_soon_as_its_head_is_there() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for script in [
        Script::Bytes(head.to_owned()),
        Script::Endless(chunked.to_owned(), "5\r\nagain\r\n".to_owned()),
        Script::Endless(chunked.to_owned(), String::new()),
        Script::Last(format!("{chunked}no chunk")),
    ] {
        let server = Server::start().await;
        server.push(script);
        let client = allowing();
        let begun = Instant::now();
        let sent = post_to(server.addr, Duration::from_secs(20));
        let answer = client.post(&sent).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(begun.elapsed() < Duration::from_secs(5));
        // Its connection does not serve another request.
        server.push(Script::Bytes(OK.to_owned()));
        client.post(&sent).await.unwrap();
        assert_eq!(server.connections(), 2);
    }
}

/// A status that is no success counts even if its body never ends.
#[tokio::test]
async fn a_refusal_with_a_hung_body_is_a_refusal_without_words() {
    let server = Server::answering(
        "HTTP/1.1 422 X\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\nbecause",
    )
    .await;
    let begun = Instant::now();
    let answer = post(&server).await.unwrap();
    assert_eq!(answer.status.as_u16(), 422);
    assert_eq!(answer.words, "");
    // Two seconds, not the limit of the attempt.
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// PLAT-43: the beginning of an endless body is enough for words.
#[tokio::test]
async fn a_refusal_with_an_endless_body_has_its_first_words() {
    let head = "HTTP/1.1 422 X\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let server = Server::start().await;
    server.push(Script::Endless(
        head.to_owned(),
        "6\r\nagain \r\n".to_owned(),
    ));
    let answer = post(&server).await.unwrap();
    assert_eq!(answer.status.as_u16(), 422);
    assert!(answer.words.starts_with("again again"), "{}", answer.words);
}

/// PLAT-43: a long body is not read to its end, so its connection ends.
#[tokio::test]
async fn the_rest_of_a_long_body_ends_its_connection() {
    for status in ["200 X", "422 X"] {
        let server = Server::answering(&answer(status, &"x".repeat(1 << 18))).await;
        let client = allowing();
        let sent = post_to(server.addr, Duration::from_secs(20));
        client.post(&sent).await.unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while server.ended() == 0 {
            assert!(Instant::now() < until, "{status}: it is kept");
            tokio::task::yield_now().await;
        }
    }
}

/// Whatever comes, the call ends by its deadline.
#[tokio::test]
async fn hostile_answers_end_by_the_deadline() {
    const LIMIT: Duration = Duration::from_millis(500);
    let again = |first: &str, again: &str| Script::Endless(first.to_owned(), again.to_owned());
    for (what, script) in [
        ("nothing", Script::Bytes(String::new())),
        ("a part of a head", Script::Bytes("HTTP/1.1 20".to_owned())),
        ("endless headers", again("HTTP/1.1 200 OK\r\n", "A: b\r\n")),
        ("an endless line", again("HTTP/1.1 200 ", "O")),
        (
            "endless hints",
            again("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ),
        ("another protocol", Script::Last("SSH-2.0-x\r\n".to_owned())),
        (
            "garbage",
            Script::Last("\0\u{1}\u{2}\r\n\r\n\r\n".to_owned()),
        ),
        ("no status", Script::Last("HTTP/1.1 abc\r\n\r\n".to_owned())),
        ("a close", Script::Last(String::new())),
    ] {
        let server = Server::start().await;
        server.push(script);
        let begun = Instant::now();
        let error = allowing()
            .post(&post_to(server.addr, LIMIT))
            .await
            .unwrap_err();
        let took = begun.elapsed();
        assert!(took < LIMIT + Duration::from_secs(2), "{what}: {took:?}");
        let is_expected = matches!(error, PostError::TimedOut | PostError::Broken(_));
        assert!(is_expected, "{what}: {error}");
        assert!(error.to_string().len() < 200, "{what}: {error}");
    }
}

/// PLAT-102, PLAT-117
#[tokio::test]
async fn words_of_an_answer_are_short_and_without_the_credential() {
    let secret = Secret::new("Bearer staple-battery-horse");
    for before in (0..530).chain(2000..2060) {
        let body = format!(
            "{}staple-battery-horse is wrong\r\n\tsk-{}",
            "-".repeat(before),
            "a".repeat(9000)
        );
        let server = Server::answering(&answer("401 X", &body)).await;
        let sent = Post {
            secrets: &[&secret],
            ..post_to(server.addr, Duration::from_secs(20))
        };
        let words = allowing().post(&sent).await.unwrap().words;
        assert!(words.len() <= 512, "{words}");
        assert!(!words.contains("st"), "{before}: {words}");
        assert!(!words.contains("aaaa"), "{before}: {words}");
        assert!(!words.contains(['\r', '\n', '\t']), "{words}");
    }
}

#[tokio::test]
async fn only_text_and_json_are_words() {
    for (content_type, words) in [
        ("text/plain; charset=utf-8", "no"),
        ("application/problem+json", "no"),
        ("application/json", "no"),
        ("text/html", ""),
        ("image/png", ""),
    ] {
        let server = Server::answering(&format!(
            "HTTP/1.1 500 X\r\nContent-Type: {content_type}\r\nContent-Length: 4\r\n\r\n no\n"
        ))
        .await;
        assert_eq!(post(&server).await.unwrap().words, words, "{content_type}");
    }
}

/// D48: without `outbound.allow_private`, nothing is sent to loopback.
#[tokio::test]
async fn an_address_that_may_not_be_called_is_refused() {
    let server = Server::answering(OK).await;
    let sent = post_to(server.addr, Duration::from_secs(5));
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254"] {
        let error = client(Outbound::default())
            .post(&Post {
                host,
                headers: HeaderMap::new(),
                body: Bytes::new(),
                ..sent
            })
            .await;
        assert!(
            matches!(error, Err(PostError::Refused(_))),
            "{host}: {error:?}"
        );
    }
    assert_eq!(server.connections(), 0);
}

/// D47
#[tokio::test]
async fn posts_go_through_the_proxy_and_believe_the_bundle() {
    let ours = Authority::new();
    let server = Server::start().await;
    let tls = ours.tls_before(server.addr, "billing.example.com").await;
    let proxy = Proxy::before(tls).await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ca.crt");
    std::fs::write(&file, ours.pem()).unwrap();
    let url = Some(Secret::new(format!("http://{}", proxy.address)));
    for ca_file in [None, Some(file)] {
        let is_believed = ca_file.is_some();
        let through = client(Outbound {
            ca_file,
            proxies: Proxies {
                http: url.clone(),
                https: url.clone(),
                bypass: String::new(),
            },
            ..Outbound::default()
        });
        server.push(Script::Bytes(OK.to_owned()));
        let sent = Post {
            scheme: Scheme::Https,
            host: "billing.example.com",
            port: 443,
            ..post_to(server.addr, Duration::from_secs(20))
        };
        let answer = through.post(&sent).await;
        assert_eq!(answer.is_ok(), is_believed, "{answer:?}");
        if let Err(error) = answer {
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    }
    let heads = proxy.heads();
    assert!(
        heads[1].starts_with("CONNECT billing.example.com:443 "),
        "{heads:?}"
    );
    let requests = server.requests();
    assert!(
        requests[0].contains("\r\nhost: billing.example.com\r\n"),
        "{requests:?}"
    );
}
