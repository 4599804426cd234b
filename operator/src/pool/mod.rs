//! Which revisions the pool's pods run (K8S-23). One task polls `/configz` of all pods, and its
//! answers serve all reconciles that wait.

mod propagation;
mod sinks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use minichat_core::TenantId;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::caches::Caches;
use crate::status::SinkReports;

pub(crate) use propagation::Propagation;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);
/// Pods that are as fast as usual are not reported as pending.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// How long one pod may take to answer. It is shorter than [`SOON`], so that a reconcile that
/// starts to wait meanwhile still gets the answers of the other pods.
const PATIENCE: Duration = Duration::from_millis(700);
const MAX_BODY: usize = 16 << 20;

/// Where a pod that runs and does not drain is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pod: String,
    uid: String,
    authority: String,
    is_ready: bool,
}

/// How many pods run one revision, and which refuse it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) ready: usize,
    /// Ready pods that run it.
    pub(crate) programmed: usize,
    /// Ready pods that refused it; when none is ready, pods that did.
    pub(crate) rejected: usize,
    /// A pod that refused the revision, and its own words.
    pub(crate) refusal: Option<(String, String)>,
    /// The highest policy version that a refusing pod names as taken.
    pub(crate) stored_version: Option<u64>,
    /// Whose the id is in the database of a refusing pod: `namespace/name`.
    pub(crate) stored_owner: Option<String>,
    /// The issuer for which a pod refused the revision, and the tenant that has it.
    pub(crate) contested_issuer: Option<ContestedIssuer>,
    /// A pod whose database cannot store the policy of the revision now.
    pub(crate) retrying: Option<String>,
    /// Pods that were asked, ready or not.
    pub(crate) asked: usize,
    /// How the tenant's sinks fare, according to the pods that answered.
    pub(crate) sinks: SinkReports,
    /// Whether that is every pod.
    pub(crate) is_complete: bool,
}

impl Acknowledgement {
    /// Whether waiting would not change it. Pods that are not ready are waited
    /// for only while they are all there is: a pod whose one tenant is refused
    /// never becomes ready.
    pub(crate) fn is_final(&self) -> bool {
        if self.ready == 0 {
            return self.rejected == self.asked;
        }
        self.programmed + self.rejected == self.ready
    }

    /// Whether every ready pod runs it, and there is one.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.ready > 0 && self.programmed == self.ready
    }
}

/// The entry of `/configz` about one tenant.
#[derive(Debug, Deserialize)]
struct TenantEntry {
    tenant_id: TenantId,
    revision: Option<String>,
    rejected_revision: Option<String>,
    error: Option<String>,
    stored_version: Option<u64>,
    stored_owner: Option<String>,
    contested_issuer: Option<ContestedIssuer>,
    /// Whether the pod tries the refused one again by itself.
    #[serde(default)]
    retrying: bool,
    #[serde(default, deserialize_with = "sinks::reports")]
    sinks: SinkReports,
}

/// An issuer that is another tenant's where a pod runs both.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ContestedIssuer {
    /// Place in `spec.auth.issuers`, from 0.
    pub(crate) position: usize,
    pub(crate) issuer: String,
    /// Whose it is.
    pub(crate) holder: TenantId,
}

/// What the pods of one round have said so far.
#[derive(Clone)]
struct Snapshot {
    begun: Instant,
    pods: Vec<Answer>,
}

/// What one pod said last; `None` is no answer.
#[derive(Clone)]
struct Answer {
    pod: Endpoint,
    asked: Instant,
    entries: Option<Arc<BTreeMap<TenantId, TenantEntry>>>,
}

/// Polls the pods while a reconcile waits.
pub(crate) struct PodPool {
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
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if has_ended || pod.metadata.deletion_timestamp.is_some() {
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
        is_ready,
    })
}

/// The pods to poll: the ready ones, or all while none is ready. A pod whose only tenant is
/// refused never becomes ready, and its answer says why. They are in the order of their names,
/// so that the status always quotes the same one of several that refuse.
fn to_ask(mut pods: Vec<Endpoint>) -> Vec<Endpoint> {
    pods.sort_by(|one, other| one.pod.cmp(&other.pod));
    if pods.iter().any(|pod| pod.is_ready) {
        pods.retain(|pod| pod.is_ready);
    }
    pods
}

