//! A proxy before PostgreSQL. A test counts its connections, delays, refuses and silences
//! them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(super) struct Proxy {
    /// For `database.url`.
    pub(super) url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    server: String,
    accepted: watch::Sender<usize>,
    open: watch::Sender<usize>,
    /// New connections wait.
    is_shut: watch::Sender<bool>,
    /// Messages of clients that the server has not got.
    lost: watch::Sender<usize>,
    /// The number of the last connection that is silent.
    silent: AtomicUsize,
    /// SQLSTATE with which each of the next connections is refused.
    refused: std::sync::Mutex<Vec<&'static str>>,
}

impl Proxy {
    /// Before the database of `url`: `postgres://user@host:port/name`.
    pub(super) async fn before(url: &str) -> Self {
        let (user, place) = url.rsplit_once('@').unwrap();
        let (server, name) = place.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            ..Shared::default()
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            url: format!("{user}@{address}/{name}?sslmode=disable"),
            shared,
        }
    }

    /// How many connections there were.
    pub(super) fn accepted(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Returns when there were `number` connections.
    pub(super) async fn has_accepted(&self, number: usize) {
        let mut accepted = self.shared.accepted.subscribe();
        let came = accepted.wait_for(|accepted| *accepted == number);
        came.await.unwrap();
    }

    /// Returns when `number` connections are open.
    pub(super) async fn has_open(&self, number: usize) {
        let mut open = self.shared.open.subscribe();
        open.wait_for(|open| *open == number).await.unwrap();
    }

    /// While it is shut, new connections are accepted and wait.
    pub(super) fn shut(&self, is_shut: bool) {
        self.shared.is_shut.send_replace(is_shut);
    }

    /// Nothing passes any more on the connections that there are.
    pub(super) fn silence(&self) {
        self.shared.silent.store(self.accepted(), Ordering::SeqCst);
    }

    /// Returns when a client has sent something into the silence.
    pub(super) async fn has_lost_something(&self) {
        let mut lost = self.shared.lost.subscribe();
        lost.wait_for(|lost| *lost > 0).await.unwrap();
    }

    /// Refuses the next connection with `state`, as PostgreSQL does.
    pub(super) fn refuse(&self, state: &'static str) {
        self.shared.refused.lock().unwrap().push(state);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.send_modify(|accepted| *accepted += 1);
        shared.open.send_modify(|open| *open += 1);
        let (number, shared) = (*shared.accepted.borrow(), Arc::clone(&shared));
        tokio::spawn(async move {
            let _ = relay(client, number, &shared).await;
            shared.open.send_modify(|open| *open -= 1);
        });
    }
}

/// Returns when either side closes its connection.
async fn relay(mut client: TcpStream, number: usize, shared: &Shared) -> std::io::Result<()> {
    let refused = shared.refused.lock().unwrap().pop();
    if let Some(state) = refused {
        let _ = client.read(&mut [0; 1024]).await?;
        return client.write_all(&fatal(state)).await;
    }
    let mut is_shut = shared.is_shut.subscribe();
    is_shut.wait_for(|is_shut| !is_shut).await.unwrap();
    let server = TcpStream::connect(&shared.server).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let lost = || shared.lost.send_modify(|lost| *lost += 1);
    let is_silent = || number <= shared.silent.load(Ordering::SeqCst);
    tokio::select! {
        end = pass(from_client, to_server, is_silent, lost) => end,
        end = pass(from_server, to_client, is_silent, || ()) => end,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_silent: impl Fn() -> bool,
    lost: impl Fn(),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 8192];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if is_silent() {
            lost();
        } else {
            to.write_all(&buffer[..length]).await?;
        }
    }
}

/// PostgreSQL's `ErrorResponse`.
fn fatal(state: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{state}\0Mno\0\0");
    let length = u32::try_from(4 + fields.len()).unwrap();
    [b"E", &length.to_be_bytes()[..], fields.as_bytes()].concat()
}
