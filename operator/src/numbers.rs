//! Which policy of each tenant was delivered last. A cache shows a write a moment
//! later; until then this remembers it, so that no number is given twice
//! (QUOTA-27). After a restart the caches have caught up.
//!
//! Also which numbers a pod's database knows already: a tenant that was deleted
//! and made again, or brought to another cluster, would otherwise begin with
//! numbers that mean something else there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use minichat_core::{TenantId, Timestamp};

/// No number beyond this is believed to be taken: the rest would not last.
const CREDIBLE: u64 = 1 << 62;

/// One delivered policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) version: u64,
    pub(crate) hash: String,
    pub(crate) generated_at: Timestamp,
}

/// What is remembered of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The policy that was delivered last.
    pub(crate) last: Option<Number>,
    /// Every number up to this one is taken.
    pub(crate) taken: u64,
}

/// What is remembered of each tenant. A deleted tenant's stays: its chats do as
/// well, and the same id may come back.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Mutex<HashMap<TenantId, Known>>);

impl Numbers {
    pub(crate) fn known(&self, tenant: TenantId) -> Known {
        self.all().get(&tenant).cloned().unwrap_or_default()
    }

    pub(crate) fn remember(&self, tenant: TenantId, number: Number) {
        self.all().entry(tenant).or_default().last = Some(number);
    }

    /// Marks every number up to `version` as taken; whether that is news.
    pub(crate) fn take(&self, tenant: TenantId, version: u64) -> bool {
        let mut all = self.all();
        let known = all.entry(tenant).or_default();
        let is_news = version > known.taken && version < CREDIBLE;
        if is_news {
            known.taken = version;
        }
        is_news
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
