//! Who may write: the holder of a Lease (K8S-14), or this process alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use minichat_core::Clock;
use tokio::sync::watch;

use crate::write::MANAGER;

const DURATION: Duration = Duration::from_secs(15);
/// The leader stops writing this long after it last renewed the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// Whether this process may write now.
#[derive(Clone)]
pub(crate) enum Leadership {
    /// No other process writes.
    Alone,
    /// Until this instant; `None` while another process holds the Lease.
    Until(watch::Receiver<Option<Instant>>),
}

impl Leadership {
    pub(crate) fn holds(&self) -> bool {
        match self {
            Self::Alone => true,
            Self::Until(until) => until.borrow().is_some_and(|until| Instant::now() < until),
        }
    }

    /// Returns once this process leads.
    pub(crate) async fn acquired(&mut self) {
        if let Self::Until(until) = self {
            // The election ends only with the process.
            let _ = until.wait_for(Option::is_some).await;
        }
    }

    /// Returns once this process has led and does not any more.
    pub(crate) async fn lost(&self) {
        match self {
            Self::Alone => std::future::pending().await,
            Self::Until(_) => {
                while self.holds() {
                    tokio::time::sleep(RETRY / 4).await;
                }
            }
        }
    }
}

/// Takes part in the election until the process ends.
pub(crate) struct Election {
    leases: Api<Lease>,
    identity: String,
    clock: Arc<dyn Clock>,
    until: watch::Sender<Option<Instant>>,
    /// The Lease of another holder, and when it was first seen like this: clocks of
    /// two machines are never compared.
    seen: Option<(Option<String>, Instant)>,
}

impl Election {
    pub(crate) fn start(
        client: Client,
        namespace: &str,
        identity: String,
        clock: Arc<dyn Clock>,
    ) -> Leadership {
        let (until, receiver) = watch::channel(None);
        let election = Self {
            leases: Api::namespaced(client, namespace),
            identity,
            clock,
            until,
            seen: None,
        };
        tokio::spawn(election.run());
        Leadership::Until(receiver)
    }

    async fn run(mut self) {
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(RENEW_DEADLINE, self.take_or_renew()).await {
                Ok(Ok(true)) => {
                    self.until.send_replace(Some(asked + RENEW_DEADLINE));
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be renewed"),
                Err(_) => {
                    tracing::warn!("the Lease cannot be renewed: the API server does not answer");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether this process holds the Lease after it.
    async fn take_or_renew(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(MANAGER).await? else {
            let lease = self.lease(None);
            let created = self.leases.create(&PostParams::default(), &lease).await;
            return written(created.map(drop));
        };
        let version = lease.metadata.resource_version.clone();
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        let is_free = holder.is_none_or(str::is_empty);
        if !is_free && holder != Some(self.identity.as_str()) && !self.has_expired(version.as_ref())
        {
            return Ok(false);
        }
        // Whoever changed it meanwhile has won: the version does not fit any more.
        let lease = self.lease(version);
        let parameters = PatchParams::apply(MANAGER).force();
        let patched = self
            .leases
            .patch(MANAGER, &parameters, &Patch::Apply(&lease))
            .await;
        written(patched.map(drop))
    }

    fn has_expired(&mut self, version: Option<&String>) -> bool {
        match &self.seen {
            Some((seen, since)) if seen.as_ref() == version => since.elapsed() >= DURATION,
            _ => {
                self.seen = Some((version.cloned(), Instant::now()));
                false
            }
        }
    }

    fn lease(&self, resource_version: Option<String>) -> Lease {
        let now = jiff::Timestamp::from_microsecond(self.clock.now().as_micros());
        Lease {
            metadata: ObjectMeta {
                name: Some(MANAGER.to_owned()),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                renew_time: now.ok().map(MicroTime),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// A conflict is another process's success.
fn written(result: kube::Result<()>) -> kube::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
