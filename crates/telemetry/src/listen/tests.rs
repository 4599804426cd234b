use axum::Extension;
use axum::body::Bytes;
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::workers::Workers;

async fn start(app: Router) -> (SocketAddr, Lifecycle, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lifecycle = Lifecycle::default();
    let server = tokio::spawn(serve(listener, app, lifecycle.clone()));
    (address, lifecycle, server)
}

pub(super) async fn send(socket: &mut (impl AsyncWriteExt + Unpin), path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
}

/// Reads until what was read ends with `end`.
pub(super) async fn read_to(socket: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = socket.read_u8().await.unwrap();
        text.push(char::from(byte));
    }
    text
}

/// A route whose body is what the test sends, and `probe` once the client has
/// ended its side.
pub(super) fn scripted() -> (Router, mpsc::UnboundedSender<&'static str>) {
    let (events, receiver) = mpsc::unbounded_channel();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let handler = move |Extension(half_close): Extension<HalfClose>| {
        let mut receiver = receiver.lock().unwrap().take().unwrap();
        let mut has_probed = false;
        let events = stream::poll_fn(move |cx| {
            if !has_probed && half_close.is_seen() {
                has_probed = true;
                return Poll::Ready(Some(Ok("probe")));
            }
            let event = receiver.poll_recv(cx);
            event.map(|event| event.map(Ok::<_, std::convert::Infallible>))
        });
        async move { Body::from_stream(events) }
    };
    let router = Router::new().route("/events", get(handler));
    (router.route("/", get(async || "hello")), events)
}

/// A client that has read the beginning of a stream.
async fn streaming(address: SocketAddr, events: &mpsc::UnboundedSender<&'static str>) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    send(&mut socket, "/events").await;
    events.send("begun").unwrap();
    read_to(&mut socket, "begun\r\n").await;
    socket
}

#[tokio::test]
async fn a_request_knows_its_peer() {
    let handler =
        |Extension(PeerAddr(peer)): Extension<PeerAddr>| async move { format!("{peer}!") };
    let (address, ..) = start(Router::new().route("/", get(handler))).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    send(&mut socket, "/").await;
    let answer = read_to(&mut socket, "!").await;
    let peer = socket.local_addr().unwrap();
    assert!(answer.ends_with(&format!("{peer}!")), "{answer}");
}

/// PLAT-160: each event reaches the client before the next one exists.
#[tokio::test]
async fn a_body_is_passed_on_as_it_comes() {
    let (app, events) = scripted();
    let (address, ..) = start(app).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    send(&mut socket, "/events").await;
    for event in ["first", "second"] {
        events.send(event).unwrap();
        read_to(&mut socket, &format!("{event}\r\n")).await;
    }
}

#[tokio::test]
async fn a_request_body_is_read_as_it_comes() {
    let (seen, mut parts) = mpsc::unbounded_channel::<Bytes>();
    let handler = move |body: Body| async move {
        let mut body = body.into_data_stream();
        while let Some(Ok(part)) = body.next().await {
            seen.send(part).unwrap();
        }
    };
    let (address, ..) = start(Router::new().route("/", post(handler))).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n";
    socket.write_all(head).await.unwrap();
    for part in ["first", "later"] {
        socket.write_all(part.as_bytes()).await.unwrap();
        assert_eq!(parts.recv().await.unwrap(), part);
    }
}

