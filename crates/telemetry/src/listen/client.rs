//! The socket of a client. It detects that the client has disconnected while an
//! answer streams to it.
//!
//! The HTTP library reads the socket only when it wants a request. While an answer
//! streams it does not read, so it would not notice that the client has closed the
//! connection. This is worst if the client has sent something behind its request (an
//! unread body, a line break, its next request), because the close comes after these
//! bytes. So [`Client::gone`] reads the socket while an answer streams. It keeps the
//! bytes for the HTTP library up to a limit, and discards them beyond it.
//!
//! The end of the input does not mean that the client is gone. A client may close
//! only its sending half, and then it gets its answer. To find out, the server writes
//! something: a client that has closed both halves resets the connection. So the
//! answer watches [`HalfClose`], and then writes an SSE comment, which clients
//! ignore. The kernel reports the reset, like every other failure of the connection,
//! as readiness of the socket. None of this needs a system call per chunk of an
//! answer.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// How many bytes behind a request are kept while its answer streams. If a client sends
/// more, all of them are discarded and the connection is closed after the answer.
const SURPLUS_LIMIT: usize = 64 * 1024;

/// Size of one read, and number of reads before other connections may run.
const READ_SIZE: usize = 4 * 1024;
const READS_PER_TURN: usize = 16;

/// Whether a client has closed its sending half of the connection, as an extension of
/// every request. When this happens, the body of the answer is polled again. A
/// streaming body then writes a comment once, so that the server notices a client that
/// has closed the whole connection.
#[derive(Clone, Default)]
pub struct HalfClose {
    is_seen: Arc<AtomicBool>,
    /// Does not keep the connection open.
    client: Weak<Shared>,
}

impl HalfClose {
    /// Whether the close was seen since the head of a streaming answer was sent.
    pub fn is_seen(&self) -> bool {
        self.is_seen.load(Ordering::Relaxed)
    }

    /// Whether the kernel has reported the close. This works before there is an answer,
    /// and no matter what else the client has sent.
    pub fn has_happened(&self) -> bool {
        let Some(client) = self.client.upgrade() else {
            return false;
        };
        let mut ready = pin!(client.socket.ready(Interest::READABLE));
        let ready = ready.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn see(&self) {
        self.is_seen.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for HalfClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalfClose")
            .field("is_seen", &self.is_seen())
            .finish_non_exhaustive()
    }
}

/// The stream that the HTTP library reads and writes.
pub(super) struct ClientIo {
    client: Client,
    writer: OwnedWriteHalf,
}

/// The state of the client of one connection. Only the task that serves the connection
/// uses it.
#[derive(Clone)]
pub(super) struct Client(Arc<Shared>);

struct Shared {
    socket: OwnedReadHalf,
    /// The HTTP library has asked for bytes in this poll of the task.
    is_read: AtomicBool,
    /// The answer that is being written has no end yet.
    is_streaming: AtomicBool,
    surplus: Mutex<Surplus>,
    half_close: Arc<AtomicBool>,
}

/// The bytes behind a request whose answer streams.
#[derive(Default)]
struct Surplus {
    bytes: Vec<u8>,
    /// Too many bytes. For the HTTP library, the input ends here.
    is_lost: bool,
}

pub(super) fn split(socket: TcpStream) -> (ClientIo, Client) {
    let (reader, writer) = socket.into_split();
    let client = Client(Arc::new(Shared {
        socket: reader,
        is_read: AtomicBool::new(false),
        is_streaming: AtomicBool::new(false),
        surplus: Mutex::default(),
        half_close: Arc::default(),
    }));
    let io = ClientIo {
        client: client.clone(),
        writer,
    };
    (io, client)
}

impl Client {
    /// A poll of the connection's task begins. It polls the HTTP library first.
    pub(super) fn begin_turn(&self) {
        self.0.is_read.store(false, Ordering::Relaxed);
    }

    /// Whether an answer streams, counted from its head. The HTTP library has then read
    /// what it needs of the request.
    pub(super) fn set_streaming(&self, is_streaming: bool) {
        self.0.is_streaming.store(is_streaming, Ordering::Relaxed);
    }

    pub(super) fn half_close(&self) -> HalfClose {
        HalfClose {
            is_seen: Arc::clone(&self.0.half_close),
            client: Arc::downgrade(&self.0),
        }
    }

    /// Returns when the connection has failed while an answer streams, as it
    /// does when the client has closed it and is written to.
    pub(super) async fn gone(&self) {
        let shared = &*self.0;
        if poll_fn(|cx| shared.poll_end_of_input(cx)).await.is_err() {
            return;
        }
        self.half_close().see();
        // The next poll of the task begins with the answer.
        tokio::task::yield_now().await;
        // If this fails, the connection has failed too.
        let _ = shared.socket.ready(Interest::ERROR).await;
    }
}

impl Shared {
    /// Reads the bytes that the HTTP library does not want now, to the end of the input.
    fn poll_end_of_input(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_streaming.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if self.is_read.load(Ordering::Relaxed) {
            // The HTTP library reads first. The rest is read in the next poll of the task.
            if self.socket.as_ref().poll_read_ready(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        for _ in 0..READS_PER_TURN {
            ready!(self.socket.as_ref().poll_read_ready(cx))?;
            if self.read_surplus()? == Some(0) {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Number of bytes read, 0 at the end of the input; `None` if there are none now.
    fn read_surplus(&self) -> io::Result<Option<usize>> {
        let mut bytes = [0; READ_SIZE];
        match self.socket.try_read(&mut bytes) {
            Ok(count) => {
                self.surplus().add(&bytes[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn surplus(&self) -> MutexGuard<'_, Surplus> {
        self.surplus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Surplus {
    fn add(&mut self, bytes: &[u8]) {
        self.is_lost |= self.bytes.len() + bytes.len() > SURPLUS_LIMIT;
        if self.is_lost {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Copies as many bytes as fit. Returns whether this completes the read.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes[..count]);
        self.bytes.drain(..count);
        self.is_lost || count > 0
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &*self.client.0;
        shared.is_read.store(true, Ordering::Relaxed);
        if shared.surplus().take(buffer) {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(shared.socket.as_ref().poll_read_ready(cx))?;
            match shared.socket.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(surplus: &mut Surplus, room: usize) -> (bool, Vec<u8>) {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        let is_answer = surplus.take(&mut buffer);
        (is_answer, buffer.filled().to_vec())
    }

    #[test]
    fn what_was_kept_comes_in_its_order() {
        let mut surplus = Surplus::default();
        assert_eq!(taken(&mut surplus, 4), (false, Vec::new()));
        surplus.add(b"abc");
        surplus.add(b"def");
        assert_eq!(taken(&mut surplus, 4), (true, b"abcd".to_vec()));
        surplus.add(b"g");
        assert_eq!(taken(&mut surplus, 4), (true, b"efg".to_vec()));
        assert_eq!(taken(&mut surplus, 4), (false, Vec::new()));
    }

    #[test]
    fn too_much_is_thrown_away_and_ends_the_input() {
        let mut surplus = Surplus::default();
        surplus.add(&vec![b'a'; SURPLUS_LIMIT]);
        assert!(taken(&mut surplus, 1).0);
        surplus.add(b"bc");
        surplus.add(b"d");
        assert_eq!(taken(&mut surplus, 4), (true, Vec::new()));
        assert_eq!(surplus.bytes.capacity(), 0);
    }
}
