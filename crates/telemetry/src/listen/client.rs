//! The socket of a client, and how its leaving is noticed while an answer
//! streams to it.
//!
//! HTTP reads a connection where it wants a request, so that while an answer
//! streams nobody would see whether the client is still there; least of all
//! when it has sent something behind its request, be it a body that nobody
//! wants, a line break or its next request, and its close stands behind that.
//! So what comes while an answer streams is read here ([`Client::gone`]): kept
//! for HTTP up to a limit, and thrown away beyond it.
//!
//! The end of the input does not mean that the client is gone: it may have
//! closed its half only, and then it gets its answer. Which of both it is shows
//! when it is sent something, because whoever has closed both halves resets the
//! connection. So the answer looks at [`HalfClose`] and writes something that
//! means nothing; and the reset, as every other failure of the connection, is
//! reported by the kernel without being asked. Nothing of this costs a system
//! call per piece of an answer.

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

/// Bytes that are kept of what comes behind a request whose answer streams.
/// Whoever sends more loses all of it, and the connection ends with the answer.
const SURPLUS_LIMIT: usize = 64 * 1024;

/// Bytes of one read of them, and reads until other connections have their turn.
const READ_SIZE: usize = 4 * 1024;
const READS_PER_TURN: usize = 16;

/// Whether a client has ended its side of the connection: an extension of every
/// request. When it happens, the body of the answer is polled again; a body that
/// streams then writes something harmless, once, so that a client that has
/// closed the whole connection is noticed.
#[derive(Clone, Default)]
pub struct HalfClose {
    is_seen: Arc<AtomicBool>,
    /// Does not keep the connection open.
    client: Weak<Shared>,
}

impl HalfClose {
    /// Whether it was seen, from the head of an answer that streams on.
    pub fn is_seen(&self) -> bool {
        self.is_seen.load(Ordering::Relaxed)
    }

    /// Whether it has happened as far as the kernel has reported, also before
    /// there is an answer, and behind whatever else the client has sent.
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

/// What HTTP reads and writes.
pub(super) struct ClientIo {
    client: Client,
    writer: OwnedWriteHalf,
}

/// What is known of the client of one connection. One task uses it, which serves
/// the connection.
#[derive(Clone)]
pub(super) struct Client(Arc<Shared>);

struct Shared {
    socket: OwnedReadHalf,
    /// HTTP has asked for bytes in this turn of the task.
    is_read: AtomicBool,
    /// The answer that is being written has no end yet.
    is_streaming: AtomicBool,
    surplus: Mutex<Surplus>,
    half_close: Arc<AtomicBool>,
}

/// What came behind a request whose answer streams.
#[derive(Default)]
struct Surplus {
    bytes: Vec<u8>,
    /// It was too much. To HTTP the input ends here.
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
    /// A turn of the connection's task begins, in which HTTP is polled first.
    pub(super) fn begin_turn(&self) {
        self.0.is_read.store(false, Ordering::Relaxed);
    }

    /// Whether an answer streams, from its head on. HTTP has what it wants of
    /// the request then.
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
        // The task's next turn begins with the answer.
        tokio::task::yield_now().await;
        // Its own failure would be one of the connection, too.
        let _ = shared.socket.ready(Interest::ERROR).await;
    }
}

impl Shared {
    /// Reads what HTTP does not want now, to the end of the input.
    fn poll_end_of_input(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_streaming.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if self.is_read.load(Ordering::Relaxed) {
            // HTTP comes first. What it leaves is read in the task's next turn.
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

    /// How many bytes there were, 0 for the end; `None`: nothing has come.
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

    /// Hands over what fits; whether that answers the read.
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
