//! Conditions and their reasons, closed sets (K8S-7).

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
        /// Somebody ends the turns that a dead process left running.
        JobsHealthy,
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
        // JobsHealthy
        InProcess,
        Succeeded,
        Failed,
        Missed,
        Disabled,
        // Degraded
        OldCredentials,
        PartlyApplied,
    }
}

/// A condition before it is compared with the one that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) type_: Type,
    pub(crate) holds: bool,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn yes(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn no(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: false,
            reason,
            message: message.into(),
        }
    }

    /// `Ready` of `verdicts`: the first that does not hold says why not.
    pub(crate) fn ready(verdicts: &[Self]) -> Self {
        let worst = verdicts.iter().find(|verdict| !verdict.holds);
        worst.map_or_else(
            || Self::yes(Type::Ready, Reason::Ready, ""),
            |worst| Self {
                type_: Type::Ready,
                ..worst.clone()
            },
        )
    }
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
        let status = if verdict.holds {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        };
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

    #[test]
    fn ready_speaks_for_the_first_that_does_not_hold() {
        let verdicts = [
            Verdict::yes(Type::Accepted, Reason::Valid, ""),
            Verdict::no(Type::ResolvedRefs, Reason::KeyMissing, "no key"),
            Verdict::no(Type::Programmed, Reason::NoPods, "no pod"),
        ];
        let ready = Verdict::ready(&verdicts);
        assert_eq!((ready.holds, ready.reason), (false, Reason::KeyMissing));
        assert!(Verdict::ready(&verdicts[..1]).holds);
    }
}
