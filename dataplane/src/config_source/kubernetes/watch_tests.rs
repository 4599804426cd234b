//! A watch against a scripted API server in memory, with a clock that jumps to
//! the next deadline. Tests only behaviour that no real API server shows on
//! demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::fixtures::{A, B, secret};
use super::watch::{SecretChange, Watch};
use super::{PoolSecrets, named};

/// The API server's response to one request.
enum Answer {
    /// A list of all Secrets at this version.
    List(&'static str, Vec<Value>),
    /// Events, followed by the end of the watch.
    Events(Vec<Value>),
    /// Events, followed by silence.
    Hangs(Vec<Value>),
    /// An error status.
    Status(u16),
    /// No connection.
    Away,
}

/// The requests of a watch with their times.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<Vec<(Instant, String)>>>);

struct Scene {
    requests: Requests,
    changes: mpsc::Receiver<SecretChange>,
    watch: tokio::task::JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

type Answered =
    Response<StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>>;

impl Answer {
    fn response(self) -> Result<Answered, std::io::Error> {
        let (status, lines, hangs) = match self {
            Self::List(version, items) => {
                let list = json!({"apiVersion": "v1", "kind": "SecretList",
                    "metadata": {"resourceVersion": version}, "items": items});
                (200, vec![list], false)
            }
            Self::Events(events) => (200, events, false),
            Self::Hangs(events) => (200, events, true),
            Self::Status(code) => (code, vec![status(code)], false),
            Self::Away => return Err(std::io::ErrorKind::ConnectionRefused.into()),
        };
        let frames = lines
            .into_iter()
            .map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
        let frames = stream::iter(frames);
        let frames = if hangs {
            frames.chain(stream::pending()).boxed()
        } else {
            frames.boxed()
        };
        let response = Response::builder().status(status);
        Ok(response.body(StreamBody::new(frames)).unwrap())
    }
}

impl Scene {
    /// Answers in turn. After that, every watch hangs.
    fn start(answers: Vec<Answer>) -> Self {
        let requests = Requests::default();
        let (log, answers) = (requests.clone(), Mutex::new(VecDeque::from(answers)));
        let service = tower::service_fn(move |request: Request<Body>| {
            let uri = request.uri().to_string();
            log.0.lock().unwrap().push((Instant::now(), uri));
            let answer = answers.lock().unwrap().pop_front();
            let answer = answer.unwrap_or(Answer::Hangs(Vec::new()));
            async move { answer.response() }
        });
        let pool = PoolSecrets::new(Client::new(service, "chat"), "chat", "main");
        let (sender, changes) = mpsc::channel(16);
        Self {
            requests,
            changes,
            watch: tokio::spawn(Watch::new(pool, sender).follow()),
        }
    }

    /// The next change as `set <tenant>`, `gone <tenant>` or `whole <number>`.
    async fn next(&mut self) -> String {
        let text = |secret| named(secret).unwrap().0.to_string();
        match self.changes.recv().await.unwrap() {
            SecretChange::Whole(secrets) => format!("whole {}", secrets.len()),
            SecretChange::Set(secret) => format!("set {}", text(*secret)),
            SecretChange::Gone(secret) => format!("gone {}", text(*secret)),
        }
    }

    /// The request with index `at` and its time, once it arrived.
    async fn request(&self, at: usize) -> (Instant, String) {
        loop {
            if let Some(request) = self.requests.0.lock().unwrap().get(at) {
                return request.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn version(&self, at: usize) -> Option<String> {
        let (_, uri) = self.request(at).await;
        let (_, version) = uri.split_once("resourceVersion=")?;
        Some(version.split('&').next()?.to_owned())
    }
}

fn stored(id: &str, version: &str) -> Value {
    let mut secret = serde_json::to_value(secret(id, 1, 7, "key")).unwrap();
    secret["metadata"]["resourceVersion"] = version.into();
    secret
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: &str) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"resourceVersion": version, "creationTimestamp": null}});
    event("BOOKMARK", &object)
}

fn status(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "scripted", "reason": "Scripted", "code": code})
}

