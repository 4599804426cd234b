//! Watches that are started again after every failure, and the state of each of them.
//!
//! The API server ends a watch after [`WATCH_SECONDS`]. If a watch is silent for [`SILENT`], its
//! connection is dead and the watch is started again. It starts with a list, which may be sent
//! on a second dead connection and be silent as well. Both together must take less than 30
//! seconds, so [`SILENT`] is less than half of that. After a failure, and every ten minutes,
//! everything is listed again, which makes up for events that were missed.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use kube::core::Status;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

/// The whole object once more, of `kubectl apply`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The API server ends a watch after this many seconds.
const WATCH_SECONDS: u32 = 10;
/// A connection on which nothing comes for so long is dead: longer than a watch takes.
pub(crate) const SILENT: Duration = Duration::from_secs(13);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// An API server that restarts is no reason to be unready.
const PATIENCE: Duration = Duration::from_secs(30);

/// How one watch fares, for `/readyz` and the log.
#[derive(Debug)]
pub(crate) struct WatchStatus {
    /// For people: `chattenants in namespace a`.
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nothing has been read yet; why not, if that is known.
    Unread(Option<Failure>),
    Current,
    Interrupted {
        since: Instant,
        failure: Failure,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// For people.
    message: String,
    /// The API server has answered, and will not answer otherwise by itself.
    is_refusal: bool,
}

impl WatchStatus {
    pub(crate) fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: Mutex::new(State::Unread(None)),
        })
    }

    /// What is missing while it is not whole.
    pub(crate) fn missing(&self) -> Option<String> {
        let name = &self.name;
        match &*self.state() {
            State::Unread(None) => Some(format!("{name} are not read yet")),
            State::Unread(Some(failure)) => {
                Some(format!("{name} are not read yet: {}", failure.message))
            }
            State::Interrupted { since, failure }
                if failure.is_refusal || since.elapsed() >= PATIENCE =>
            {
                Some(format!("{name} are not watched: {}", failure.message))
            }
            State::Interrupted { .. } | State::Current => None,
        }
    }

    fn recovered(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Current);
        if let State::Interrupted { since, .. } = before {
            let seconds = since.elapsed().as_secs();
            tracing::info!(watch = self.name, seconds, "a watch is whole again");
        }
    }

    /// Logs a failure that is new.
    fn failed(&self, failure: Failure) {
        let mut state = self.state();
        let is_known = match &*state {
            State::Unread(before) => before.as_ref() == Some(&failure),
            State::Current => false,
            State::Interrupted {
                failure: before, ..
            } => *before == failure,
        };
        if !is_known {
            let (watch, error) = (&self.name, &failure.message);
            tracing::warn!(watch, error, "a watch is interrupted; it is tried again");
        }
        *state = match *state {
            State::Unread(_) => State::Unread(Some(failure)),
            State::Current => State::Interrupted {
                since: Instant::now(),
                failure,
            },
            State::Interrupted { since, .. } => State::Interrupted { since, failure },
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of a watch for ever. Everything is listed anew after `every`, or a little
/// sooner, so that several watches do not do so at once.
pub(crate) fn watched<K>(
    api: Api<K>,
    config: watcher::Config,
    every: Duration,
    status: Arc<WatchStatus>,
) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let watch = Watch {
        api,
        config: config.timeout(WATCH_SECONDS),
        every,
        status,
        failures: 0,
        running: None,
    };
    stream::unfold(watch, async |mut watch| {
        let event = watch.next().await;
        Some((event, watch))
    })
}

struct Watch<K> {
    api: Api<K>,
    config: watcher::Config,
    every: Duration,
    status: Arc<WatchStatus>,
    /// In a row.
    failures: u32,
    running: Option<Running<K>>,
}

struct Running<K> {
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    until: Instant,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn next(&mut self) -> Event<K> {
        loop {
            let running = match &mut self.running {
                Some(running) => running,
                None => self.running.insert(Running {
                    events: watcher::watcher(self.api.clone(), self.config.clone()).boxed(),
                    until: Instant::now() + sooner(self.every),
                }),
            };
            let event = tokio::select! {
                event = running.events.next() => event,
                () = sleep_until(running.until) => None,
            };
            match event {
                Some(Ok(event)) => {
                    if matches!(event, Event::InitDone) {
                        self.failures = 0;
                        self.status.recovered();
                    }
                    return trimmed(event);
                }
                Some(Err(error)) => {
                    self.running = None;
                    if !has_expired(&error) {
                        self.status.failed(failure::<K>(&error));
                        sleep(backoff(self.failures)).await;
                        self.failures = self.failures.saturating_add(1);
                    }
                }
                None => self.running = None,
            }
        }
    }
}

/// Removes metadata that the operator never reads and that may be as large as the rest.
fn trimmed<K: Resource>(mut event: Event<K>) -> Event<K> {
    if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &mut event {
        let metadata = object.meta_mut();
        metadata.managed_fields = None;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(LAST_APPLIED);
        }
    }
    event
}

