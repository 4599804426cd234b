//! The condition `JobsHealthy` of all tenants of the pool: whether a watchdog ends the turns that
//! a crashed process left running (K8S-7, TURN-64).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_core::Timestamp;
use minichat_crds::status::Condition;

use super::condition::{Reason, Type, Verdict, find};
use crate::settings::Watchdog;

/// The message for failures. It names no Job, because it is written into every tenant; the event
/// of the Job says how it failed.
const FAILED: &str = "a Job of the watchdog failed lately; the event JobFailed and its log say why";

/// A Job that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastRun {
    pub(crate) at: Timestamp,
    pub(crate) job: String,
    pub(crate) has_failed: bool,
}

/// The current verdict.
#[derive(Debug)]
pub(crate) struct JobsHealth {
    watchdog: Option<Watchdog>,
    missed_after: Duration,
    runs: Mutex<Runs>,
}

/// How the Jobs of a `CronJob` fare.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Runs {
    Unknown,
    NoneYet,
    Succeed,
    /// Until two in a row have succeeded: if each second one fails, that is no news
    /// each time.
    Fail {
        /// The first of the two.
        succeeded: Option<String>,
    },
    Missed,
}

impl JobsHealth {
    pub(crate) fn new(watchdog: Option<Watchdog>, missed_after: Duration) -> Self {
        Self {
            watchdog,
            missed_after,
            runs: Mutex::new(Runs::Unknown),
        }
    }

    /// The condition; `None` if the pool has no setting for it. Until the Jobs are known, it stays
    /// as it is in `standing`.
    pub(crate) fn verdict(&self, standing: &[Condition]) -> Option<Verdict> {
        let nobody = "nobody ends turns that a dead process left running";
        let (reason, message) = match self.watchdog? {
            Watchdog::InProcess => {
                let message = "the pool's process itself ends turns that were left running";
                (Reason::InProcess, message.to_owned())
            }
            Watchdog::Suspended => {
                let message = format!("{nobody}: watchdog.suspend is true");
                (Reason::Disabled, message)
            }
            Watchdog::Disabled => {
                let message = format!(
                    "{nobody}: orphan_watchdog.enabled is false, so the chart asks for no CronJob"
                );
                (Reason::Disabled, message)
            }
            Watchdog::Jobs => return self.of_jobs(standing),
        };
        Some(verdict(reason, message))
    }

    fn of_jobs(&self, standing: &[Condition]) -> Option<Verdict> {
        let stood = stood(standing);
        let (reason, message) = match &*self.runs() {
            Runs::Unknown => return stood,
            Runs::NoneYet => match stood.filter(is_of_jobs) {
                Some(stood) => return Some(stood),
                None => (Reason::Succeeded, "no Job has ended yet".to_owned()),
            },
            Runs::Succeed => (Reason::Succeeded, String::new()),
            Runs::Fail { .. } => (Reason::Failed, FAILED.to_owned()),
            Runs::Missed => {
                let seconds = self.missed_after.as_secs();
                let message = format!(
                    "no Job has ended for {seconds} s; the events of the CronJob may say why"
                );
                (Reason::Missed, message)
            }
        };
        Some(verdict(reason, message))
    }

    /// Keeps the Job that ended last; `since` is when this process began to follow Jobs. Whether
    /// the condition changes.
    pub(crate) fn judge(&self, last: Option<&LastRun>, since: Timestamp, now: Timestamp) -> bool {
        let is_missed = self.until_missed(last, since, now).is_zero();
        let mut runs = self.runs();
        let next = if is_missed {
            Runs::Missed
        } else {
            runs.then(last)
        };
        let is_news = !next.is_told_as(&runs);
        *runs = next;
        is_news && self.watchdog == Some(Watchdog::Jobs)
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long from now until a Job counts as missed, if none ends before.
    pub(crate) fn until_missed(
        &self,
        last: Option<&LastRun>,
        since: Timestamp,
        now: Timestamp,
    ) -> Duration {
        let begun = last.map_or(since, |last| last.at);
        let micros = now.as_micros().saturating_sub(begun.as_micros());
        let elapsed = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
        self.missed_after.saturating_sub(elapsed)
    }
}

impl Runs {
    /// The state after `last`.
    fn then(&self, last: Option<&LastRun>) -> Self {
        let Some(last) = last else {
            return Self::NoneYet;
        };
        match self {
            _ if last.has_failed => Self::Fail { succeeded: None },
            Self::Fail { succeeded: None } => Self::Fail {
                succeeded: Some(last.job.clone()),
            },
            Self::Fail {
                succeeded: Some(job),
            } if *job == last.job => self.clone(),
            _ => Self::Succeed,
        }
    }

    /// Whether both give the same condition.
    fn is_told_as(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Whether it is a verdict about Jobs.
fn is_of_jobs(verdict: &Verdict) -> bool {
    use Reason::{Failed, Missed, Succeeded};
    matches!(verdict.reason, Succeeded | Failed | Missed)
}

/// The verdict that is in `conditions` already.
fn stood(conditions: &[Condition]) -> Option<Verdict> {
    use Reason::{Disabled, Failed, InProcess, Missed, Succeeded};
    let condition = find(conditions, Type::JobsHealthy)?;
    let mut reasons = [Succeeded, Failed, Missed, InProcess, Disabled].into_iter();
    let reason = reasons.find(|reason| reason.as_str() == condition.reason)?;
    Some(verdict(reason, condition.message.clone()))
}

fn verdict(reason: Reason, message: String) -> Verdict {
    match reason {
        Reason::Succeeded | Reason::InProcess => Verdict::yes(Type::JobsHealthy, reason, message),
        _ => Verdict::no(Type::JobsHealthy, reason, message),
    }
}
