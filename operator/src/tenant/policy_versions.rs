//! The policy version that was delivered last, for each tenant. Caches show a write a moment
//! later; until then this module remembers it, so that no version is used twice (QUOTA-27).
//! `chat_tenant/build.rs` chooses the next version.
//!
//! It also holds the highest version that a pod's database knows. A tenant that was deleted and
//! created again, or restored in another cluster, must continue above it.
//!
//! The key is the uid, so an object that is created again under the same name or id begins anew
//! (D36); pods refuse versions that their database knows.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::subject::Subject;
use minichat_core::Timestamp;

/// A pod that reports a higher version is wrong: too few versions would be left.
const CREDIBLE: u64 = 1 << 62;

/// One delivered policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyVersion {
    pub(crate) version: u64,
    pub(crate) hash: String,
    pub(crate) generated_at: Timestamp,
}

/// What is remembered of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KnownVersions {
    /// The policy that was delivered last.
    pub(crate) last: Option<PolicyVersion>,
    /// Every version up to this one is taken.
    pub(crate) taken: u64,
}

/// What is remembered of each tenant, by uid.
#[derive(Debug, Default)]
pub(crate) struct PolicyVersions(Mutex<HashMap<String, KnownVersions>>);

impl PolicyVersions {
    pub(crate) fn known(&self, subject: &Subject<'_>) -> KnownVersions {
        self.all().get(subject.uid()).cloned().unwrap_or_default()
    }

    pub(crate) fn remember(&self, subject: &Subject<'_>, number: PolicyVersion) {
        let mut all = self.all();
        all.entry(subject.uid().to_owned()).or_default().last = Some(number);
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, subject: &Subject<'_>) {
        self.all().remove(subject.uid());
    }

    /// Marks every version up to `version` as taken; whether one of them was not before.
    pub(crate) fn take(&self, subject: &Subject<'_>, version: u64) -> bool {
        let mut all = self.all();
        let known = all.entry(subject.uid().to_owned()).or_default();
        let is_news = version > known.taken && version < CREDIBLE;
        if is_news {
            known.taken = version;
        }
        is_news
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, KnownVersions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use minichat_crds::{ChatTenant, cases};

    use super::*;

    fn object(uid: &str) -> ChatTenant {
        let mut tenant = minichat_crds::validation::chat_tenant(&cases::tenant(), None).unwrap();
        tenant.metadata.uid = Some(uid.to_owned());
        tenant
    }

    /// D36: all of these have one id and one name.
    #[test]
    fn what_is_known_of_one_object_is_not_of_another_with_its_id() {
        let (numbers, first, second) =
            (PolicyVersions::default(), object("first"), object("second"));
        let (first, second) = (Subject::of(&first), Subject::of(&second));
        let number = PolicyVersion {
            version: 3,
            hash: "a".to_owned(),
            generated_at: Timestamp::from_micros(0),
        };
        numbers.remember(&first, number.clone());
        assert!(numbers.take(&first, 7));
        assert_eq!(numbers.known(&second), KnownVersions::default());
        numbers.forget(&second);
        assert_eq!(numbers.known(&first).last, Some(number));
        numbers.forget(&first);
        assert_eq!(numbers.known(&first), KnownVersions::default());
    }
}
