//! The data plane as a subject: its configuration, its manifests and one chat for every stream.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::task::LocalSet;

use super::pace::{Pace, post};
use super::process::Process;
use crate::load::{Connection, Stoppable};

const TENANT_ID: &str = "6f1c2a52-9f6e-4f0b-9b7d-3f2f3c0f6a10";
const API: &str = "/mini-chat/v1";
/// Connections over which chats are created before a measurement.
const CREATORS: usize = 16;

/// Program, addresses and database of one data plane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    /// What is started.
    pub program: &'a Path,
    /// Application listener.
    pub listen: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
    /// The scripted provider.
    pub provider: SocketAddr,
    /// `database.url`.
    pub database_url: &'a str,
}

/// Starts a data plane with durable storage, as in production. Callers authenticate by trusted headers. The rate limit
/// per user is off, because one user may open all streams.
pub(super) fn start(
    name: &str,
    settings: Settings<'_>,
    directory: &Path,
) -> anyhow::Result<Process> {
    let manifests = directory.join(format!("{name}-manifests"));
    fs::create_dir_all(&manifests)?;
    fs::write(manifests.join("tenant.yaml"), manifest(settings.provider))?;
    let mut command = Command::new(settings.program);
    command
        .arg("serve")
        .arg("--manifests")
        .arg(&manifests)
        .env("MINICHAT_SERVER_BIND_ADDR", settings.listen.to_string())
        .env("MINICHAT_METRICS_BIND_ADDR", settings.admin.to_string())
        .env("MINICHAT_DATABASE_URL", settings.database_url)
        .env("MINICHAT_AUTH_MODE", "trusted_headers")
        .env("MINICHAT_AUTH_TRUSTED_PEERS", "127.0.0.1/32")
        .env("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP", "true")
        .env("MINICHAT_SERVER_RATE_LIMIT_PER_SECOND", "0")
        .env("MINICHAT_SERVER_RATE_LIMIT_BURST", "0");
    let mut process = Process::start(name, command, directory)?;
    process.wait_until("is ready", || is_ready(settings.admin))?;
    Ok(process)
}

/// Creates one chat per stream and returns the request that opens each of them. The streams are shared out among so
/// many users. Must run inside a current-thread runtime.
pub(super) async fn prepare_streams(
    target: SocketAddr,
    pace: &Pace,
    streams: usize,
    users: usize,
) -> anyhow::Result<Vec<Bytes>> {
    let chats = prepare_chats(target, pace, streams, users).await?;
    let request = |chat: &Chat| stream_request(target, chat);
    Ok(chats.iter().map(request).collect())
}

/// The same with the requests that stop them.
pub(super) async fn prepare_stops(
    target: SocketAddr,
    pace: &Pace,
    streams: usize,
    users: usize,
) -> anyhow::Result<Vec<Stoppable>> {
    let chats = prepare_chats(target, pace, streams, users).await?;
    let stoppable = |chat: &Chat| Stoppable {
        stream: stream_request(target, chat),
        stop: post(
            &target.to_string(),
            &format!("{API}/chats/{id}/turns/{id}/cancel", id = chat.id),
            &identity(chat.user),
            "{}",
        ),
    };
    Ok(chats.iter().map(stoppable).collect())
}

/// Where a file is uploaded to, and by whom.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The attachments of a chat.
    pub path: String,
    /// Headers that name the chat's user, as complete lines.
    pub identity: String,
}

/// Creates one chat per upload, each of another user.
pub(super) async fn prepare_uploads(
    target: SocketAddr,
    uploads: usize,
) -> anyhow::Result<Vec<Upload>> {
    let chats = prepare_chats(target, &Pace::STEADY, uploads, uploads.max(1)).await?;
    let upload = |chat: &Chat| Upload {
        path: format!("{API}/chats/{}/attachments", chat.id),
        identity: identity(chat.user),
    };
    Ok(chats.iter().map(upload).collect())
}

/// A chat and the number of its user.
struct Chat {
    id: String,
    user: usize,
}

