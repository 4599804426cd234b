//! The condition `SinksHealthy` of a tenant: whether its usage and audit events are delivered,
//! as far as the pods say. A sink that has failed for an hour gets one event, and one when it
//! delivers again.
//!
//! What was published about a sink is in the tenant's status, so that another operator process
//! does not repeat it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_core::{TenantId, Timestamp};
use minichat_crds::chat_tenant::{ChatTenantSpec, SinkFailure, SinkFailures, SinkType};

use super::condition::{Reason, Type, Verdict};
use super::event::EventNote;
use super::sink_report::{SinkReport, SinkReports};

/// A sink that fails for as long gets an event.
const LONG: Duration = Duration::from_hours(1);
/// What pods said counts for as long.
const KEPT: Duration = Duration::from_mins(1);
/// A failure has ended when all pods have said so for as long. One that has just started may not
/// have read yet what fails.
const SETTLES: Duration = Duration::from_secs(5);
/// An error in a status is replaced by another one of the same failure at most this often.
const ERROR_STAYS: Duration = Duration::from_mins(5);

/// What the pods said last, by tenant.
#[derive(Debug, Default)]
pub(crate) struct SinksHealth(Mutex<HashMap<TenantId, Known>>);

#[derive(Debug)]
struct Known {
    reports: SinkReports,
    /// When pods said so.
    at: Timestamp,
    /// When an error was taken that differs from the one before.
    error_at: Timestamp,
    /// Since when each sink that failed delivers.
    ended: [Option<Timestamp>; 2],
    is_stale: bool,
}

impl SinksHealth {
    /// Takes what pods say now; `is_complete` if all of them were heard. Whether what is known
    /// changes.
    pub(crate) fn take(
        &self,
        tenant: TenantId,
        mut reports: SinkReports,
        is_complete: bool,
        now: Timestamp,
    ) -> bool {
        let mut all = self.all();
        let known = all.get_mut(&tenant);
        if reports == SinkReports::default() {
            let Some(known) = known else { return false };
            let becomes_stale = !known.is_stale && elapsed(known.at, now) >= KEPT;
            known.is_stale |= becomes_stale;
            return becomes_stale;
        }
        let Some(known) = known else {
            let known = Known {
                reports,
                at: now,
                error_at: now,
                ended: [None, None],
                is_stale: false,
            };
            all.insert(tenant, known);
            return true;
        };
        let is_error_recent = elapsed(known.error_at, now) < ERROR_STAYS;
        let sinks = [
            (&mut reports.usage, &known.reports.usage),
            (&mut reports.audit, &known.reports.audit),
        ];
        for ((new, before), ended) in sinks.into_iter().zip(&mut known.ended) {
            let has_ended = is_complete && !matches!(new, Some(SinkReport::Fails { .. }));
            *ended = has_ended.then(|| ended.unwrap_or(now));
            let is_settled = ended.is_some_and(|ended| elapsed(ended, now) >= SETTLES);
            keep(new, before.as_ref(), is_settled, is_error_recent);
        }
        let is_news = known.is_stale || reports != known.reports;
        if is_news {
            known.error_at = now;
        }
        known.reports = reports;
        known.at = now;
        known.is_stale = false;
        is_news
    }

    /// What is known.
    pub(crate) fn of(&self, tenant: TenantId) -> SinkReports {
        let all = self.all();
        let known = all.get(&tenant).filter(|known| !known.is_stale);
        known.map(|known| known.reports.clone()).unwrap_or_default()
    }