fn answer(error: &watcher::Error) -> Option<&Status> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether the API server no longer knows where the last watch ended, as is usual.
fn has_expired(error: &watcher::Error) -> bool {
    answer(error).is_some_and(|status| status.code == 410)
}

fn failure<K: Resource<DynamicType = ()>>(error: &watcher::Error) -> Failure {
    let Some(status) = answer(error) else {
        return Failure {
            message: error.to_string(),
            is_refusal: false,
        };
    };
    let definition = format!("{}.{}", K::plural(&()), K::group(&()));
    let is_ours = K::group(&()) == minichat_crds::GROUP;
    let message = match status.code {
        404 if is_ours => format!(
            "the custom resource definition {definition} is not installed; run `helm install minichat-crds charts/minichat-crds`"
        ),
        400 if is_ours => format!(
            "{}; the custom resource definition {definition} is older than this operator: run `helm upgrade minichat-crds charts/minichat-crds`",
            status.message
        ),
        _ => status.message.clone(),
    };
    Failure {
        message,
        is_refusal: (400..500).contains(&status.code) && status.code != 429,
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, last) = BACKOFF;
    sooner(first.saturating_mul(1 << failures.min(16)).min(last))
}

/// `whole` less up to a quarter.
fn sooner(whole: Duration) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    let less = whole / 4 * u32::try_from(random % 1024).unwrap_or_default() / 1024;
    whole.saturating_sub(less)
}

#[cfg(test)]
mod tests {
    use minichat_crds::ChatTenant;

    use super::*;

    fn refused(code: u16, message: &str) -> watcher::Error {
        let mut status = Status::failure(message, "");
        status.code = code;
        watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
    }

    /// K8S-15
    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_said_while_it_is_and_no_longer() {
        let status = WatchStatus::new("chattenants".to_owned());
        assert_eq!(
            status.missing().as_deref(),
            Some("chattenants are not read yet")
        );
        status.recovered();
        assert_eq!(status.missing(), None);
        status.failed(failure::<ChatTenant>(&refused(404, "page not found")));
        let missing = status.missing().unwrap();
        assert!(
            missing.starts_with(
                "chattenants are not watched: the custom resource definition chattenants.minichat.dev is not installed"
            ),
            "{missing}"
        );
        status.recovered();
        assert_eq!(status.missing(), None);
        status.failed(failure::<ChatTenant>(&refused(503, "starting")));
        assert_eq!(status.missing(), None, "that may end by itself");
        tokio::time::advance(PATIENCE).await;
        status.failed(failure::<ChatTenant>(&refused(503, "starting")));
        let missing = status.missing();
        assert_eq!(
            missing.as_deref(),
            Some("chattenants are not watched: starting")
        );
    }

    #[test]
    fn an_old_definition_is_told_from_a_missing_one() {
        let old = failure::<ChatTenant>(&refused(400, "field label not supported: spec.pool"));
        assert!(
            old.message.contains("is older than this operator"),
            "{old:?}"
        );
        let secrets = failure::<k8s_openapi::api::core::v1::Secret>(&refused(403, "forbidden"));
        assert_eq!(secrets.message, "forbidden");
        assert!(secrets.is_refusal);
    }

    #[test]
    fn delays_grow_to_five_seconds_with_jitter() {
        for failures in 0..40 {
            let delay = backoff(failures);
            assert!(
                delay <= BACKOFF.1 && delay >= BACKOFF.0 * 3 / 4,
                "{delay:?}"
            );
        }
        assert!(backoff(20) > Duration::from_secs(3));
    }
}
