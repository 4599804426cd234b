//! A minimal HTTP/1.1 client with one kept-alive connection.
//!
//! A general HTTP client would need as much processor time per chunk as the servers that it measures, and would deliver
//! frames late. This one reads the socket into one buffer and passes the payload on at once.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::body::Framing;
use crate::clock::monotonic_nanos;

const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Maximum length of a response head; none of the measured servers sends a longer one.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A client connection that reconnects when the server has closed it.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    socket: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// How one exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// HTTP status of the response.
    pub status: u16,
    /// When the request was handed to the kernel, in nanoseconds of the monotonic clock.
    pub sent_at: u64,
    /// Whether the body was framed to its end (false: the connection was cut inside it).
    pub complete: bool,
}

impl Connection {
    /// A connection to `address`; the socket is opened by the first exchange.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            socket: None,
            buffer: vec![0; READ_BUFFER_BYTES],
        }
    }

    /// Sends `request` and hands each piece of the body to `payload` together with the time it was read.
    ///
    /// If the server has closed the connection in the meantime, reconnects once.
    pub async fn exchange(
        &mut self,
        request: &[u8],
        mut payload: impl FnMut(&[u8], u64),
    ) -> io::Result<Exchange> {
        let reused = self.socket.is_some();
        match self.try_exchange(request, &mut payload).await {
            Err(error) if reused && is_stale(&error) => {
                self.socket = None;
                self.try_exchange(request, &mut payload).await
            }
            outcome => outcome,
        }
    }

    async fn try_exchange(
        &mut self,
        request: &[u8],
        payload: &mut impl FnMut(&[u8], u64),
    ) -> io::Result<Exchange> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => open(self.address).await?,
        };
        let sent_at = monotonic_nanos();
        socket.write_all(request).await?;
        let (head, filled) = read_head(&mut socket, &mut self.buffer).await?;
        let mut framing = head.framing;
        let mut bytes = &self.buffer[head.length..filled];
        let complete = loop {
            let now = monotonic_nanos();
            framing
                .feed(bytes, &mut |data| payload(data, now))
                .map_err(io::Error::other)?;
            if framing.is_complete() {
                break true;
            }
            match socket.read(&mut self.buffer).await {
                Ok(0) => break framing == Framing::UntilClose,
                Ok(read) => bytes = &self.buffer[..read],
                Err(_) => break false,
            }
        };
        if complete && head.keep_alive {
            self.socket = Some(socket);
        }
        Ok(Exchange {
            status: head.status,
            sent_at,
            complete,
        })
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn is_stale(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

struct Head {
    status: u16,
    framing: Framing,
    keep_alive: bool,
    /// Length of the head in bytes, including the empty line.
    length: usize,
}

/// Reads up to the end of the response head; returns it with the number of bytes in the buffer.
async fn read_head(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<(Head, usize)> {
    let mut filled = 0;
    loop {
        let read = socket.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if let Some(end) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n") {
            return Ok((parse_head(&buffer[..end], end + 4)?, filled));
        }
        if filled > MAX_HEAD_BYTES {
            return Err(io::Error::other("response head is too long"));
        }
    }
}

fn parse_head(head: &[u8], length: usize) -> io::Result<Head> {
    let text = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other("malformed status line"))?;
    let mut framing = if status == 204 {
        Framing::Sized(0)
    } else {
        Framing::UntilClose
    };
    let mut keep_alive = true;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::CHUNKED;
        } else if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Sized(value.parse().map_err(io::Error::other)?);
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keep_alive = false;
        }
    }
    keep_alive &= framing != Framing::UntilClose;
    Ok(Head {
        status,
        framing,
        keep_alive,
        length,
    })
}