#[tokio::test(start_paused = true)]
async fn only_the_pool_of_the_namespace_is_watched_with_bookmarks() {
    let scene = Scene::start(vec![Answer::List("5", vec![])]);
    let (_, list) = scene.request(0).await;
    assert!(
        list.starts_with("/api/v1/namespaces/chat/secrets?"),
        "{list}"
    );
    assert!(
        list.contains("labelSelector=minichat.dev%2Fpool%3Dmain"),
        "{list}"
    );
    let (_, watch) = scene.request(1).await;
    for part in [
        "/api/v1/namespaces/chat/secrets?",
        "watch=true",
        "labelSelector=minichat.dev%2Fpool%3Dmain",
        "allowWatchBookmarks=true",
        "resourceVersion=5",
    ] {
        assert!(watch.contains(part), "{part} in {watch}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_where_the_last_one_ended() {
    let mut scene = Scene::start(vec![
        Answer::List("5", vec![stored(A, "3")]),
        Answer::Events(vec![event("ADDED", &stored(B, "6"))]),
        Answer::Events(vec![bookmark("9")]),
        Answer::Events(vec![event("DELETED", &stored(A, "11"))]),
    ]);
    assert_eq!(scene.next().await, "whole 1");
    assert_eq!(scene.next().await, format!("set {B}"));
    assert_eq!(scene.next().await, format!("gone {A}"));
    let mut versions = Vec::new();
    for at in 1..5 {
        versions.push(scene.version(at).await.unwrap());
    }
    assert_eq!(versions, ["5", "6", "9", "11"]);
}

/// K8S-21: also if the 410 comes inside the stream, as it usually does.
#[tokio::test(start_paused = true)]
async fn after_410_everything_is_listed_anew() {
    for gone in [
        Answer::Status(410),
        Answer::Events(vec![event("ERROR", &status(410))]),
    ] {
        let mut scene = Scene::start(vec![
            Answer::List("5", vec![stored(A, "3"), stored(B, "4")]),
            gone,
            Answer::List("70", vec![stored(B, "4")]),
        ]);
        assert_eq!(scene.next().await, "whole 2");
        assert_eq!(scene.next().await, "whole 1");
        assert_eq!(scene.version(3).await.unwrap(), "70");
    }
}

/// K8S-21: the connection is cut silently, before or after an event.
#[tokio::test(start_paused = true)]
async fn a_dead_watch_is_noticed_within_30_seconds() {
    for said in [vec![], vec![bookmark("6")]] {
        let mut scene = Scene::start(vec![
            Answer::List("5", vec![]),
            Answer::Hangs(said),
            Answer::Events(vec![event("ADDED", &stored(A, "8"))]),
        ]);
        assert_eq!(scene.next().await, "whole 0");
        assert_eq!(scene.next().await, format!("set {A}"));
        let (dead, _) = scene.request(1).await;
        let (next, _) = scene.request(2).await;
        assert!(next - dead <= Duration::from_secs(30), "{:?}", next - dead);
        assert!(next - dead > Duration::from_secs(20), "{:?}", next - dead);
    }
}

/// K8S-3, K8S-21
#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let mut answers: Vec<_> = (0..12).map(|_| Answer::Away).collect();
    answers.push(Answer::Status(503));
    answers.push(Answer::List("5", vec![stored(A, "3")]));
    answers.extend([Answer::Away, Answer::Status(500)]);
    answers.push(Answer::Events(vec![event("MODIFIED", &stored(A, "8"))]));
    let mut scene = Scene::start(answers);
    assert_eq!(scene.next().await, "whole 1");
    // Nothing is listed again: the watch resumes where it was.
    assert_eq!(scene.next().await, format!("set {A}"));
    assert_eq!(scene.version(16).await.unwrap(), "5");
    let (before, _) = scene.request(12).await;
    let (after, _) = scene.request(13).await;
    assert!(after - before <= Duration::from_secs(5));
}

/// If the API server ends every watch at once, it is not called thousands of
/// times.
#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_repeated_at_once() {
    let mut answers = vec![Answer::List("5", vec![])];
    answers.extend((0..10).map(|_| Answer::Events(vec![])));
    let scene = Scene::start(answers);
    let (first, _) = scene.request(1).await;
    let (last, _) = scene.request(11).await;
    assert!(last - first > Duration::from_secs(10));
}
