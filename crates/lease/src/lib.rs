//! Leader election: of several processes, only the one that holds a Kubernetes
//! Lease may work.
//!
//! The holder renews its Lease every two seconds. Ten seconds after its last
//! successful renewal it considers the Lease lost. Other processes take the Lease
//! when it has not changed for fifteen seconds. They measure this with their own
//! clocks, so clocks of different machines are never compared.
//!
//! A process that was suspended may still finish an operation after it has lost
//! the Lease. A write that must not happen twice therefore needs more protection
//! than a Lease.

mod record;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};
use minichat_core::Clock;
use record::{Read, Record, Written};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a Lease must be unchanged before others may take it.
const DURATION: Duration = Duration::from_secs(15);
/// The holder stops working this long after it last renewed the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// Time limit of one attempt. It leaves time for a second attempt on a new connection,
/// if the first connection is dead without having been closed.
const ATTEMPT: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(5);

/// A Lease, and the process that wants to hold it.
#[derive(Clone)]
pub struct Candidate {
    pub client: Client,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Identity of this process, which must be unique.
    pub identity: String,
    /// Field manager of the writes.
    pub manager: &'static str,
}

/// Until when this process may work; `None` while another process holds the Lease.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

/// This process's participation in an election. When the value is dropped, the
/// process no longer takes part, and a Lease that it holds expires.
#[derive(Debug)]
pub struct Election {
    leadership: Leadership,
    resign: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Candidate {
    /// For the Lease `name` in the cluster and namespace of the environment: those of
    /// the pod, or else of `KUBECONFIG`. An error says what is missing.
    pub async fn of_environment(
        name: String,
        identity: String,
        manager: &'static str,
    ) -> anyhow::Result<Self> {
        let config = Config::infer().await;
        let mut config = config.context("no cluster: run in a pod, or set KUBECONFIG")?;
        config.connect_timeout = Some(CONNECT);
        // The election tries again by itself, and says so.
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        Ok(Self {
            client: Client::try_from(config).context("no client for the API server")?,
            namespace,
            name,
            identity,
            manager,
        })
    }

    /// Takes part in the election until it resigns, also while another process leads.
    pub fn run(self, clock: &Arc<dyn Clock>) -> Election {
        let (until, receiver) = watch::channel(None);
        let (resign, resigned) = oneshot::channel();
        let campaign = Campaign {
            record: Record::new(self, Arc::clone(clock)),
            until,
            seen: None,
            is_waiting: false,
        };
        Election {
            leadership: Leadership(receiver),
            resign,
            task: tokio::spawn(campaign.run(resigned)),
        }
    }
}

impl Election {
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Stops leading and releases the Lease for others. Call it when the work has
    /// stopped. It waits for a request that is under way.
    pub async fn resign(self) {
        // Sending fails only if the election has panicked, which is logged below.
        let _ = self.resign.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the election panicked");
        }
    }
}

impl Leadership {
    /// A state whose `until` somebody else updates.
    pub fn new(until: watch::Receiver<Option<Instant>>) -> Self {
        Self(until)
    }

    /// Whether this process may work at this instant.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when this process leads; never returns if its election is over.
    pub async fn acquired(&mut self) {
        if self.0.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when the election is over, which happens only if this process resigns.
    pub async fn over(&self) {
        let mut until = self.0.clone();
        while until.changed().await.is_ok() {}
    }

    /// Returns when this process has led and no longer does.
    pub async fn lost(&self) {
        let mut until = self.0.clone();
        loop {
            let end = *until.borrow_and_update();
            let Some(end) = end else { return };
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                renewed = until.changed() => if renewed.is_err() { return },
            }
        }
    }
}

/// The task of an election.
struct Campaign {
    record: Record,
    until: watch::Sender<Option<Instant>>,
    /// The version of a Lease that another process holds, and when this version was
    /// first seen.
    seen: Option<(Option<String>, Instant)>,
    /// Whether the log already says that another process holds the Lease.
    is_waiting: bool,
}

/// The result of an attempt.
enum Standing {
    /// This process holds the Lease.
    Ours,
    Others,
    /// The Lease has changed between reading and writing it: another process wrote it,
    /// or this process did and the answer was lost.
    Unclear,
}

impl Campaign {
    async fn run(mut self, mut resigned: oneshot::Receiver<()>) {
        loop {
            self.turn().await;
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                resigned = &mut resigned => {
                    if resigned.is_ok() {
                        self.resign().await;
                    }
                    return;
                }
            }
        }
    }

    async fn turn(&mut self) {
        let requested = Instant::now();
        match tokio::time::timeout(ATTEMPT, self.take_or_renew()).await {
            Ok(Ok(Standing::Ours)) => {
                self.until.send_replace(Some(requested + RENEW_DEADLINE));
            }
            Ok(Ok(Standing::Others)) => {
                self.until.send_replace(None);
            }
            // What was held is held as long as it was renewed for.
            Ok(Ok(Standing::Unclear)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be renewed"),
            Err(_) => {
                tracing::warn!("the Lease cannot be renewed: the API server does not answer");
            }
        }
    }

    async fn take_or_renew(&mut self) -> kube::Result<Standing> {
        let written = match self.record.read().await? {
            None => self.record.create().await?,
            Some(Read { holder, version }) => {
                if let Some(other) = holder.filter(|holder| !self.record.is_of_this(holder))
                    && !self.has_expired(version.as_ref())
                {
                    if !std::mem::replace(&mut self.is_waiting, true) {
                        tracing::info!(holder = other, "another process holds the Lease");
                    }
                    return Ok(Standing::Others);
                }
                self.is_waiting = false;
                self.record.hold(version).await?
            }
        };
        Ok(match written {
            Written::Done => Standing::Ours,
            Written::Changed => Standing::Unclear,
        })
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

    /// Releases a Lease that this process holds. If this fails, the Lease expires.
    async fn resign(&self) {
        if self.until.send_replace(None).is_none() {
            return;
        }
        let why_not = match tokio::time::timeout(RETRY, self.free()).await {
            Ok(Ok(Written::Done)) => return,
            Ok(Ok(Written::Changed)) => "it has changed meanwhile".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        tracing::warn!(why_not, "the Lease could not be released; it expires");
    }

    async fn free(&self) -> kube::Result<Written> {
        let lease = self.record.read().await?;
        let is_ours = |lease: &Read| {
            let holder = lease.holder.as_deref();
            holder.is_some_and(|holder| self.record.is_of_this(holder))
        };
        match lease.filter(is_ours) {
            Some(lease) => self.record.free(lease.version).await,
            // Another process has it.
            None => Ok(Written::Done),
        }
    }
}

#[cfg(test)]
mod tests;
