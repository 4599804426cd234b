//! A provider that writes exactly the given bytes, which no HTTP library would.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Makes the bytes of an answer from the head of the request.
type Answer = Box<dyn FnOnce(&str) -> Vec<u8> + Send>;

/// Serves the pushed answers, one per request, oldest first. A request without
/// an answer gets no bytes. It stops when dropped.
pub struct RawProvider {
    /// Where it listens.
    pub addr: SocketAddr,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    task: tokio::task::JoinHandle<()>,
}

impl RawProvider {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let answers: Arc<Mutex<VecDeque<Answer>>> = Arc::default();
        let queue = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&queue)));
            }
        });
        Ok(Self {
            addr,
            answers,
            task,
        })
    }

    /// Answers the next request with `bytes`, head and body.
    pub fn push(&self, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.push_with(move |_| bytes);
    }

    /// Answers the next request with the result of `answer`, called with the
    /// head of the request.
    pub fn push_with(&self, answer: impl FnOnce(&str) -> Vec<u8> + Send + 'static) {
        lock(&self.answers).push_back(Box::new(answer));
    }
}

impl Drop for RawProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(answers: &Mutex<VecDeque<Answer>>) -> std::sync::MutexGuard<'_, VecDeque<Answer>> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection serves one request, because the written bytes may not end where
/// HTTP expects.
async fn serve(mut stream: TcpStream, answers: Arc<Mutex<VecDeque<Answer>>>) {
    let Some(head) = read_request(&mut stream).await else {
        return;
    };
    let Some(answer) = lock(&answers).pop_front() else {
        return;
    };
    // The client may be gone.
    let _ = stream.write_all(&answer(&head)).await;
    let _ = stream.shutdown().await;
    // Waits until the client has read everything and closes, because a reset
    // would lose bytes.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// Reads a request to its end and returns its head.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).into_owned();
            let length = header(&head, "content-length")?.parse().unwrap_or(0);
            if request.len() >= end + 4 + length {
                return Some(head);
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

/// The value of a header of `head`.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// A whole answer with `body` as a stream.
pub fn stream(body: &str) -> Vec<u8> {
    answer(200, "text/event-stream", body)
}

/// A whole answer.
pub fn answer(status: u16, content_type: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Frames of the chat completions API, followed by `[DONE]`.
pub fn chat_stream(events: &[&str]) -> Vec<u8> {
    let frames = events.iter().map(|event| format!("data: {event}\n\n"));
    stream(&(frames.collect::<String>() + "data: [DONE]\n\n"))
}

/// Events `(name, data)` of the Responses API.
pub fn responses_stream(events: &[(&str, &str)]) -> Vec<u8> {
    let frames = events
        .iter()
        .map(|(name, data)| format!("event: {name}\ndata: {data}\n\n"));
    stream(&frames.collect::<String>())
}
