//! A proxy between a data plane and PostgreSQL that fails like a network.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The end of a query with `COMMIT`, which is also the tag of its answer.
const COMMIT: &[u8] = b"COMMIT\0";

/// A proxy for one database. It cuts every connection when dropped.
#[derive(Debug)]
pub struct PostgresProxy {
    url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    server: String,
    /// Number of commit acknowledgements to lose.
    to_lose: watch::Sender<usize>,
    is_down: watch::Sender<bool>,
    is_silent: watch::Sender<bool>,
    /// Whether the proxy goes down after the next lost acknowledgement.
    goes_down: AtomicBool,
    /// Whether the next commit is held.
    holds: AtomicBool,
    held: Mutex<Option<HeldCommit>>,
    /// Number of refused connections.
    turned_away: AtomicUsize,
}

/// A commit on its way to the server.
#[derive(Debug)]
struct HeldCommit {
    server: TcpStream,
    bytes: Vec<u8>,
}

impl PostgresProxy {
    /// Listens in front of the database at `url`.
    pub async fn start(url: &str) -> anyhow::Result<Self> {
        let (user, rest) = url.split_once('@').context("a URL without a user")?;
        let (server, name) = rest.split_once('/').context("a URL without a database")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let state = Arc::new(State {
            server: server.to_owned(),
            to_lose: watch::Sender::new(0),
            is_down: watch::Sender::new(false),
            is_silent: watch::Sender::new(false),
            goes_down: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            held: Mutex::default(),
            turned_away: AtomicUsize::new(0),
        });
        Ok(Self {
            url: format!("{user}@{}/{name}", listener.local_addr()?),
            task: tokio::spawn(accept(listener, Arc::clone(&state))),
            state,
        })
    }

    /// The URL of the database through the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Loses the acknowledgement of the next commit: PostgreSQL commits, and
    /// then the connection is cut.
    pub fn lose_the_next_commit(&self) {
        self.state.to_lose.send_modify(|remaining| *remaining += 1);
    }

    /// The same; after it, the proxy refuses connections until
    /// [`set_down`](Self::set_down) ends that.
    pub fn go_down_with_the_next_commit(&self) {
        self.state.goes_down.store(true, Ordering::Relaxed);
        self.lose_the_next_commit();
    }

    /// Holds the next commit back, so that its transaction stays open in
    /// PostgreSQL, and cuts every other connection. The proxy refuses
    /// connections until [`set_down`](Self::set_down) ends that.
    pub fn hold_the_next_commit(&self) {
        self.state.holds.store(true, Ordering::Relaxed);
    }

    /// Sends the held commit to PostgreSQL, and waits until it was committed.
    pub async fn deliver_the_held_commit(&self) -> anyhow::Result<()> {
        let held = self.state.held().take();
        let HeldCommit { mut server, bytes } = held.context("no commit is held")?;
        server.write_all(&bytes).await?;
        let (mut from_server, mut buffer) = (Watch::default(), vec![0; 16 * 1024]);
        loop {
            let count = server.read(&mut buffer).await?;
            ensure!(count > 0, "PostgreSQL did not commit");
            if from_server.sees_commit(&buffer[..count]) {
                return Ok(());
            }
        }
    }

    /// Number of refused connections so far.
    pub fn turned_away(&self) -> usize {
        self.state.turned_away.load(Ordering::Relaxed)
    }

    /// Whether an acknowledgement will still be lost.
    pub fn is_waiting(&self) -> bool {
        *self.state.to_lose.borrow() > 0
    }

    /// Makes every connection silent, as if the server or the network had
    /// vanished. New connections are accepted and are silent too, until this
    /// ends.
    pub fn set_silent(&self, is_silent: bool) {
        self.state.is_silent.send_replace(is_silent);
    }

    /// Cuts every connection and refuses new ones, or accepts them again.
    pub fn set_down(&self, is_down: bool) {
        self.state.is_down.send_replace(is_down);
    }
}

impl State {
    fn held(&self) -> MutexGuard<'_, Option<HeldCommit>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.set_down(true);
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        if *state.is_down.borrow() {
            state.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut down = state.is_down.subscribe();
            tokio::select! {
                // Either side may close a connection at any time.
                _ = forward(client, &state) => {}
                _ = down.wait_for(|is_down| *is_down) => {}
            }
        });
    }
}

async fn silenced(silent: &mut watch::Receiver<bool>) {
    // The sender lives as long as the proxy.
    drop(silent.wait_for(|is_silent| *is_silent).await);
}

async fn forward(mut client: TcpStream, state: &State) -> std::io::Result<()> {
    let mut server = TcpStream::connect(&state.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut commit_from_client, mut commit_from_server) = (Watch::default(), Watch::default());
    let mut is_losing = false;
    let mut silent = state.is_silent.subscribe();
    let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            biased;
            () = silenced(&mut silent) => std::future::pending().await,
            count = client.read(&mut from_client) => {
                let bytes = &from_client[..count?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if commit_from_client.sees_commit(bytes) {
                    if state.holds.swap(false, Ordering::Relaxed) {
                        let bytes = bytes.to_vec();
                        *state.held() = Some(HeldCommit { server, bytes });
                        state.is_down.send_replace(true);
                        return Ok(());
                    }
                    is_losing = state.to_lose.send_if_modified(|remaining| {
                        let loses = *remaining > 0;
                        *remaining = remaining.saturating_sub(1);
                        loses
                    });
                }
                server.write_all(bytes).await?;
            }
            count = server.read(&mut from_server) => {
                let bytes = &from_server[..count?];
                if bytes.is_empty() {
                    return Ok(());
                }
                let is_commit = commit_from_server.sees_commit(bytes);
                if is_losing && is_commit {
                    if state.goes_down.swap(false, Ordering::Relaxed) {
                        state.is_down.send_replace(true);
                    }
                    return Ok(());
                }
                if !is_losing {
                    client.write_all(bytes).await?;
                }
            }
        }
    }
}

/// Searches a stream for [`COMMIT`], however it is cut.
#[derive(Default)]
struct Watch {
    tail: Vec<u8>,
}

impl Watch {
    fn sees_commit(&mut self, bytes: &[u8]) -> bool {
        self.tail.extend_from_slice(bytes);
        let found = self.tail.windows(COMMIT.len()).any(|part| part == COMMIT);
        let keep = self.tail.len().min(COMMIT.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;

    #[test]
    fn a_commit_is_seen_once_however_it_is_cut() {
        let mut watch = Watch::default();
        let parts: [&[u8]; 4] = [b"QxCOM", b"MIT", b"\0", b"rest"];
        assert_eq!(
            parts.map(|part| watch.sees_commit(part)),
            [false, false, true, false]
        );
    }
}
