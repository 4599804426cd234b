//! The subcommand `ask`: a client that sends one message and prints the answer.
//! The chart's test uses it to check a pool, and so can people without `curl`
//! in an image.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use minichat_provider::encrypt;
use minichat_provider::sse::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Maximum time from sending the message to the end of the answer.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);

/// Maximum size of one event in bytes.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// The message, the API to send it to, and the caller.
#[derive(Debug, Clone)]
pub struct Question {
    /// Base path of the API, such as `http://127.0.0.1:8087/mini-chat/v1`.
    pub url: Uri,
    /// Authorities (PEM) of an `https` URL, in addition to the public ones.
    pub ca_file: Option<PathBuf>,
    /// Headers that identify the caller.
    pub headers: HeaderMap,
    /// The message.
    pub message: String,
}

/// `name: value`, as on the command line of `curl`.
pub fn header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text
        .split_once(':')
        .context("write `Name: value`, with a colon between")?;
    let name = name.trim().parse();
    let value = value.trim().parse();
    Ok((
        name.context("not a valid header name")?,
        value.context("not a valid header value")?,
    ))
}

/// Creates a chat, sends the message and writes the answer to `out` as it
/// arrives. Fails if the API refuses, or if the answer does not end with
/// `done`.
pub async fn ask(question: &Question, out: &mut impl Write) -> anyhow::Result<()> {
    tokio::time::timeout(ANSWER_WITHIN, converse(question, out))
        .await
        .with_context(|| format!("no whole answer within {} s", ANSWER_WITHIN.as_secs()))?
}

async fn converse(question: &Question, out: &mut impl Write) -> anyhow::Result<()> {
    let chat = post(question, "/chats", &json!({})).await?;
    let chat: Value = serde_json::from_slice(&chat.into_body().collect().await?.to_bytes())?;
    let id = chat["id"].as_str().context("the chat has no id")?;
    let path = format!("/chats/{id}/messages:stream");
    let message = json!({ "content": question.message });
    let answer = post(question, &path, &message).await?;
    relay(answer.into_body(), out).await
}

/// A connection, with TLS or without.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

async fn connect(question: &Question) -> anyhow::Result<Box<dyn Connection>> {
    let url = &question.url;
    let host = url.host().context("the URL has no host")?;
    let is_encrypted = url.scheme_str() == Some("https");
    let port = url
        .port_u16()
        .unwrap_or(if is_encrypted { 443 } else { 80 });
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((name, port))
        .await
        .with_context(|| format!("cannot connect to {host}:{port}"))?;
    if !is_encrypted {
        return Ok(Box::new(socket));
    }
    let encrypted = encrypt(socket, name, question.ca_file.as_deref()).await;
    let encrypted = encrypted.with_context(|| format!("no TLS connection to {host}:{port}"))?;
    Ok(Box::new(encrypted))
}

async fn post(question: &Question, path: &str, body: &Value) -> anyhow::Result<Response<Incoming>> {
    let url = format!("{}{path}", question.url.to_string().trim_end_matches('/'));
    let target: Uri = url.parse()?;
    let target = target.path_and_query().context("the URL has no path")?;
    let mut request =
        Request::post(target.as_str()).body(Full::new(Bytes::from(body.to_string())))?;
    *request.headers_mut() = question.headers.clone();
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    let authority = question.url.authority().context("the URL has no host")?;
    request
        .headers_mut()
        .insert(HOST, authority.as_str().parse()?);
    let (mut sender, connection) = http1::handshake(TokioIo::new(connect(question).await?)).await?;
    // It ends with the answer. Its errors are those of the answer.
    tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let response = response.with_context(|| format!("{url} does not answer"))?;
    if !response.status().is_success() {
        let status = response.status();
        let problem = response.into_body().collect().await?.to_bytes();
        bail!("{url}: {status}\n{}", String::from_utf8_lossy(&problem));
    }
    Ok(response)
}

/// Reads events up to the one that ends the answer.
async fn relay(mut body: Incoming, out: &mut impl Write) -> anyhow::Result<()> {
    let mut parser = Parser::with_limit(MAX_EVENT_BYTES);
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.context("the stream broke off")?.into_data() else {
            continue;
        };
        parser.push(&bytes);
        let too_large = |_| anyhow!("an event exceeds {MAX_EVENT_BYTES} bytes");
        while let Some(event) = parser.next_event().map_err(too_large)? {
            let data: Value = serde_json::from_slice(event.data)?;
            match event.name {
                b"delta" => write!(out, "{}", data["content"].as_str().unwrap_or_default())?,
                b"done" => {
                    writeln!(out, "\nmodel {}", data["effective_model"])?;
                    return Ok(());
                }
                b"error" => bail!("the answer ended in an error: {data}"),
                _ => {}
            }
        }
        out.flush()?;
    }
    bail!("the stream ended without `done`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_a_colon_and_a_name() {
        let (name, value) = header("X-Tenant-Id: a:b").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("x-tenant-id", "a:b")
        );
        assert!(header("X-Tenant-Id").is_err());
        assert!(header("Tenant Id: a").is_err());
    }
}
