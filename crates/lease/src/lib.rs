//! Which of several processes may work: the one that holds a Lease.
//!
//! A holder renews its Lease every two seconds and takes it for lost ten seconds
//! after it last could; others wait until it has stood unchanged for fifteen.
//! Clocks of two machines are never compared. A process that sleeps may still
//! finish what it had begun, so a write that must not happen twice needs more
//! than a Lease.

mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::{Client, Config};
use minichat_core::Clock;
use record::Record;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How long a Lease stands unchanged before others may take it.
const DURATION: Duration = Duration::from_secs(15);
/// The holder stops working this long after it last renewed the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(5);

/// A Lease, and who wants to hold it.
#[derive(Clone)]
pub struct Candidate {
    pub client: Client,
    /// Where the Lease is.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// Who this process is; no other process may be called the same.
    pub identity: String,
    /// The field manager of what is written.
    pub manager: &'static str,
}

/// Whether this process may work now.
#[derive(Clone, Debug)]
pub enum Leadership {
    /// No other process does this work.
    Alone,
    /// Until this instant; `None` while another process holds the Lease.
    Until(watch::Receiver<Option<Instant>>),
}

/// This process's part in an election. Dropped, it takes no part any more and
/// leaves the Lease to run out.
#[derive(Debug)]
pub struct Election {
    leadership: Leadership,
    resign: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Candidate {
    /// For the Lease `name` of the cluster and in the namespace that the
    /// environment names: those of the pod, or else of `KUBECONFIG`. An error
    /// says what is missing.
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

    /// Takes part in the election, also after a defeat, until it resigns.
    pub fn run(self, clock: Arc<dyn Clock>) -> Election {
        let (until, receiver) = watch::channel(None);
        let (resign, resigned) = oneshot::channel();
        let campaign = Campaign {
            record: Record::new(self, clock),
            until,
            seen: None,
            is_waiting: false,
        };
        Election {
            leadership: Leadership::Until(receiver),
            resign,
            task: tokio::spawn(campaign.run(resigned)),
        }
    }
}

impl Election {
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Leads no longer, and frees the Lease for others. To be called when the
    /// work has stopped.
    pub async fn resign(self) {
        // An election that has ended by itself has panicked, which is told.
        let _ = self.resign.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the election panicked");
        }
    }
}

impl Leadership {
    /// Whether this process may work at this instant.
    pub fn holds(&self) -> bool {
        match self {
            Self::Alone => true,
            Self::Until(until) => until.borrow().is_some_and(|until| Instant::now() < until),
        }
    }

    /// Returns once this process leads.
    pub async fn acquired(&mut self) {
        if let Self::Until(until) = self
            && until.wait_for(Option::is_some).await.is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once this process, having led, does not any more.
    pub async fn lost(&self) {
        let Self::Until(until) = self else {
            return std::future::pending().await;
        };
        let mut until = until.clone();
        loop {
            let end = *until.borrow_and_update();
            let Some(end) = end else { return };
            tokio::select! {
                () = tokio::time::sleep_until(end.into()) => return,
                renewed = until.changed() => if renewed.is_err() { return },
            }
        }
    }
}

/// The task of an election.
struct Campaign {
    record: Record,
    until: watch::Sender<Option<Instant>>,
    /// The version of another's Lease, and when it was first seen like this.
    seen: Option<(Option<String>, Instant)>,
    /// Whether it is told that another process holds the Lease.
    is_waiting: bool,
}

impl Campaign {
    async fn run(mut self, mut resigned: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                biased;
                resigned = &mut resigned => {
                    if resigned.is_ok() {
                        self.resign().await;
                    }
                    return;
                }
                () = self.turn() => {}
            }
        }
    }

    /// One try, and the time until the next.
    async fn turn(&mut self) {
        let asked = Instant::now();
        match tokio::time::timeout(RENEW_DEADLINE, self.take_or_renew()).await {
            Ok(Ok(true)) => {
                self.until.send_replace(Some(asked + RENEW_DEADLINE));
            }
            Ok(Ok(false)) => {
                self.until.send_replace(None);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be renewed"),
            Err(_) => {
                tracing::warn!("the Lease cannot be renewed: the API server does not answer");
            }
        }
        tokio::time::sleep(RETRY).await;
    }

    /// Whether this process holds the Lease after it.
    async fn take_or_renew(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.record.read().await? else {
            return self.record.create().await;
        };
        if let Some(holder) = lease.other_holder
            && !self.has_expired(lease.version.as_ref())
        {
            if !std::mem::replace(&mut self.is_waiting, true) {
                tracing::info!(holder, "another process holds the Lease");
            }
            return Ok(false);
        }
        self.is_waiting = false;
        // Whoever changed it meanwhile has won: the version does not fit any more.
        self.record.replace(lease.version, true).await
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

    /// Frees a Lease that this process holds; one that cannot be freed runs out.
    async fn resign(&self) {
        let held = self.until.send_replace(None).is_some();
        if !held {
            return;
        }
        let freed = tokio::time::timeout(RETRY, async {
            match self.record.read().await? {
                Some(lease) if lease.is_ours => self.record.replace(lease.version, false).await,
                _ => Ok(false),
            }
        });
        match freed.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be freed and runs out"),
            Err(_) => tracing::warn!("the Lease could not be freed in time and runs out"),
        }
    }
}
