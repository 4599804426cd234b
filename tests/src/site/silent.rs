//! A proxy to the API server whose connections can become silent, as when a router forgets them.

use std::net::SocketAddr;

use anyhow::Context as _;
use kube::config::Kubeconfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Site;
use super::process::Operator;

/// The proxy, for one operator. It stops accepting connections when dropped.
pub struct SilentWay {
    kubeconfig: Kubeconfig,
    silenced: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Site {
    /// A proxy for an operator with the chart's rights.
    pub async fn silent_way(&self) -> anyhow::Result<SilentWay> {
        let mut kubeconfig = Kubeconfig::read_from(self.kubeconfig("Deployment").await?)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let cluster = kubeconfig.clusters.first_mut().context("no cluster")?;
        let cluster = cluster.cluster.as_mut().context("no cluster")?;
        let server = cluster.server.replace(format!("https://{addr}"));
        let server: http::Uri = server.context("no server")?.parse()?;
        let server: SocketAddr = server.authority().context("no host")?.as_str().parse()?;
        let silenced = watch::Sender::new(());
        let accepting = tokio::spawn(accept(listener, server, silenced.clone()));
        Ok(SilentWay {
            kubeconfig,
            silenced,
            accepting,
        })
    }

    /// An operator that reaches the API server through `way`.
    pub async fn operator_on_silent(&self, way: &SilentWay) -> anyhow::Result<Operator> {
        let path = self.directory.path().join("silent.kubeconfig");
        std::fs::write(&path, serde_json::to_string(&way.kubeconfig)?)?;
        self.start_operator(&path, &[]).await
    }
}

impl SilentWay {
    /// From now on, nothing passes on the open connections, and none of them ends.
    pub fn silence(&self) {
        self.silenced.send_replace(());
    }
}

impl Drop for SilentWay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, silenced: watch::Sender<()>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut silenced = silenced.subscribe();
        tokio::spawn(async move {
            let Ok(mut upstream) = TcpStream::connect(server).await else {
                return;
            };
            tokio::select! {
                _ = copy_bidirectional(&mut stream, &mut upstream) => {}
                _ = silenced.changed() => {
                    // Both sockets stay open.
                    std::future::pending::<()>().await;
                }
            }
        });
    }
}
