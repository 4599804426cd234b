//! A job holds a Lease while it works, so that only one process works at a time
//! (TURN-61).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_core::{Clock, SystemClock};
use minichat_lease::Candidate;
use minichat_telemetry::Signal;
use uuid::Uuid;

use super::Report;

/// The field manager of the Lease.
const MANAGER: &str = "minichat-watchdog";
/// How long to wait for the Lease: twice the time after which the Lease of a
/// dead holder is free.
const PATIENCE: Duration = Duration::from_secs(30);

/// The Lease of a job, if it is configured to hold one.
pub(super) struct JobLease(Option<Candidate>);

impl JobLease {
    /// The Lease `name` in the cluster of the environment.
    pub(super) async fn connect(name: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = name else {
            return Ok(Self(None));
        };
        // In a pod, the host name is the pod's name.
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| MANAGER.to_owned());
        let identity = format!("{host}_{}", Uuid::new_v4());
        let candidate = Candidate::of_environment(name.to_owned(), identity, MANAGER).await;
        candidate.map(Some).map(Self).context("job.lease")
    }

    /// Runs `work` while holding the Lease, and releases it. `work` must stop
    /// when `stop` fires or the Lease is lost. Without the Lease it is not
    /// started.
    pub(super) async fn hold(
        &self,
        stop: &Signal,
        work: impl AsyncFnOnce(&Signal) -> Report,
    ) -> Report {
        let Some(candidate) = &self.0 else {
            return work(stop).await;
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let election = candidate.clone().run(&clock);
        let mut leadership = election.leadership();
        let report = tokio::select! {
            () = leadership.acquired() => {
                until(stop, leadership.lost(), &candidate.name, work).await
            }
            () = stop.fired() => Report {
                stopped: true,
                ..without(&candidate.name, "before SIGTERM")
            },
            () = tokio::time::sleep(PATIENCE) => {
                without(&candidate.name, &format!("within {} s", PATIENCE.as_secs()))
            }
        };
        election.resign().await;
        report
    }
}

/// The report of a run that did not start (TURN-62: nothing was selected).
fn without(name: &str, how_long: &str) -> Report {
    let why = "another process holds it, or the log says why";
    Report {
        error: Some(format!("could not get the Lease {name} {how_long}: {why}")),
        ..Report::default()
    }
}

/// Runs `work`, and signals it to stop when `stop` fires or the Lease is
/// `lost`.
async fn until(
    stop: &Signal,
    lost: impl Future<Output = ()>,
    name: &str,
    work: impl AsyncFnOnce(&Signal) -> Report,
) -> Report {
    let ending = Signal::new();
    let mut is_lost = false;
    let watch = async {
        tokio::select! {
            () = stop.fired() => {}
            () = lost => {
                is_lost = true;
                tracing::warn!(lease = name, "the Lease is lost");
            }
        }
        ending.fire();
        std::future::pending::<Infallible>().await
    };
    let mut report = tokio::select! {
        biased;
        never = watch => match never {},
        report = work(&ending) => report,
    };
    if is_lost && report.stopped {
        report.error = Some(format!("the Lease {name} was lost in mid-run"));
    }
    report
}
