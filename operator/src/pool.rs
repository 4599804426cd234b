//! Which revisions the pool's pods run (K8S-23): one poll of `/configz` answers
//! everybody who waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use minichat_core::TenantId;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::cache::Caches;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);
/// A pod that does not answer for so long has not answered.
const ANSWER: Duration = Duration::from_secs(2);
const MAX_BODY: usize = 16 << 20;

/// Where a pod is asked, if it counts: it is ready and does not drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) pod: String,
    uid: String,
    authority: String,
}

/// How the ready pods stand to one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) ready: usize,
    pub(crate) programmed: usize,
    pub(crate) rejected: usize,
    /// A pod that refused the revision, and its own words.
    pub(crate) refusal: Option<(String, String)>,
}

impl Acknowledgement {
    /// Whether waiting would not change it.
    pub(crate) fn is_final(&self) -> bool {
        self.programmed + self.rejected == self.ready
    }
}

/// The entry of `/configz` about one tenant.
#[derive(Debug, Deserialize)]
struct Entry {
    tenant_id: TenantId,
    revision: Option<String>,
    rejected_revision: Option<String>,
    error: Option<String>,
}

/// What all ready pods said. `None` for a pod without an answer.
struct Snapshot {
    begun: Instant,
    pods: Vec<(String, Option<BTreeMap<TenantId, Entry>>)>,
}

/// Asks the pods while somebody waits.
pub(crate) struct Pool {
    caches: Arc<Caches>,
    port: u16,
    client: Client<HttpConnector, Empty<Bytes>>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    waiting: AtomicUsize,
    asked: Notify,
}

/// The endpoint of `pod`; `port` unless a container names its port `admin`.
pub(crate) fn endpoint(pod: &Pod, port: u16) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let is_ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !is_ready || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let address = status.pod_ip.as_deref()?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let named = containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| port.name.as_deref() == Some("admin"))
        .and_then(|port| u16::try_from(port.container_port).ok());
    let port = named.unwrap_or(port);
    let authority = if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    };
    Some(Endpoint {
        pod: pod.name_any(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        authority,
    })
}

impl Pool {
    /// Starts asking.
    pub(crate) fn start(caches: Arc<Caches>, port: u16) -> Arc<Self> {
        let pool = Arc::new(Self {
            caches,
            port,
            client: Client::builder(TokioExecutor::new()).build_http(),
            snapshots: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
            asked: Notify::new(),
        });
        tokio::spawn(Arc::clone(&pool).poll());
        pool
    }

    /// How the pods stand to `revision` of `tenant`: as soon as that is final, at
    /// the latest after `patience`.
    pub(crate) async fn acknowledged(
        &self,
        tenant: TenantId,
        revision: &str,
        patience: Duration,
    ) -> Acknowledgement {
        let begun = Instant::now();
        let _waiting = Waiting::new(self);
        let mut snapshots = self.snapshots.subscribe();
        let mut newest = Acknowledgement {
            ready: self.endpoints().len(),
            ..Acknowledgement::default()
        };
        let finished = async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.begun >= begun) {
                    newest = snapshot.standing(tenant, revision);
                    if newest.is_final() {
                        return;
                    }
                }
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, finished).await;
        newest
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let pods = self.caches.pods.store.state();
        pods.iter()
            .filter_map(|pod| endpoint(pod, self.port))
            .collect()
    }

    /// Rounds of 50 ms, doubling to 2 s; somebody new begins anew.
    async fn poll(self: Arc<Self>) {
        let mut delay = FIRST;
        loop {
            if self.waiting.load(Ordering::Acquire) == 0 {
                self.asked.notified().await;
                delay = FIRST;
            }
            let begun = Instant::now();
            let pods = join_all(
                self.endpoints()
                    .into_iter()
                    .map(|endpoint| self.ask(endpoint)),
            )
            .await;
            self.snapshots
                .send_replace(Some(Arc::new(Snapshot { begun, pods })));
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LAST),
                () = self.asked.notified() => {
                    // Many who come at once are answered by one round.
                    tokio::time::sleep(FIRST / 5).await;
                    delay = FIRST;
                }
            }
        }
    }

    async fn ask(&self, endpoint: Endpoint) -> (String, Option<BTreeMap<TenantId, Entry>>) {
        let answer = tokio::time::timeout(ANSWER, self.fetch(&endpoint.authority)).await;
        let entries = match answer {
            Ok(Ok(entries)) => Some(entries),
            Ok(Err(error)) => {
                tracing::debug!(
                    pod = endpoint.pod,
                    error = format!("{error:#}"),
                    "a pod does not answer"
                );
                None
            }
            Err(_) => None,
        };
        (endpoint.pod, entries)
    }

    async fn fetch(&self, authority: &str) -> anyhow::Result<BTreeMap<TenantId, Entry>> {
        let uri = format!("http://{authority}/configz").parse()?;
        let response = self.client.get(uri).await?;
        anyhow::ensure!(response.status().is_success(), "{}", response.status());
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let entries: Vec<Entry> = serde_json::from_slice(&body)?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.tenant_id, entry))
            .collect())
    }
}

