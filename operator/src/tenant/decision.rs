//! What the render loop has decided about each tenant. The object loop writes it into the
//! tenant's status and decides none of it again.
//!
//! A decision is about an object, by its uid: one that is made again under the same name
//! begins anew (D36).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minichat_crds::ChatQuota;
use minichat_crds::render::{Shortfall, Unresolved};

use super::subject::Subject;
use crate::status::Verdict;

/// What stands of one tenant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    /// The generation of the tenant that it is about.
    pub(crate) generation: Option<i64>,
    pub(crate) accepted: Verdict,
    /// References to Secrets that cannot be followed.
    pub(crate) unresolved: Vec<Unresolved>,
    /// Whether an edit would send an old credential elsewhere than before (D49).
    pub(crate) is_redirected: bool,
    /// Present while credentials are used that cannot be read any more.
    pub(crate) degraded: Option<Verdict>,
    /// The quotas that name the tenant: uid and generation.
    pub(crate) quotas: Vec<QuotaSeen>,
    /// By the name of a quota, the users to whom it does not apply.
    pub(crate) shortfalls: BTreeMap<String, Shortfall>,
    /// Whether the tenant's rendered Secret holds what these quotas come to.
    pub(crate) holds_quotas: bool,
    /// The revision in the tenant's rendered Secret.
    pub(crate) revision: Option<String>,
    /// Version and hash of the policy in it, if the Secret is of this object and can be read.
    pub(crate) policy: Option<(Option<u64>, String)>,
    pub(crate) delivery: Delivery,
}

/// A quota as the render loop has seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuotaSeen {
    uid: Option<String>,
    generation: Option<i64>,
}

impl QuotaSeen {
    pub(crate) fn of(quota: &ChatQuota) -> Self {
        Self {
            uid: quota.metadata.uid.clone(),
            generation: quota.metadata.generation,
        }
    }
}

/// What becomes of the tenant's configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Delivery {
    /// It is not delivered: the tenant, or one of its references, is refused. What was
    /// delivered before stays.
    Refused,
    /// The rendered Secret holds it.
    Current,
    /// It is being written, and no cache shows the write yet.
    Writing,
    /// It is not written yet, because an object is missing or is being deleted.
    Waits,
    /// The same for so long that somebody must act: what to do.
    Blocked(String),
}

/// The decision about each tenant, by uid.
#[derive(Debug, Default)]
pub(crate) struct Decisions(Mutex<HashMap<String, Arc<Decision>>>);

impl Decisions {
    /// The decision about the tenant as `subject` shows it; `None` while the render loop has
    /// not seen that.
    pub(crate) fn of(&self, subject: &Subject<'_>) -> Option<Arc<Decision>> {
        let decision = self.all().get(subject.uid()).cloned()?;
        (decision.generation == subject.tenant.metadata.generation).then_some(decision)
    }

    /// Keeps `decision`; whether it differs from the one before.
    pub(crate) fn set(&self, subject: &Subject<'_>, decision: Decision) -> bool {
        let mut all = self.all();
        let before = all.get(subject.uid());
        if before.is_some_and(|before| **before == decision) {
            return false;
        }
        all.insert(subject.uid().to_owned(), Arc::new(decision));
        true
    }

    /// The object is gone.
    pub(crate) fn forget(&self, subject: &Subject<'_>) {
        self.all().remove(subject.uid());
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Decision>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
