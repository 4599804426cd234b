//! A proxy to the API server that loses answers and events, and refuses writes of status.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::process::Operator;
use super::{POOL_KUBECONFIG, Pod, Site};
use crate::cluster;

/// The proxy, for one operator. It stops accepting connections when dropped.
pub struct LossyWay {
    addr: SocketAddr,
    losses: Arc<Losses>,
    accepting: JoinHandle<()>,
}

/// A forwarded body.
type Shown = UnsyncBoxBody<Bytes, kube::Error>;

/// The planned faults.
#[derive(Default)]
struct Losses {
    /// Answers to patches of Jobs, and of the totals of Jobs, to lose.
    marks: AtomicUsize,
    /// Patches of Jobs before which another operator marks the Job.
    overtaken: AtomicUsize,
    /// Patches of status to refuse with a conflict.
    statuses: AtomicUsize,
    /// Deletions of Secrets to fail.
    deletions: AtomicUsize,
    /// Patches of tenants (not of their status) to refuse with a conflict.
    tenants: AtomicUsize,
    /// The name of objects whose events watches hide.
    unseen: Mutex<Option<String>>,
    /// Number of hidden events.
    hidden: AtomicUsize,
    /// Method and path of each write so far, but for the Lease.
    writes: Mutex<Vec<String>>,
}

struct Way {
    client: Client,
    losses: Arc<Losses>,
}

impl Site {
    /// A proxy with the operator's rights.
    pub async fn lossy_way(&self) -> anyhow::Result<LossyWay> {
        let kubeconfig = self.kubeconfig("Deployment").await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let losses = Arc::<Losses>::default();
        let way = Arc::new(Way {
            client: cluster::client(&kubeconfig).await?,
            losses: Arc::clone(&losses),
        });
        Ok(LossyWay {
            addr: listener.local_addr()?,
            losses,
            accepting: tokio::spawn(accept(listener, way)),
        })
    }

    /// An operator that reaches the API server through `way`.
    pub async fn operator_on(&self, way: &LossyWay) -> anyhow::Result<Operator> {
        self.operator_on_with(way, &[]).await
    }

    /// The same with other variables; names are without `MINICHAT_OPERATOR_`.
    pub async fn operator_on_with(
        &self,
        way: &LossyWay,
        overrides: &[(&str, &str)],
    ) -> anyhow::Result<Operator> {
        let path = self.directory.path().join("way.kubeconfig");
        self.write_way(way, &path)?;
        self.start_operator(&path, overrides).await
    }

    /// A ready data plane of the pool that reaches the API server through `way`.
    pub async fn pod_on(&self, way: &LossyWay) -> anyhow::Result<Pod> {
        self.write_way(way, &self.directory.path().join(POOL_KUBECONFIG))?;
        self.pod().await
    }

    fn write_way(&self, way: &LossyWay, into: &Path) -> anyhow::Result<()> {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "way",
            "clusters": [{"name": "way", "cluster": {"server": format!("http://{}", way.addr)}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{
                "name": "way",
                "context": {"cluster": "way", "user": "nobody", "namespace": self.namespace},
            }],
        });
        std::fs::write(into, kubeconfig.to_string()).context("no kubeconfig")
    }
}

impl LossyWay {
    /// Loses the answers to the next `count` patches of Jobs, and of the `ConfigMap` with their totals.
    pub fn lose_marks(&self, count: usize) {
        self.losses.marks.store(count, Ordering::SeqCst);
    }

    /// Marks the Job as another operator just before each of the next `count` patches of Jobs arrives.
    pub fn overtake_marks(&self, count: usize) {
        self.losses.overtaken.store(count, Ordering::SeqCst);
    }

    /// Answers the next `count` patches of status with 409.
    pub fn refuse_statuses(&self, count: usize) {
        self.losses.statuses.store(count, Ordering::SeqCst);
    }

    /// Number of status patches that will still be refused.
    pub fn to_refuse(&self) -> usize {
        self.losses.statuses.load(Ordering::SeqCst)
    }

    /// Answers the next `count` deletions of Secrets with 500.
    pub fn refuse_deletions(&self, count: usize) {
        self.losses.deletions.store(count, Ordering::SeqCst);
    }

    /// Number of deletions that will still be refused.
    pub fn deletions_to_refuse(&self) -> usize {
        self.losses.deletions.load(Ordering::SeqCst)
    }

    /// Answers the next `count` patches of tenants, except of their status, with 409.
    pub fn refuse_patches_of_tenants(&self, count: usize) {
        self.losses.tenants.store(count, Ordering::SeqCst);
    }

    /// Hides the events of objects called `name` from watches; `None` shows all again.
    pub fn lose_events_of(&self, name: Option<&str>) {
        *unseen(&self.losses) = name.map(|name| format!("\"name\":\"{name}\""));
    }

