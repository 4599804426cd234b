//! How many uploads a process works on at a time (CONT-57).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minichat_config::tenant::UploadLimits;
use minichat_core::{TenantId, UserId};
use tokio::time::sleep;

/// How often the end of uploads is looked for; only a drain waits for it.
const IDLE_POLL: Duration = Duration::from_millis(50);

/// The uploads that the process works on.
#[derive(Debug)]
pub struct UploadPermits {
    most: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// What goes on for uploads whose clients may have left; without a limit.
    tasks: usize,
    by_tenant: HashMap<TenantId, usize>,
    by_user: HashMap<(TenantId, UserId), usize>,
}

/// Counts as one upload while it lives.
#[derive(Debug)]
#[must_use = "the upload counts only while the permit lives"]
pub(crate) struct UploadPermit {
    counts: Arc<Mutex<Counts>>,
    tenant: TenantId,
    user: UserId,
}

/// Counts as work of an upload while it lives.
#[derive(Debug)]
#[must_use = "the work counts only while this lives"]
pub(crate) struct UploadTask(Arc<Mutex<Counts>>);

impl UploadPermits {
    /// For at most `most` uploads at a time.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            counts: Arc::default(),
        }
    }

    /// Waits until there is no upload, and nothing goes on for one.
    pub(crate) async fn idle(&self) {
        while self.is_busy() {
            sleep(IDLE_POLL).await;
        }
    }

    fn is_busy(&self) -> bool {
        let counts = locked(&self.counts);
        counts.all + counts.tasks > 0
    }

    /// For work that must be finished although the upload may be over.
    pub(crate) fn task(&self) -> UploadTask {
        locked(&self.counts).tasks += 1;
        UploadTask(Arc::clone(&self.counts))
    }

    /// A permit for an upload of `user`; `None` if the process, the tenant or the user
    /// has as many uploads as it may. Does not wait.
    pub(crate) fn take(
        &self,
        tenant: TenantId,
        user: UserId,
        limits: &UploadLimits,
    ) -> Option<UploadPermit> {
        let mut counts = locked(&self.counts);
        let is_free = |now: Option<&usize>, most: Option<u32>| {
            let most = most.and_then(|most| usize::try_from(most).ok());
            now.copied().unwrap_or_default() < most.unwrap_or(usize::MAX)
        };
        let is_free = counts.all < self.most
            && is_free(counts.by_tenant.get(&tenant), limits.max_concurrent_uploads)
            && is_free(
                counts.by_user.get(&(tenant, user)),
                limits.max_concurrent_uploads_per_user,
            );
        if !is_free {
            return None;
        }
        counts.all += 1;
        *counts.by_tenant.entry(tenant).or_default() += 1;
        *counts.by_user.entry((tenant, user)).or_default() += 1;
        Some(UploadPermit {
            counts: Arc::clone(&self.counts),
            tenant,
            user,
        })
    }
}

impl Drop for UploadPermit {
    fn drop(&mut self) {
        let mut counts = locked(&self.counts);
        counts.all = counts.all.saturating_sub(1);
        release(&mut counts.by_tenant, &self.tenant);
        release(&mut counts.by_user, &(self.tenant, self.user));
    }
}

impl Drop for UploadTask {
    fn drop(&mut self) {
        let mut counts = locked(&self.0);
        counts.tasks = counts.tasks.saturating_sub(1);
    }
}

fn release<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn locked(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-105, CONT-57
    #[test]
    fn process_tenant_and_user_have_their_own_limits() {
        let permits = UploadPermits::new(3);
        let (tenant, other) = (TenantId::random(), TenantId::random());
        let (alice, bob) = (UserId::random(), UserId::random());
        let limits = UploadLimits {
            max_concurrent_uploads: Some(2),
            max_concurrent_uploads_per_user: Some(1),
            ..UploadLimits::default()
        };
        let first = permits.take(tenant, alice, &limits).unwrap();
        assert!(permits.take(tenant, alice, &limits).is_none(), "the user");
        let _second = permits.take(tenant, bob, &limits).unwrap();
        let carol = UserId::random();
        assert!(permits.take(tenant, carol, &limits).is_none(), "the tenant");
        let unlimited = UploadLimits::default();
        let _third = permits.take(other, alice, &unlimited).unwrap();
        assert!(
            permits.take(other, bob, &unlimited).is_none(),
            "the process"
        );
        drop(first);
        let _again = permits.take(tenant, alice, &limits).unwrap();
        assert_eq!(locked(&permits.counts).by_user.len(), 3);
    }

    /// K8S-50
    #[test]
    fn work_for_an_upload_counts_without_a_limit() {
        let permits = UploadPermits::new(1);
        let (one, other) = (permits.task(), permits.task());
        let limits = UploadLimits::default();
        let upload = permits.take(TenantId::random(), UserId::random(), &limits);
        assert!(upload.is_some());
        drop((upload, one));
        assert!(permits.is_busy());
        drop(other);
        assert!(!permits.is_busy());
    }
}
