use std::sync::Mutex;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use minichat_core::SystemClock;
use serde_json::{Value, json};

use super::*;

/// An API server that keeps one Lease.
#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    /// The next write is done, and answered as a client sees it that has sent it twice.
    answers_conflict: bool,
}

type Shared = Arc<Mutex<Server>>;

impl Server {
    fn answer(&mut self, method: &Method, body: Value) -> (u16, Value) {
        match (method, &self.lease) {
            (&Method::GET, Some(lease)) => return (200, lease.clone()),
            (&Method::GET, None) => return (404, json!({})),
            (&Method::PATCH, Some(lease))
                if body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] =>
            {
                return (409, json!({}));
            }
            (&Method::POST, Some(_)) => return (409, json!({})),
            _ => {}
        }
        self.write(body);
        if std::mem::take(&mut self.answers_conflict) {
            return (409, json!({}));
        }
        (200, self.lease.clone().unwrap_or_default())
    }

    fn write(&mut self, mut lease: Value) {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease);
    }

    fn holder(&self) -> Option<&str> {
        self.lease.as_ref()?["spec"]["holderIdentity"].as_str()
    }
}

fn candidate(server: &Shared, identity: &str) -> Candidate {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let method = request.method().clone();
            let body = request.into_body().collect().await?.to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (status, mut answer) = server.lock().unwrap().answer(&method, body);
            if status != 200 {
                let reason = if status == 404 {
                    "NotFound"
                } else {
                    "Conflict"
                };
                answer = json!({"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": reason});
            }
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, kube::Error>(Response::builder().status(status).body(answer).unwrap())
        }
    });
    Candidate {
        client: Client::new(service, "default"),
        namespace: "default".to_owned(),
        name: "work".to_owned(),
        identity: identity.to_owned(),
        manager: "tests",
    }
}

fn run(server: &Shared, identity: &str) -> (Election, Leadership) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let election = candidate(server, identity).run(&clock);
    let leadership = election.leadership();
    (election, leadership)
}

/// How long it takes until `leadership` is had.
async fn acquired(leadership: &mut Leadership) -> Duration {
    let begun = Instant::now();
    let acquired = tokio::time::timeout(Duration::from_mins(1), leadership.acquired());
    acquired.await.unwrap();
    begun.elapsed()
}

/// K8S-14
#[tokio::test(start_paused = true)]
async fn a_lease_whose_holder_is_gone_is_taken_when_it_has_stood_for_its_duration() {
    let server = Shared::default();
    let (first, mut leads) = run(&server, "first");
    acquired(&mut leads).await;
    drop(first);
    let (_second, mut leads) = run(&server, "second");
    let waited = acquired(&mut leads).await;
    assert!(
        waited >= DURATION && waited <= DURATION + 2 * RETRY,
        "{waited:?}"
    );
    assert_eq!(server.lock().unwrap().holder(), Some("second"));
}

/// K8S-14
#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_keeps_others_out_and_one_that_resigns_lets_them_in() {
    let server = Shared::default();
    let (first, mut leads) = run(&server, "first");
    acquired(&mut leads).await;
    let (_second, mut waits) = run(&server, "second");
    tokio::time::sleep(10 * DURATION).await;
    assert!(leads.holds() && !waits.holds());
    first.resign().await;
    assert!(!leads.holds());
    assert!(acquired(&mut waits).await <= RETRY);
}

/// K8S-14, TURN-61
#[tokio::test(start_paused = true)]
async fn a_holder_that_reads_anothers_name_stops_at_once() {
    let server = Shared::default();
    let (_first, mut leads) = run(&server, "first");
    acquired(&mut leads).await;
    let taken = Instant::now();
    {
        let mut server = server.lock().unwrap();
        let mut lease = server.lease.clone().unwrap();
        lease["spec"]["holderIdentity"] = json!("other");
        server.write(lease);
    }
    leads.lost().await;
    assert!(taken.elapsed() <= RETRY, "{:?}", taken.elapsed());
    assert!(!leads.holds());
}

/// A renewal that was done and answered with a conflict, as one that was sent twice, is no defeat.
#[tokio::test(start_paused = true)]
async fn a_conflict_with_itself_is_no_defeat() {
    let server = Shared::default();
    let (_first, mut leads) = run(&server, "first");
    acquired(&mut leads).await;
    for _ in 0..10 {
        server.lock().unwrap().answers_conflict = true;
        let lost = tokio::time::timeout(2 * RETRY, leads.lost()).await;
        assert!(lost.is_err() && leads.holds());
    }
}

/// Both write what they have read as free: one wins.
#[tokio::test(start_paused = true)]
async fn of_many_candidates_one_leads() {
    for _ in 0..20 {
        let server = Shared::default();
        let elections: Vec<_> = (0..10).map(|n| run(&server, &n.to_string())).collect();
        tokio::time::sleep(3 * RETRY).await;
        let leaders = elections.iter().filter(|(_, leads)| leads.holds());
        assert_eq!(leaders.count(), 1);
    }
}