impl PodPool {
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

    /// How many pods run `revision` of `tenant`: as soon as that is final, at the latest after
    /// `patience`.
    pub(crate) async fn acknowledged(
        &self,
        tenant: TenantId,
        revision: &str,
        patience: Duration,
    ) -> Acknowledgement {
        let begun = Instant::now();
        let _waiting = Waiting::new(self);
        let mut snapshots = self.snapshots.subscribe();
        let endpoints = self.endpoints();
        let mut newest = Acknowledgement {
            ready: endpoints
                .iter()
                .filter(|endpoint| endpoint.is_ready)
                .count(),
            asked: endpoints.len(),
            ..Acknowledgement::default()
        };
        let finished = async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.begun >= begun) {
                    newest = snapshot.standing(tenant, revision, begun);
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
        let all = pods.iter().filter_map(|pod| endpoint(pod, self.port));
        to_ask(all.collect())
    }

    /// Polls after 50 ms, doubling to 2 s; a new waiting reconcile starts with 50 ms again.
    async fn poll(self: Arc<Self>) {
        let mut delay = FIRST;
        loop {
            if self.waiting.load(Ordering::Acquire) == 0 {
                self.asked.notified().await;
                delay = FIRST;
            }
            self.round().await;
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LAST),
                () = self.asked.notified() => {
                    // Many reconciles that come at once are answered by one round.
                    tokio::time::sleep(FIRST / 5).await;
                    delay = FIRST;
                }
            }
        }
    }

    /// Asks every pod, and publishes each answer as it comes: one that hangs hides no other.
    async fn round(&self) {
        let before = self.snapshots.borrow().clone();
        let mut snapshot = Snapshot::begin(self.endpoints(), before.as_deref());
        self.publish(&snapshot);
        let asked = snapshot.pods.iter().map(|answer| answer.pod.clone());
        let mut asked: FuturesUnordered<_> = asked.map(|pod| self.ask(pod)).collect();
        while let Some(answer) = asked.next().await {
            snapshot.add(answer);
            self.publish(&snapshot);
        }
    }

    fn publish(&self, snapshot: &Snapshot) {
        self.snapshots
            .send_replace(Some(Arc::new(snapshot.clone())));
    }

    async fn ask(&self, endpoint: Endpoint) -> Answer {
        let asked = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, self.fetch(&endpoint.authority)).await;
        let entries = match answer {
            Ok(Ok(entries)) => Some(Arc::new(entries)),
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
        Answer {
            pod: endpoint,
            asked,
            entries,
        }
    }

    async fn fetch(&self, authority: &str) -> anyhow::Result<BTreeMap<TenantId, TenantEntry>> {
        let uri = format!("http://{authority}/configz").parse()?;
        let response = self.client.get(uri).await?;
        anyhow::ensure!(response.status().is_success(), "{}", response.status());
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let entries: Vec<TenantEntry> = serde_json::from_slice(&body)?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.tenant_id, entry))
            .collect())
    }
}

impl Snapshot {
    /// For a round that begins: each pod with its answer of the round before.
    fn begin(pods: Vec<Endpoint>, before: Option<&Self>) -> Self {
        let begun = Instant::now();
        let last = |pod: &Endpoint| {
            let mut answers = before?.pods.iter();
            answers.find(|answer| answer.pod.uid == pod.uid)
        };
        let answer = |pod: Endpoint| {
            let last = last(&pod);
            Answer {
                asked: last.map_or(begun, |last| last.asked),
                entries: last.and_then(|last| last.entries.clone()),
                pod,
            }
        };
        let pods = pods.into_iter().map(answer).collect();
        Self { begun, pods }
    }

    fn add(&mut self, answer: Answer) {
        let mut answers = self.pods.iter_mut();
        if let Some(last) = answers.find(|last| last.pod.uid == answer.pod.uid) {
            *last = answer;
        }
    }