    /// Forgets tenants that do not exist any more.
    pub(crate) fn retain(&self, exists: impl Fn(&TenantId) -> bool) {
        self.all().retain(|tenant, _| exists(tenant));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what `before` says where the `new` report is no reason to write another status: the end
/// of a failure that is not settled yet, or another error of the same failure.
fn keep(
    new: &mut Option<SinkReport>,
    before: Option<&SinkReport>,
    is_settled: bool,
    is_error_recent: bool,
) {
    let Some(SinkReport::Fails {
        since: first,
        error,
    }) = before
    else {
        return;
    };
    match new {
        Some(SinkReport::Delivers) | None if !is_settled => *new = before.cloned(),
        Some(SinkReport::Fails { since, error: last }) if since == first && is_error_recent => {
            last.clone_from(error);
        }
        _ => {}
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    let micros = now.as_micros().saturating_sub(since.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// What a tenant's status says of its sinks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SinksVerdict {
    /// `None` without sinks.
    pub(crate) verdict: Option<Verdict>,
    /// `None` while none fails.
    pub(crate) failures: Option<SinkFailures>,
    pub(crate) events: Vec<EventNote>,
    /// After how long an event is due.
    pub(crate) again: Option<Duration>,
}

/// Whether a tenant has a sink that pods report.
pub(crate) fn has_sinks(spec: &ChatTenantSpec) -> bool {
    let types = [spec.usage_sink.kind, spec.audit_sink.kind];
    types.iter().any(|kind| *kind != SinkType::None)
}

/// Judges `reports`, with what the status said `before`.
pub(crate) fn sinks_verdict(
    spec: &ChatTenantSpec,
    reports: &SinkReports,
    before: Option<&SinkFailures>,
    now: Timestamp,
) -> SinksVerdict {
    if !has_sinks(spec) {
        return SinksVerdict::default();
    }
    let sink = |field, kind, report, before| {
        (kind != SinkType::None).then(|| Judged::of(field, report, before, now))
    };
    let usage = sink(
        "usageSink",
        spec.usage_sink.kind,
        reports.usage.as_ref(),
        before.and_then(|before| before.usage.as_ref()),
    );
    let audit = sink(
        "auditSink",
        spec.audit_sink.kind,
        reports.audit.as_ref(),
        before.and_then(|before| before.audit.as_ref()),
    );
    let verdict = verdict(usage.as_ref(), audit.as_ref());
    let mut events = Vec::new();
    let mut again = None;
    let mut finish = |judged: Option<Judged>| {
        let Judged {
            failure,
            event,
            again: due,
            ..
        } = judged?;
        events.extend(event);
        again = again.into_iter().chain(due).min();
        failure
    };
    let (usage, audit) = (finish(usage), finish(audit));
    let is_failing = usage.is_some() || audit.is_some();
    SinksVerdict {
        verdict: Some(verdict),
        failures: is_failing.then_some(SinkFailures { usage, audit }),
        events,
        again,
    }
}

fn verdict(usage: Option<&Judged>, audit: Option<&Judged>) -> Verdict {
    let fails = |judged: Option<&Judged>| judged.is_some_and(|it| it.message.is_some());
    let reason = match (fails(usage), fails(audit)) {
        (true, true) => Reason::SinksFailing,
        (true, false) => Reason::UsageSinkFailing,
        (false, true) => Reason::AuditSinkFailing,
        (false, false) => {
            let all = [usage, audit];
            return if all.into_iter().flatten().all(|judged| judged.is_reported) {
                Verdict::yes(Type::SinksHealthy, Reason::Delivering, "")
            } else {
                let message = "no pod of the pool says how the sinks fare";
                Verdict::unknown(Type::SinksHealthy, Reason::NotReported, message)
            };
        }
    };
    let messages = [usage, audit].into_iter().flatten();
    let messages: Vec<_> = messages.filter_map(|one| one.message.clone()).collect();
    Verdict::no(Type::SinksHealthy, reason, messages.join("; "))
}

/// One sink.
struct Judged {
    is_reported: bool,
    /// Present if it fails.
    message: Option<String>,
    failure: Option<SinkFailure>,
    event: Option<EventNote>,
    again: Option<Duration>,
}

impl Judged {
    fn of(
        field: &str,
        report: Option<&SinkReport>,
        before: Option<&SinkFailure>,
        now: Timestamp,
    ) -> Self {
        match report {
            // It may fail still: that an event was published is kept.
            None => Self {
                is_reported: false,
                message: None,
                failure: before.cloned(),
                event: None,
                again: None,
            },
            Some(SinkReport::Delivers) => Self {
                is_reported: true,
                message: None,
                failure: None,
                event: before.filter(|before| before.reported).map(|before| {
                    let note = format!(
                        "{field}: events are delivered again, which they were not since {}",
                        before.since
                    );
                    EventNote::normal("SinkRecovered", note)
                }),
                again: None,
            },
            Some(SinkReport::Fails { since, error }) => {
                Self::failing(field, *since, error, before, now)
            }
        }
    }

    fn failing(
        field: &str,
        since: Timestamp,
        error: &str,
        before: Option<&SinkFailure>,
        now: Timestamp,
    ) -> Self {
        let message = format!("{field}: events have not been delivered since {since}: {error}");
        // One that began later than the one before is another failure.
        let is_same = |before: &&SinkFailure| {
            let begun = before.since.parse::<Timestamp>();
            begun.is_ok_and(|begun| since <= begun)
        };
        let was_reported = before.filter(is_same).is_some_and(|before| before.reported);
        let left = LONG.saturating_sub(elapsed(since, now));
        let is_due = !was_reported && left.is_zero();
        Self {
            is_reported: true,
            failure: Some(SinkFailure {
                since: since.to_string(),
                reported: was_reported || is_due,
            }),
            event: is_due.then(|| EventNote::warning("SinkFailing", message.clone())),
            again: (!was_reported && !is_due).then_some(left),
            message: Some(message),
        }
    }
}

#[cfg(test)]
mod tests;
