//! Which users have commits under way in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minichat_core::{TenantId, UserId};

type Users = HashMap<(TenantId, UserId), usize>;

/// Counts commits by user. Clones share the counts.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<Users>>);

/// Counts as one commit of its user until it is dropped.
pub(super) struct Commit {
    user: (TenantId, UserId),
    of: UnderWay,
}

impl UnderWay {
    /// Counts a commit, and returns whether there are others.
    pub(super) fn begin(&self, tenant: TenantId, user: UserId) -> (Commit, bool) {
        let user = (tenant, user);
        let mut users = self.lock();
        let count = users.entry(user).or_default();
        *count += 1;
        let has_others = *count > 1;
        drop(users);
        let of = self.clone();
        (Commit { user, of }, has_others)
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        // No code runs under the lock that could leave the counts wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        let mut users = self.of.lock();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}