    /// Number of hidden events.
    pub fn hidden(&self) -> usize {
        self.losses.hidden.load(Ordering::SeqCst)
    }

    /// Method and path of each write so far, refused ones too. The Lease, which is renewed all the time, is left out.
    pub fn writes(&self) -> Vec<String> {
        writes(&self.losses).clone()
    }

    /// Number of answers that will still be lost.
    pub fn to_lose(&self) -> usize {
        self.losses.marks.load(Ordering::SeqCst)
    }
}

impl Drop for LossyWay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&way)));
    }
}

async fn serve(stream: TcpStream, way: Arc<Way>) {
    let service = service_fn(|request| {
        let way = Arc::clone(&way);
        async move { way.forward(request).await }
    });
    // A connection that ends in an error was planned to.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Way {
    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Shown>> {
        let (mut parts, body) = request.into_parts();
        for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let path = parts.uri.path();
        let is_patch = parts.method == Method::PATCH;
        let is_mark = is_patch && path.contains("/jobs/");
        let is_of_jobs = is_mark || is_patch && path.contains("/configmaps/");
        let watches = parts
            .uri
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        if parts.method != Method::GET && !path.contains("/leases") {
            writes(&self.losses).push(format!("{} {path}", parts.method));
        }
        if let Some(refusal) = self.losses.refusal(&parts.method, path) {
            return Ok(refusal);
        }
        if is_mark && takes_one(&self.losses.overtaken) {
            self.mark_as_another(path).await?;
        }
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let request = Request::from_parts(parts, Body::from(body.to_vec()));
        let mut answer = self.client.send(request).await.map_err(io::Error::other)?;
        if is_of_jobs && takes_one(&self.losses.marks) {
            return Err(io::Error::other("lost"));
        }
        for name in [CONNECTION, TRANSFER_ENCODING] {
            answer.headers_mut().remove(name);
        }
        if !watches {
            return Ok(answer.map(BodyExt::boxed_unsync));
        }
        let losses = Arc::clone(&self.losses);
        Ok(answer.map(|events| {
            // The API server sends one event per frame.
            let shown = events.map_frame(move |frame| {
                frame.map_data(|event| {
                    let unseen = unseen(&losses).clone();
                    let is_lost = unseen.is_some_and(|name| contains(&event, &name));
                    if is_lost {
                        losses.hidden.fetch_add(1, Ordering::SeqCst);
                        return Bytes::new();
                    }
                    event
                })
            });
            shown.boxed_unsync()
        }))
    }
}

impl Losses {
    /// The answer to a request that is not forwarded.
    fn refusal(&self, method: &Method, path: &str) -> Option<Response<Shown>> {
        let is_status = path.ends_with("/status");
        if *method == Method::DELETE && path.contains("/secrets/") {
            return takes_one(&self.deletions).then(broken);
        }
        let remaining = match *method {
            Method::PATCH if is_status => &self.statuses,
            Method::PATCH if path.contains("/chattenants/") => &self.tenants,
            _ => return None,
        };
        takes_one(remaining).then(conflict)
    }
}

impl Way {
    /// Marks the Job at `path` as another operator does.
    async fn mark_as_another(&self, path: &str) -> io::Result<()> {
        let mark = json!({"metadata": {"annotations": {"minichat.dev/reported": "another"}}});
        let request = Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(Body::from(mark.to_string().into_bytes()))
            .map_err(io::Error::other)?;
        let answer = self.client.send(request).await.map_err(io::Error::other)?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(io::Error::other(answer.status().to_string()))
    }
}

fn takes_one(remaining: &AtomicUsize) -> bool {
    let less = |remaining: usize| remaining.checked_sub(1);
    remaining
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

fn unseen(losses: &Losses) -> std::sync::MutexGuard<'_, Option<String>> {
    losses.unseen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn writes(losses: &Losses) -> std::sync::MutexGuard<'_, Vec<String>> {
    losses.writes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn contains(event: &Bytes, text: &str) -> bool {
    event
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// The API server's answer when another client has changed the object.
fn conflict() -> Response<Shown> {
    failure(
        http::StatusCode::CONFLICT,
        "Conflict",
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// The API server's answer when it has lost its database.
fn broken() -> Response<Shown> {
    failure(
        http::StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        "etcdserver: request timed out",
    )
}

fn failure(code: http::StatusCode, reason: &str, message: &str) -> Response<Shown> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "code": code.as_u16(), "message": message,
    });
    let mut answer = Response::new(Body::from(status.to_string().into_bytes()).boxed_unsync());
    *answer.status_mut() = code;
    let json = http::HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    answer
}
