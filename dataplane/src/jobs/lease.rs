//! One process at a time: a job holds a Lease while it works (TURN-61).

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
/// How long the Lease is waited for: twice what one lasts whose holder is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// The Lease of a job, if it has been told to hold one.
pub(super) struct JobLease(Option<Candidate>);

impl JobLease {
    /// The Lease `name` of the cluster that the environment names.
    pub(super) async fn connect(name: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = name else {
            return Ok(Self(None));
        };
        // In a pod the host has its name.
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| MANAGER.to_owned());
        let identity = format!("{host}_{}", Uuid::new_v4());
        let candidate = Candidate::of_environment(name.to_owned(), identity, MANAGER).await;
        candidate.map(Some).map(Self).context("job.lease")
    }

    /// Does `work` while the Lease is held, and frees it. `work` is told to stop
    /// when `stop` fires and when the Lease is lost; without the Lease it is not begun.
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
                ..without(&candidate.name, "until it was told to stop")
            },
            () = tokio::time::sleep(PATIENCE) => {
                without(&candidate.name, &format!("for {} s", PATIENCE.as_secs()))
            }
        };
        election.resign().await;
        report
    }
}

/// Of a run that has not begun (TURN-62: nothing was selected).
fn without(name: &str, how_long: &str) -> Report {
    let why = "another process holds it, or the log says why";
    Report {
        error: Some(format!(
            "the Lease {name} could not be had {how_long}: {why}"
        )),
        ..Report::default()
    }
}

/// Does `work`, and tells it to stop when `stop` fires or the Lease is `lost`.
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
