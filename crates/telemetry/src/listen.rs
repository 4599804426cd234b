//! The accept loop of the application and the admin listener.

mod client;
mod host;
mod target;
mod tls;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::shutdown::Lifecycle;
use crate::workers::Runtimes;
pub use client::HalfClose;
use client::{Client, ClientIo};
pub use host::{HostError, check_host};
pub use tls::{ServerTls, TlsFileError};
use tokio_rustls::server::TlsStream;

/// The peer of the TCP connection, as an extension of every request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// How long a connection may wait for the end of its next request head. This limits
/// the resources of dead peers. Proxies and clients keep idle connections for 60 to
/// 90 seconds. This limit is longer, so that the server never closes a connection on
/// which a request is under way.
const HEAD_TIMEOUT: Duration = Duration::from_mins(2);

/// From how many unread bytes on a connection reads no further. An upload that arrives
/// fast is read in parts of at most twice this size, and the streams beside it get their
/// turn between two parts. A request head that is longer than a part is refused with 431.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait if the operating system cannot accept a connection, for example
/// because file descriptors are used up. Without the wait the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 until `lifecycle.stopping` fires and every connection has
/// finished its answer; accepts until `lifecycle.refusing` fires. Bodies are streamed in both directions.
///
/// Dropping the future cuts the connections that are still open.
pub async fn serve(listener: TcpListener, app: Router, lifecycle: Lifecycle) {
    serve_on(&Runtimes::default(), listener, None, app, lifecycle).await;
}

/// What each connection is served with.
#[derive(Clone)]
struct Serving {
    tls: Option<Arc<ServerTls>>,
    app: Router,
    lifecycle: Lifecycle,
}

/// Like [`serve`], but each connection runs on the runtime of `runtimes` that has the
/// fewest tasks when it arrives, and is encrypted if there is `tls`.
pub async fn serve_on(
    runtimes: &Runtimes,
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    app: Router,
    lifecycle: Lifecycle,
) {
    let serving = Serving {
        tls,
        app,
        lifecycle: lifecycle.clone(),
    };
    let mut connections = JoinSet::new();
    let mut refusing = pin!(lifecycle.refusing.fired());
    let mut stopping = pin!(lifecycle.stopping.fired());
    loop {
        tokio::select! {
            biased;
            () = &mut refusing => break,
            () = &mut stopping => break,
            Some(ended) = connections.join_next() => report_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let serving = serving.clone();
                    if let Some(runtime) = runtimes.idlest() {
                        connections.spawn_on(moved(socket, peer, serving), runtime);
                    } else {
                        connections.spawn(connection(socket, peer, serving));
                    }
                }
                Err(error) => refuse(&error).await,
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report_panic(ended);
    }
}

/// Serves a connection that another runtime accepted.
fn moved(socket: TcpStream, peer: SocketAddr, serving: Serving) -> impl Future<Output = ()> {
    // Deregisters it from the runtime that accepted it, and registers it with this one.
    let socket = socket.into_std();
    async move {
        match socket.and_then(TcpStream::from_std) {
            Ok(socket) => connection(socket, peer, serving).await,
            Err(error) => tracing::error!(%error, "a connection cannot change its thread"),
        }
    }
}

/// Serves one connection to its end.
async fn connection(socket: TcpStream, peer: SocketAddr, serving: Serving) {
    // Each event of a stream is a small write. It must not wait until the previous one
    // is acknowledged.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, %peer, "TCP_NODELAY cannot be set");
    }
    let (io, client) = client::split(socket);
    let Some(tls) = &serving.tls else {
        return converse(io, peer, &client, &serving).await;
    };
    // On the heap, so that connections without TLS need no room for it.
    let encrypted = async {
        if let Some(io) = handshake(tls, io, peer, &serving.lifecycle).await {
            converse(io, peer, &client, &serving).await;
        }
    };
    Box::pin(encrypted).await;
}

/// `None` if the client does not end its handshake, or if the process ends.
async fn handshake(
    tls: &ServerTls,
    io: ClientIo,
    peer: SocketAddr,
    lifecycle: &Lifecycle,
) -> Option<TlsStream<ClientIo>> {
    let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(io));
    tokio::select! {
        biased;
        () = lifecycle.stopping.fired() => None,
        accepted = accepted => match accepted {
            Ok(Ok(io)) => Some(io),
            Ok(Err(error)) => {
                tracing::debug!(%error, %peer, "no TLS connection");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "the TLS handshake took too long");
                None
            }
        },
    }
}

/// Answers the requests of one connection.
async fn converse<S>(io: S, peer: SocketAddr, client: &Client, serving: &Serving)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Serving { app, lifecycle, .. } = serving;
    let service = service_fn(|request| answer(request, peer, client, app, lifecycle));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .half_close(true)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut stopping = pin!(lifecycle.stopping.fired());
    let mut is_stopping = false;
    let mut gone = pin!(client.gone());
    let result = poll_fn(|cx| {
        if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        client.begin_turn();
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        gone.as_mut().poll(cx).map(|()| None)
    });
    // A client that disconnects is not an error of the server.
    match result.await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, %peer, "connection ended early"),
        None => tracing::debug!(%peer, "the client disconnected during its answer"),
    }
}

async fn answer(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    client: &Client,
    app: &Router,
    lifecycle: &Lifecycle,
) -> Result<Response<Body>, std::convert::Infallible> {
    client.set_streaming(false);
    target::normalize(request.uri_mut());
    request.extensions_mut().insert(PeerAddr(peer));
    request.extensions_mut().insert(client.half_close());
    let mut response = app.clone().oneshot(request).await?;
    // An idle connection stays open while draining, because its client may be sending a
    // request at this moment.
    if lifecycle.draining.is_fired() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    client.set_streaming(response.body().size_hint().exact().is_none());
    Ok(response)
}

async fn refuse(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    // The peer disconnected before the connection was accepted.
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::error!(%error, "a connection cannot be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