impl Snapshot {
    fn standing(&self, tenant: TenantId, revision: &str) -> Acknowledgement {
        let mut standing = Acknowledgement {
            ready: self.pods.len(),
            ..Acknowledgement::default()
        };
        for (pod, entries) in &self.pods {
            let entry = entries.as_ref().and_then(|entries| entries.get(&tenant));
            let Some(entry) = entry else { continue };
            if entry.rejected_revision.as_deref() == Some(revision) {
                standing.rejected += 1;
                let words = entry.error.clone().unwrap_or_default();
                standing.refusal.get_or_insert_with(|| (pod.clone(), words));
            } else if entry.revision.as_deref() == Some(revision) {
                standing.programmed += 1;
            }
        }
        standing
    }
}

/// Keeps the poll going while it lives.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.waiting.fetch_add(1, Ordering::AcqRel);
        pool.asked.notify_one();
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(change: impl Fn(&mut serde_json::Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "admin", "containerPort": 9191}]}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    /// K8S-23
    #[test]
    fn only_ready_pods_that_do_not_drain_are_asked() {
        let authority = |pod: &Pod| endpoint(pod, 9090).map(|endpoint| endpoint.authority);
        assert_eq!(authority(&pod(|_| ())).as_deref(), Some("10.0.0.1:9191"));
        let unnamed = pod(|pod| pod["spec"]["containers"][0]["ports"][0]["name"] = json!("http"));
        assert_eq!(authority(&unnamed).as_deref(), Some("10.0.0.1:9090"));
        let draining =
            pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert_eq!(authority(&draining), None);
        let starting = pod(|pod| pod["status"]["conditions"][0]["status"] = json!("False"));
        assert_eq!(authority(&starting), None);
        let six = pod(|pod| pod["status"]["podIP"] = json!("fd00::1"));
        assert_eq!(authority(&six).as_deref(), Some("[fd00::1]:9191"));
    }

    /// K8S-22, K8S-23
    #[test]
    fn a_refusal_is_told_in_the_pods_own_words() {
        let tenant = TenantId::random();
        let entry = |revision: &str, rejected: Option<&str>| Entry {
            tenant_id: tenant,
            revision: Some(revision.to_owned()),
            rejected_revision: rejected.map(str::to_owned),
            error: rejected.map(|_| "tenant.json.schema: must be 1".to_owned()),
        };
        let pods = vec![
            (
                "a".to_owned(),
                Some(BTreeMap::from([(tenant, entry("2-b", None))])),
            ),
            (
                "b".to_owned(),
                Some(BTreeMap::from([(tenant, entry("1-a", Some("2-b")))])),
            ),
            ("c".to_owned(), None),
        ];
        let snapshot = Snapshot {
            begun: Instant::now(),
            pods,
        };
        let standing = snapshot.standing(tenant, "2-b");
        assert_eq!(
            (standing.ready, standing.programmed, standing.rejected),
            (3, 1, 1)
        );
        assert!(!standing.is_final());
        let words = "tenant.json.schema: must be 1".to_owned();
        assert_eq!(standing.refusal, Some(("b".to_owned(), words)));
        assert_eq!(snapshot.standing(tenant, "1-a").programmed, 1);
    }
}
