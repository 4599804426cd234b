//! Which policy of each tenant was delivered last. A cache shows a write a moment
//! later; until then this remembers it, so that no number is given twice
//! (QUOTA-27). After a restart the caches have caught up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use minichat_core::{TenantId, Timestamp};

/// One delivered policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) version: u64,
    pub(crate) hash: String,
    pub(crate) generated_at: Timestamp,
}

/// The last one of each tenant. A deleted tenant's stays: its chats do as well,
/// and the same id may come back.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Mutex<HashMap<TenantId, Number>>);

impl Numbers {
    pub(crate) fn last(&self, tenant: TenantId) -> Option<Number> {
        let numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(&tenant).cloned()
    }

    pub(crate) fn remember(&self, tenant: TenantId, number: Number) {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.insert(tenant, number);
    }
}
