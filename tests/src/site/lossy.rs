//! A way to the API server on which answers and events get lost, and statuses are refused.

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

/// The way, for one operator. Dropping it stops accepting connections.
pub struct LossyWay {
    addr: SocketAddr,
    losses: Arc<Losses>,
    accepting: JoinHandle<()>,
}

/// A body as it is passed on.
type Shown = UnsyncBoxBody<Bytes, kube::Error>;

/// What is still to go wrong.
#[derive(Default)]
struct Losses {
    /// Answers to patches of Jobs that get lost.
    marks: AtomicUsize,
    /// Patches of Jobs that somebody else's mark overtakes.
    overtaken: AtomicUsize,
    /// Patches of statuses that are refused, as if somebody had changed the object.
    statuses: AtomicUsize,
    /// Deletions of Secrets that fail.
    deletions: AtomicUsize,
    /// Patches of tenants themselves that are refused as those of statuses.
    tenants: AtomicUsize,
    /// Objects of this name whose events no watch shows.
    unseen: Mutex<Option<String>>,
    /// Events that were not shown.
    hidden: AtomicUsize,
}

struct Way {
    client: Client,
    losses: Arc<Losses>,
}

impl Site {
    /// A way with the operator's rights.
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

    /// An operator that reaches the API server on `way`.
    pub async fn operator_on(&self, way: &LossyWay) -> anyhow::Result<Operator> {
        self.operator_on_told(way, &[]).await
    }

    /// The same, told some things otherwise: by variables without `MINICHAT_OPERATOR_`.
    pub async fn operator_on_told(
        &self,
        way: &LossyWay,
        told: &[(&str, &str)],
    ) -> anyhow::Result<Operator> {
        let path = self.directory.path().join("way.kubeconfig");
        self.write_way(way, &path)?;
        self.start_operator(&path, told).await
    }

    /// A ready data plane of the pool that reaches the API server on `way`.
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
    /// The answers to the next `count` patches of Jobs get lost.
    pub fn lose_marks(&self, count: usize) {
        self.losses.marks.store(count, Ordering::SeqCst);
    }

    /// Somebody else marks the Job just before each of the next `count` patches of Jobs arrives.
    pub fn overtake_marks(&self, count: usize) {
        self.losses.overtaken.store(count, Ordering::SeqCst);
    }

    /// The next `count` patches of statuses are answered with 409.
    pub fn refuse_statuses(&self, count: usize) {
        self.losses.statuses.store(count, Ordering::SeqCst);
    }

    /// Patches of statuses that are still to be refused.
    pub fn to_refuse(&self) -> usize {
        self.losses.statuses.load(Ordering::SeqCst)
    }

    /// The next `count` deletions of Secrets are answered with 500.
    pub fn refuse_deletions(&self, count: usize) {
        self.losses.deletions.store(count, Ordering::SeqCst);
    }

    /// Deletions that are still to be refused.
    pub fn deletions_to_refuse(&self) -> usize {
        self.losses.deletions.load(Ordering::SeqCst)
    }

    /// The next `count` patches of tenants, but not of their statuses, are answered with 409.
    pub fn refuse_patches_of_tenants(&self, count: usize) {
        self.losses.tenants.store(count, Ordering::SeqCst);
    }

    /// No watch shows events of objects called `name`; `None` shows all again.
    pub fn lose_events_of(&self, name: Option<&str>) {
        *unseen(&self.losses) = name.map(|name| format!("\"name\":\"{name}\""));
    }

    /// Events that no watch has shown.
    pub fn hidden(&self) -> usize {
        self.losses.hidden.load(Ordering::SeqCst)
    }

    /// Answers that are still to be lost.
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
    // A connection that ends in an error was told to.
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
        let watches = parts
            .uri
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        if let Some(refusal) = self.losses.refusal(&parts.method, path) {
            return Ok(refusal);
        }
        if is_mark && takes_one(&self.losses.overtaken) {
            self.mark_as_another(path).await?;
        }
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let request = Request::from_parts(parts, Body::from(body.to_vec()));
        let mut answer = self.client.send(request).await.map_err(io::Error::other)?;
        if is_mark && takes_one(&self.losses.marks) {
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
            // The API server sends one event in a frame.
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
    /// The answer to what does not get through.
    fn refusal(&self, method: &Method, path: &str) -> Option<Response<Shown>> {
        let is_status = path.ends_with("/status");
        if *method == Method::DELETE && path.contains("/secrets/") {
            return takes_one(&self.deletions).then(broken);
        }
        let left = match *method {
            Method::PATCH if is_status => &self.statuses,
            Method::PATCH if path.contains("/chattenants/") => &self.tenants,
            _ => return None,
        };
        takes_one(left).then(conflict)
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

fn takes_one(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

fn unseen(losses: &Losses) -> std::sync::MutexGuard<'_, Option<String>> {
    losses.unseen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn contains(event: &Bytes, text: &str) -> bool {
    event
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// What an API server says of an object that somebody else changes all the time.
fn conflict() -> Response<Shown> {
    failure(
        http::StatusCode::CONFLICT,
        "Conflict",
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// What an API server says that has lost its own database.
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