    /// By the answers of pods that were asked after `since`.
    fn standing(&self, tenant: TenantId, revision: &str, since: Instant) -> Acknowledgement {
        let ready = self
            .pods
            .iter()
            .filter(|answer| answer.pod.is_ready)
            .count();
        let mut standing = Acknowledgement {
            ready,
            asked: self.pods.len(),
            is_complete: self.is_complete(since),
            ..Acknowledgement::default()
        };
        for Answer { pod, entries, .. } in self.pods.iter().filter(|answer| answer.asked >= since) {
            let entry = entries.as_ref().and_then(|entries| entries.get(&tenant));
            let Some(entry) = entry else { continue };
            standing.sinks.add(&entry.sinks);
            if entry.rejected_revision.as_deref() == Some(revision) {
                standing.add_refusal(&pod.pod, entry);
            } else if pod.is_ready && entry.revision.as_deref() == Some(revision) {
                standing.programmed += 1;
            }
        }
        standing
    }
}

impl Acknowledgement {
    /// Adds that `pod` does not run the revision. What it tries again is not refused (D46).
    fn add_refusal(&mut self, pod: &str, entry: &TenantEntry) {
        if entry.retrying {
            self.retrying.get_or_insert_with(|| pod.to_owned());
            return;
        }
        self.rejected += 1;
        self.stored_version = self.stored_version.max(entry.stored_version);
        if self.stored_owner.is_none() {
            self.stored_owner.clone_from(&entry.stored_owner);
        }
        if self.contested_issuer.is_none() {
            self.contested_issuer.clone_from(&entry.contested_issuer);
        }
        let words = entry.error.clone().unwrap_or_default();
        self.refusal.get_or_insert_with(|| (pod.to_owned(), words));
    }
}

/// Keeps the poll going while it lives.
struct Waiting<'a>(&'a PodPool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a PodPool) -> Self {
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
    fn only_ready_pods_are_asked_while_there_are_any() {
        let authority = |pod: &Pod| endpoint(pod, 9090).map(|endpoint| endpoint.authority);
        assert_eq!(authority(&pod(|_| ())).as_deref(), Some("10.0.0.1:9191"));
        let unnamed = pod(|pod| pod["spec"]["containers"][0]["ports"][0]["name"] = json!("http"));
        assert_eq!(authority(&unnamed).as_deref(), Some("10.0.0.1:9090"));
        let draining =
            pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert_eq!(authority(&draining), None);
        let ended = pod(|pod| pod["status"]["phase"] = json!("Failed"));
        assert_eq!(authority(&ended), None);
        let starting = pod(|pod| pod["status"]["conditions"][0]["status"] = json!("False"));
        let starting = endpoint(&starting, 9090).unwrap();
        assert!(!starting.is_ready);
        let ready = endpoint(&pod(|_| ()), 9090).unwrap();
        assert_eq!(to_ask(vec![starting.clone(), ready.clone()]), [ready]);
        assert_eq!(to_ask(vec![starting.clone()]), [starting]);
        let six = pod(|pod| pod["status"]["podIP"] = json!("fd00::1"));
        assert_eq!(authority(&six).as_deref(), Some("[fd00::1]:9191"));
    }

    fn endpoint_of(pod: &str, is_ready: bool) -> Endpoint {
        Endpoint {
            pod: pod.to_owned(),
            uid: format!("uid-of-{pod}"),
            authority: "10.0.0.1:9090".to_owned(),
            is_ready,
        }
    }

    fn answer(pod: &str, is_ready: bool, entry: Option<TenantEntry>) -> Answer {
        Answer {
            pod: endpoint_of(pod, is_ready),
            asked: Instant::now(),
            entries: entry.map(|entry| Arc::new(BTreeMap::from([(entry.tenant_id, entry)]))),
        }
    }

    fn entry(tenant_id: TenantId, revision: &str, rejected: Option<&str>) -> TenantEntry {
        TenantEntry {
            tenant_id,
            revision: Some(revision.to_owned()),
            rejected_revision: rejected.map(str::to_owned),
            error: rejected.map(|_| "tenant.json.schema: must be 1".to_owned()),
            stored_version: rejected.map(|_| 7),
            stored_owner: rejected.map(|_| "a/acme".to_owned()),
            contested_issuer: None,
            retrying: false,
            sinks: SinkReports::default(),
        }
    }

