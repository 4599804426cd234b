//! Which policy of each tenant was delivered last. A cache shows a write a moment
//! later; until then this remembers it, so that no number is given twice
//! (QUOTA-27). After a restart the caches have caught up. `chat_tenant/build.rs` chooses
//! the next number.
//!
//! Also which numbers a pod's database knows already: a tenant that was deleted
//! and made again, or brought to another cluster, would otherwise begin with
//! numbers that mean something else there.
//!
//! All of it is remembered of an object, by its uid: one that is made again under
//! the same name or id begins anew (D36), and pods refuse what their database knows.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use minichat_core::Timestamp;
use minichat_crds::ChatTenant;

/// No number beyond this is believed to be taken: the rest would not last.
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
    /// Every number up to this one is taken.
    pub(crate) taken: u64,
}

/// What is remembered of each tenant, by uid.
#[derive(Debug, Default)]
pub(crate) struct PolicyVersions(Mutex<HashMap<String, KnownVersions>>);

impl PolicyVersions {
    pub(crate) fn known(&self, tenant: &ChatTenant) -> KnownVersions {
        self.all().get(&uid(tenant)).cloned().unwrap_or_default()
    }

    pub(crate) fn remember(&self, tenant: &ChatTenant, number: PolicyVersion) {
        self.all().entry(uid(tenant)).or_default().last = Some(number);
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, tenant: &ChatTenant) {
        self.all().remove(&uid(tenant));
    }

    /// Marks every number up to `version` as taken; whether that is news.
    pub(crate) fn take(&self, tenant: &ChatTenant, version: u64) -> bool {
        let mut all = self.all();
        let known = all.entry(uid(tenant)).or_default();
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

fn uid(tenant: &ChatTenant) -> String {
    tenant.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;

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
