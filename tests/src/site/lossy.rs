//! A way to the API server on which answers get lost.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Site;
use super::process::Operator;
use crate::cluster;

/// The way, for one operator. Dropping it stops accepting connections.
pub struct LossyWay {
    addr: SocketAddr,
    to_lose: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

struct Way {
    client: Client,
    /// Answers to patches of Jobs that are still to be lost.
    to_lose: Arc<AtomicUsize>,
}

impl Site {
    /// A way with the operator's rights.
    pub async fn lossy_way(&self) -> anyhow::Result<LossyWay> {
        let kubeconfig = self.kubeconfig("Deployment").await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let to_lose = Arc::new(AtomicUsize::new(0));
        let way = Arc::new(Way {
            client: cluster::client(&kubeconfig).await?,
            to_lose: Arc::clone(&to_lose),
        });
        Ok(LossyWay {
            addr: listener.local_addr()?,
            to_lose,
            accepting: tokio::spawn(accept(listener, way)),
        })
    }

    /// An operator that reaches the API server on `way`.
    pub async fn operator_on(&self, way: &LossyWay) -> anyhow::Result<Operator> {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "way",
            "clusters": [{"name": "way", "cluster": {"server": format!("http://{}", way.addr)}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{
                "name": "way",
                "context": {"cluster": "way", "user": "nobody", "namespace": self.namespace},
            }],
        });
        let path: PathBuf = self.directory.path().join("way.kubeconfig");
        std::fs::write(&path, kubeconfig.to_string()).context("no kubeconfig")?;
        self.start_operator(&path, &[]).await
    }
}

impl LossyWay {
    /// The answers to the next `count` patches of Jobs get lost.
    pub fn lose_marks(&self, count: usize) {
        self.to_lose.store(count, Ordering::SeqCst);
    }

    /// Answers that are still to be lost.
    pub fn to_lose(&self) -> usize {
        self.to_lose.load(Ordering::SeqCst)
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
    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let is_mark = parts.method == Method::PATCH && parts.uri.path().contains("/jobs/");
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let request = Request::from_parts(parts, Body::from(body.to_vec()));
        let mut answer = self.client.send(request).await.map_err(io::Error::other)?;
        let loses = |left: usize| left.checked_sub(1);
        if is_mark
            && self
                .to_lose
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, loses)
                .is_ok()
        {
            return Err(io::Error::other("lost"));
        }
        for name in [CONNECTION, TRANSFER_ENCODING] {
            answer.headers_mut().remove(name);
        }
        Ok(answer)
    }
}