async fn prepare_chats(
    target: SocketAddr,
    pace: &Pace,
    count: usize,
    users: usize,
) -> anyhow::Result<Vec<Chat>> {
    let left = Rc::new(Cell::new(count));
    let chats = Rc::new(RefCell::new(Vec::with_capacity(count)));
    let local = LocalSet::new();
    let creators: Vec<_> = (0..CREATORS.min(count))
        .map(|_| {
            let (left, chats, model) = (Rc::clone(&left), Rc::clone(&chats), pace.id);
            local.spawn_local(async move {
                let mut connection = Connection::new(target);
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let user = rest % users;
                    let id = create_chat(&mut connection, target, model, user).await?;
                    chats.borrow_mut().push(Chat { id, user });
                }
                anyhow::Ok(())
            })
        })
        .collect();
    local.await;
    for creator in creators {
        creator.await??;
    }
    Ok(chats.take())
}

async fn create_chat(
    connection: &mut Connection,
    target: SocketAddr,
    model: &str,
    user: usize,
) -> anyhow::Result<String> {
    let body = format!(r#"{{"model":"{model}"}}"#);
    let request = post(
        &target.to_string(),
        &format!("{API}/chats"),
        &identity(user),
        &body,
    );
    let mut answer = Vec::new();
    let exchange = connection
        .exchange(&request, |bytes, _| answer.extend_from_slice(bytes))
        .await?;
    if exchange.status != 201 {
        bail!(
            "creating a chat: status {}: {}",
            exchange.status,
            String::from_utf8_lossy(&answer)
        );
    }
    let chat: serde_json::Value = serde_json::from_slice(&answer).context("creating a chat")?;
    Ok(chat["id"]
        .as_str()
        .context("the created chat has no id")?
        .to_owned())
}

/// The chat's id serves as the id of its only turn.
fn stream_request(target: SocketAddr, chat: &Chat) -> Bytes {
    let Chat { id, user } = chat;
    post(
        &target.to_string(),
        &format!("{API}/chats/{id}/messages:stream"),
        &identity(*user),
        &format!(r#"{{"content":"Tell me more.","request_id":"{id}"}}"#),
    )
}

fn identity(user: usize) -> String {
    format!("x-tenant-id: {TENANT_ID}\r\nx-user-id: 0b8f0a3e-51d5-4c55-8a52-{user:012x}\r\n")
}

fn is_ready(admin: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};

    let answer = || -> std::io::Result<String> {
        let mut socket = std::net::TcpStream::connect(admin)?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    answer().is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

fn manifest(provider: SocketAddr) -> String {
    let models: String = Pace::ALL.iter().map(model_entry).collect();
    format!(
        "apiVersion: minichat.dev/v1alpha1
kind: ChatTenant
metadata: {{name: benchmark, namespace: default}}
spec:
  tenantId: {TENANT_ID}
  providers:
    - name: scripted
      kind: OpenAIResponses
      baseUrl: http://{provider}
      auth: {{header: Authorization, prefix: 'Bearer ', secretKeyRef: {{name: scripted, key: api-key}}}}
  models:
{models}---
apiVersion: minichat.dev/v1alpha1
kind: ChatQuota
metadata: {{name: benchmark, namespace: default}}
spec:
  tenantRef: {{name: benchmark}}
  limits:
    standard: {{daily: '1000000000', monthly: '1000000000'}}
    premium: {{daily: '1000000000', monthly: '1000000000'}}
---
apiVersion: v1
kind: Secret
metadata: {{name: scripted, namespace: default}}
stringData: {{api-key: benchmark}}
"
    )
}

fn model_entry(pace: &Pace) -> String {
    format!(
        "    - id: {}
      displayName: {}
      providerRef: scripted
      providerModelId: {}
      tier: Standard
      contextWindow: 128000
      maxInputTokens: 100000
      maxOutputTokens: 4096
      inputTokensCreditMultiplierMicro: 1000000
      outputTokensCreditMultiplierMicro: 1000000
",
        pace.id, pace.id, pace.provider_model
    )
}
