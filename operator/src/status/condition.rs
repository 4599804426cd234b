//! Conditions and their reasons. Both are closed sets (K8S-7).

use std::time::Duration;

use minichat_core::Timestamp;
use minichat_crds::status::{Condition, ConditionStatus};

/// Declares the conditions' names.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }
    };
}

words! {
    /// What a condition speaks of.
    Type {
        /// The spec is valid, and its id is the tenant's alone.
        Accepted,
        /// Every Secret and key was read.
        ResolvedRefs,
        /// Every ready pod runs the current revision.
        Programmed,
        /// Everything above.
        Ready,
        /// Nothing goes on before a person has changed something (kstatus); present
        /// only while true.
        Stalled,
        /// A watchdog ends the turns that a crashed process left running.
        JobsHealthy,
        /// Usage and audit events are delivered; present only for a tenant with sinks.
        SinksHealthy,
        /// It works worse than specified; present only while true.
        Degraded,
    }
}

words! {
    /// Why a condition has its status.
    Reason {
        // True
        Valid,
        Resolved,
        Programmed,
        Ready,
        // Accepted
        Invalid,
        Conflict,
        NamespaceNotAllowed,
        TenantNotFound,
        // ResolvedRefs
        SecretNotFound,
        SecretNotLabelled,
        KeyMissing,
        SecretInvalid,
        // Programmed
        Pending,
        Rejected,
        NoPods,
        Blocked,
        // JobsHealthy
        InProcess,
        Succeeded,
        Failed,
        Missed,
        Disabled,
        // SinksHealthy
        Delivering,
        UsageSinkFailing,
        AuditSinkFailing,
        SinksFailing,
        NotReported,
        // Degraded
        OldCredentials,
        PartlyApplied,
    }
}

/// Objects of one `kubectl apply` come one after the other. What is missing for longer does not
/// come by itself.
const APPLIED_TOGETHER: Duration = Duration::from_secs(10);

impl Reason {
    /// How long it may last until a person is needed; `None` if it ends by itself.
    const fn ends_within(self) -> Option<Duration> {
        match self {
            Self::Invalid
            | Self::Conflict
            | Self::NamespaceNotAllowed
            | Self::SecretNotLabelled
            | Self::KeyMissing
            | Self::SecretInvalid
            | Self::Rejected
            | Self::Blocked => Some(Duration::ZERO),
            Self::TenantNotFound | Self::SecretNotFound => Some(APPLIED_TOGETHER),
            Self::Valid
            | Self::Resolved
            | Self::Programmed
            | Self::Ready
            | Self::Pending
            | Self::NoPods
            | Self::InProcess
            | Self::Succeeded
            | Self::Failed
            | Self::Missed
            | Self::Disabled
            | Self::Delivering
            | Self::UsageSinkFailing
            | Self::AuditSinkFailing
            | Self::SinksFailing
            | Self::NotReported
            | Self::OldCredentials
            | Self::PartlyApplied => None,
        }
    }
}

/// A condition before it is compared with the one that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) type_: Type,
    pub(crate) status: ConditionStatus,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn yes(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: ConditionStatus::True,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn no(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: ConditionStatus::False,
            reason,
            message: message.into(),
        }
    }

    /// Nobody knows.
    pub(crate) fn unknown(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: ConditionStatus::Unknown,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn holds(&self) -> bool {
        self.status == ConditionStatus::True
    }

    /// `Ready` of `verdicts`: the first that does not hold says why not.
    pub(crate) fn ready(verdicts: &[Self]) -> Self {
        let worst = verdicts.iter().find(|verdict| !verdict.holds());
        worst.map_or_else(
            || Self::yes(Type::Ready, Reason::Ready, ""),
            |worst| Self {
                type_: Type::Ready,
                ..worst.clone()
            },
        )
    }
}

/// Whether a person is needed (D46), for the first of `verdicts` that does not hold;
/// else after how long one will be.
pub(crate) fn stalled(
    verdicts: &[Verdict],
    old: &[Condition],
    now: Timestamp,
) -> (Option<Verdict>, Option<Duration>) {
    let worst = verdicts.iter().find(|verdict| !verdict.holds());
    let Some((worst, patience)) = worst.and_then(|it| Some((it, it.reason.ends_within()?))) else {
        return (None, None);
    };
    let stood = find(old, worst.type_)
        .filter(|old| old.status == ConditionStatus::False)
        .and_then(|old| old.last_transition_time.parse::<Timestamp>().ok())
        .map(|since| now.as_micros().saturating_sub(since.as_micros()))
        .and_then(|micros| Some(Duration::from_micros(u64::try_from(micros).ok()?)))
        .unwrap_or_default();
    if stood < patience {
        return (None, Some(patience.saturating_sub(stood)));
    }
    let verdict = Verdict::yes(Type::Stalled, worst.reason, worst.message.clone());
    (Some(verdict), None)
}