    fn snapshot(pods: Vec<Answer>) -> Snapshot {
        Snapshot {
            begun: Instant::now(),
            pods,
        }
    }

    /// Before all answers.
    fn long_ago() -> Instant {
        Instant::now().checked_sub(SOON).unwrap()
    }

    /// D46: a failure of the database ends by itself.
    #[test]
    fn what_a_pod_tries_again_is_not_refused() {
        let tenant = TenantId::random();
        let mut retried = entry(tenant, "1-a", Some("2-b"));
        retried.retrying = true;
        let standing = snapshot(vec![answer("a", true, Some(retried))]);
        let standing = standing.standing(tenant, "2-b", long_ago());
        assert_eq!((standing.rejected, standing.refusal.as_ref()), (0, None));
        assert_eq!(standing.retrying.as_deref(), Some("a"));
        assert!(!standing.is_final());
    }

    /// K8S-23: an answer counts only for reconciles that began to wait before it.
    #[test]
    fn until_a_pod_answers_it_stands_as_it_did_for_those_who_asked_before() {
        let tenant = TenantId::random();
        let since = long_ago();
        let first = snapshot(vec![
            answer("hangs", true, None),
            answer("quick", true, Some(entry(tenant, "1-a", None))),
        ]);
        let pods = ["hangs", "quick"].map(|pod| endpoint_of(pod, true));
        let mut second = Snapshot::begin(pods.to_vec(), Some(&first));
        let programmed = |snapshot: &Snapshot, since| {
            let standing = snapshot.standing(tenant, "1-a", since);
            (standing.programmed, standing.ready)
        };
        assert_eq!(programmed(&second, since), (1, 2));
        assert_eq!(programmed(&second, second.begun), (0, 2));
        second.add(answer("quick", true, Some(entry(tenant, "1-a", None))));
        assert_eq!(programmed(&second, second.begun), (1, 2));
    }

    /// K8S-22, K8S-23
    #[test]
    fn a_refusal_is_told_in_the_pods_own_words() {
        let tenant = TenantId::random();
        let snapshot = snapshot(vec![
            answer("a", true, Some(entry(tenant, "2-b", None))),
            answer("b", true, Some(entry(tenant, "1-a", Some("2-b")))),
            answer("c", true, None),
        ]);
        let standing = snapshot.standing(tenant, "2-b", long_ago());
        assert_eq!(
            (standing.ready, standing.programmed, standing.rejected),
            (3, 1, 1)
        );
        assert!(!standing.is_final());
        let words = "tenant.json.schema: must be 1".to_owned();
        assert_eq!(standing.refusal, Some(("b".to_owned(), words)));
        assert_eq!(standing.stored_version, Some(7));
        assert_eq!(standing.stored_owner.as_deref(), Some("a/acme"));
        let old = snapshot.standing(tenant, "1-a", long_ago());
        assert_eq!((old.programmed, old.stored_version), (1, None));
        assert_eq!(old.stored_owner, None);
    }

    /// K8S-23: a pod whose only tenant is refused is not ready, and says why.
    #[test]
    fn where_no_pod_is_ready_a_refusal_of_one_that_is_not_is_told() {
        let tenant = TenantId::random();
        let refused = || answer("a", false, Some(entry(tenant, "1-a", Some("2-b"))));
        let standing = snapshot(vec![refused()]).standing(tenant, "2-b", long_ago());
        assert_eq!((standing.ready, standing.rejected), (0, 1));
        assert!(standing.refusal.is_some() && standing.is_final());
        let starting = snapshot(vec![refused(), answer("b", false, None)]);
        assert!(!starting.standing(tenant, "2-b", long_ago()).is_final());
        let running = answer("b", false, Some(entry(tenant, "2-b", None)));
        assert_eq!(
            snapshot(vec![running])
                .standing(tenant, "2-b", long_ago())
                .programmed,
            0
        );
        assert!(
            snapshot(Vec::new())
                .standing(tenant, "2-b", long_ago())
                .is_final()
        );
    }
}
