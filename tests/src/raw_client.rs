//! A client that writes its own bytes, for requests that no HTTP library sends
//! and for control of its connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

use crate::client::BASE;

/// How long to wait for a text.
const PATIENCE: Duration = Duration::from_secs(20);

/// Receive buffer in bytes of a client that accepts little at once.
const NARROW: u32 = 16 * 1024;

/// A connection.
#[derive(Debug)]
pub struct RawClient {
    socket: TcpStream,
    received: Vec<u8>,
    /// The text that was waited for ends before this position.
    seen: usize,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub tenant: Uuid,
    pub user: Uuid,
}

impl Caller {
    /// The head of a request without its final empty line. `path` is relative
    /// to the base path. Each of `headers` ends with a line break.
    pub fn head(&self, method: &str, path: &str, headers: &str) -> String {
        let Self { tenant, user } = self;
        format!(
            "{method} {BASE}{path} HTTP/1.1\r\nhost: a\r\nx-tenant-id: {tenant}\r\n\
             x-user-id: {user}\r\n{headers}"
        )
    }

    /// A whole request with a JSON body.
    pub fn request(&self, method: &str, path: &str, body: &str) -> String {
        let headers = format!(
            "content-type: application/json\r\ncontent-length: {}\r\n",
            body.len()
        );
        format!("{}\r\n{body}", self.head(method, path, &headers))
    }
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::of(socket))
    }

    /// A client with a small receive buffer.
    pub async fn connect_narrow(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(NARROW)?;
        Ok(Self::of(socket.connect(address).await?))
    }

    fn of(socket: TcpStream) -> Self {
        Self {
            socket,
            received: Vec::new(),
            seen: 0,
        }
    }

    pub fn local_port(&self) -> anyhow::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    pub async fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.write_bytes(text.as_bytes()).await
    }

    pub async fn write_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// A chunk of a chunked body.
    pub async fn write_chunk(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(&format!("{:x}\r\n", bytes.len())).await?;
        self.write_bytes(bytes).await?;
        self.write("\r\n").await
    }

    /// Reads until `text` has arrived after the previous text.
    pub async fn read_to(&mut self, text: &str) -> anyhow::Result<()> {
        let reading = async {
            loop {
                let new = &self.received[self.seen..];
                let mut places = new.windows(text.len());
                if let Some(at) = places.position(|it| it == text.as_bytes()) {
                    self.seen += at + text.len();
                    return Ok(());
                }
                // The possible beginning of the text is searched again.
                self.seen += new.len().saturating_sub(text.len() - 1);
                ensure!(self.read().await? > 0, "the connection ended");
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let read = read.unwrap_or_else(|_| Err(anyhow::anyhow!("it does not come")));
        read.with_context(|| {
            let received = self.text();
            let tail: Vec<_> = received.chars().rev().take(2000).collect();
            let tail: String = tail.into_iter().rev().collect();
            format!("waiting for {text:?} behind {tail:?}")
        })
    }

    /// Reads to the end and returns everything that was received.
    pub async fn read_to_end(mut self) -> anyhow::Result<String> {
        let reading = async {
            while self.read().await? > 0 {}
            anyhow::Ok(())
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let read = read.unwrap_or_else(|_| Err(anyhow::anyhow!("it does not end")));
        read.with_context(|| self.text())?;
        Ok(self.text())
    }

    /// Closes the sending half; the answer can still arrive.
    pub async fn close_half(&mut self) -> anyhow::Result<()> {
        Ok(self.socket.shutdown().await?)
    }

    /// Resets the connection.
    pub fn reset(self) -> anyhow::Result<()> {
        Ok(self.socket.set_zero_linger()?)
    }

    /// Everything that was received.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    async fn read(&mut self) -> anyhow::Result<usize> {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.socket.read(&mut buffer).await?;
        self.received.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}
