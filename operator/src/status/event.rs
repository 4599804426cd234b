//! Events (`events.k8s.io`): one per change of a condition (K8S-9).

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::{Resource, ResourceExt as _};
use minichat_core::Timestamp;
use uuid::Uuid;

use super::condition::{Verdict, find};
use crate::writer::{MANAGER, Writer};
use minichat_crds::status::Condition;

/// The API server takes 1 kB.
const MAX_NOTE: usize = 1000;

/// An event before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventNote {
    warning: bool,
    reason: &'static str,
    note: String,
}

impl EventNote {
    pub(crate) fn warning(reason: &'static str, note: String) -> Self {
        Self {
            warning: true,
            reason,
            note,
        }
    }

    pub(crate) fn normal(reason: &'static str, note: String) -> Self {
        Self {
            warning: false,
            ..Self::warning(reason, note)
        }
    }

    /// Whether a pod refused a revision.
    pub(crate) fn is_rejection(&self) -> bool {
        self.reason == super::condition::Reason::Rejected.as_str()
    }
}

/// Events for the verdicts that differ from the conditions `before`. `Ready` and `Stalled` only
/// sum up the others, failures of jobs are events of the Job, and a sink that fails has an event only
/// when it has failed for long.
pub(crate) fn changes(verdicts: &[Verdict], before: &[Condition]) -> Vec<EventNote> {
    let is_new = |verdict: &&Verdict| {
        find(before, verdict.type_).is_none_or(|old| {
            old.status != verdict.status
                || old.reason != verdict.reason.as_str()
                || old.message != verdict.message
        })
    };
    let is_told = |verdict: &&Verdict| {
        use super::condition::{Reason, Type};
        !matches!(
            verdict.type_,
            Type::Ready | Type::Stalled | Type::JobsHealthy | Type::SinksHealthy
        ) && !matches!(verdict.reason, Reason::Pending | Reason::Resolved)
    };
    verdicts
        .iter()
        .filter(is_told)
        .filter(is_new)
        .map(told)
        .collect()
}

fn told(verdict: &Verdict) -> EventNote {
    use super::condition::Type;
    let reason = match (verdict.type_, verdict.holds()) {
        (Type::Accepted, true) => "Accepted",
        (Type::Accepted, false) => "Refused",
        (Type::Degraded, _) | (_, false) => verdict.reason.as_str(),
        (type_, true) => type_.as_str(),
    };
    let note = match verdict.message.as_str() {
        "" => "the spec is valid".to_owned(),
        message => message.to_owned(),
    };
    EventNote {
        warning: !verdict.holds() || verdict.type_ == Type::Degraded,
        reason,
        note,
    }
}

/// Logs and publishes `told` about `object`. A failure is only logged: an event is not worth
/// another reconcile.
pub(crate) async fn publish<K>(
    writer: &Writer,
    identity: &str,
    object: &K,
    told: Vec<EventNote>,
    now: Timestamp,
) where
    K: Resource<DynamicType = ()>,
{
    for one in told {
        // Within the span that names the object.
        if one.warning {
            tracing::warn!(reason = one.reason, "{}", one.note);
        } else {
            tracing::info!(reason = one.reason, "{}", one.note);
        }
        let event = event(identity, object, one, now);
        if let Err(error) = writer.create_event(&event).await {
            tracing::warn!(%error, "an event is lost");
        }
    }
}

fn event<K: Resource<DynamicType = ()>>(
    identity: &str,
    of: &K,
    told: EventNote,
    now: Timestamp,
) -> Event {
    let EventNote {
        warning,
        reason,
        mut note,
    } = told;
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or_default());
    }
    let time = jiff::Timestamp::from_microsecond(now.as_micros()).unwrap_or_default();
    let name = of.name_any();
    // With the suffix a name stays below 253 characters.
    let stem: String = name.chars().take(210).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{}", Uuid::new_v4())),
            namespace: of.meta().namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(time)),
        action: Some("Reconcile".to_owned()),
        reason: Some(reason.to_owned()),
        note: Some(note),
        regarding: Some(of.object_ref(&())),
        reporting_controller: Some(format!("minichat.dev/{MANAGER}")),
        reporting_instance: Some(identity.chars().take(128).collect()),
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::condition::{Reason, Type, conditions};

    /// K8S-9: one per change, not per reconcile.
    #[test]
    fn what_stood_before_is_not_told_again() {
        let verdicts = [
            Verdict::yes(Type::Accepted, Reason::Valid, ""),
            Verdict::no(Type::Programmed, Reason::Rejected, "pod a: no"),
            Verdict::no(Type::JobsHealthy, Reason::Failed, "a Job"),
        ];
        let told = changes(&verdicts, &[]);
        let reasons: Vec<_> = told
            .iter()
            .map(|told| (told.reason, told.warning))
            .collect();
        assert_eq!(reasons, [("Accepted", false), ("Rejected", true)]);
        let stood = conditions(&verdicts, &[], Some(1), Timestamp::from_micros(0));
        assert_eq!(changes(&verdicts, &stood), []);
        let now = [Verdict::yes(
            Type::Programmed,
            Reason::Programmed,
            "revision 1-a",
        )];
        assert_eq!(changes(&now, &stood)[0].note, "revision 1-a");
    }
}
