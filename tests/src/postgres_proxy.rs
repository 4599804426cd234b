//! A proxy between a data plane and PostgreSQL that fails like a network.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How an answer ends that leaves no transaction open.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// `SSLRequest`, after its length.
const TLS_REQUEST: u32 = 80_877_103;

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
    /// Number of commits to let pass before one is lost.
    to_pass: AtomicUsize,
    is_down: watch::Sender<bool>,
    is_silent: watch::Sender<bool>,
    /// Whether the proxy goes down after the next lost acknowledgement.
    goes_down: AtomicBool,
    /// Whether the next commit is held.
    holds: AtomicBool,
    held: Mutex<Option<HeldCommit>>,
    /// Number of refused connections.
    turned_away: AtomicUsize,
    /// How often a client has said something after the server had answered, or first.
    round_trips: AtomicUsize,
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
            to_pass: AtomicUsize::new(0),
            is_down: watch::Sender::new(false),
            is_silent: watch::Sender::new(false),
            goes_down: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            held: Mutex::default(),
            turned_away: AtomicUsize::new(0),
            round_trips: AtomicUsize::new(0),
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

    /// Leaves the next `count` commits out of those that are lost.
    pub fn let_commits_pass(&self, count: usize) {
        self.state.to_pass.store(count, Ordering::Relaxed);
    }

    /// Loses the next acknowledgement; after it, the proxy refuses connections until
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
        let (mut answered, mut buffer) = (Answers::default(), vec![0; 16 * 1024]);
        loop {
            let count = server.read(&mut buffer).await?;
            ensure!(count > 0, "PostgreSQL did not commit");
            if answered.end_with(&buffer[..count]) {
                return Ok(());
            }
        }
    }

    /// Number of refused connections so far.
    pub fn turned_away(&self) -> usize {
        self.state.turned_away.load(Ordering::Relaxed)
    }

    /// How often a client has waited for an answer so far, over all connections.
    pub fn round_trips(&self) -> usize {
        self.state.round_trips.load(Ordering::Relaxed)
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
    /// Whether the acknowledgement of a commit that comes now is lost.
    fn loses(&self) -> bool {
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let passes = self
            .to_pass
            .fetch_update(set, get, |left| left.checked_sub(1));
        passes.is_err()
            && self.to_lose.send_if_modified(|remaining| {
                let loses = *remaining > 0;
                *remaining = remaining.saturating_sub(1);
                loses
            })
    }

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
    let (mut asked, mut answered) = (Requests::default(), Answers::default());
    let (mut is_losing, mut is_waiting) = (false, false);
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
                if !std::mem::replace(&mut is_waiting, true) {
                    state.round_trips.fetch_add(1, Ordering::Relaxed);
                }
                if asked.commit_in(bytes) {
                    if state.holds.swap(false, Ordering::Relaxed) {
                        let bytes = bytes.to_vec();
                        *state.held() = Some(HeldCommit { server, bytes });
                        state.is_down.send_replace(true);
                        return Ok(());
                    }
                    is_losing = state.loses();
                }
                server.write_all(bytes).await?;
            }
            count = server.read(&mut from_server) => {
                let bytes = &from_server[..count?];
                if bytes.is_empty() {
                    return Ok(());
                }
                is_waiting = false;
                let is_over = answered.end_with(bytes);
                if is_losing && is_over {
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

/// What a client says, however it is cut.
#[derive(Default)]
struct Requests {
    is_started: bool,
    /// The beginning of a message that has not come wholly.
    rest: Vec<u8>,
    /// Prepared statements that commit by themselves.
    committing: HashSet<Vec<u8>>,
    /// Prepared statements about chats and their turns.
    of_chats: HashSet<Vec<u8>>,
    /// Whether the transaction has run one of them. The others are the delivery of
    /// events, which commits whenever it likes.
    is_of_chats: bool,
}

impl Requests {
    /// Whether something in `bytes` commits what belongs to a chat: `COMMIT`, or a
    /// statement that reserves or finalizes at once.
    fn commit_in(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let mut commits = false;
        while let Some((kind, body)) = self.next_message() {
            commits |= self.commits(kind, &body);
        }
        commits
    }

    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = usize::from(self.is_started);
        let length = self.rest.get(head..head + 4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        let end = head + length;
        if self.rest.len() < end {
            return None;
        }
        let message: Vec<u8> = self.rest.drain(..end).collect();
        let kind = if self.is_started { message[0] } else { 0 };
        let body = message[head + 4..].to_vec();
        self.is_started |= !body.starts_with(&TLS_REQUEST.to_be_bytes());
        Some((kind, body))
    }

    fn commits(&mut self, kind: u8, body: &[u8]) -> bool {
        let mut texts = body.split(|byte| *byte == 0);
        match (kind, texts.next(), texts.next()) {
            (b'Q', Some(b"COMMIT"), _) => std::mem::take(&mut self.is_of_chats),
            (b'Q', Some(query), _) if query.starts_with(b"BEGIN") => {
                self.is_of_chats = false;
                false
            }
            (b'P', Some(name), Some(query)) => {
                let is_whole =
                    query.starts_with(b"WITH chat AS") || query.starts_with(b"WITH cells AS");
                note(&mut self.committing, name, is_whole);
                let is_of_chats = query.windows(CHAT.len()).any(|part| part == CHAT);
                note(&mut self.of_chats, name, is_of_chats);
                false
            }
            (b'B', _, Some(name)) => {
                self.is_of_chats |= self.of_chats.contains(name);
                self.committing.contains(name)
            }
            _ => false,
        }
    }
}

/// How the names of the tables of chats and turns begin.
const CHAT: &[u8] = b" chat";

/// A name without letters is used again for other statements.
fn note(names: &mut HashSet<Vec<u8>>, name: &[u8], is_one: bool) {
    if is_one {
        names.insert(name.to_vec());
    } else {
        names.remove(name);
    }
}

/// What a server answers.
#[derive(Default)]
struct Answers {
    tail: Vec<u8>,
}

impl Answers {
    /// Whether the answer ends with `bytes`, and no transaction is open.
    fn end_with(&mut self, bytes: &[u8]) -> bool {
        self.tail.extend_from_slice(bytes);
        let keep = self.tail.len().min(READY.len());
        self.tail.drain(..self.tail.len() - keep);
        self.tail == READY
    }
}

#[cfg(test)]
mod tests {
    use super::{Answers, Requests, TLS_REQUEST};

    fn message(kind: &[u8], body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [kind, &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn what_commits_is_seen_once_however_it_is_cut() {
        let parts = [
            message(b"", &TLS_REQUEST.to_be_bytes()),
            message(b"", b"\0\x03\0\0user\0me\0\0"),
            message(b"P", b"s1\0WITH chat AS (SELECT 1)\0\0\0"),
            message(b"P", b"s2\0SELECT 1\0\0\0"),
            message(b"B", b"\0s2\0"),
            message(b"B", b"\0s1\0"),
            message(b"Q", b"COMMIT\0"),
            message(b"Q", b"BEGIN\0"),
            message(b"B", b"\0s2\0"),
            message(b"Q", b"COMMIT\0"),
        ];
        let mut whole = Requests::default();
        let seen: Vec<_> = parts.iter().map(|part| whole.commit_in(part)).collect();
        let of_others = [false; 3];
        let expected = [
            &[false, false, false, false, false, true, true],
            &of_others[..],
        ];
        assert_eq!(seen, expected.concat());
        let mut cut = Requests::default();
        let bytes = parts.concat();
        let seen = bytes.iter().filter(|byte| cut.commit_in(&[**byte]));
        assert_eq!(seen.count(), 2);
    }

    #[test]
    fn the_end_of_an_answer_is_seen_however_it_is_cut() {
        let mut answers = Answers::default();
        let parts: [&[u8]; 4] = [b"C..Z\0", b"\0\0\x05", b"I", b"T"];
        let seen = parts.map(|part| answers.end_with(part));
        assert_eq!(seen, [false, false, true, false]);
    }
}
