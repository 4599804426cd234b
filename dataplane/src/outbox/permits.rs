//! How much may be delivered at a time (PLAT-33): healthy sinks never wait for a
//! permit of a slow one.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Deliveries that are not slow, and those that are.
const HEALTHY: usize = 64;
const SLOW: usize = 1024;
/// Events of slow deliveries, in KiB; as much again are the requests that have them.
const SLOW_KIB: usize = 64 * 1024;

pub(super) struct Permits {
    healthy: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    slow_kib: Arc<Semaphore>,
}

/// Held until it is dropped.
#[derive(Debug)]
pub(super) enum Permit {
    Healthy {
        _one: OwnedSemaphorePermit,
    },
    Slow {
        _one: OwnedSemaphorePermit,
        _kib: OwnedSemaphorePermit,
    },
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            healthy: Arc::new(Semaphore::new(HEALTHY)),
            slow: Arc::new(Semaphore::new(SLOW)),
            slow_kib: Arc::new(Semaphore::new(SLOW_KIB)),
        }
    }
}

impl Permits {
    /// Waits for the permit of a delivery that is not slow.
    pub(super) async fn healthy(&self) -> Option<Permit> {
        let one = Arc::clone(&self.healthy).acquire_owned().await.ok()?;
        Some(Permit::Healthy { _one: one })
    }

    /// The permit of a slow delivery of `bytes`, if there is one.
    pub(super) fn slow(&self, bytes: usize) -> Option<Permit> {
        // One delivery alone always fits.
        let kib = u32::try_from(bytes.div_ceil(1024).min(SLOW_KIB)).ok()?;
        let one = Arc::clone(&self.slow).try_acquire_owned().ok()?;
        let kib = Arc::clone(&self.slow_kib)
            .try_acquire_many_owned(kib)
            .ok()?;
        Some(Permit::Slow {
            _one: one,
            _kib: kib,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PLAT-33
    #[test]
    fn slow_deliveries_are_bounded_by_number_and_by_bytes() {
        let permits = Permits::default();
        let small: Vec<_> = (0..=SLOW).map_while(|_| permits.slow(100)).collect();
        assert_eq!(small.len(), SLOW);
        drop(small);
        let large: Vec<_> = (0..=SLOW).map_while(|_| permits.slow(1 << 20)).collect();
        assert_eq!(large.len(), 64);
        assert!(permits.slow(1).is_none(), "no KiB is left");
        drop(large);
        assert!(permits.slow(usize::MAX).is_some(), "alone it fits");
    }
}