#[tokio::test]
async fn a_body_that_arrives_fast_is_read_in_small_parts() {
    let handler = |body: Body| async move {
        let mut body = body.into_data_stream();
        let (mut sum, mut longest) = (0, 0);
        while let Some(Ok(part)) = body.next().await {
            sum += part.len();
            longest = longest.max(part.len());
        }
        let small = longest <= 2 * READ_BUFFER_BYTES;
        format!("{sum} bytes, in small parts: {small}")
    };
    let (address, ..) = start(Router::new().route("/", post(handler))).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head =
        b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 4000000\r\n\r\n";
    socket.write_all(head).await.unwrap();
    socket.write_all(&vec![b'x'; 4_000_000]).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.ends_with("4000000 bytes, in small parts: true"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_head_longer_than_the_buffer_is_refused() {
    for (cookie, status) in [(60_000, "200 OK"), (200_000, "431 ")] {
        let (address, ..) = start(Router::new().route("/", get(|| async { "answer" }))).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        let cookie = "c".repeat(cookie);
        let head = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {cookie}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to(&mut socket, "\r\n").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

/// D29, K8S-50
#[tokio::test]
async fn draining_serves_and_asks_for_the_connection_to_be_closed() {
    let (address, lifecycle, _server) =
        start(Router::new().route("/", get(|| async { "hello" }))).await;
    let mut kept_alive = TcpStream::connect(address).await.unwrap();
    send(&mut kept_alive, "/").await;
    let answer = read_to(&mut kept_alive, "hello").await;
    assert!(
        !answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );

    lifecycle.draining.fire();
    let mut new = TcpStream::connect(address).await.unwrap();
    for socket in [&mut kept_alive, &mut new] {
        send(socket, "/").await;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
        assert!(answer.ends_with("hello"), "{answer}");
    }
}

/// K8S-50
#[tokio::test]
async fn stopping_finishes_open_answers_and_closes_idle_connections() {
    let (app, events) = scripted();
    let (address, lifecycle, server) = start(app).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    send(&mut idle, "/absent").await;
    read_to(&mut idle, "\r\n\r\n").await;
    let mut streaming = TcpStream::connect(address).await.unwrap();
    send(&mut streaming, "/events").await;
    events.send("begun").unwrap();
    read_to(&mut streaming, "begun\r\n").await;

    lifecycle.stopping.fire();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(!server.is_finished(), "a stream is still open");
    events.send("ended").unwrap();
    drop(events);
    let mut rest = String::new();
    streaming.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("ended\r\n0\r\n\r\n"), "{rest}");
    server.await.unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the listener is closed"
    );
}

/// TURN-49: the body is dropped as soon as its client is gone, whatever it has
/// sent behind its request.
#[tokio::test]
async fn a_client_that_leaves_ends_its_stream() {
    let much = "x".repeat(16 << 20);
    let surpluses = ["", "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\0", &much];
    for resets in [false, true] {
        for surplus in surpluses {
            let (app, events) = scripted();
            let (address, ..) = start(app).await;
            let mut socket = streaming(address, &events).await;
            socket.write_all(surplus.as_bytes()).await.unwrap();
            if resets {
                socket.set_zero_linger().unwrap();
            }
            drop(socket);
            events.closed().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_closes_half_gets_its_answer() {
    for surplus in ["", "\r\n"] {
        let (app, events) = scripted();
        let (address, ..) = start(app).await;
        let mut socket = streaming(address, &events).await;
        socket.write_all(surplus.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        read_to(&mut socket, "probe\r\n").await;
        events.send("ended").unwrap();
        drop(events);
        let mut rest = String::new();
        socket.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("ended\r\n0\r\n\r\n"), "{rest}");
    }
}

#[tokio::test]
async fn a_request_behind_a_stream_is_answered_after_it() {
    let (app, events) = scripted();
    let (address, ..) = start(app).await;
    let mut socket = streaming(address, &events).await;
    send(&mut socket, "/").await;
    events.send("ended").unwrap();
    read_to(&mut socket, "ended\r\n").await;
    drop(events);
    let rest = read_to(&mut socket, "hello").await;
    assert!(rest.starts_with("0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{rest}");
}

#[tokio::test]
async fn a_client_that_sends_too_much_loses_it_and_not_its_answer() {
    let (app, events) = scripted();
    let (address, ..) = start(app).await;
    let mut socket = streaming(address, &events).await;
    for _ in 0..4_000 {
        send(&mut socket, "/").await;
    }
    events.send("ended").unwrap();
    drop(events);
    let mut rest = String::new();
    socket.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("ended\r\n0\r\n\r\n"), "{rest}");
}

#[tokio::test]
async fn a_panic_costs_only_its_own_connection() {
    async fn bug() -> &'static str {
        panic!("a bug")
    }
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/bug", get(bug));
    let (address, ..) = start(app).await;
    let mut broken = TcpStream::connect(address).await.unwrap();
    send(&mut broken, "/bug").await;
    let mut rest = Vec::new();
    broken.read_to_end(&mut rest).await.unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    send(&mut socket, "/").await;
    read_to(&mut socket, "hello").await;
}

/// What a connection starts stays on its thread.
#[tokio::test]
async fn connections_are_spread_over_the_workers() {
    async fn thread() -> String {
        let here = || std::thread::current().name().unwrap().to_owned();
        let started = tokio::spawn(async move { here() }).await.unwrap();
        format!("{}, {started}!", here())
    }
    let workers = Workers::start(2).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lifecycle = Lifecycle::default();
    let server = tokio::spawn({
        let (runtimes, lifecycle) = (workers.runtimes(), lifecycle.clone());
        let app = Router::new().route("/", get(thread));
        async move { serve_on(&runtimes, listener, None, app, lifecycle).await }
    });
    let mut sockets = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        send(&mut socket, "/").await;
        let answer = read_to(&mut socket, "!").await;
        threads.push(answer.lines().last().unwrap().to_owned());
        sockets.push(socket);
    }
    threads.sort();
    assert_eq!(threads, ["worker-0, worker-0!", "worker-1, worker-1!"]);
    lifecycle.stopping.fire();
    server.await.unwrap();
    drop(workers);
}

/// When the workers end, they cut the answers that clients are still reading.
#[tokio::test]
async fn workers_that_end_cut_what_they_serve() {
    let workers = Workers::start(1).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (app, events) = scripted();
    let server = tokio::spawn({
        let runtimes = workers.runtimes();
        async move { serve_on(&runtimes, listener, None, app, Lifecycle::default()).await }
    });
    let mut socket = TcpStream::connect(address).await.unwrap();
    send(&mut socket, "/events").await;
    events.send("begun").unwrap();
    read_to(&mut socket, "begun\r\n").await;
    drop(workers);
    events.closed().await;
    assert!(!server.is_finished(), "others are still accepted");
    server.abort();
}