/// `old` with `verdicts` in the place of what it says of the same.
pub(crate) fn merged(
    verdicts: &[Verdict],
    old: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut merged = old.to_vec();
    for new in conditions(verdicts, old, generation, now) {
        match merged.iter_mut().find(|one| one.type_ == new.type_) {
            Some(one) => *one = new,
            None => merged.push(new),
        }
    }
    merged
}

/// Conditions as they are written: `lastTransitionTime` moves only when the
/// status does (K8S-7).
pub(crate) fn conditions(
    verdicts: &[Verdict],
    old: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |verdict: &Verdict| {
        let status = verdict.status;
        let before = find(old, verdict.type_).filter(|before| before.status == status);
        Condition {
            type_: verdict.type_.as_str().to_owned(),
            status,
            reason: verdict.reason.as_str().to_owned(),
            message: verdict.message.clone(),
            observed_generation: generation,
            last_transition_time: before.map_or_else(
                || whole_seconds(now),
                |before| before.last_transition_time.clone(),
            ),
        }
    };
    verdicts.iter().map(condition).collect()
}

pub(crate) fn find(conditions: &[Condition], type_: Type) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str())
}

/// Kubernetes writes instants without fractions.
fn whole_seconds(now: Timestamp) -> String {
    let micros = now.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// K8S-7
    #[test]
    fn a_transition_is_a_change_of_status_and_nothing_else() {
        let first = conditions(
            &[Verdict::no(Type::Programmed, Reason::Pending, "0 of 1")],
            &[],
            Some(1),
            at("2026-01-01T00:00:00.5Z"),
        );
        assert_eq!(first[0].last_transition_time, "2026-01-01T00:00:00Z");
        let later = at("2026-01-01T00:00:09Z");
        let other = [Verdict::no(Type::Programmed, Reason::Rejected, "no")];
        let second = conditions(&other, &first, Some(2), later);
        assert_eq!(
            second[0].last_transition_time,
            first[0].last_transition_time
        );
        assert_eq!(second[0].observed_generation, Some(2));
        let holds = [Verdict::yes(Type::Programmed, Reason::Programmed, "")];
        let third = conditions(&holds, &second, Some(2), later);
        assert_eq!(third[0].last_transition_time, "2026-01-01T00:00:09Z");
    }

    /// D46
    #[test]
    fn a_person_is_needed_for_a_refusal_and_for_what_is_missing_for_long() {
        let begun = at("2026-01-01T00:00:00Z");
        let accepted = Verdict::yes(Type::Accepted, Reason::Valid, "");
        let stall = |reason, old: &[Condition], now| {
            let resolved = Verdict::no(Type::ResolvedRefs, reason, "why");
            let (verdict, again) = stalled(&[accepted.clone(), resolved], old, now);
            (
                verdict.map(|verdict| (verdict.reason, verdict.message)),
                again,
            )
        };
        let told = |reason| Some((reason, "why".to_owned()));
        assert_eq!(
            stalled(std::slice::from_ref(&accepted), &[], begun),
            (None, None)
        );
        for reason in [
            Reason::Invalid,
            Reason::Conflict,
            Reason::KeyMissing,
            Reason::Rejected,
        ] {
            assert_eq!(stall(reason, &[], begun), (told(reason), None));
        }
        for reason in [Reason::Pending, Reason::NoPods] {
            assert_eq!(stall(reason, &[], begun), (None, None));
        }
        for reason in [Reason::SecretNotFound, Reason::TenantNotFound] {
            assert_eq!(stall(reason, &[], begun), (None, Some(APPLIED_TOGETHER)));
            let missing = [Verdict::no(Type::ResolvedRefs, reason, "why")];
            let stood = conditions(&missing, &[], Some(1), begun);
            let soon = at("2026-01-01T00:00:09Z");
            let left = Some(Duration::from_secs(1));
            assert_eq!(stall(reason, &stood, soon), (None, left));
            let late = at("2026-01-01T00:00:10Z");
            assert_eq!(stall(reason, &stood, late), (told(reason), None));
        }
    }

    #[test]
    fn ready_speaks_for_the_first_that_does_not_hold() {
        let verdicts = [
            Verdict::yes(Type::Accepted, Reason::Valid, ""),
            Verdict::no(Type::ResolvedRefs, Reason::KeyMissing, "no key"),
            Verdict::no(Type::Programmed, Reason::NoPods, "no pod"),
        ];
        let ready = Verdict::ready(&verdicts);
        assert_eq!((ready.holds(), ready.reason), (false, Reason::KeyMissing));
        assert!(Verdict::ready(&verdicts[..1]).holds());
    }
}
